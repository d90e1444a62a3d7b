//! Which requests go where.

use std::collections::HashSet;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::fields::Fields;
use super::kind::{List, Named, OneOrMany, OrNone, Parsed, Section, whole};
use super::prefix::path_prefix;
use super::rate_limit::{RateLimit, RateLimitDraft, rate_limit};
use super::retry::{PerTry, PerTryKind, Retry, retry};
use super::rules::{Rules, rules};
use super::units::{host_name, name, show, span};

/// Which requests go where.
#[derive(Clone, Debug)]
pub struct Route {
    /// For logs and metrics.
    pub name: String,
    /// What a request must look like.
    pub matches: Match,
    /// The pools that serve it, with their shares, names known to exist; empty only where it redirects.
    pub split: Vec<Share>,
    /// What it changes, and whom it serves.
    pub rules: Rules,
    /// How long a request may take.
    pub timeouts: RouteTimeouts,
    /// When a request that failed is sent again.
    pub retry: Retry,
    /// None: as often as anybody likes.
    pub rate_limit: Option<RateLimit>,
}

/// A pool's share of a route.
#[derive(Clone, Debug)]
pub struct Share {
    /// Name of the pool.
    pub pool: String,
    /// Relative to the other shares, 0-1000; not all 0.
    pub weight: u32,
}

/// What a request must look like. All parts must hold.
#[derive(Clone, Debug, Default)]
pub struct Match {
    /// Name of a listener; None: any.
    pub listener: Option<String>,
    /// Any of them; empty: any host.
    pub hosts: Vec<HostPattern>,
    /// Starts with `/`; matches on segment boundaries.
    pub path_prefix: String,
    /// Each header must have exactly this value.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Each cookie must have exactly this value.
    pub cookies: Vec<(String, String)>,
}

/// A host to match, in lower case, without port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `api.example.com`
    Exact(String),
    /// `*.example.com`, kept as `.example.com`: any name below, at any depth.
    Suffix(String),
}

/// How long a request may take on the server's side. None: no limit.
#[derive(Clone, Copy, Debug)]
pub struct RouteTimeouts {
    /// Until the final response header, all attempts included; the time in which the client still sends its body does not count.
    pub response: Option<Duration>,
    /// One attempt, until the response header; it begins when the whole request was sent.
    pub per_try: PerTry,
    /// Between two bytes, either way.
    pub idle: Option<Duration>,
    /// The same for an upgraded connection.
    pub websocket_idle: Option<Duration>,
}

/// A route, for each of its shares the place in `split` (none for a plain `pool`), and the scope of its limit where the
/// file gives it.
pub(super) struct RouteDraft {
    pub(super) route: Route,
    pub(super) places: Option<Vec<usize>>,
    pub(super) fleet_limit: Option<bool>,
}

pub(super) fn route(f: &mut Fields<'_>) -> Option<RouteDraft> {
    let name = f.optional("name", "For logs and metrics. Default: `route-N`, counted from 1.", name());
    let matches =
        f.section("match", "What a request must look like; all parts must hold. Left out: every request.", matches);
    let pool = f.optional("pool", "The pool that serves it.", pool_name());
    let split = f.optional(
        "split",
        "In place of `pool`: several pools and their shares.",
        List { item: Section(share), of: "pools with weights", empty: false },
    );
    let timeouts =
        f.section("timeouts", "How long a request may take on the server's side; `none`: no limit.", route_timeouts);
    let retry = f.section("retry", "When a request that failed is sent again.", retry);
    let rules = rules(f);
    let limit = f.optional("rate_limit", "How often a client may ask. Left out: no limit.", Section(rate_limit));

    let name = name.unwrap_or_else(|| format!("route-{}", f.own_name()));
    match (f.given("pool"), f.given("split")) {
        (false, false) if f.given("redirect") => {}
        (false, false) => f.problem(
            &["pool".into()],
            "is missing: name the pool that serves this route, or give a `split` or a `redirect`",
        ),
        _ if f.given("redirect") => {
            f.problem(&["redirect".into()], "stands beside a pool, which then gets no requests: keep only one of them")
        }
        (true, true) => f.problem(&["split".into()], "stands beside `pool`: keep only one of them"),
        _ => {}
    }
    let (split, places) = match (pool, split) {
        (Some(pool), _) => (vec![Share { pool, weight: 1 }], None),
        (None, Some(split)) => {
            let (places, shares) = placed(split);
            (shares, Some(places))
        }
        (None, None) if f.given("redirect") => (Vec::new(), None),
        (None, None) => return None,
    };
    check_split(f, &split, places.as_deref());
    let (rate_limit, fleet_limit) = limit.map(|RateLimitDraft { limit, fleet }| (limit, fleet)).unzip();
    let route = Route { name, matches: matches?, split, rules: rules?, timeouts: timeouts?, retry: retry?, rate_limit };
    Some(RouteDraft { route, places, fleet_limit: fleet_limit.flatten() })
}

/// The items that could be read, each with its place.
pub(super) fn placed<T>(items: Vec<Option<T>>) -> (Vec<usize>, Vec<T>) {
    items.into_iter().enumerate().filter_map(|(i, item)| item.map(|item| (i, item))).unzip()
}

fn check_split(f: &mut Fields<'_>, split: &[Share], places: Option<&[usize]>) {
    let Some(places) = places else { return };
    let mut seen = HashSet::new();
    for (share, place) in split.iter().zip(places) {
        if !seen.insert(&share.pool) {
            f.problem(
                &["split".into(), (*place).into(), "pool".into()],
                format!("`{}` has a share already: add the weights up in one", share.pool),
            );
        }
    }
    if !split.is_empty() && split.iter().all(|share| share.weight == 0) {
        f.problem(&["split".into()], "has only weights of 0: give one pool more");
    }
}

fn pool_name() -> Parsed<String> {
    Parsed { what: "the name of a pool", pattern: "", parse: |text| Ok(text.to_owned()) }
}

fn share(f: &mut Fields<'_>) -> Option<Share> {
    let pool = f.required("pool", "Name of the pool.", pool_name());
    let weight = f.default("weight", "The pool's share, relative to the others'.", whole(0, 1000), 1);
    Some(Share { pool: pool?, weight: weight? })
}

fn matches(f: &mut Fields<'_>) -> Option<Match> {
    let listener = f.optional(
        "listener",
        "Name of a listener. Default: any.",
        Parsed { what: "the name of a listener", pattern: "", parse: |text| Ok(text.to_owned()) },
    );
    let hosts = f.optional(
        "host",
        "Hosts without port: exact, or `*.suffix`. Default: any.",
        OneOrMany(List { item: host_pattern(), of: "hosts", empty: false }),
    );
    let prefix = f.default(
        "path_prefix",
        "How the path begins, in whole segments: `/v1` matches `/v1` and `/v1/x`, but not `/v10`.",
        path_prefix(),
        "/",
    );
    let headers = f.default(
        "headers",
        "Headers and the exact values they must have.",
        Named {
            value: header_value(),
            of: "headers and their values",
            empty: true,
            check: |name| header_name(name).map(|_| ()),
        },
        serde_json::json!({}),
    );
    let cookies = f.default(
        "cookies",
        "Cookies and the exact values they must have.",
        Named {
            value: cookie_value(),
            of: "cookies and their values",
            empty: true,
            check: |name| cookie_name(name).map(|_| ()),
        },
        serde_json::json!({}),
    );

    let mut kept: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for (name, value) in headers? {
        let Ok(header) = header_name(&name) else {
            continue;
        };
        if kept.iter().any(|(other, _)| *other == header) {
            f.problem(
                &["headers".into(), name.as_str().into()],
                "stands here twice, since upper and lower case are the same: remove one",
            );
        }
        kept.extend(value.map(|value| (header, value)));
    }
    let mut unique = Vec::new();
    for (place, host) in hosts.into_iter().flatten().enumerate() {
        match host {
            Some(host) if unique.contains(&host) => {
                f.problem(&["host".into(), place.into()], "stands in this list already: remove it")
            }
            host => unique.extend(host),
        }
    }
    Some(Match {
        listener,
        hosts: unique,
        path_prefix: trim_prefix(prefix?),
        headers: kept,
        cookies: cookies?.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
    })
}

/// `/v1/` is `/v1`: prefixes end on segment boundaries anyway.
fn trim_prefix(mut prefix: String) -> String {
    while prefix.len() > 1 && prefix.ends_with('/') {
        prefix.pop();
    }
    prefix
}

fn route_timeouts(f: &mut Fields<'_>) -> Option<RouteTimeouts> {
    let response =
        f.default("response", "Until the final response header, all attempts included.", OrNone(span()), "15s");
    let per_try = f.default(
        "per_try",
        "One attempt, until the response header. `adaptive`: only where its server has fallen silent and another can have the request.",
        PerTryKind,
        "adaptive",
    );
    let idle = f.default("idle", "Between two bytes, either way.", OrNone(span()), "60s");
    let websocket_idle =
        f.default("websocket_idle", "Between two bytes of an upgraded connection, either way.", OrNone(span()), "1h");
    f.later(&["total"]);
    let (response, per_try) = (response?, per_try?);
    if let (Some(response), PerTry::Limit(limit)) = (response, per_try)
        && limit >= response
    {
        f.problem(
            &["per_try".into()],
            format!(
                "`{}` never runs out, since `response` ends all attempts after {}: shorten it, or write `none`",
                show(limit),
                show(response)
            ),
        );
    }
    Some(RouteTimeouts { response, per_try, idle: idle?, websocket_idle: websocket_idle? })
}

fn host_pattern() -> Parsed<HostPattern> {
    Parsed {
        what: "a host such as `api.example.com` or `*.example.com`",
        pattern: "^(\\*\\.)?[A-Za-z0-9_.-]+$|^\\[[0-9a-fA-F:.]+\\]$",
        parse: |text| {
            if text == "*" {
                return Err("matches any host: leave `host` out instead".to_owned());
            }
            if text.contains("://") {
                return Err("is a URL: write the host alone, like `api.example.com`".to_owned());
            }
            if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
                return match inner.parse::<std::net::Ipv6Addr>() {
                    Ok(ip) => Ok(HostPattern::Exact(format!("[{ip}]"))),
                    Err(_) => Err("has no IPv6 address between its brackets".to_owned()),
                };
            }
            if let Some((host, _)) = text.rsplit_once(':') {
                return Err(format!("has a port, which does not count: write `{host}`"));
            }
            match text.strip_prefix("*.") {
                Some(suffix) => host_name(suffix).map(|host| HostPattern::Suffix(format!(".{host}"))),
                None if text.contains('*') => {
                    Err("may have `*` only as its whole first label, like `*.example.com`".to_owned())
                }
                None => host_name(text).map(HostPattern::Exact),
            }
        },
    }
}

/// The name of a header.
pub(super) fn header_name(text: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| "is no header name: use letters, digits and `-`".to_owned())
}

/// The value of a header.
pub(super) fn header_value() -> Parsed<HeaderValue> {
    Parsed {
        what: "the value of a header",
        pattern: "",
        parse: |text| {
            HeaderValue::from_str(text)
                .map_err(|_| "has characters that no header can have: use printable ASCII".to_owned())
        },
    }
}

/// The name of a cookie.
pub(super) fn cookie_name(text: &str) -> Result<String, String> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.is_empty() || !text.bytes().all(fine) {
        return Err("is no cookie name: use letters, digits, `-` and `_`".to_owned());
    }
    Ok(text.to_owned())
}

fn cookie_value() -> Parsed<String> {
    Parsed {
        what: "the value of a cookie",
        pattern: "",
        parse: |text| {
            let fine = |b: u8| b.is_ascii_graphic() && !b"\",;\\".contains(&b);
            if text.bytes().all(fine) {
                Ok(text.to_owned())
            } else {
                Err("has characters that no cookie can have".to_owned())
            }
        },
    }
}

impl Default for RouteTimeouts {
    /// What a route has that says nothing of timeouts.
    fn default() -> Self {
        RouteTimeouts {
            response: Some(Duration::from_secs(15)),
            per_try: PerTry::Adaptive,
            idle: Some(Duration::from_secs(60)),
            websocket_idle: Some(Duration::from_secs(3600)),
        }
    }
}
