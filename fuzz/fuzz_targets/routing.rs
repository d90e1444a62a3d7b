//! Which route serves a request: the same that a plain look at all of them finds. Of the input the lines up to the
//! first empty one are routes, then come listener, host and path, and headers:
//!
//! ```text
//! a.test *.test /v1 @public h:x-a=1 c:k=v
//!
//! public a.test:80 /v1/x
//! x-a: 1
//! ```
#![no_main]

use fairlead::config::{HostPattern, Match};
use fairlead::filters::path::all_readings;
use fairlead::routing::{Request, RouteTable, cookie, without_port};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    let mut lines = input.split('\n');
    let routes: Vec<Match> = lines.by_ref().take_while(|line| !line.is_empty()).filter_map(route).collect();
    let mut words = lines.next().unwrap_or_default().splitn(3, ' ');
    let mut word = || words.next().unwrap_or_default();
    let (listener, host, path) = (word(), word(), word());
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            headers.append(name, value);
        }
    }
    let table = RouteTable::new(routes.iter().cloned().enumerate().map(|(place, conditions)| (conditions, place)));
    let find = |path: &str| table.find(&Request { listener, host, path, headers: &headers }).copied();
    let expected = |path: &str| {
        let request = Request { listener, host, path, headers: &headers };
        let ranked = routes.iter().enumerate().filter_map(|(place, route)| Some((rank(route, &request)?, place)));
        // Of equals the first.
        ranked.min_by_key(|(rank, place)| (std::cmp::Reverse(*rank), *place)).map(|(_, place)| place)
    };
    assert_eq!(find(path), expected(path));
    if path.starts_with('/') {
        if !table.reads_paths() {
            assert_eq!(find(path), find("/"), "paths make a difference");
        }
        all_readings(path, |reading| {
            assert!(reading.starts_with('/'), "{reading}");
            assert!(reading.split('/').all(|segment| segment != "." && segment != ".."), "{reading}");
            assert_eq!(find(reading), expected(reading));
            true
        });
    }
});

/// As the configuration would let it pass.
fn route(line: &str) -> Option<Match> {
    let mut route = Match { path_prefix: "/".into(), ..Match::default() };
    for word in line.split(' ').filter(|word| !word.is_empty()) {
        if word.starts_with('/') {
            route.path_prefix = word.into();
        } else if let Some(name) = word.strip_prefix('@') {
            route.listener = Some(name.into());
        } else if let Some((name, value)) = word.strip_prefix("h:").and_then(|pair| pair.split_once('=')) {
            route.headers.push((name.parse().ok()?, value.parse().ok()?));
        } else if let Some((name, value)) = word.strip_prefix("c:").and_then(|pair| pair.split_once('=')) {
            route.cookies.push((name.into(), value.into()));
        } else {
            let (pattern, name) = match word.strip_prefix('*') {
                Some(suffix) => (HostPattern::Suffix(suffix.into()), suffix.strip_prefix('.')?),
                None => (HostPattern::Exact(word.into()), word),
            };
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
            if name.is_empty() || name.ends_with('.') || !name.bytes().all(plain) {
                return None;
            }
            route.hosts.push(pattern);
        }
    }
    Some(route)
}

/// How specific a match is: host, then path, then further conditions. None: it does not hold.
fn rank(route: &Match, request: &Request) -> Option<(usize, usize, usize)> {
    let host = without_port(request.host).to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    let hosts = route.hosts.iter().filter_map(|pattern| match pattern {
        HostPattern::Exact(name) => (name == host).then_some(usize::MAX),
        HostPattern::Suffix(suffix) => {
            let above = host.len().checked_sub(suffix.len())?;
            (above > 0 && host.as_bytes()[above..] == *suffix.as_bytes()).then_some(suffix.len())
        }
    });
    let by_host = if route.hosts.is_empty() { 0 } else { hosts.max()? };
    let prefix: Vec<&str> = route.path_prefix.trim_end_matches('/').split('/').collect();
    let segments: Vec<&str> = request.path.split('/').collect();
    let by_path = segments.starts_with(&prefix).then_some(prefix.len())?;
    let others = [
        route.listener.iter().all(|name| name == request.listener),
        route.headers.iter().all(|(name, value)| request.headers.get_all(name).into_iter().any(|v| v == value)),
        route.cookies.iter().all(|(name, value)| cookie(request.headers, name) == Some(value)),
    ];
    let conditions = usize::from(route.listener.is_some()) + route.headers.len() + route.cookies.len();
    others.iter().all(|holds| *holds).then_some((by_host, by_path, conditions))
}
