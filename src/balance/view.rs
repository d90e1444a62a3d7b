//! What a view of the fleet's load is worth: how often to take one, how old it is, and what it cannot show.
//!
//! Times are seconds on this node's monotonic clock, from any start that the caller keeps to; clocks of other machines play no part.

use std::time::Duration;

/// Beyond this age (seconds) a view is of no use: choose by this node's own requests.
pub const TOO_OLD: f64 = 1.0;

/// Time constant (seconds) of a server's recent completions, [`Share::completions`](super::tide::Share::completions).
pub const COMPLETIONS_TAU: f64 = 2.0;

/// Time constant (seconds) of the other nodes' rate of picks: shorter than a burst lasts, longer than many exchanges.
const RATE_TAU: f64 = 1.0;

/// The shortest and the longest time between two exchanges.
const SHORTEST: f64 = 0.001;
const LONGEST: f64 = 0.1;
/// The shortest for a node that knows of no other: it only tells whoever may come, and notices him.
const ALONE: f64 = 0.01;

/// How long a node waits between two exchanges of a pool, so that the fleet makes at most `max_calls` a second; 1 ms to 100 ms,
/// and 10 ms at least for a node that is alone.
///
/// The caller spreads it by ±10 %, so that nodes do not fall into step.
#[must_use]
pub fn interval(live_nodes: u32, active_pools: u32, max_calls: f64) -> Duration {
    let wanted = f64::from(live_nodes.max(1)) * f64::from(active_pools.max(1)) / max_calls;
    // Without a usable limit: seldom.
    let wanted = if wanted >= 0.0 { wanted } else { LONGEST };
    let shortest = if live_nodes > 1 { SHORTEST } else { ALONE };
    Duration::from_secs_f64(wanted.clamp(shortest, LONGEST))
}

/// How old, on average, what a view tells of the other nodes is at `now`.
///
/// `sent`, `rtt`: when the call was sent that brought the view, and how long its answer took; the script ran halfway. What it found of
/// another node was half of that node's pause between exchanges old (`sync`, or a round trip if that is longer), and had been half a
/// round trip on its way.
#[must_use]
pub fn age(now: f64, sent: f64, rtt: f64, sync: f64) -> f64 {
    now - (sent + rtt / 2.0) + (sync.max(rtt) + rtt) / 2.0
}

/// What is left, after `elapsed` seconds, of something that fades with a time constant of `tau` seconds.
#[must_use]
pub fn fade(elapsed: f64, tau: f64) -> f64 {
    (-elapsed.max(0.0) / tau).exp()
}

/// A count whose past fades away.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Decayed {
    value: f64,
    at: f64,
}

impl Decayed {
    /// Counts `amount` more at `now`.
    pub fn add(&mut self, now: f64, amount: f64, tau: f64) {
        *self = Self { value: self.value(now, tau) + amount, at: self.at.max(now) };
    }

    /// What is left at `now`.
    #[must_use]
    pub fn value(&self, now: f64, tau: f64) -> f64 {
        self.value * fade(now - self.at, tau)
    }
}

/// How many picks a second the other nodes make, as a fading mean; `λ_others` of [`unseen()`](super::tide::unseen).
///
/// From the fleet's counter of picks. Picks and time fade alike, so the mean is right from the first sample on and uneven samples count
/// for as long as they last.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OthersRate {
    last: Option<Sample>,
    picks: f64,
    time: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Sample {
    fleet: u64,
    own: u64,
    at: f64,
}

impl OthersRate {
    /// Takes in a new view.
    ///
    /// `fleet`: picks ever made by the fleet, as the view has it. `own`: those of them that are this node's: what the calls that ran have
    /// carried and picked, this one included. `at`: when the script ran (sent + rtt/2).
    pub fn observe(&mut self, fleet: u64, own: u64, at: f64) {
        let next = Sample { fleet, own, at };
        let Some(last) = self.last.replace(next) else { return };
        // A counter that went back was lost and began anew: there is nothing to compare with.
        let (Some(fleet), Some(own)) = (fleet.checked_sub(last.fleet), own.checked_sub(last.own)) else { return };
        let elapsed = at - last.at;
        if elapsed <= 0.0 {
            // Too close to tell apart: let the next one count for both.
            self.last = Some(last);
            return;
        }
        let left = fade(elapsed, RATE_TAU);
        self.picks = self.picks * left + fleet.saturating_sub(own) as f64;
        self.time = self.time * left + elapsed;
    }

    /// Picks per second; 0 until two views have been seen.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        if self.time > 0.0 { self.picks / self.time } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 + 1e-6 * b.abs()
    }

    #[test]
    fn the_interval_keeps_the_fleet_within_its_calls() {
        let ms = |ms| Duration::from_micros((ms * 1000.0) as u64);
        assert_eq!(interval(50, 1, 10_000.0), ms(5.0));
        assert_eq!(interval(50, 4, 10_000.0), ms(20.0));
        assert_eq!(interval(3, 1, 10_000.0), ms(1.0));
        assert_eq!(interval(2, 1, 10_000.0), ms(1.0));
        for alone in [0, 1] {
            assert_eq!(interval(alone, 1, 10_000.0), ms(10.0), "nobody is waiting for it");
            assert_eq!(interval(alone, 4, 100.0), ms(40.0));
        }
        assert_eq!(interval(5_000, 10, 10_000.0), ms(100.0));
        for absurd in [0.0, -1.0, f64::NAN] {
            assert_eq!(interval(0, 1, absurd), ms(100.0));
        }
    }

    #[test]
    fn the_age_counts_from_the_middle_of_the_call() {
        // Script at 10.001; others' counts were (4 + 2)/2 = 3 ms old then; 5 ms have passed since.
        assert!(close(age(10.006, 10.0, 0.002, 0.004), 0.008));
        // Exchanges that take longer than the pause between them: one round trip apart.
        assert!(close(age(10.005, 10.0, 0.010, 0.001), 0.010));
    }

    #[test]
    fn a_decayed_count_fades_by_its_time_constant() {
        let mut count = Decayed::default();
        count.add(100.0, 8.0, 2.0);
        assert!(close(count.value(102.0, 2.0), 8.0 / std::f64::consts::E));
        count.add(102.0, 1.0, 2.0);
        assert!(close(count.value(102.0, 2.0), 8.0 / std::f64::consts::E + 1.0));
        // An event that is reported late neither grows nor turns the clock back.
        count.add(101.0, 1.0, 2.0);
        assert!(close(count.value(102.0, 2.0), 8.0 / std::f64::consts::E + 2.0));
        assert!(close(fade(-1.0, 2.0), 1.0));
    }

    #[test]
    fn the_rate_is_that_of_the_others_alone() {
        let mut rate = OthersRate::default();
        assert_eq!(rate.per_second(), 0.0);
        let (mut fleet, mut own, mut at) = (1_000_000, 70, 5.0);
        rate.observe(fleet, own, at);
        assert_eq!(rate.per_second(), 0.0, "one view tells no rate");
        // 3 picks of others and 2 of its own every 10 ms: right from the first sample on.
        for _ in 0..500 {
            (fleet, own, at) = (fleet + 5, own + 2, at + 0.01);
            rate.observe(fleet, own, at);
            assert!(close(rate.per_second(), 300.0));
        }
        // The rate changes: after a time constant it is most of the way.
        for _ in 0..100 {
            (fleet, at) = (fleet + 9, at + 0.01);
            rate.observe(fleet, own, at);
        }
        let expected = 900.0 + (300.0 - 900.0) / std::f64::consts::E;
        assert!((rate.per_second() - expected).abs() < 20.0, "{}", rate.per_second());
    }

    #[test]
    fn uneven_samples_count_for_as_long_as_they_last() {
        let mut rate = OthersRate::default();
        rate.observe(0, 0, 0.0);
        rate.observe(1, 0, 0.001);
        rate.observe(100, 0, 0.1);
        assert!((rate.per_second() - 1_000.0).abs() < 20.0, "{}", rate.per_second());
    }

    #[test]
    fn a_counter_that_began_anew_is_no_rate() {
        let mut rate = OthersRate::default();
        rate.observe(5_000, 0, 1.0);
        rate.observe(5_100, 0, 2.0);
        let before = rate;
        rate.observe(3, 0, 3.0);
        assert_eq!(rate.per_second(), before.per_second());
        rate.observe(103, 0, 4.0);
        assert!(close(rate.per_second(), 100.0));
        // Two views of one moment: nothing is divided by zero, nothing is lost.
        rate.observe(153, 0, 4.0);
        rate.observe(203, 0, 5.0);
        assert!(close(rate.per_second(), 100.0));
        // Own picks that the fleet's counter lost do not make the others' negative.
        rate.observe(203, 50, 6.0);
        assert!(rate.per_second() > 0.0 && rate.per_second() < 100.0);
    }
}
