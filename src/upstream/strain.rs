//! Why a server gets less than its weight for a while: it failed of late (the charge), or it has just come back (the ramp).
//!
//! Both are this node's own opinion: they change which server it chooses, never a count.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use smallvec::SmallVec;

use crate::balance::Candidate;
use crate::upstream::clock;

/// How much of the way to its end one outcome moves the share of failures.
const STEP: f32 = 0.1;
/// In this time the share fades by itself to 1/e of it, seconds.
const FADE: f32 = 10.0;
/// Less than this is nothing.
const LEAST: f32 = 0.01;
/// What is left of the weight of a server that always fails.
const FLOOR: f32 = 0.02;
/// What a ramp begins with.
const FIRST: f32 = 0.1;

/// A fading share of failures.
///
/// A server that fails at once always has the least in flight, and would attract all requests. In proportion to its
/// successes its weight is no more than what it can serve: of requests that fail at once with a share `f`, a server of
/// weight `1 - f` gets as many as one of weight 1 that never fails.
#[derive(Debug, Default)]
pub struct Strain(AtomicU64);

impl Strain {
    /// Counts an outcome. Costs one load where nothing ever fails.
    #[inline]
    pub fn count(&self, failed: bool, now: impl FnOnce() -> Duration) {
        if !failed && self.0.load(Ordering::Relaxed) == 0 {
            return;
        }
        let now = now();
        let next = |packed: u64| {
            let share = faded(packed, now);
            Some(pack(if failed { share + (1.0 - share) * STEP } else { share - share * STEP }, now))
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok();
    }

    /// The share now, 0 to 1.
    pub fn share(&self, now: Duration) -> f32 {
        faded(self.0.load(Ordering::Relaxed), now)
    }

    /// Whether there is none.
    #[inline]
    pub fn is_none(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// Forgets what has faded; to be called now and then.
    pub fn tidy(&self, now: Duration) {
        let packed = self.0.load(Ordering::Relaxed);
        if packed != 0 && faded(packed, now) < LEAST {
            self.0.compare_exchange(packed, 0, Ordering::Relaxed, Ordering::Relaxed).ok();
        }
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// High half: the share; low half: milliseconds, wrapping. [`Strain::tidy`] comes long before they have.
fn pack(share: f32, now: Duration) -> u64 {
    if share < LEAST { 0 } else { u64::from(share.to_bits()) << 32 | u64::from(now.as_millis() as u32) }
}

fn faded(packed: u64, now: Duration) -> f32 {
    if packed == 0 {
        return 0.0;
    }
    let age = (now.as_millis() as u32).wrapping_sub(packed as u32);
    // Threads that count at the same time may be a little behind.
    let age = if age > u32::MAX / 2 { 0 } else { age };
    f32::from_bits((packed >> 32) as u32) * (-(age as f32 / 1000.0) / FADE).exp()
}

/// From a tenth to all in a given time.
#[derive(Debug, Default)]
pub struct Ramp {
    /// Nanoseconds; 0: there is none.
    until: AtomicU64,
}

impl Ramp {
    /// Begins one; no length, no ramp.
    pub fn begin(&self, now: Duration, length: Duration) {
        let until = if length.is_zero() { 0 } else { clock::nanos(now + length) };
        self.until.store(until, Ordering::Relaxed);
    }

    /// Whether there is none.
    #[inline]
    pub fn is_none(&self) -> bool {
        self.until.load(Ordering::Relaxed) == 0
    }

    /// Where it is now: 0.1 to 1.
    pub fn height(&self, now: Duration, length: Duration) -> f32 {
        let left = self.until.load(Ordering::Relaxed).saturating_sub(clock::nanos(now));
        let left = (left as f64 / clock::nanos(length).max(1) as f64).min(1.0) as f32;
        1.0 - (1.0 - FIRST) * left
    }

    /// Ends it if its time is over; to be called now and then.
    pub fn tidy(&self, now: Duration) {
        let until = self.until.load(Ordering::Relaxed);
        if until != 0 && until <= clock::nanos(now) {
            self.until.compare_exchange(until, 0, Ordering::Relaxed, Ordering::Relaxed).ok();
        }
    }

    /// Ends it.
    pub fn end(&self) {
        self.until.store(0, Ordering::Relaxed);
    }
}

/// How much of a server is to be had.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Presence {
    /// What its weight is multiplied with.
    pub factor: f32,
    /// The chance to be considered at all, relative to the others'. By weight alone an idle server of less weight would never be
    /// chosen while another is idle too, and a server that fails at once would be whenever the others are busy.
    pub odds: f32,
}

impl Presence {
    /// All of it.
    pub const FULL: Presence = Presence { factor: 1.0, odds: 1.0 };

    /// Of a server with this share of failures, at this height of its ramp.
    pub fn new(failures: f32, ramp: f32) -> Self {
        let sound = (1.0 - failures).max(FLOOR);
        Presence { factor: sound * ramp, odds: sound * sound * ramp }
    }
}

/// For policies that go by the number in flight: lets candidates sit out a choice by the odds of their presence, and gives
/// those that stay and have something in flight a weight by its factor. Whoever is most present stays.
///
/// An idle one that stays counts in full: by its weight the others would come first always.
pub fn thin(
    candidates: &mut SmallVec<[Candidate; 16]>,
    present: &[Presence],
    busy: impl Fn(&Candidate) -> bool,
    rng: &mut fastrand::Rng,
) {
    let best = present.iter().map(|present| present.odds).fold(0.0, f32::max);
    let mut present = present.iter();
    candidates.retain(|candidate| {
        let Some(present) = present.next() else { return true };
        if busy(candidate) {
            candidate.weight *= present.factor;
        }
        present.odds >= best || rng.f32() * best < present.odds
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::{Draw, Policy};

    fn s(seconds: f32) -> Duration {
        Duration::from_secs_f32(seconds)
    }

    #[test]
    fn failures_add_up_and_fade() {
        let strain = Strain::default();
        strain.count(false, || unreachable!("no failure, no clock"));
        assert!(strain.is_none());
        for _ in 0..5 {
            strain.count(true, || s(100.0));
        }
        let five = 1.0 - 0.9_f32.powi(5);
        assert!((strain.share(s(100.0)) - five).abs() < 1e-4);
        assert!((strain.share(s(110.0)) - five / std::f32::consts::E).abs() < 1e-4);
        strain.count(false, || s(100.0));
        assert!((strain.share(s(100.0)) - five * 0.9).abs() < 1e-4);
        // A moment that comes late does not turn the clock back by 49 days.
        assert!((strain.share(s(99.9)) - five * 0.9).abs() < 1e-4);
        strain.tidy(s(120.0));
        assert!(!strain.is_none());
        strain.tidy(s(200.0));
        assert!(strain.is_none());
    }

    #[test]
    fn a_ramp_goes_from_a_tenth_to_all() {
        let (ramp, length) = (Ramp::default(), s(30.0));
        assert!(ramp.is_none() && ramp.height(s(1.0), length) == 1.0);
        ramp.begin(s(10.0), length);
        for (at, height) in [(10.0, 0.1), (25.0, 0.55), (40.0, 1.0), (50.0, 1.0)] {
            assert!((ramp.height(s(at), length) - height).abs() < 1e-4, "{at}");
        }
        ramp.tidy(s(39.0));
        assert!(!ramp.is_none());
        ramp.tidy(s(40.0));
        assert!(ramp.is_none());
        ramp.begin(s(10.0), Duration::ZERO);
        assert!(ramp.is_none());
    }

    /// What share of all requests server 0 gets, and of those that fail, when it fails at once with chance `p`.
    /// Others, and its successes, take 20 ms on average; requests come so often that each has `busy` in flight.
    fn attraction(policy: Policy, servers: usize, p: f64, busy: f64, seed: u64) -> (f64, f64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let strain = Strain::default();
        let mut ends: Vec<Vec<f64>> = vec![Vec::new(); servers];
        let (mut now, mut all, mut its, mut failed) = (1.0_f64, 0, 0, 0);
        let exponential = |rng: &mut fastrand::Rng, mean: f64| -mean * (1.0 - rng.f64()).ln();
        while all < 10_000 {
            now += exponential(&mut rng, 0.02 / busy / servers as f64);
            // Successes count when they end.
            for (server, ends) in ends.iter_mut().enumerate() {
                let before = ends.len();
                ends.retain(|end| *end > now);
                for _ in ends.len()..before {
                    if server == 0 {
                        strain.count(false, || Duration::from_secs_f64(now));
                    }
                }
            }
            let mut candidates: SmallVec<[Candidate; 16]> = ends
                .iter()
                .enumerate()
                .map(|(i, ends)| Candidate { index: i as u32, in_flight: ends.len() as u32, weight: 1.0 })
                .collect();
            let mut present = vec![Presence::FULL; servers];
            present[0] = Presence::new(strain.share(Duration::from_secs_f64(now)), 1.0);
            thin(&mut candidates, &present, |candidate| candidate.in_flight > 0, &mut rng);
            let place = policy.pick(&candidates, &mut Draw { rng: &mut rng, ticket: 0, key: 0, ring: None }).unwrap();
            let chosen = candidates[place].index as usize;
            all += 1;
            if chosen == 0 {
                its += 1;
                if rng.f64() < p {
                    failed += 1;
                    strain.count(true, || Duration::from_secs_f64(now));
                    continue;
                }
            }
            ends[chosen].push(now + exponential(&mut rng, 0.02));
        }
        (f64::from(its) / f64::from(all), f64::from(failed) / f64::from(all))
    }

    #[test]
    fn a_server_that_fails_at_once_attracts_no_more_than_its_share() {
        for policy in [Policy::LeastLoad, Policy::PowerOfTwo] {
            for servers in [2, 4, 8] {
                for busy in [0.1, 0.7, 3.0, 20.0] {
                    for p in [0.1, 0.3, 0.5, 0.8, 1.0] {
                        let (share, _) = attraction(policy, servers, p, busy, 7);
                        let fair = 1.0 / servers as f64;
                        assert!(share < fair * 1.05, "{policy:?} {servers} servers, {busy} busy, {p}: {share}");
                    }
                }
            }
        }
        // Without the charge it would get nearly all.
        let (_, failed) = attraction(Policy::LeastLoad, 4, 1.0, 3.0, 7);
        assert!(failed < 0.03, "{failed}");
    }

    #[test]
    fn whoever_is_on_its_ramp_is_chosen_where_all_are_idle() {
        let mut rng = fastrand::Rng::with_seed(3);
        let mut seen = [0_u32; 2];
        for _ in 0..20_000 {
            let mut candidates: SmallVec<[Candidate; 16]> =
                (0..2).map(|index| Candidate { index, in_flight: 0, weight: 1.0 }).collect();
            thin(&mut candidates, &[Presence::new(0.0, 0.1), Presence::FULL], |_| false, &mut rng);
            let place = Policy::LeastLoad.pick(&candidates, &mut Draw { rng: &mut rng, ticket: 0, key: 0, ring: None });
            seen[candidates[place.unwrap()].index as usize] += 1;
        }
        assert!((900..1_100).contains(&seen[0]), "half of a tenth: {seen:?}");
    }

    #[test]
    fn somebody_always_stays() {
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..1_000 {
            let mut candidates: SmallVec<[Candidate; 16]> =
                (0..3).map(|index| Candidate { index, in_flight: 1, weight: 2.0 }).collect();
            let present = [Presence::new(1.0, 0.1), Presence::new(0.9, 0.2), Presence::new(1.0, 0.1)];
            thin(&mut candidates, &present, |_| true, &mut rng);
            assert!(candidates.iter().any(|candidate| candidate.index == 1));
            assert!(candidates.iter().all(|candidate| candidate.weight < 1.0));
        }
    }
}
