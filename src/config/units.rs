//! Values with a form of their own: durations, addresses, names.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;

use super::kind::{Kind, Parsed};
use super::pool::Address;
use super::problem::Findings;
use super::tree::Node;

/// Longer is a mistake, and far longer overflows clocks.
const LONGEST: Duration = Duration::from_secs(31 * 24 * 3600);

/// A duration such as `250ms`, `5s`, `1m` or `1h`.
pub(super) struct Span {
    min: Duration,
}

/// A duration; 0 is refused.
pub(super) fn span() -> Span {
    span_from(Duration::from_millis(1))
}

/// A duration that is at least `min`.
pub(super) fn span_from(min: Duration) -> Span {
    Span { min }
}

impl Span {
    fn form(&self) -> Parsed<Duration> {
        Parsed {
            what: "a duration such as `250ms`, `5s` or `1h`",
            pattern: "^[0-9]+(ms|s|m|h)$",
            parse: parse_duration,
        }
    }
}

impl Kind for Span {
    type Out = Duration;

    fn what(&self) -> String {
        self.form().what()
    }

    fn schema(&self) -> Value {
        self.form().schema()
    }

    fn read(&self, node: &Node, found: &mut Findings) -> Option<Duration> {
        let span = self.form().read(node, found)?;
        if span < self.min {
            found.add(format!("{} is too short: give at least {}", node.shown(), show(self.min)));
            return None;
        }
        Some(span)
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err("is not a duration: write it like `250ms`, `5s` or `1h`".to_owned());
    }
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" => {
            return Err(format!("has no unit: write `{number}s` for seconds or `{number}ms` for milliseconds"));
        }
        _ => {
            return Err(
                "is not a duration: write one whole number with ms, s, m or h, like `250ms`, `5s` or `1h`".to_owned()
            );
        }
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(millis))
        .map(Duration::from_millis)
        .filter(|span| *span <= LONGEST)
        .ok_or_else(|| "is too long: give at most `744h`".to_owned())
}

/// A duration as a file would have it.
pub(super) fn show(span: Duration) -> String {
    let millis = span.as_millis();
    match millis {
        0 => "0s".to_owned(),
        _ if millis.is_multiple_of(3_600_000) => format!("{}h", millis / 3_600_000),
        _ if millis.is_multiple_of(60_000) => format!("{}m", millis / 60_000),
        _ if millis.is_multiple_of(1000) => format!("{}s", millis / 1000),
        _ => format!("{millis}ms"),
    }
}

/// A share in whole percent, such as `30%`, up to `100%`.
pub(super) struct Percent {
    min: u32,
}

/// A share of at least `min` percent.
pub(super) fn percent(min: u32) -> Percent {
    Percent { min }
}

impl Percent {
    fn form(&self) -> Parsed<u32> {
        Parsed { what: "a share such as `30%`", pattern: "^(100|[0-9]{1,2})%$", parse: parse_percent }
    }
}

impl Kind for Percent {
    type Out = u32;

    fn what(&self) -> String {
        self.form().what()
    }

    fn schema(&self) -> Value {
        self.form().schema()
    }

    fn read(&self, node: &Node, found: &mut Findings) -> Option<u32> {
        let share = self.form().read(node, found)?;
        if share < self.min {
            found.add(format!("{} is too small: give at least {}%", node.shown(), self.min));
            return None;
        }
        Some(share)
    }
}

fn parse_percent(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    match number.parse::<u32>() {
        Ok(share @ 0..=100) if number.bytes().all(|b| b.is_ascii_digit()) => match text.ends_with('%') {
            true => Ok(share),
            false => Err(format!("has no unit: write `{share}%`")),
        },
        _ => Err("is not a share: write a whole number from 0 to 100 with `%`, like `30%`".to_owned()),
    }
}

/// How often a second, such as `50/s`; 0 is refused.
pub(super) fn rate() -> Parsed<u32> {
    Parsed {
        what: "a rate such as `50/s`",
        pattern: "^[1-9][0-9]{0,8}/s$",
        parse: |text| {
            let number = text.strip_suffix("/s").unwrap_or(text);
            match number.parse::<u32>() {
                Ok(rate @ 1..=999_999_999) if number.bytes().all(|b| b.is_ascii_digit()) => {
                    match text.ends_with("/s") {
                        true => Ok(rate),
                        false => Err(format!("has no unit: write `{rate}/s`")),
                    }
                }
                _ => Err("is not a rate: write a whole number from 1 to 999999999 with `/s`, like `50/s`".to_owned()),
            }
        },
    }
}

/// Bytes a second, such as `240B/s` or `1KiB/s`; 0 is refused.
pub(super) fn byte_rate() -> Parsed<u64> {
    Parsed {
        what: "bytes a second such as `240B/s` or `1KiB/s`",
        pattern: "^[1-9][0-9]{0,8}(B|KiB|MiB|GiB)/s$",
        parse: |text| match text.strip_suffix("/s").map(parse_size) {
            Some(Ok(0)) => Err("is no rate: give at least `1B/s`, or `none`".to_owned()),
            Some(size) => size.map_err(|problem| format!("{problem} and `/s`, like `240B/s` or `1KiB/s`")),
            None => match parse_size(text) {
                Ok(_) => Err(format!("is not per second: write `{text}/s`")),
                Err(_) => Err("is not a rate of bytes: write it like `240B/s` or `1KiB/s`".to_owned()),
            },
        },
    }
}

/// Bytes; the error may be followed by more.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err("has no size: write a whole number with B, KiB, MiB or GiB".to_owned()),
    };
    match number.parse::<u64>() {
        Ok(number) if digits <= 9 => Ok(number << shift),
        _ => Err("has no size: write a whole number of at most nine digits with B, KiB, MiB or GiB".to_owned()),
    }
}

/// IP:PORT to listen on.
pub(super) fn socket() -> Parsed<SocketAddr> {
    Parsed {
        what: "an address such as `0.0.0.0:9090`",
        pattern: "^(\\[[0-9a-fA-F:.]+\\]|[0-9.]+):[0-9]{1,5}$",
        parse: |text| {
            text.parse().map_err(|_| match text.rsplit_once(':') {
                Some(("localhost", port)) => format!("is not an address to listen on: write `127.0.0.1:{port}`"),
                Some(("" | "*", port)) => {
                    format!(
                        "is not an address to listen on: write `0.0.0.0:{port}` for all of this machine's addresses"
                    )
                }
                _ => "is not an address to listen on: write IP:PORT, like `0.0.0.0:9090` or `[::]:9090`".to_owned(),
            })
        },
    }
}

/// A network, or one address of it.
pub(super) fn network() -> Parsed<IpNet> {
    Parsed {
        what: "a network such as `10.0.0.0/8`, or an IP address",
        pattern: "^[0-9a-fA-F:.]+(/[0-9]{1,3})?$",
        parse: |text| {
            text.parse::<IpNet>()
                .map(|net| net.trunc())
                .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
                .map_err(|_| "is not a network: write it like `10.0.0.0/8` or `192.0.2.7`".to_owned())
        },
    }
}

/// HOST:PORT of a server.
pub(super) fn server_address() -> Parsed<Address> {
    Parsed {
        what: "HOST:PORT of a server, such as `10.0.0.1:9000`",
        pattern: "^(\\[[0-9a-fA-F:.]+\\]|[A-Za-z0-9_.-]+):[0-9]{1,5}$",
        parse: parse_address,
    }
}

fn parse_address(text: &str) -> Result<Address, String> {
    const FORM: &str = "write HOST:PORT, like `10.0.0.1:9000`, `web:8080` or `[2001:db8::1]:80`";
    if text.contains("://") {
        return Err(format!("is a URL: {FORM}"));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        let lacks = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) { "host" } else { "port" };
        return Err(format!("has no {lacks}: {FORM}"));
    };
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inner) => match inner.parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) => ip.to_string(),
            _ => return Err(format!("has no IPv6 address between its brackets: {FORM}")),
        },
        None if text.parse::<std::net::Ipv6Addr>().is_ok() || host.contains(':') => {
            return Err(format!("must have its IPv6 address in brackets, and a port: {FORM}"));
        }
        None => host_name(host).map_err(|problem| format!("{problem}: {FORM}"))?,
    };
    match port.parse::<u16>() {
        Ok(number) if number > 0 && port.bytes().all(|b| b.is_ascii_digit()) => Ok(Address { host, port: number }),
        _ => Err("has a port outside 1 to 65535".to_owned()),
    }
}

/// A host name or IPv4 address, in lower case.
pub(super) fn host_name(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let bare = text.strip_suffix('.').unwrap_or(text);
    if bare.is_empty() {
        return Err("has no host".to_owned());
    }
    if !bare.is_ascii() {
        return Err("has letters outside ASCII (such a name is written with `xn--`)".to_owned());
    }
    if bare.len() > 253 || !bare.split('.').all(label) {
        return Err("holds no valid host name".to_owned());
    }
    // `300.0.0.1` and `10.0.0` are slips, not names.
    if bare.bytes().all(|b| b.is_ascii_digit() || b == b'.') && bare.parse::<std::net::Ipv4Addr>().is_err() {
        return Err("holds neither a host name nor an IPv4 address".to_owned());
    }
    Ok(bare.to_ascii_lowercase())
}

/// What a thing may be called: it stands in URLs, metrics and keys of a store.
pub(super) fn check_name(text: &str) -> Result<(), String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-:[]".contains(c);
    if text.is_empty() || text.len() > 100 || !text.chars().all(fine) {
        return Err("is not fit for a name: use up to 100 letters, digits and any of `.`, `_`, `-`, `:`".to_owned());
    }
    Ok(())
}

/// A name given by the operator.
pub(super) fn name() -> Parsed<String> {
    Parsed {
        what: "a name",
        pattern: "^[A-Za-z0-9._:\\[\\]-]{1,100}$",
        parse: |text| check_name(text).map(|()| text.to_owned()),
    }
}

/// A path that starts with `/`.
pub(super) fn url_path() -> Parsed<String> {
    Parsed {
        what: "a path such as `/heartbeat`",
        pattern: "^/[!-~]*$",
        parse: |text| {
            if !text.starts_with('/') {
                Err(format!("must start with `/`: write `/{text}`"))
            } else if !text.bytes().all(|b| b.is_ascii_graphic()) {
                Err("has spaces or letters outside ASCII: write them with `%`, like `%20`".to_owned())
            } else {
                Ok(text.to_owned())
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        assert!(parse_duration("5").unwrap_err().contains("write `5s`"));
        for bad in ["", "s", "-5s", "1.5s", "1 s", "5S", "1m30s", "5 ", "٣s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        for long in ["745h", "99999999999999999h", "99999999999999999999999s"] {
            assert!(parse_duration(long).unwrap_err().contains("too long"));
        }
        for text in ["0s", "1ms", "1500ms", "90s", "2m", "1h"] {
            assert_eq!(show(parse_duration(text).unwrap()), text);
        }
    }

    #[test]
    fn shares() {
        assert_eq!(parse_percent("30%"), Ok(30));
        assert_eq!(parse_percent("0%"), Ok(0));
        assert_eq!(parse_percent("100%"), Ok(100));
        assert_eq!(parse_percent("30").unwrap_err(), "has no unit: write `30%`");
        for bad in ["", "%", "-1%", "+1%", "101%", "0.5%", "5 %", "half"] {
            assert!(parse_percent(bad).unwrap_err().contains("is not a share"), "{bad}");
        }
    }

    #[test]
    fn rates() {
        let parse = rate().parse;
        assert_eq!(parse("10000/s"), Ok(10_000));
        assert_eq!(parse("50").unwrap_err(), "has no unit: write `50/s`");
        for bad in ["", "/s", "0/s", "-1/s", "+1/s", "1.5/s", "1/m", "1000000000/s", "50 /s"] {
            assert!(parse(bad).unwrap_err().contains("is not a rate"), "{bad}");
        }
    }

    #[test]
    fn rates_of_bytes() {
        let parse = byte_rate().parse;
        assert_eq!(parse("240B/s"), Ok(240));
        assert_eq!(parse("2KiB/s"), Ok(2048));
        assert_eq!(parse("1GiB/s"), Ok(1 << 30));
        assert_eq!(parse("240B").unwrap_err(), "is not per second: write `240B/s`");
        assert!(parse("240/s").unwrap_err().contains("B, KiB, MiB or GiB and `/s`"));
        assert!(parse("0B/s").unwrap_err().contains("at least `1B/s`"));
        for bad in ["", "/s", "B/s", "-1B/s", "1.5KiB/s", "1kb/s", "1KB/s", "1234567890B/s", "1 B/s", "240"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_of_servers() {
        let address = |text| parse_address(text).map(|a| (a.host, a.port));
        assert_eq!(address("10.0.0.1:80"), Ok(("10.0.0.1".to_owned(), 80)));
        assert_eq!(address("Web.Local:8080"), Ok(("web.local".to_owned(), 8080)));
        assert_eq!(address("[::1]:80"), Ok(("::1".to_owned(), 80)));
        for (text, why) in [
            ("10.0.0.1", "no port"),
            ("9000", "no host"),
            ("http://a:80", "URL"),
            ("::1", "brackets"),
            ("2001:db8::1:80", "brackets"),
            ("a:0", "port outside"),
            ("a:+80", "port outside"),
            ("a:65536", "port outside"),
            ("a:", "port outside"),
            (":80", "no host"),
            ("10.0.0:80", "neither"),
            ("300.0.0.1:80", "neither"),
            ("a b:80", "no valid host"),
            ("münchen.de:80", "xn--"),
            ("[zz]:80", "IPv6"),
        ] {
            let error = parse_address(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn addresses_to_listen_on() {
        let parse = socket().parse;
        assert!(parse("[::]:9090").is_ok());
        assert!(parse("localhost:80").unwrap_err().contains("`127.0.0.1:80`"));
        assert!(parse(":80").unwrap_err().contains("`0.0.0.0:80`"));
        assert!(parse("80").unwrap_err().contains("IP:PORT"));
    }

    #[test]
    fn networks() {
        let parse = network().parse;
        assert_eq!(parse("10.1.2.3/8"), Ok("10.0.0.0/8".parse().unwrap()));
        assert_eq!(parse("10.1.2.3"), Ok("10.1.2.3/32".parse().unwrap()));
        assert!(parse("10.0.0.0/33").is_err());
    }
}
