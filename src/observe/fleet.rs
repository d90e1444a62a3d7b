//! What is counted of the fleet's exchange with Redis.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use crate::observe::metrics::Metrics;

/// Metrics of the exchange. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FleetMetrics {
    up: IntGauge,
    calls: IntCounterVec,
    round_trip: HistogramVec,
    nodes: IntGaugeVec,
    drift: IntCounterVec,
    reaped: IntCounterVec,
    waits: IntCounterVec,
}

impl FleetMetrics {
    /// Registers everything.
    ///
    /// # Errors
    /// Two metrics of one name: a mistake in this file.
    pub fn new(metrics: &Metrics) -> Result<Self, prometheus::Error> {
        let counters = |name, help, labels: &[&str]| metrics.add(IntCounterVec::new(Opts::new(name, help), labels)?);
        let buckets = vec![0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0];
        let round_trip = HistogramOpts::new("fairlead_redis_round_trip_seconds", "Round trip of a call to Redis");
        Ok(FleetMetrics {
            up: metrics.add(IntGauge::new("fairlead_redis_up", "Whether Redis answers")?)?,
            calls: counters("fairlead_redis_calls_total", "Calls to Redis", &["call", "result"])?,
            round_trip: metrics.add(HistogramVec::new(round_trip.buckets(buckets), &["call"])?)?,
            nodes: metrics.add(IntGaugeVec::new(
                Opts::new("fairlead_fleet_nodes", "Nodes that share a pool's load, this one included"),
                &["pool"],
            )?)?,
            drift: counters("fairlead_fleet_drift_total", "Counts in Redis that had to be put right", &["pool"])?,
            reaped: counters("fairlead_fleet_reaped_total", "Dead nodes whose counts were taken back", &["pool"])?,
            waits: counters(
                "fairlead_redis_waits_total",
                "Requests that waited for redis.timeout and then chose locally",
                &["pool"],
            )?,
        })
    }

    /// The series of a pool are there before anything happens.
    pub fn begin(&self, pool: &str) {
        for counter in [&self.drift, &self.reaped, &self.waits] {
            counter.with_label_values(&[pool]).inc_by(0);
        }
    }

    /// Whether Redis is of use.
    pub fn set_up(&self, up: bool) {
        self.up.set(up.into());
    }

    /// A call is over.
    pub fn called(&self, call: &str, result: &str, took: Duration) {
        self.calls.with_label_values(&[call, result]).inc();
        if result != "lost" {
            self.round_trip.with_label_values(&[call]).observe(took.as_secs_f64());
        }
    }

    /// A view was taken.
    pub fn view(&self, pool: &str, nodes: u32) {
        self.nodes.with_label_values(&[pool]).set(i64::from(nodes));
    }

    /// Counts that were wrong.
    pub fn drift(&self, pool: &str, differences: u64) {
        self.drift.with_label_values(&[pool]).inc_by(differences);
    }

    /// A dead node's counts were taken back.
    pub fn reaped(&self, pool: &str) {
        self.reaped.with_label_values(&[pool]).inc();
    }

    /// Requests that waited in vain.
    pub fn waited_too_long(&self, pool: &str, requests: u64) {
        self.waits.with_label_values(&[pool]).inc_by(requests);
    }
}
