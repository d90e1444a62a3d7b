//! What came out of a run.

use std::ops::Range;

use crate::world::{MS, Nanos};

/// Latencies of finished requests, by arrival.
#[derive(Debug, Default)]
pub struct Latencies(Vec<(Nanos, Nanos)>);

impl Latencies {
    pub fn add(&mut self, arrived: Nanos, latency: Nanos) {
        self.0.push((arrived, latency));
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The quantile, in ms, of the requests that arrived in a span of time.
    pub fn quantile(&self, quantile: f64, span: Range<Nanos>) -> f64 {
        let mut all: Vec<Nanos> = self.0.iter().filter(|one| span.contains(&one.0)).map(|one| one.1).collect();
        assert!(all.len() > 100, "{} requests tell no quantile", all.len());
        let at = ((all.len() as f64 * quantile) as usize).min(all.len() - 1);
        let (_, value, _) = all.select_nth_unstable(at);
        *value as f64 / MS as f64
    }
}
