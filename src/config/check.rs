//! Checks across sections: names that must exist, things that may be there only once, loops.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::pool::Address;
use super::problem::{Findings, Step};
use super::root::Draft;
use super::route::Match;
use super::suggest::did_you_mean;
use super::tree::quoted;

/// Checks everything that one section alone cannot know.
pub(super) fn across(draft: &Draft, found: &mut Findings) {
    listeners(draft, found);
    route_names(draft, found);
    route_targets(draft, found);
    equal_matches(draft, found);
    loops(draft, found);
    fleet_limits(draft, found);
    if draft.routes.is_empty() && draft.pools.len() > 1 {
        let first = draft.pools.first().map_or("", |(name, _)| name);
        found.add_at(
            &["routes".into()],
            format!(
                "is missing: there are {} pools, so say which pool serves what, such as `routes: [{{ match: {{ path_prefix: / }}, pool: {first} }}]`",
                draft.pools.len()
            ),
        );
    }
}

/// The items without gaps, each with its place.
fn present<T>(items: &[Option<T>]) -> impl Iterator<Item = (usize, &T)> {
    items.iter().enumerate().filter_map(|(i, item)| Some((i, item.as_ref()?)))
}

fn listeners(draft: &Draft, found: &mut Findings) {
    let mut names: HashMap<&str, usize> = HashMap::new();
    let mut addresses: Vec<(usize, SocketAddr)> = Vec::new();
    for (i, listener) in present(&draft.listeners) {
        let taken = addresses.iter().find(|(_, other)| collide(*other, listener.address));
        if let Some((first, _)) = taken {
            found.add_at(
                &["listeners".into(), i.into(), "address".into()],
                format!("`{}` is taken by listeners[{first}]: give each listener its own port", listener.address),
            );
        } else if let Some(first) = names.get(listener.name.as_str())
            // Two that the system gives a port to may both go without a name.
            && listener.name != listener.address.to_string()
        {
            found.add_at(
                &["listeners".into(), i.into(), "name".into()],
                format!("`{}` is the name of listeners[{first}] too: give each its own", listener.name),
            );
        }
        addresses.push((i, listener.address));
        names.entry(&listener.name).or_insert(i);
    }
    if let Some(admin) = &draft.admin
        && let Some((i, _)) = addresses.iter().find(|(_, other)| collide(*other, admin.address))
    {
        found.add_at(
            &["admin".into(), "address".into()],
            format!("`{}` is taken by listeners[{i}]: give the admin listener its own port", admin.address),
        );
    }
}

/// Whether two sockets cannot both listen. Port 0 never collides: the system chooses.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let all = |address: SocketAddr| address.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || (a.is_ipv4() == b.is_ipv4() && (all(a) || all(b))))
}

fn route_names(draft: &Draft, found: &mut Findings) {
    let mut names: HashMap<&str, usize> = HashMap::new();
    for (i, draft) in present(&draft.routes) {
        let name = draft.route.name.as_str();
        if let Some(first) = names.get(name) {
            found.add_at(
                &["routes".into(), i.into(), "name".into()],
                format!("`{name}` is the name of routes[{first}] too: give each its own"),
            );
        }
        names.entry(name).or_insert(i);
    }
}

/// The pools and listeners that routes name.
fn route_targets(draft: &Draft, found: &mut Findings) {
    // A pool or listener that has problems of its own counts as there.
    let pools: Vec<&str> = draft.pools.iter().map(|(name, _)| name.as_str()).collect();
    let listeners: Vec<&str> = present(&draft.listeners).map(|(_, listener)| listener.name.as_str()).collect();
    for (i, draft_route) in present(&draft.routes) {
        let route = &draft_route.route;
        for (n, share) in route.split.iter().enumerate() {
            if pools.is_empty() || pools.contains(&share.pool.as_str()) {
                continue;
            }
            let mut path: Vec<Step> = vec!["routes".into(), i.into()];
            if let Some(places) = &draft_route.places {
                path.extend(["split".into(), places.get(n).copied().unwrap_or(n).into()]);
            }
            path.push("pool".into());
            found.add_at(&path, unknown("pool", &share.pool, &pools));
        }
        if let Some(listener) = &route.matches.listener
            && listeners.len() == draft.listeners.len()
            && !listeners.contains(&listener.as_str())
        {
            found.add_at(
                &["routes".into(), i.into(), "match".into(), "listener".into()],
                unknown("listener", listener, &listeners),
            );
        }
    }
}

fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    let near = did_you_mean(name, known.iter().copied());
    if near.is_empty() {
        format!("there is no {what} {}: use one of {}", quoted(name), known.join(", "))
    } else {
        format!("there is no {what} {}{near}", quoted(name))
    }
}

/// Which of two equal routes would win is nobody's intention.
fn equal_matches(draft: &Draft, found: &mut Findings) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (i, draft) in present(&draft.routes) {
        for key in match_keys(&draft.route.matches) {
            if let Some(first) = seen.get(&key) {
                found.add_at(
                    &["routes".into(), i.into(), "match".into()],
                    format!(
                        "is the same as that of routes[{first}]: change one of them, or use `split` to share requests among pools"
                    ),
                );
                break;
            }
            seen.insert(key, i);
        }
    }
}

/// Buckets that all nodes share need a place where they meet.
fn fleet_limits(draft: &Draft, found: &mut Findings) {
    if !matches!(draft.redis, Some(None)) {
        return;
    }
    for (i, route) in present(&draft.routes).filter(|(_, route)| route.fleet_limit == Some(true)) {
        let name = &route.route.name;
        found.add_at(
            &["routes".into(), i.into(), "rate_limit".into(), "scope".into()],
            format!(
                "`fleet` needs `redis`, where the nodes share the buckets of `{name}`: add it, or write `scope: local` for a limit of each node's own"
            ),
        );
    }
}

/// One text per host; equal texts match the same requests.
fn match_keys(matches: &Match) -> Vec<String> {
    let mut headers: Vec<String> = matches.headers.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    headers.sort();
    let mut cookies = matches.cookies.clone();
    cookies.sort();
    let key = |host: Option<&super::HostPattern>| {
        format!("{:?} {host:?} {:?} {headers:?} {cookies:?}", matches.listener, matches.path_prefix)
    };
    if matches.hosts.is_empty() { vec![key(None)] } else { matches.hosts.iter().map(|host| key(Some(host))).collect() }
}

/// A server that is one of our own listeners: its requests would come back for ever.
fn loops(draft: &Draft, found: &mut Findings) {
    let own: Vec<(&str, SocketAddr)> = present(&draft.listeners)
        .map(|(_, listener)| ("a listener of this configuration", listener.address))
        .chain(draft.admin.iter().map(|admin| ("the admin listener of this configuration", admin.address)))
        .collect();
    for (name, pool) in &draft.pools {
        let Some(pool) = pool else { continue };
        for (server, place) in pool.pool.servers.iter().zip(&pool.places) {
            let Some((what, _)) = own.iter().find(|(_, address)| reaches(&server.address, *address)) else {
                continue;
            };
            found.add_at(
                &["pools".into(), name.as_str().into(), "servers".into(), (*place).into()],
                format!("`{}` is {what}, so requests would come back to it: name another server", server.address),
            );
        }
    }
}

/// Whether a connection to `server` surely ends at `own`. Names other than `localhost` are not resolved here.
fn reaches(server: &Address, own: SocketAddr) -> bool {
    if own.port() == 0 || server.port != own.port() {
        return false;
    }
    let own = own.ip().to_canonical();
    destinations(&server.host).into_iter().any(|ip| {
        // A wildcard takes all of its family; of its addresses only the loopback ones are known here.
        ip == own || (own.is_unspecified() && own.is_ipv4() == ip.is_ipv4() && ip.is_loopback())
    })
}

/// Where connections to a host go, as far as that is known without looking it up.
fn destinations(host: &str) -> Vec<IpAddr> {
    let (v4, v6) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
    if host.eq_ignore_ascii_case("localhost") {
        return vec![v4, v6];
    }
    match host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(ip) if ip.is_unspecified() => vec![if ip.is_ipv4() { v4 } else { v6 }],
        Ok(ip) => vec![ip],
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_collide() {
        let collide = |a: &str, b: &str| collide(a.parse().unwrap(), b.parse().unwrap());
        assert!(collide("127.0.0.1:80", "127.0.0.1:80"));
        assert!(collide("0.0.0.0:80", "127.0.0.1:80"));
        assert!(!collide("127.0.0.1:80", "127.0.0.2:80"));
        assert!(!collide("127.0.0.1:80", "[::1]:80"));
        assert!(!collide("127.0.0.1:0", "127.0.0.1:0"));
    }

    #[test]
    fn servers_that_lead_back() {
        let reaches = |host: &str, own: &str| {
            let server = Address { host: host.to_owned(), port: 80 };
            reaches(&server, own.parse().unwrap())
        };
        assert!(reaches("127.0.0.1", "127.0.0.1:80"));
        assert!(reaches("127.0.0.1", "0.0.0.0:80"));
        assert!(reaches("::1", "[::]:80"));
        assert!(reaches("localhost", "127.0.0.1:80"));
        assert!(reaches("0.0.0.0", "127.0.0.1:80"));
        // A wildcard takes every loopback address of its family, and no other.
        assert!(reaches("127.0.0.2", "0.0.0.0:80"));
        assert!(reaches("::ffff:127.0.0.2", "0.0.0.0:80"));
        assert!(reaches("localhost", "[::]:80"));
        assert!(reaches("LOCALHOST", "[::1]:80"));
        assert!(reaches("::", "[::1]:80"));
        assert!(!reaches("127.0.0.1", "[::]:80"));
        assert!(!reaches("::1", "0.0.0.0:80"));
        assert!(!reaches("127.0.0.2", "127.0.0.1:80"));
        assert!(!reaches("localhost", "127.0.0.2:80"));
        assert!(!reaches("10.0.0.1", "0.0.0.0:80"));
        assert!(!reaches("web", "0.0.0.0:80"));
        assert!(!reaches("127.0.0.1", "127.0.0.1:0"));
    }
}
