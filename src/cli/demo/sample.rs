//! From running nodes to rows of the table.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::table::Row;
use crate::node::Node;
use crate::upstream::Server;
use crate::upstream::health::Health;

/// Rates are means over the last while of this length.
const WINDOW: Duration = Duration::from_secs(2);

/// Looks at nodes now and then; remembers enough for rates.
pub struct Sampler {
    nodes: Vec<Arc<Node>>,
    past: VecDeque<Totals>,
}

/// Requests that each server had got at one moment.
struct Totals {
    at: Instant,
    servers: Vec<(String, u64)>,
}

impl Totals {
    fn of(&self, server: &str) -> Option<u64> {
        self.servers.iter().find(|(name, _)| name == server).map(|(_, total)| *total)
    }
}

impl Sampler {
    /// Has not looked yet.
    pub fn new(nodes: Vec<Arc<Node>>) -> Self {
        Sampler { nodes, past: VecDeque::new() }
    }

    /// One row a server, in the order of the pools. What several nodes tell of one server is put together.
    pub fn rows(&mut self, now: Instant) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        let mut totals = Totals { at: now, servers: Vec::new() };
        for (place, node) in self.nodes.iter().enumerate() {
            for server in node.snapshot.load().pools.iter().flat_map(|pool| &pool.servers) {
                let found = rows.iter().position(|row| row.server == server.name);
                let index = found.unwrap_or_else(|| {
                    rows.push(Row::new(&server.name, self.nodes.len()));
                    totals.servers.push((server.name.clone(), 0));
                    rows.len() - 1
                });
                add(&mut rows[index], place, server);
                totals.servers[index].1 += server.totals().0;
            }
        }
        // The oldest that is kept is the youngest that is a whole window old.
        while self.past.get(1).is_some_and(|second| now - second.at >= WINDOW) {
            self.past.pop_front();
        }
        if let Some(past) = self.past.front() {
            let seconds = (now - past.at).as_secs_f64().max(0.001);
            for (row, (_, total)) in rows.iter_mut().zip(&totals.servers) {
                let before = past.of(&row.server).unwrap_or(0);
                row.per_second = total.saturating_sub(before) as f64 / seconds;
            }
        }
        self.past.push_back(totals);
        rows
    }
}

/// Adds what the node at `place` knows of a server. Nodes that disagree make a state `mixed`; of percentiles, which
/// cannot be added, the worst counts.
fn add(row: &mut Row, place: usize, server: &Server) {
    let state = match server.health().0 {
        Health::Up => "up",
        Health::Down => "down",
        Health::Unknown => "starting",
    };
    row.state = if row.state.is_empty() || row.state == state { state } else { "mixed" };
    if let Some(local) = row.in_flight.get_mut(place) {
        *local += server.in_flight();
    }
    row.fleet += server.in_flight();
    row.p50_ms = row.p50_ms.max(server.latencies.quantile_ms(0.5));
    row.p99_ms = row.p99_ms.max(server.latencies.quantile_ms(0.99));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::load::Lease;
    use crate::server;
    use crate::upstream::server::Outcome;

    fn node() -> Arc<Node> {
        let servers = [("127.0.0.1".to_owned(), 1), ("127.0.0.1".to_owned(), 2)];
        let config = Config::quick("127.0.0.1:0".parse().unwrap(), &servers, None, None).unwrap();
        server::prepare(config).unwrap().node().clone()
    }

    fn server(node: &Node, index: usize) -> Arc<Server> {
        node.snapshot.load().pools[0].servers[index].clone()
    }

    #[test]
    fn a_row_tells_how_a_server_is() {
        let node = node();
        let second = server(&node, 1);
        let mut sampler = Sampler::new(vec![node]);
        let start = Instant::now();
        let rows = sampler.rows(start);
        assert_eq!((rows.len(), rows[1].state, rows[1].per_second), (2, "starting", 0.0));

        second.observe_check(None, Ok(()), 1, 1);
        let _lease = Lease::take(second.clone());
        for _ in 0..30 {
            second.observe_attempt(Outcome::Success, Some(Duration::from_millis(10)));
        }
        let rows = sampler.rows(start + Duration::from_secs(1));
        assert_eq!(rows[0].per_second, 0.0);
        let row = &rows[1];
        assert_eq!((row.server.as_str(), row.state), (second.name.as_str(), "up"));
        assert_eq!((row.in_flight.as_slice(), row.fleet), ([1].as_slice(), 1));
        assert!((row.per_second - 30.0).abs() < 0.1 && row.p50_ms >= 10.0, "{row:?}");
    }

    #[test]
    fn rates_forget_what_is_older_than_the_window() {
        let node = node();
        let first = server(&node, 0);
        let mut sampler = Sampler::new(vec![node]);
        let start = Instant::now();
        sampler.rows(start);
        first.observe_attempt(Outcome::Success, None);
        for quarter in 1..=8 {
            assert!(sampler.rows(start + quarter * Duration::from_millis(250))[0].per_second > 0.0);
        }
        assert_eq!(sampler.rows(start + 2 * WINDOW)[0].per_second, 0.0);
        assert!(sampler.past.len() < 12);
    }

    #[test]
    fn nodes_are_put_together() {
        let nodes = vec![node(), node()];
        let (ours, theirs) = (server(&nodes[0], 0), server(&nodes[1], 0));
        let _leases = [Lease::take(ours.clone()), Lease::take(theirs.clone()), Lease::take(theirs.clone())];
        ours.observe_check(None, Ok(()), 1, 1);
        theirs.observe_check(None, Err("no".into()), 1, 1);
        let mut sampler = Sampler::new(nodes);
        let start = Instant::now();
        sampler.rows(start);
        ours.observe_attempt(Outcome::Success, Some(Duration::from_millis(1)));
        theirs.observe_attempt(Outcome::Success, Some(Duration::from_millis(50)));
        let rows = sampler.rows(start + Duration::from_secs(1));
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].in_flight.as_slice(), rows[0].fleet, rows[0].state), ([1, 2].as_slice(), 3, "mixed"));
        assert!((rows[0].per_second - 2.0).abs() < 0.01 && rows[0].p50_ms >= 50.0, "{:?}", rows[0]);
    }
}
