//! How often a client may ask.

use std::time::Duration;

use http::HeaderName;

use super::fields::Fields;
use super::kind::{Parsed, Section, ShortOr, Word, whole};
use super::route::header_name;
use super::units::show;

/// The longest that a bucket may take to fill again: what is remembered of a client must end some day.
const LONGEST: Duration = Duration::from_secs(31 * 24 * 3600);

/// How often a client may ask: a token bucket for each key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Whose requests count together.
    pub key: RateKey,
    /// How fast tokens come back.
    pub rate: Rate,
    /// Tokens that a full bucket holds, at least 1.
    pub burst: u32,
    /// Whether all nodes share the buckets; only with `redis`.
    pub fleet: bool,
}

/// Whose requests count together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RateKey {
    /// Those of one address, with IPv6 of one /64.
    #[default]
    ClientIp,
    /// Those with the same value of a header; without it, those of one address.
    Header(HeaderName),
    /// All of the route.
    Route,
}

/// So many in such a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// 1 to 1,000,000.
    pub count: u32,
    /// A second, a minute or an hour.
    pub per: Duration,
}

impl Rate {
    /// The time of one, in nanoseconds; rounded up, so that never more come than allowed.
    pub fn token(self) -> u64 {
        let per = u64::try_from(self.per.as_nanos()).unwrap_or(u64::MAX);
        per.div_ceil(u64::from(self.count.max(1)))
    }
}

/// A limit, and whether the file gives its scope (None: it does not).
pub(super) struct RateLimitDraft {
    pub(super) limit: RateLimit,
    pub(super) fleet: Option<bool>,
}

pub(super) fn rate_limit(f: &mut Fields<'_>) -> Option<RateLimitDraft> {
    let key = f.default(
        "key",
        "Whose requests count together: `client_ip` (IPv6 by /64), `{ header: NAME }` or `route`.",
        ShortOr {
            short: Parsed {
                what: "`client_ip` or `route`",
                pattern: "^(client_ip|route)$",
                parse: |text| match text {
                    "client_ip" => Ok(RateKey::ClientIp),
                    "route" => Ok(RateKey::Route),
                    _ => Err("is none of `client_ip`, `route` and `{ header: NAME }`: write one of these".to_owned()),
                },
            },
            long: Section(|f| {
                let kind = Parsed { what: "the name of a header", pattern: "", parse: header_name };
                f.required("header", "Name of a request header; a request without it counts by its client.", kind)
                    .map(RateKey::Header)
            }),
            what: "`client_ip`, `route` or `{ header: NAME }`",
        },
        "client_ip",
    );
    let rate = f.required("rate", "How many requests, a second, a minute or an hour.", rate());
    let burst = f.optional(
        "burst",
        "How many at once after a pause. Default: what the rate allows in a second, at least 1.",
        whole(1, 1_000_000),
    );
    let fleet = f.optional(
        "scope",
        "`fleet`: all nodes together; `local`: each node by itself. Default: `fleet` where there is `redis`.",
        Word(&[("fleet", true), ("local", false)]),
    );
    let rate = rate?;
    let burst = burst.unwrap_or_else(|| u32::try_from(1_000_000_000 / rate.token()).unwrap_or(1).max(1));
    let fills = Duration::from_nanos(rate.token().saturating_mul(burst.into()));
    if fills > LONGEST {
        f.problem(
            &["burst".into()],
            format!("takes longer than {} to come back at this rate: give a smaller one", show(LONGEST)),
        );
    }
    Some(RateLimitDraft { limit: RateLimit { key: key?, rate, burst, fleet: false }, fleet })
}

fn rate() -> Parsed<Rate> {
    Parsed { what: "a rate such as `50/s`, `100/m` or `1000/h`", pattern: "^[1-9][0-9]{0,6}/[smh]$", parse: parse_rate }
}

fn parse_rate(text: &str) -> Result<Rate, String> {
    let (number, unit) = text.split_once('/').unwrap_or((text, ""));
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let count = number.parse().ok().filter(|count| digits && (1..=1_000_000).contains(count));
    let seconds = match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        _ => None,
    };
    match (count, seconds) {
        (Some(count), Some(seconds)) => Ok(Rate { count, per: Duration::from_secs(seconds) }),
        (Some(count), None) if !text.contains('/') => Err(format!("has no unit: write `{count}/s`")),
        _ => {
            Err("is not a rate: write a whole number from 1 to 1000000 with `/s`, `/m` or `/h`, like `50/s`".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_by_second_minute_and_hour() {
        let token = |text| parse_rate(text).map(Rate::token);
        assert_eq!(token("50/s"), Ok(20_000_000));
        assert_eq!(token("60/m"), Ok(1_000_000_000));
        assert_eq!(token("1/h"), Ok(3_600_000_000_000));
        assert_eq!(token("3/s"), Ok(333_333_334), "rounded up");
        assert_eq!(token("1000000/s"), Ok(1000));
        assert_eq!(token("50").unwrap_err(), "has no unit: write `50/s`");
        for bad in ["", "/s", "0/s", "-1/s", "+1/s", "1.5/s", "1/d", "1000001/s", "50 /s", "50/", "5/s/s"] {
            assert!(token(bad).unwrap_err().contains("is not a rate"), "{bad}");
        }
    }
}
