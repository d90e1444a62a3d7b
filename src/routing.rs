//! Which route serves a request: listener + host + path → route. Pure: no clock, no state, no lock.
//!
//! The most specific match wins: an exact host before the longest `*.suffix` before any host; then the longest path
//! prefix on segment boundaries; then the route with more further conditions (listener, headers, cookies). Where a
//! more specific host has no route for a path, less specific ones are asked.

use std::collections::HashMap;

use http::HeaderMap;
use http::header::COOKIE;

use crate::config::{HostPattern, Match};

/// What of a request matters to routing.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Name of the listener it came in by.
    pub listener: &'a str,
    /// As sent: any case, perhaps with a port.
    pub host: &'a str,
    /// Without query.
    pub path: &'a str,
    /// All of them.
    pub headers: &'a HeaderMap,
}

/// Routes, ordered so that the first match is the most specific. `T` is what a match yields.
#[derive(Debug)]
pub struct RouteTable<T> {
    exact: HashMap<String, Vec<Entry<T>>>,
    /// Longest first.
    suffixes: Vec<(String, Vec<Entry<T>>)>,
    any: Vec<Entry<T>>,
    reads_paths: bool,
}

#[derive(Debug)]
struct Entry<T> {
    conditions: Match,
    target: T,
}

impl<T> Default for RouteTable<T> {
    fn default() -> Self {
        RouteTable { exact: HashMap::new(), suffixes: Vec::new(), any: Vec::new(), reads_paths: false }
    }
}

impl<T: Clone> RouteTable<T> {
    /// Orders the routes.
    pub fn new(routes: impl IntoIterator<Item = (Match, T)>) -> Self {
        let mut table = RouteTable::default();
        for (conditions, target) in routes {
            table.reads_paths |= conditions.path_prefix.len() > 1;
            if conditions.hosts.is_empty() {
                table.any.push(Entry { conditions: conditions.clone(), target: target.clone() });
            }
            for host in &conditions.hosts {
                let entry = Entry { conditions: conditions.clone(), target: target.clone() };
                match host {
                    HostPattern::Exact(host) => table.exact.entry(host.clone()).or_default().push(entry),
                    HostPattern::Suffix(suffix) => match table.suffixes.iter_mut().find(|(s, _)| s == suffix) {
                        Some((_, entries)) => entries.push(entry),
                        None => table.suffixes.push((suffix.clone(), vec![entry])),
                    },
                }
            }
        }
        table.suffixes.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        let lists = table.exact.values_mut().chain(table.suffixes.iter_mut().map(|(_, entries)| entries));
        for entries in lists.chain(std::iter::once(&mut table.any)) {
            entries.sort_by_key(|entry| std::cmp::Reverse(specificity(&entry.conditions)));
        }
        table
    }
}

impl<T> RouteTable<T> {
    /// Whether a path can make a difference.
    pub fn reads_paths(&self) -> bool {
        self.reads_paths
    }

    /// All of them; one with several hosts comes several times.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        let named = self.exact.values().chain(self.suffixes.iter().map(|(_, entries)| entries));
        named.chain(std::iter::once(&self.any)).flatten().map(|entry| &entry.target)
    }

    /// The most specific route, if any.
    pub fn find(&self, request: &Request) -> Option<&T> {
        if self.exact.is_empty() && self.suffixes.is_empty() {
            return first(&self.any, request);
        }
        let host = normal_host(request.host);
        let by_name = self.exact.get(host.as_ref()).and_then(|entries| first(entries, request));
        let by_suffix = || {
            let matching = self.suffixes.iter().filter(|(suffix, _)| is_below(&host, suffix));
            matching.filter_map(|(_, entries)| first(entries, request)).next()
        };
        by_name.or_else(by_suffix).or_else(|| first(&self.any, request))
    }
}

fn specificity(conditions: &Match) -> (usize, usize) {
    let others = usize::from(conditions.listener.is_some()) + conditions.headers.len() + conditions.cookies.len();
    (conditions.path_prefix.trim_end_matches('/').len(), others)
}

fn first<'t, T>(entries: &'t [Entry<T>], request: &Request) -> Option<&'t T> {
    entries.iter().find(|entry| holds(&entry.conditions, request)).map(|entry| &entry.target)
}

fn holds(conditions: &Match, request: &Request) -> bool {
    is_under(request.path, &conditions.path_prefix)
        && conditions.listener.as_deref().is_none_or(|listener| listener == request.listener)
        && conditions.headers.iter().all(|(name, value)| request.headers.get_all(name).iter().any(|v| v == value))
        && conditions.cookies.iter().all(|(name, value)| cookie(request.headers, name) == Some(value))
}

/// `/v1` holds `/v1` and `/v1/x`, not `/v10`.
fn is_under(path: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn is_below(host: &str, suffix: &str) -> bool {
    host.len() > suffix.len() && host.ends_with(suffix)
}

/// The name or address in a Host header; an IPv6 address keeps its brackets.
pub fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if !host.ends_with(']') => &host[..colon],
        _ => host,
    }
}

/// Lower case, without port and without the dot that a fully qualified name may end with.
fn normal_host(host: &str) -> std::borrow::Cow<'_, str> {
    let name = without_port(host);
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|b| b.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name.into() }
}

/// A cookie's value.
pub fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let pairs = headers.get_all(COOKIE).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(';'));
    pairs.filter_map(|pair| pair.trim().split_once('=')).find(|(n, _)| *n == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn conditions(hosts: &[&str], path_prefix: &str) -> Match {
        let hosts = hosts.iter().map(|host| match host.strip_prefix('*') {
            Some(suffix) => HostPattern::Suffix(suffix.into()),
            None => HostPattern::Exact((*host).into()),
        });
        Match { hosts: hosts.collect(), path_prefix: path_prefix.into(), ..Match::default() }
    }

    fn find<'t>(table: &'t RouteTable<&'static str>, host: &str, path: &str) -> Option<&'t str> {
        let headers = HeaderMap::new();
        table.find(&Request { listener: "public", host, path, headers: &headers }).copied()
    }

    #[test]
    fn the_most_specific_host_wins_then_the_longest_path() {
        let table = RouteTable::new([
            (conditions(&[], "/"), "any"),
            (conditions(&[], "/v1"), "any-v1"),
            (conditions(&["*.example.com"], "/"), "suffix"),
            (conditions(&["*.api.example.com"], "/"), "longer-suffix"),
            (conditions(&["www.example.com"], "/"), "exact"),
            (conditions(&["www.example.com"], "/v1/users"), "exact-users"),
        ]);
        assert_eq!(find(&table, "www.example.com", "/"), Some("exact"));
        assert_eq!(find(&table, "WWW.Example.com:8080", "/v1/users/7"), Some("exact-users"));
        assert_eq!(find(&table, "www.example.com.", "/v1/usersX"), Some("exact"));
        assert_eq!(find(&table, "x.example.com", "/v1"), Some("suffix"));
        assert_eq!(find(&table, "x.api.example.com", "/"), Some("longer-suffix"));
        assert_eq!(find(&table, "example.com", "/"), Some("any"));
        assert_eq!(find(&table, "[::1]:80", "/v1/"), Some("any-v1"));
        assert_eq!(find(&table, "other", "/v10"), Some("any"));
    }

    #[test]
    fn a_host_without_a_route_for_the_path_falls_back_to_the_less_specific() {
        let table = RouteTable::new([
            (conditions(&["a.example.com"], "/only"), "exact"),
            (conditions(&["*.example.com"], "/also"), "suffix"),
            (conditions(&[], "/any"), "any"),
        ]);
        assert_eq!(find(&table, "a.example.com", "/also/x"), Some("suffix"));
        assert_eq!(find(&table, "a.example.com", "/any"), Some("any"));
        assert_eq!(find(&table, "a.example.com", "/nothing"), None);
    }

    #[test]
    fn headers_cookies_and_listener_must_hold_and_make_a_route_more_specific() {
        let mut canary = conditions(&[], "/");
        canary.headers.push((HeaderName::from_static("x-canary"), HeaderValue::from_static("1")));
        let mut beta = conditions(&[], "/");
        beta.cookies.push(("beta".into(), "yes".into()));
        let mut inside = conditions(&[], "/");
        inside.listener = Some("internal".into());
        let table =
            RouteTable::new([(conditions(&[], "/"), "rest"), (canary, "canary"), (beta, "beta"), (inside, "inside")]);
        let ask = |listener: &str, name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            table.find(&Request { listener, host: "h", path: "/", headers: &headers }).copied()
        };
        assert_eq!(ask("public", "x-canary", "1"), Some("canary"));
        assert_eq!(ask("public", "x-canary", "2"), Some("rest"));
        assert_eq!(ask("public", "cookie", "a=b; beta=yes"), Some("beta"));
        assert_eq!(ask("public", "cookie", "notbeta=yes"), Some("rest"));
        assert_eq!(ask("internal", "x", "y"), Some("inside"));
    }
}
