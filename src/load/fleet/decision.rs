//! Whether Redis chooses for each request: what the configuration wants, what round trips were like, and who has
//! waited in vain.
//!
//! No clock and no sockets: the exchange hands in what happened, and when.

use std::time::{Duration, Instant};

use crate::balance::view::fade;
use crate::config::Mode as Configured;
use crate::load::fleet::mode::{Signs, prefer_exact};

/// How far back round trips count, in seconds.
const RTT_MEMORY: f64 = 1.0;
/// How long `auto` stays with what it chose, at the least.
const DWELL: Duration = Duration::from_secs(2);

/// What a pool does now, and since when.
#[derive(Debug)]
pub struct Decision {
    auto: bool,
    /// `redis.timeout`
    timeout: Duration,
    exact: bool,
    /// When `auto` last changed its mind.
    since: Option<Instant>,
    /// The last wait that ran out: nobody waits until a call that began later is answered in time.
    suspended: Option<Instant>,
    /// Round trip of late, seconds; 0: unknown.
    rtt: f64,
    rtt_at: Instant,
}

/// What a decision is made from, round trips aside; see [`Signs`].
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Mean time that a request is in flight, seconds; 0: unknown.
    pub service: f64,
    /// Picks per second of the whole fleet.
    pub fleet: f64,
    /// Picks per second of this node.
    pub own: f64,
    /// Exchanges per second that this node would make.
    pub exchanges: f64,
}

impl Decision {
    /// Nothing has happened yet. A pool that does not choose `by_load` is never exact.
    pub fn new(configured: Configured, by_load: bool, timeout: Duration, now: Instant) -> Self {
        Decision {
            auto: by_load && configured == Configured::Auto,
            timeout,
            exact: by_load && configured == Configured::Exact,
            since: None,
            suspended: None,
            rtt: 0.0,
            rtt_at: now,
        }
    }

    /// Whether a request should wait for Redis to choose.
    pub fn asks(&self) -> bool {
        self.exact && self.suspended.is_none()
    }

    /// A call was answered that was `sent` then and `took` so long.
    pub fn answered(&mut self, now: Instant, sent: Instant, took: Duration) {
        let rtt = took.as_secs_f64();
        // By time, not by calls: a burst of them must not outvote the seconds before.
        let fresh = 1.0 - fade(now.saturating_duration_since(self.rtt_at).as_secs_f64(), RTT_MEMORY);
        self.rtt_at = now;
        self.rtt = if self.rtt == 0.0 { rtt } else { self.rtt + fresh * (rtt - self.rtt) };
        // Only a call that began after the wait that ran out can tell that Redis is in time again.
        if took <= self.timeout && self.suspended.is_some_and(|since| sent > since) {
            self.suspended = None;
        }
    }

    /// A request waited for `redis.timeout`.
    pub fn waited_in_vain(&mut self, now: Instant) {
        self.suspended = Some(now);
    }

    /// Thinks again, where the configuration leaves it open.
    pub fn decide(&mut self, now: Instant, rates: &Rates) {
        if !self.auto {
            return;
        }
        let signs = Signs {
            rtt: self.rtt,
            service: rates.service,
            fleet_rate: rates.fleet,
            own_rate: rates.own,
            exchange_rate: rates.exchanges,
        };
        let exact = prefer_exact(&signs, self.exact);
        let settled = self.since.is_none_or(|since| now.saturating_duration_since(since) >= DWELL);
        if exact != self.exact && settled {
            self.exact = exact;
            self.since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const TIMEOUT: Duration = Duration::from_millis(5);

    fn decision(configured: Configured) -> (Decision, Instant) {
        let now = Instant::now();
        (Decision::new(configured, true, TIMEOUT, now), now)
    }

    /// Requests of this length make a round trip of 1 ms look short or long.
    fn rates(service: f64) -> Rates {
        Rates { service, fleet: 1000.0, own: 100.0, exchanges: 500.0 }
    }

    #[test]
    fn alternating_signs_change_the_mode_every_two_seconds_at_most() {
        let (mut decision, start) = decision(Configured::Auto);
        let (mut changes, mut was) = (Vec::new(), decision.asks());
        for step in 0..2000u32 {
            let now = start + step * 10 * MS;
            decision.answered(now, now - MS, MS);
            decision.decide(now, &rates(if step % 2 == 0 { 1.0 } else { 0.001 }));
            if decision.asks() != was {
                was = !was;
                changes.push(now);
            }
        }
        assert!(changes.len() >= 5, "it does change: {}", changes.len());
        for pair in changes.windows(2) {
            assert!(pair[1] - pair[0] >= 2000 * MS, "{:?}", pair[1] - pair[0]);
        }
    }

    #[test]
    fn a_burst_of_slow_calls_does_not_change_the_mode() {
        let (mut decision, mut now) = decision(Configured::Auto);
        for _ in 0..300 {
            now += 10 * MS;
            decision.answered(now, now - MS, MS);
            decision.decide(now, &rates(0.02));
        }
        assert!(decision.asks());
        for _ in 0..100 {
            now += MS / 10;
            decision.answered(now, now - 20 * MS, 20 * MS);
            decision.decide(now, &rates(0.02));
        }
        assert!(decision.asks(), "10 ms of them");
        for _ in 0..200 {
            now += 10 * MS;
            decision.answered(now, now - 20 * MS, 20 * MS);
            decision.decide(now, &rates(0.02));
        }
        assert!(!decision.asks(), "two seconds of them");
    }

    #[test]
    fn a_suspension_ends_only_on_evidence_after_it() {
        let (mut decision, start) = decision(Configured::Exact);
        assert!(decision.asks());
        let vain = start + 100 * MS;
        decision.waited_in_vain(vain);
        assert!(!decision.asks());
        decision.answered(vain + 3 * MS, vain - MS, 4 * MS);
        assert!(!decision.asks(), "it had begun before");
        decision.answered(vain + 10 * MS, vain + MS, 9 * MS);
        assert!(!decision.asks(), "it was late");
        decision.answered(vain + 15 * MS, vain + 11 * MS, 4 * MS);
        assert!(decision.asks());
    }

    #[test]
    fn only_auto_thinks_again_and_only_where_load_decides() {
        for (configured, asks) in [(Configured::Exact, true), (Configured::Batched, false)] {
            let (mut decision, now) = decision(configured);
            for service in [1.0, 0.001] {
                decision.answered(now, now, MS);
                decision.decide(now, &rates(service));
                assert_eq!(decision.asks(), asks);
            }
        }
        let now = Instant::now();
        for configured in [Configured::Exact, Configured::Auto] {
            let mut decision = Decision::new(configured, false, TIMEOUT, now);
            decision.answered(now, now, MS);
            decision.decide(now, &rates(1.0));
            assert!(!decision.asks());
        }
    }
}
