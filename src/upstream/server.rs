//! One server of a pool: where it is, how it is, and what it has in flight.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use pingora::upstreams::peer::HttpPeer;
use prometheus::IntCounter;

use crate::config;
use crate::load::Ledger;
use crate::observe::latency::Latencies;
use crate::observe::metrics::Metrics;
use crate::upstream::health::{Health, Machine};

/// How one attempt at a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered with a status below 500.
    Success,
    /// It answered with a status of 500 or above.
    ServerError,
    /// No connection could be made.
    ConnectFailed,
    /// The connection broke before the response was complete.
    Reset,
    /// It took too long.
    Timeout,
    /// What it answered is not HTTP.
    Invalid,
    /// The client left; says nothing about the server.
    Cancelled,
}

impl Outcome {
    const ALL: [Outcome; 7] = [
        Outcome::Success,
        Outcome::ServerError,
        Outcome::ConnectFailed,
        Outcome::Reset,
        Outcome::Timeout,
        Outcome::Invalid,
        Outcome::Cancelled,
    ];

    /// The value of the metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Success => "success",
            Outcome::ServerError => "server_error",
            Outcome::ConnectFailed => "connect_failed",
            Outcome::Reset => "reset",
            Outcome::Timeout => "timeout",
            Outcome::Invalid => "invalid",
            Outcome::Cancelled => "cancelled",
        }
    }

    /// Whether the server is to blame.
    pub fn is_error(self) -> bool {
        !matches!(self, Outcome::Success | Outcome::Cancelled)
    }
}

/// One server. Its state outlives the configuration it was made from.
#[derive(Debug)]
pub struct Server {
    /// Unique in its pool.
    pub name: String,
    /// As configured.
    pub address: config::Address,
    /// As configured.
    pub weight: u32,
    /// 0 serves first.
    pub priority: u32,
    /// Its latencies of late.
    pub latencies: Latencies,
    ledger: Ledger,
    /// How to connect to it; none while its name has never resolved.
    peer: ArcSwapOption<HttpPeer>,
    health: AtomicU8,
    checks: Mutex<Checks>,
    requests: AtomicU64,
    errors: AtomicU64,
    attempts: [IntCounter; Outcome::ALL.len()],
}

/// What the health checks found; written once a check.
#[derive(Debug, Default)]
struct Checks {
    machine: Machine,
    reason: String,
}

impl AsRef<Ledger> for Server {
    fn as_ref(&self) -> &Ledger {
        &self.ledger
    }
}

impl Server {
    /// A server of `pool` that has not been checked or resolved yet.
    pub fn new(pool: &str, config: &config::Server, metrics: &Metrics) -> Self {
        Server {
            name: config.name.clone(),
            address: config.address.clone(),
            weight: config.weight,
            priority: config.priority,
            latencies: Latencies::default(),
            ledger: Ledger::default(),
            peer: ArcSwapOption::empty(),
            health: AtomicU8::new(Health::Unknown as u8),
            checks: Mutex::default(),
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            attempts: Outcome::ALL
                .map(|outcome| metrics.attempts.with_label_values(&[pool, &config.name, outcome.as_str()])),
        }
    }

    /// Whether it may be chosen.
    pub fn is_eligible(&self) -> bool {
        self.health.load(Ordering::Relaxed) == Health::Up as u8
    }

    /// This process's requests in flight on it.
    pub fn in_flight(&self) -> u32 {
        self.ledger.own()
    }

    /// Where it is now; None while its name has never resolved.
    pub fn resolved(&self) -> Option<SocketAddr> {
        self.peer.load().as_ref().and_then(|peer| peer._address.as_inet().copied())
    }

    /// How to reach it: a copy to adapt for one attempt.
    pub fn peer(&self) -> Option<Box<HttpPeer>> {
        self.peer.load().as_ref().map(|peer| Box::new(HttpPeer::clone(peer)))
    }

    /// Sets where it is from now on. Requests in flight stay where they are.
    pub fn set_address(&self, address: SocketAddr, upstream: &config::Upstream) {
        let mut peer = HttpPeer::new(address, false, String::new());
        peer.options.connection_timeout = Some(upstream.connect_timeout);
        peer.options.total_connection_timeout = Some(upstream.connect_timeout);
        peer.options.idle_timeout = Some(upstream.idle);
        self.peer.store(Some(std::sync::Arc::new(peer)));
    }

    /// The health and, when it is not up, why.
    pub fn health(&self) -> (Health, String) {
        let checks = self.checks();
        (checks.machine.health(), checks.reason.clone())
    }

    /// Takes in a check's result (`Err` says what was wrong) and returns the health if it changed.
    pub fn observe_check(&self, result: Result<(), String>, rise: u32, fall: u32) -> Option<Health> {
        let mut checks = self.checks();
        let change = checks.machine.observe(result.is_ok(), rise, fall);
        match result {
            Err(reason) => checks.reason = reason,
            Ok(()) if checks.machine.health() == Health::Up => checks.reason.clear(),
            Ok(()) => {}
        }
        self.health.store(checks.machine.health() as u8, Ordering::Relaxed);
        change
    }

    /// As if it had never been checked: it is not chosen before its next check.
    pub fn forget_checks(&self) {
        *self.checks() = Checks::default();
        self.health.store(Health::Unknown as u8, Ordering::Relaxed);
    }

    /// Counts an attempt that is over. `to_header` is the time from its start to the response's header.
    pub fn observe_attempt(&self, outcome: Outcome, to_header: Option<Duration>) {
        self.attempts[outcome as usize].inc();
        self.requests.fetch_add(1, Ordering::Relaxed);
        if outcome.is_error() {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(took) = to_header {
            self.latencies.record(took);
        }
    }

    /// Attempts made, and those that failed.
    pub fn totals(&self) -> (u64, u64) {
        (self.requests.load(Ordering::Relaxed), self.errors.load(Ordering::Relaxed))
    }

    fn checks(&self) -> std::sync::MutexGuard<'_, Checks> {
        self.checks.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_elsewhere_must_be_checked_again() {
        let address = config::Address { host: "web".into(), port: 80 };
        let config = config::Server { name: "web".into(), address, weight: 1, priority: 0 };
        let server = Server::new("app", &config, &Metrics::new().unwrap());
        server.observe_check(Ok(()), 2, 3);
        assert!(server.is_eligible());
        server.forget_checks();
        assert!(!server.is_eligible());
        assert_eq!(server.health().0, Health::Unknown);
    }

    #[test]
    fn outcomes_are_in_the_order_of_their_discriminants() {
        for (i, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, i);
        }
    }
}
