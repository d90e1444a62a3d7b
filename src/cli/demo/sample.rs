//! From what nodes tell of themselves to rows of the table.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::table::{Frame, Row};
use crate::cli::state::{Pool, Server};

/// Rates are means over the last while of this length.
const WINDOW: Duration = Duration::from_secs(2);

/// Puts together what nodes tell now and then; remembers enough for rates.
pub struct Sampler {
    /// What each node told last: a node that is gone must not look as if its requests had never been.
    last: Vec<Vec<Pool>>,
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
    /// Of so many nodes, which have told nothing yet.
    pub fn new(nodes: usize) -> Self {
        Sampler { last: vec![Vec::new(); nodes], past: VecDeque::new() }
    }

    /// One row a server, in the order of the pools. What several nodes tell of one server is put together; None: the
    /// node does not answer.
    pub fn frame(&mut self, now: Instant, told: Vec<Option<Vec<Pool>>>) -> Frame {
        let mut rows: Vec<Row> = Vec::new();
        let mut totals = Totals { at: now, servers: Vec::new() };
        let mut modes: Vec<String> = Vec::new();
        let mut freshest = u64::MAX;
        for (place, told) in told.into_iter().enumerate().take(self.last.len()) {
            let present = told.is_some();
            if let Some(pools) = told {
                self.last[place] = pools;
            }
            for pool in &self.last[place] {
                let view = present && pool.has_view();
                if view && !modes.contains(&pool.mode) {
                    modes.push(pool.mode.clone());
                }
                let fresher = view && pool.view_age_ms < freshest;
                if fresher {
                    freshest = pool.view_age_ms;
                }
                for server in &pool.servers {
                    let found = rows.iter().position(|row| row.server == server.name);
                    let index = found.unwrap_or_else(|| {
                        rows.push(Row::new(&server.name, self.last.len()));
                        totals.servers.push((server.name.clone(), 0));
                        rows.len() - 1
                    });
                    totals.servers[index].1 += server.requests;
                    if present {
                        add(&mut rows[index], place, server);
                    }
                    if fresher || (present && pool.is_alone()) {
                        rows[index].fleet = Some(server.in_flight.fleet);
                    }
                }
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
        Frame { rows, mode: (!modes.is_empty()).then(|| modes.join(" and ")) }
    }
}

/// Adds what the node at `place` knows of a server. Nodes that disagree make a state `mixed`; of percentiles, which
/// cannot be added, the worst counts.
fn add(row: &mut Row, place: usize, server: &Server) {
    if row.state.is_empty() {
        row.state.clone_from(&server.state);
    } else if row.state != server.state {
        row.state = "mixed".to_owned();
    }
    if let Some(local) = row.in_flight.get_mut(place) {
        *local = Some(local.unwrap_or(0) + server.in_flight.local);
    }
    row.p50_ms = row.p50_ms.max(server.p50_ms);
    row.p99_ms = row.p99_ms.max(server.p99_ms);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::state::testing::{pool, server};

    fn alone(requests: u64) -> Vec<Option<Vec<Pool>>> {
        vec![Some(vec![pool("memory", 0, vec![server("s1", 0, 0, 0), server("s2", 1, 1, requests)])])]
    }

    #[test]
    fn a_row_tells_how_a_server_is() {
        let mut sampler = Sampler::new(1);
        let start = Instant::now();
        let frame = sampler.frame(start, alone(7));
        assert_eq!((frame.rows.len(), frame.rows[1].per_second, frame.mode), (2, 0.0, None));
        let rows = sampler.frame(start + Duration::from_secs(1), alone(37)).rows;
        assert_eq!(rows[0].per_second, 0.0);
        let row = &rows[1];
        assert_eq!((row.server.as_str(), row.state.as_str()), ("s2", "up"));
        assert_eq!((row.in_flight.as_slice(), row.fleet), ([Some(1)].as_slice(), Some(1)));
        assert!((row.per_second - 30.0).abs() < 0.1 && row.p50_ms > 0.0, "{row:?}");
    }

    #[test]
    fn rates_forget_what_is_older_than_the_window() {
        let mut sampler = Sampler::new(1);
        let start = Instant::now();
        sampler.frame(start, alone(1));
        for quarter in 1..=8 {
            let rows = sampler.frame(start + quarter * Duration::from_millis(250), alone(2)).rows;
            assert!(rows[1].per_second > 0.0);
        }
        assert_eq!(sampler.frame(start + 2 * WINDOW, alone(2)).rows[1].per_second, 0.0);
        assert!(sampler.past.len() < 12);
    }

    #[test]
    fn nodes_are_put_together_and_the_freshest_view_counts() {
        let mut down = server("s1", 2, 9, 10);
        (down.state, down.p50_ms) = ("down".into(), 50.0);
        let told = || {
            vec![
                Some(vec![pool("exact", 8, vec![server("s1", 1, 4, 10)])]),
                Some(vec![pool("batched", 3, vec![down.clone()])]),
                Some(vec![pool("local", 0, vec![server("s1", 5, 5, 10)])]),
            ]
        };
        let mut sampler = Sampler::new(3);
        let start = Instant::now();
        let frame = sampler.frame(start, told());
        let row = &frame.rows[0];
        assert_eq!((row.in_flight.as_slice(), row.fleet), ([Some(1), Some(2), Some(5)].as_slice(), Some(9)));
        assert_eq!((row.state.as_str(), row.p50_ms), ("mixed", 50.0));
        assert_eq!(frame.mode.as_deref(), Some("exact and batched"));

        let mut gone = told();
        gone[1] = None;
        let frame = sampler.frame(start + Duration::from_secs(1), gone);
        let row = &frame.rows[0];
        assert_eq!((row.in_flight[1], row.fleet, row.state.as_str()), (None, Some(4), "up"));
        assert_eq!(row.per_second, 0.0, "its requests stay counted");
    }

    #[test]
    fn without_redis_nobody_knows_the_fleet() {
        let local = |count| Some(vec![pool("local", 0, vec![server("s1", count, count, 1)])]);
        let frame = Sampler::new(2).frame(Instant::now(), vec![local(1), local(2)]);
        assert_eq!((frame.rows[0].fleet, frame.mode), (None, None));
        assert_eq!(frame.rows[0].in_flight, [Some(1), Some(2)]);
        assert!(Sampler::new(2).frame(Instant::now(), vec![None, None]).rows.is_empty());
    }
}
