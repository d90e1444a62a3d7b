//! What one node measures of a pool: who picks how often, and how long a request is in flight.

use std::sync::Arc;
use std::time::Instant;

use crate::balance::view::{Decayed, OthersRate};
use crate::load::Ledger;

/// How far back a node's own picks and completions count, in seconds.
const MEMORY: f64 = 2.0;
/// The same for the time that requests take: a mode is chosen by it, and should not change with each hiccup.
const LONG_MEMORY: f64 = 10.0;

/// Reads the ledgers now and then.
#[derive(Debug)]
pub struct Meter {
    born: Instant,
    /// By server: leases ever taken, as of the last call.
    taken: Vec<u32>,
    /// By server: completions of late, and how many there ever were.
    completed: Vec<(Decayed, u32)>,
    /// Leases on Redis's picks that [`Meter::picks_to_tell`] has not seen yet.
    granted: u32,
    /// Picks made here, and told to Redis.
    made: u64,
    /// Picks made by Redis, for this node.
    picked: u64,
    own: Decayed,
    others: OthersRate,
    looked: f64,
    in_flight: u32,
    /// Seconds that requests were in flight, all added up.
    spent: Decayed,
    /// Requests that ended.
    done: Decayed,
    service: f64,
}

impl Meter {
    /// A meter that begins with what the ledgers say now.
    pub fn new<T: AsRef<Ledger>>(servers: &[Arc<T>]) -> Self {
        let ledgers = || servers.iter().map(|server| (**server).as_ref());
        Meter {
            born: Instant::now(),
            taken: ledgers().map(Ledger::taken).collect(),
            completed: ledgers().map(|ledger| (Decayed::default(), done(ledger))).collect(),
            granted: 0,
            made: 0,
            picked: 0,
            own: Decayed::default(),
            others: OthersRate::default(),
            looked: 0.0,
            in_flight: 0,
            spent: Decayed::default(),
            done: Decayed::default(),
            service: 0.0,
        }
    }

    /// Looks how many requests are in flight; the more often, the better is [`Meter::service`].
    pub fn look<T: AsRef<Ledger>>(&mut self, servers: &[Arc<T>], now: Instant) {
        let now = self.seconds(now);
        let mut in_flight = 0u32;
        let mut ended = 0u32;
        for (server, (completed, before)) in servers.iter().zip(&mut self.completed) {
            let ledger = (**server).as_ref();
            let after = done(ledger);
            let new = after.wrapping_sub(*before);
            if new > 0 {
                completed.add(now, f64::from(new), MEMORY);
                *before = after;
                ended = ended.wrapping_add(new);
            }
            in_flight = in_flight.saturating_add(ledger.own());
        }
        // Little's law: requests in flight = rate × time in flight, so time = in flight, added up over time, per request.
        let mean = f64::from(self.in_flight + in_flight) / 2.0;
        self.spent.add(now, mean * (now - self.looked).max(0.0), LONG_MEMORY);
        self.done.add(now, f64::from(ended), LONG_MEMORY);
        (self.looked, self.in_flight) = (now, in_flight);
        let done = self.done.value(now, LONG_MEMORY);
        // Too few to tell: what was known holds on.
        if done >= 1.0 {
            self.service = self.spent.value(now, LONG_MEMORY) / done;
        }
    }

    /// Whether requests were sent off since the last call.
    pub fn has_picks<T: AsRef<Ledger>>(&self, servers: &[Arc<T>]) -> bool {
        servers.iter().zip(&self.taken).any(|(server, before)| (**server).as_ref().taken() != *before)
    }

    /// Picks by this node that Redis did not make, since the last call.
    pub fn picks_to_tell<T: AsRef<Ledger>>(&mut self, servers: &[Arc<T>], now: Instant) -> u32 {
        let mut taken = 0u32;
        for (server, before) in servers.iter().zip(&mut self.taken) {
            let after = (**server).as_ref().taken();
            taken = taken.wrapping_add(after.wrapping_sub(*before));
            *before = after;
        }
        self.own.add(self.seconds(now), f64::from(taken), MEMORY);
        let locally = taken.saturating_sub(self.granted);
        self.granted = self.granted.saturating_sub(taken);
        self.made += u64::from(locally);
        locally
    }

    /// All picks that Redis was told of until now; for [`Meter::saw`], when the answer comes.
    pub fn made(&self) -> u64 {
        self.made
    }

    /// Redis made this many picks for this node.
    pub fn picked(&mut self, picks: u64) {
        self.picked += picks;
    }

    /// A lease was taken on a pick of Redis.
    pub fn granted(&mut self) {
        self.granted += 1;
    }

    /// A view: picks ever made by the fleet, at a moment by which Redis had been told of `made` picks by this node.
    pub fn saw(&mut self, fleet: u64, made: u64, at: Instant) {
        self.others.observe(fleet, made + self.picked, self.seconds(at));
    }

    /// Picks per second of the other nodes.
    pub fn others_rate(&self) -> f64 {
        self.others.per_second()
    }

    /// Picks per second of this node.
    pub fn own_rate(&self, now: Instant) -> f64 {
        self.own.value(self.seconds(now), MEMORY) / MEMORY
    }

    /// Mean time that a request is in flight, seconds; 0: unknown.
    pub fn service(&self) -> f64 {
        self.service
    }

    /// By server: this node's completions of late.
    pub fn completions(&self, now: Instant) -> impl Iterator<Item = f64> + '_ {
        let now = self.seconds(now);
        self.completed.iter().map(move |(completed, _)| completed.value(now, MEMORY))
    }

    fn seconds(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.born).as_secs_f64()
    }
}

/// Leases ever given back; wraps.
fn done(ledger: &Ledger) -> u32 {
    ledger.taken().wrapping_sub(ledger.own())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::Lease;
    use crate::load::testing::Server;

    #[test]
    fn the_service_time_is_measured_at_any_rate() {
        for (busy, pause) in [(20u64, 0u64), (20, 80), (20, 1980), (1, 9)] {
            let servers = vec![Arc::new(Server::default())];
            let mut meter = Meter::new(&servers);
            let mut now = meter.born;
            let mut step = |meter: &mut Meter, ms: u64| {
                for _ in 0..ms {
                    now += Duration::from_millis(1);
                    meter.look(&servers, now);
                }
            };
            for _ in 0..50 {
                let lease = Lease::take(servers[0].clone());
                step(&mut meter, busy);
                drop(lease);
                step(&mut meter, pause);
            }
            let ms = meter.service() * 1000.0;
            assert!((ms - busy as f64).abs() <= 1.0, "{ms} ms for {busy} in flight and {pause} idle");
        }
    }

    #[test]
    fn only_picks_made_here_are_told() {
        let servers = vec![Arc::new(Server::default()), Arc::new(Server::default())];
        let mut meter = Meter::new(&servers);
        let now = meter.born;
        assert!(!meter.has_picks(&servers));
        drop(Lease::take(servers[0].clone()));
        let _granted = Lease::take(servers[1].clone());
        meter.granted();
        assert!(meter.has_picks(&servers));
        assert_eq!(meter.picks_to_tell(&servers, now), 1);
        assert_eq!(meter.picks_to_tell(&servers, now), 0);
        assert_eq!(meter.made(), 1);
    }
}
