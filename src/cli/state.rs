//! A node's pools as whoever asks it reads them: the same JSON as `/api/v1/pools`, in words of its own, so that a
//! newer node with more to tell, or another word, is understood as well.

use serde::Deserialize;

use crate::admin::pools::PoolState;
use crate::node::Node;

/// A pool of a node.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// How a server is chosen.
    pub balance: String,
    /// `memory`, `local`, `batched` or `exact`.
    pub mode: String,
    /// Milliseconds since the fleet's counts were so; of no meaning without [`Pool::has_view`].
    pub view_age_ms: u64,
    /// Nodes that share the counts, this one included.
    pub nodes: u32,
    /// Its servers.
    pub servers: Vec<Server>,
}

impl Pool {
    /// Counts are not shared: the node has no Redis.
    pub fn is_alone(&self) -> bool {
        self.mode == "memory"
    }

    /// The node knows the fleet's counts. Otherwise it has no Redis, or its Redis is away.
    pub fn has_view(&self) -> bool {
        !self.is_alone() && self.mode != "local"
    }
}

/// A server of a pool.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Server {
    /// Unique in its pool.
    pub name: String,
    /// A word: `up`, `down`, …
    pub state: String,
    /// Why it is not `up`.
    #[serde(default)]
    pub reason: String,
    /// Its share of the load.
    pub weight: Weight,
    /// Requests in flight.
    pub in_flight: InFlight,
    /// Attempts made by this node since it started.
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
    /// Half of the answers took no longer; 0: there were none of late.
    pub p50_ms: f64,
    /// 99 % of the answers took no longer; 0: there were none of late.
    pub p99_ms: f64,
}

/// A server's weight.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Weight {
    /// As configured.
    pub configured: f64,
    /// As it counts now.
    pub effective: f64,
}

/// Requests in flight on a server.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct InFlight {
    /// Sent by this node.
    pub local: u32,
    /// Sent by all nodes.
    pub fleet: u32,
}

/// Reads what a node answered.
///
/// # Errors
/// It is something else.
pub fn read(json: &[u8]) -> serde_json::Result<Vec<Pool>> {
    serde_json::from_slice(json)
}

/// The pools of a node in this process, as it would answer.
pub fn of(node: &Node) -> Vec<Pool> {
    let shared = node.fleet.get().is_some();
    let states: Vec<_> = node.snapshot.load().pools.iter().map(|pool| PoolState::of(pool, shared)).collect();
    serde_json::to_value(states).and_then(serde_json::from_value).unwrap_or_default()
}

/// Makes states for tests.
#[cfg(test)]
pub mod testing {
    use super::*;

    /// A pool that knows the fleet, or not.
    pub fn pool(mode: &str, view_age_ms: u64, servers: Vec<Server>) -> Pool {
        Pool {
            name: "app".into(),
            balance: "least-load".into(),
            mode: mode.into(),
            view_age_ms,
            nodes: if mode == "memory" { 1 } else { 3 },
            servers,
        }
    }

    /// A server that is up.
    pub fn server(name: &str, local: u32, fleet: u32, requests: u64) -> Server {
        Server {
            name: name.into(),
            state: "up".into(),
            reason: String::new(),
            weight: Weight { configured: 1.0, effective: 1.0 },
            in_flight: InFlight { local, fleet },
            requests,
            errors: 0,
            p50_ms: 9.25,
            p99_ms: 41.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::server;

    #[test]
    fn what_a_node_tells_is_understood() {
        let servers = [("127.0.0.1".to_owned(), 1), ("127.0.0.1".to_owned(), 2)];
        let config = Config::quick("127.0.0.1:0".parse().unwrap(), &servers, None, None).unwrap();
        let pools = of(server::prepare(config).unwrap().node());
        assert_eq!((pools.len(), pools[0].name.as_str(), pools[0].mode.as_str()), (1, "app", "memory"));
        let names: Vec<_> = pools[0].servers.iter().map(|server| server.name.as_str()).collect();
        assert_eq!(names, ["127.0.0.1:1", "127.0.0.1:2"]);
    }

    #[test]
    fn a_node_may_tell_more_than_we_know() {
        let more = r#"[{"name":"app","balance":"new","mode":"newer","view_age_ms":4,"nodes":2,"novel":{},"servers":[{"name":"a",
            "state":"resting","weight":{"configured":1,"effective":0.5},"in_flight":{"local":1,"fleet":2},"requests":3,"errors":0,
            "p50_ms":1,"p99_ms":2.5}]}]"#;
        let pools = read(more.as_bytes()).unwrap();
        assert!(pools[0].has_view() && !pools[0].is_alone());
        assert_eq!((pools[0].servers[0].state.as_str(), pools[0].servers[0].weight.effective), ("resting", 0.5));
        assert!(read(b"<html>").is_err());
    }
}
