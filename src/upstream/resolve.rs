//! Addresses of servers that are configured by name. A name is looked up in the background, never in a request;
//! the last good answer is kept while a look-up fails.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::config;
use crate::upstream::{Pool, Server};

/// How often names are looked up again.
const EVERY: Duration = Duration::from_secs(30);
/// How long one look-up may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Looks up every name of a pool, all at once. An address that is an IP address already is only set.
pub async fn resolve(pool: &Pool) {
    let mut lookups = tokio::task::JoinSet::new();
    for server in &pool.servers {
        let (server, upstream, name) = (server.clone(), pool.config.upstream, pool.config.name.clone());
        lookups.spawn(async move { resolve_one(&name, &server, &upstream).await });
    }
    while lookups.join_next().await.is_some() {}
}

/// Looks names up again for ever; returns at once when there are none.
pub async fn keep(pool: Arc<Pool>) {
    while pool.servers.iter().any(|server| server.address.host.parse::<IpAddr>().is_err()) {
        tokio::time::sleep(EVERY).await;
        resolve(&pool).await;
    }
}

async fn resolve_one(pool: &str, server: &Server, upstream: &config::Upstream) {
    let config::Address { host, port } = &server.address;
    let known = server.resolved();
    if let Ok(ip) = host.parse::<IpAddr>() {
        if known.is_none() {
            server.set_address(SocketAddr::new(ip, *port), upstream);
        }
        return;
    }
    let answer = tokio::time::timeout(TIMEOUT, tokio::net::lookup_host((host.as_str(), *port))).await;
    let problem = match answer {
        Ok(Ok(addresses)) => match pick(addresses.collect(), known) {
            Some(address) if known == Some(address) => return,
            Some(address) => {
                // What was found out elsewhere says nothing about the new place.
                server.forget_checks();
                server.set_address(address, upstream);
                log::info!(pool = pool, server = server.name, address = address.to_string(); "server_resolved");
                return;
            }
            None => "the name has no address".to_owned(),
        },
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {TIMEOUT:?}"),
    };
    log::warn!(pool = pool, server = server.name, host = host, error = problem; "server_not_resolved");
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
}
