//! Addresses of servers that are configured by name. A name is looked up in the background, never in a request;
//! the last good answer is kept while a look-up fails.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::upstream::health::Health;
use crate::upstream::{Pool, Server};

/// How long one look-up may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How often names are looked up again.
const EVERY: Duration = Duration::from_secs(30);

/// Sets the addresses of all servers that are not configured by name.
pub fn set_literal(pool: &Pool) {
    for server in &pool.servers {
        if let Ok(ip) = server.address.host.parse::<IpAddr>() {
            server.set_address(SocketAddr::new(ip, server.address.port), &pool.config.upstream);
        }
    }
}

/// Looks up the names of a pool again and again; `news` is told of each server that must be checked now.
pub async fn keep(pool: &Arc<Pool>, news: &Arc<Notify>) {
    while pool.servers.iter().any(|server| is_name(server)) {
        names(pool, news).await;
        tokio::time::sleep(EVERY).await;
    }
}

/// Looks up every name of a pool once, all at the same time.
pub async fn names(pool: &Arc<Pool>, news: &Arc<Notify>) {
    let mut lookups = tokio::task::JoinSet::new();
    for server in pool.servers.iter().filter(|server| is_name(server)) {
        let (pool, server, news) = (pool.clone(), server.clone(), news.clone());
        lookups.spawn(async move {
            let answer = look_up(&server).await;
            if take_in(&pool, &server, answer) {
                news.notify_one();
            }
        });
    }
    while lookups.join_next().await.is_some() {}
}

fn is_name(server: &Server) -> bool {
    server.address.host.parse::<IpAddr>().is_err()
}

async fn look_up(server: &Server) -> Result<Vec<SocketAddr>, String> {
    let name = (server.address.host.as_str(), server.address.port);
    match tokio::time::timeout(TIMEOUT, tokio::net::lookup_host(name)).await {
        Ok(Ok(addresses)) => Ok(addresses.collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {TIMEOUT:?}")),
    }
}

/// Whether the answer changes anything: where the server is, or that it is nowhere.
fn take_in(pool: &Pool, server: &Server, answer: Result<Vec<SocketAddr>, String>) -> bool {
    let known = server.resolved();
    let host = &server.address.host;
    let found = answer.and_then(|addresses| pick(addresses, known).ok_or_else(|| "the name has no address".to_owned()));
    match found {
        Ok(address) if known == Some(address) => false,
        Ok(address) => {
            server.set_address(address, &pool.config.upstream);
            log::info!(pool = pool.config.name, server = server.name, address = address.to_string(); "server_resolved");
            true
        }
        Err(error) => {
            log::warn!(pool = pool.config.name, server = server.name, host = host, error = error; "server_not_resolved");
            let first = server.health().0 == Health::Unknown;
            // Does nothing to a server that has an address.
            pool.observe_check(server, None, Err(format!("the name {host} does not resolve")));
            known.is_none() && first
        }
    }
}

/// A server is one address: the present one as long as the name still has it, else the lowest, so that all nodes
/// agree.
fn pick(mut addresses: Vec<SocketAddr>, known: Option<SocketAddr>) -> Option<SocketAddr> {
    if let Some(known) = known.filter(|known| addresses.contains(known)) {
        return Some(known);
    }
    addresses.sort_by_key(|address| (address.is_ipv6(), *address));
    addresses.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|a| a.parse().unwrap()).collect()
    }

    #[test]
    fn the_present_address_stays_while_the_name_has_it() {
        let list = addresses(&["10.0.0.2:80", "10.0.0.1:80", "[::1]:80"]);
        assert_eq!(pick(list.clone(), None), Some(list[1]));
        assert_eq!(pick(list.clone(), Some(list[0])), Some(list[0]));
        assert_eq!(pick(list.clone(), Some("10.0.0.9:80".parse().unwrap())), Some(list[1]));
        assert_eq!(pick(vec![], Some(list[0])), None);
    }
    #[test]
    fn only_what_changes_something_is_news() {
        let listen = "127.0.0.1:0".parse().unwrap();
        let config = crate::config::Config::quick(listen, &[("web".into(), 80)], None, None).unwrap();
        let metrics = crate::observe::metrics::Metrics::new().unwrap();
        let pool = Pool::new(config.pools[0].clone(), &metrics);
        let server = &pool.servers[0];
        let failed = || Err("no such name".to_owned());

        assert!(take_in(&pool, server, failed()));
        assert_eq!(server.health(), (Health::Down, "the name web does not resolve".to_owned()));
        assert!(!take_in(&pool, server, failed()));

        assert!(take_in(&pool, server, Ok(addresses(&["10.0.0.1:80"]))));
        assert_eq!(server.health().0, Health::Unknown);
        pool.observe_check(server, server.resolved(), Ok(()));
        assert!(!take_in(&pool, server, Ok(addresses(&["10.0.0.0:80", "10.0.0.1:80"]))));
        assert!(!take_in(&pool, server, failed()), "the last good answer is kept");
        assert!(server.is_eligible());

        assert!(take_in(&pool, server, Ok(addresses(&["10.0.0.2:80"]))));
        assert!(!server.is_eligible());
    }
}
