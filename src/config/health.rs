//! How servers are checked.

use std::time::Duration;

use serde_json::{Value, json};

use super::fields::Fields;
use super::kind::{Kind, List, Parsed, Word, whole};
use super::problem::Findings;
use super::tree::Node;
use super::units::{host_name, show, span, span_from, url_path};

/// How servers are checked.
#[derive(Clone, Debug)]
pub struct Health {
    /// What a check does.
    pub check: Check,
    /// From the start of one pass to the next.
    pub interval: Duration,
    /// Of one whole check; less than or equal to the interval.
    pub timeout: Duration,
    /// Passed checks in a row that bring a server up.
    pub rise: u32,
    /// Failed checks in a row that take it down.
    pub fall: u32,
}

/// What a health check does.
#[derive(Clone, Debug)]
pub enum Check {
    /// Opens a connection.
    Tcp,
    /// `GET`s a page.
    Http {
        /// Starts with `/`.
        path: String,
        /// None: the server's own HOST:PORT.
        host: Option<String>,
        /// Inclusive ranges of status codes.
        status: Vec<(u16, u16)>,
        /// What the body must contain (its first 64 KiB are looked at).
        body: Option<String>,
    },
}

/// The keys that only a check by HTTP has.
const HTTP_ONLY: [&str; 3] = ["path", "host", "expect"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum CheckType {
    Http,
    Tcp,
}

pub(super) fn health(f: &mut Fields<'_>) -> Option<Health> {
    let kind = f.optional(
        "type",
        "`http` asks for a page, `tcp` only connects. Default: `http` when there is a `path`, else `tcp`.",
        Word(&[("http", CheckType::Http), ("tcp", CheckType::Tcp)]),
    );
    let path = f.optional("path", "What is asked for, with GET.", url_path());
    let host = f.optional("host", "The Host header. Default: the server's own HOST:PORT.", host_header());
    let expect = f.section("expect", "What makes an answer a good one.", expect);
    let interval =
        f.default("interval", "From the start of one pass to the next.", span_from(Duration::from_millis(100)), "5s");
    let timeout = f.default("timeout", "Of one whole check.", span(), "1s");
    let rise = f.default("rise", "Passed checks in a row that bring a server up.", whole(1, 100), 2);
    let fall = f.default("fall", "Failed checks in a row that take a server down.", whole(1, 100), 3);

    let http = match kind {
        Some(kind) => kind == CheckType::Http,
        None => HTTP_ONLY.iter().any(|key| f.given(key)),
    };
    if http && !f.given("path") {
        f.problem(&["path".into()], "is missing: say what to ask for, such as `/heartbeat`, or set `type: tcp`");
    }
    if !http {
        for key in HTTP_ONLY {
            if f.given(key) {
                f.problem(&[key.into()], "means nothing with `type: tcp`: remove it, or set `type: http`");
            }
        }
    }
    let (interval, timeout) = (interval?, timeout?);
    if timeout > interval {
        let (key, hint) = if f.given("timeout") {
            ("timeout", "shorten it, or lengthen `interval`")
        } else {
            ("interval", "set `timeout` too")
        };
        f.problem(
            &[key.into()],
            format!("the timeout ({}) is longer than the interval ({}): {hint}", show(timeout), show(interval)),
        );
    }
    let check = if http {
        let expect = expect?;
        Check::Http { path: path?, host, status: expect.status, body: expect.body }
    } else {
        Check::Tcp
    };
    Some(Health { check, interval, timeout, rise: rise?, fall: fall? })
}

struct Expect {
    status: Vec<(u16, u16)>,
    body: Option<String>,
}

fn expect(f: &mut Fields<'_>) -> Option<Expect> {
    let status = f.default(
        "status",
        "Status codes and ranges of them.",
        List { item: Status, of: "status codes", empty: false },
        json!(["200-299"]),
    );
    let body = f.optional(
        "body",
        "What the body must contain; its first 64 KiB are looked at.",
        Parsed { what: "text", pattern: "", parse: |text| Ok(text.to_owned()) },
    );
    Some(Expect { status: status?.into_iter().flatten().collect(), body })
}

/// `200` or `200-299`.
struct Status;

impl Kind for Status {
    type Out = (u16, u16);

    fn what(&self) -> String {
        "a status code or a range, such as `200` or `200-299`".to_owned()
    }

    fn schema(&self) -> Value {
        json!({ "anyOf": [
            { "type": "integer", "minimum": 100, "maximum": 599 },
            { "type": "string", "pattern": "^[1-5][0-9]{2}(-[1-5][0-9]{2})?$" },
            { "$ref": "#/$defs/variable" },
        ] })
    }

    fn read(&self, node: &Node, found: &mut Findings) -> Option<(u16, u16)> {
        let range = match node {
            Node::Text(text) | Node::Variable(text) | Node::Number(text) => status_range(text),
            _ => None,
        };
        if range.is_none() {
            found.add(format!("must be {}, not {}", self.what(), node.shown()));
        }
        range
    }
}

fn status_range(text: &str) -> Option<(u16, u16)> {
    let code = |text: &str| text.parse::<u16>().ok().filter(|code| (100..=599).contains(code));
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let range = (code(from)?, code(to)?);
    (range.0 <= range.1).then_some(range)
}

fn host_header() -> Parsed<String> {
    Parsed {
        what: "a host such as `app.internal`",
        pattern: "^(\\[[0-9a-fA-F:.]+\\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?$",
        parse: |text| {
            let (host, port) = match text.rsplit_once(':') {
                Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
                _ => (text, None),
            };
            let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            match v6 {
                Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => {}
                Some(_) => return Err("has no IPv6 address between its brackets".to_owned()),
                None => {
                    host_name(host)?;
                }
            }
            if port.is_some_and(|port| port.parse::<u16>().is_err()) {
                return Err("has a port outside 1 to 65535".to_owned());
            }
            Ok(text.to_owned())
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_status_codes() {
        assert_eq!(status_range("204"), Some((204, 204)));
        assert_eq!(status_range("200-299"), Some((200, 299)));
        for bad in ["", "-", "299-200", "20", "600", "200-", "2xx", "200-299-300"] {
            assert_eq!(status_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn host_headers() {
        let parse = host_header().parse;
        for good in ["app.internal", "app:8080", "[::1]", "[::1]:80", "10.0.0.1"] {
            assert_eq!(parse(good).as_deref(), Ok(good));
        }
        for bad in ["", "a b", "a:b", "::1", "http://a"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
