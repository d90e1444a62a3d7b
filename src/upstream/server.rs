//! One server of a pool: where it is, how it is, and what it has in flight.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use pingora::upstreams::peer::HttpPeer;
use prometheus::IntCounter;

use crate::config;
use crate::load::{Ledger, Queue};
use crate::observe::latency::Latencies;
use crate::observe::metrics::Metrics;
use crate::tls;
use crate::upstream::Probe;
use crate::upstream::conduct::{Conduct, Ending};
use crate::upstream::ejection::{Kind, Standing};
use crate::upstream::guard::Guard;
use crate::upstream::health::{Health, Machine};
use crate::upstream::refused::Told;
use crate::upstream::rhythm::Rhythm;

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
        self.failure().is_some()
    }

    /// How it failed; None: it did not, or not by its server's fault.
    fn failure(self) -> Option<Kind> {
        match self {
            Outcome::Success | Outcome::Cancelled => None,
            Outcome::ServerError => Some(Kind::Status),
            Outcome::ConnectFailed => Some(Kind::Connect),
            Outcome::Reset => Some(Kind::Reset),
            Outcome::Timeout => Some(Kind::Timeout),
            Outcome::Invalid => Some(Kind::Invalid),
        }
    }
}

/// An attempt that is over.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// How it ended.
    pub outcome: Outcome,
    /// When it was sent.
    pub began: Instant,
    /// From then to the response's header; None: there was none.
    pub to_header: Option<Duration>,
    /// The same from when all of the request was there, where requests are alike enough to compare: no upgrade, no stream,
    /// no gRPC.
    pub first_byte: Option<Duration>,
    /// Its silence was counted as a failure already ([`Server::observe_silence`]).
    pub told: bool,
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
    /// The most requests that the fleet may have in flight on it.
    pub max_in_flight: Option<u32>,
    /// Its latencies of late.
    pub latencies: Latencies,
    /// What requests tell about it.
    pub conduct: Conduct,
    /// How often it usually answers.
    pub rhythm: Rhythm,
    ledger: Ledger,
    /// How to connect to it; none while its name has never resolved.
    peer: ArcSwapOption<HttpPeer>,
    /// How to make its connections secure.
    tls: OnceLock<Arc<tls::Upstream>>,
    pub(super) told: Told,
    health: AtomicU8,
    checks: Mutex<Checks>,
    errors: AtomicU64,
    /// Attempts that tell nothing.
    neither: AtomicU64,
    attempts: [IntCounter; Outcome::ALL.len()],
}

/// What the health checks found; written once a check.
#[derive(Debug, Default)]
struct Checks {
    machine: Machine,
    reason: String,
    /// It was down or elsewhere before.
    returns: bool,
}

impl AsRef<Ledger> for Server {
    fn as_ref(&self) -> &Ledger {
        &self.ledger
    }
}

impl Server {
    /// A server of `guard`'s pool that has not been checked or resolved yet.
    ///
    /// `queue`: who is to be called when a request on it ends.
    pub fn new(guard: &Arc<Guard>, config: &config::Server, metrics: &Metrics, queue: Option<Arc<Queue>>) -> Self {
        Server {
            conduct: Conduct::new(&config.name, config.priority, guard),
            name: config.name.clone(),
            address: config.address.clone(),
            weight: config.weight,
            priority: config.priority,
            max_in_flight: config.max_in_flight,
            latencies: Latencies::default(),
            rhythm: Rhythm::default(),
            ledger: Ledger::with_queue(queue),
            peer: ArcSwapOption::empty(),
            tls: OnceLock::new(),
            told: Told::default(),
            health: AtomicU8::new(Health::Unknown as u8),
            checks: Mutex::default(),
            errors: AtomicU64::new(0),
            neither: AtomicU64::new(0),
            attempts: Outcome::ALL
                .map(|outcome| metrics.attempts.with_label_values(&[&guard.pool, &config.name, outcome.as_str()])),
        }
    }

    /// Whether its checks pass.
    #[inline]
    pub fn is_up(&self) -> bool {
        self.health.load(Ordering::Relaxed) == Health::Up as u8
    }

    /// Whether it may be chosen.
    #[inline]
    pub fn is_eligible(&self) -> bool {
        self.is_up() && !matches!(self.conduct.standing(), Standing::Ejected | Standing::Probing)
    }

    /// Whether it answers at all, as far as is known: up, not left out, and not condemned for its silence.
    #[inline]
    pub fn is_alive(&self) -> bool {
        self.is_up() && matches!(self.conduct.standing(), Standing::Serving | Standing::Condemned)
    }

    /// Whether it is condemned for its silence.
    #[inline]
    pub fn is_silent(&self) -> bool {
        self.conduct.standing() == Standing::Silent
    }

    /// Whether it gives no sign of life, and has not for this long: down, left out, or condemned for its silence.
    pub fn is_gone(&self, time: Duration) -> bool {
        let long_ago = || Instant::now().checked_sub(time);
        match self.conduct.silent_for() {
            _ if !self.is_up() => true,
            Some(silent) => silent >= time && long_ago().is_some_and(|then| !self.rhythm.answered_since(then)),
            None => !self.is_alive(),
        }
    }

    /// Whether it waits for a probe.
    #[inline]
    pub fn wants_probe(&self) -> bool {
        self.is_up() && self.conduct.standing() == Standing::Probing && self.conduct.probe_is_free()
    }

    /// A probe of a server that is left out or condemned, whatever time it is out for, if its last one began at least
    /// `every` ago. One success is enough: this is for when nobody else is left.
    pub fn begin_probe(self: &Arc<Self>, now: Instant, every: Duration) -> Option<Probe> {
        let wanted = self.is_up() && self.conduct.standing() != Standing::Serving;
        if wanted { Probe::begin_urgent(self, now, every) } else { None }
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

    /// Sets where it is from now on. Requests in flight stay where they are; no other is sent to it until it has passed
    /// a check there.
    pub fn set_address(&self, address: SocketAddr, upstream: &config::Upstream) {
        let mut checks = self.checks();
        let before = self.resolved();
        if before == Some(address) {
            return;
        }
        *checks = Checks { returns: checks.returns || before.is_some(), ..Checks::default() };
        self.conduct.replaced();
        self.health.store(Health::Unknown as u8, Ordering::Relaxed);
        self.peer.store(self.make_peer(address, upstream).map(Arc::new));
    }

    /// From now on it is connected to by TLS. To be called before it has an address.
    pub fn set_tls(&self, tls: Arc<tls::Upstream>) {
        self.tls.set(tls).ok();
    }

    /// TLS to it; none: without.
    pub fn tls(&self) -> Option<&Arc<tls::Upstream>> {
        self.tls.get()
    }

    /// Certificates have changed: new connections use the new ones.
    pub fn renew_peer(&self, upstream: &config::Upstream) {
        let _no_other_address = self.checks();
        if let Some(address) = self.resolved() {
            self.peer.store(self.make_peer(address, upstream).map(Arc::new));
        }
    }

    /// None: it is to be reached by TLS and nobody said how. It is never reached without, then.
    fn make_peer(&self, address: SocketAddr, upstream: &config::Upstream) -> Option<HttpPeer> {
        let mut peer = match (&upstream.tls, self.tls.get()) {
            (None, _) => HttpPeer::new(address, false, String::new()),
            (Some(_), Some(tls)) => tls.peer(address, &self.address.host),
            (Some(_), None) => return None,
        };
        peer.options.connection_timeout = Some(upstream.connect_timeout);
        peer.options.total_connection_timeout = Some(upstream.connect_timeout);
        peer.options.idle_timeout = Some(upstream.idle);
        if upstream.protocol == config::Protocol::H2 {
            // Without TLS by prior knowledge. One request at a time on a connection, as Pingora has it by default: a
            // request's deadline ends its connection (`proxy::deadline`), which must not be another's.
            peer.options.set_http_version(2, 2);
        }
        Some(peer)
    }

    /// The health and, when it is not up, why.
    pub fn health(&self) -> (Health, String) {
        let checks = self.checks();
        (checks.machine.health(), checks.reason.clone())
    }

    /// Takes in the result of a check at an address (`Err` says what was wrong) and returns the health if it changed.
    /// None: a server without address. What was found where the server is no more means nothing.
    pub fn observe_check(
        &self,
        at: Option<SocketAddr>,
        result: Result<(), String>,
        rise: u32,
        fall: u32,
    ) -> Option<Health> {
        let mut checks = self.checks();
        if self.resolved() != at {
            return None;
        }
        let change = checks.machine.observe(result.is_ok(), rise, fall);
        match result {
            Err(reason) => checks.reason = reason,
            Ok(()) if checks.machine.health() == Health::Up => checks.reason.clear(),
            Ok(()) => {}
        }
        if let Some(health) = change {
            let up = health == Health::Up;
            self.conduct.set_up(up, checks.returns);
            checks.returns = !up;
        }
        self.health.store(checks.machine.health() as u8, Ordering::Relaxed);
        change
    }

    /// A response header has come from it.
    pub fn answered(&self, at: Instant) {
        self.rhythm.answered(at);
    }

    /// An attempt that was sent then has waited for long while the server answered nothing at all: that is a failure, and
    /// counts as one now. When the attempt ends it must say that it was told.
    pub fn observe_silence(&self, began: Instant) {
        self.conduct.fell_silent(began);
    }

    /// A probe that may last for hours (an upgrade, a stream) was answered well: that says enough. It is counted when it is
    /// over, as an attempt like any other.
    pub fn probe_answered(&self, probe: &Probe) {
        self.conduct.probe_answered(probe.is_urgent());
    }

    /// Counts an attempt that is over.
    pub fn observe_attempt(&self, ended: &Ended, probe: Option<&Probe>) {
        let Ended { outcome, began, told, .. } = *ended;
        self.attempts[outcome as usize].inc();
        if let Some(took) = ended.to_header {
            self.latencies.record(took);
        }
        let ending = match outcome.failure() {
            Some(kind) => {
                self.errors.fetch_add(1, Ordering::Relaxed);
                Ending::Bad(kind)
            }
            None if outcome == Outcome::Success => Ending::Good(ended.first_byte),
            None => {
                self.neither.fetch_add(1, Ordering::Relaxed);
                Ending::Neither
            }
        };
        match probe {
            Some(probe) if !told => self.conduct.probed(ending, probe.is_urgent()),
            _ => self.conduct.ended(ending, began, told),
        }
    }

    /// Attempts made, and those that failed.
    pub fn totals(&self) -> (u64, u64) {
        let errors = self.errors.load(Ordering::Relaxed);
        (self.conduct.good() + errors + self.neither.load(Ordering::Relaxed), errors)
    }

    fn checks(&self) -> std::sync::MutexGuard<'_, Checks> {
        self.checks.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_moved_is_unknown_until_it_is_checked_there() {
        let listen = "127.0.0.1:0".parse().unwrap();
        let config = config::Config::quick(listen, &[("web".into(), 80)], None, None).unwrap();
        let pool = &config.pools[0];
        let metrics = Metrics::new().unwrap();
        let server = Server::new(&Arc::new(Guard::new(pool, &metrics)), &pool.servers[0], &metrics, None);
        let [here, there] = ["10.0.0.1:80", "10.0.0.2:80"].map(|address| address.parse().ok());
        let observe = |at, result| server.observe_check(at, result, 2, 3);
        assert_eq!(observe(None, Err("no address".into())), Some(Health::Down));
        server.set_address(here.unwrap(), &pool.upstream);
        assert_eq!(server.health(), (Health::Unknown, String::new()));
        assert_eq!(observe(here, Ok(())), Some(Health::Up), "the first check there decides");
        server.set_address(here.unwrap(), &pool.upstream);
        assert!(server.is_eligible(), "the same address changes nothing");
        server.set_address(there.unwrap(), &pool.upstream);
        assert!(!server.is_eligible());
        assert_eq!(observe(here, Ok(())), None, "a check that began before the move");
        assert!(!server.is_eligible());
        assert_eq!(observe(there, Ok(())), Some(Health::Up));
    }

    #[test]
    fn outcomes_are_in_the_order_of_their_discriminants() {
        for (i, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, i);
        }
    }
}
