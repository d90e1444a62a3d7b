//! The requests of one route on this node: how many are live, how long servers take to answer them, and how many of
//! them may be retries. All that a request does here are a few atomic additions.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::config::RetryBudget;
use crate::observe::latency::Latencies;

/// A server is waited for this many times as long as 99 of 100 answers of the route take, before it may count as silent.
const TIMES_P99: f64 = 3.0;
/// Fewer answers than this say little about the slowest of a hundred.
const SAMPLES: u64 = 100;
/// Bounds of the patience, in milliseconds: below it a pause of a garbage collector looks like a hang.
const PATIENCE: (f64, f64) = (50.0, 10_000.0);
/// Seconds after which a debt is forgiven, whatever it was.
const DEBT: f64 = 10.0;
/// Seconds for which what was earned is kept: enough for the first failures of a server that goes wrong, and not so much
/// that all servers together get noticeably more than their share.
const SAVED: f64 = 0.25;
const BEGUN: u64 = 1 << 32;

/// The requests of one route.
#[derive(Debug)]
pub struct Traffic {
    counts: Counts,
    latencies: Latencies,
    /// Milliseconds; 0: nobody knows.
    patience: AtomicU32,
    budget: RetryBudget,
    retries: AtomicU32,
    earned: Mutex<Earned>,
}

/// Low half: live. High half: ever begun, wrapping. All worker threads write here.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counts(AtomicU64);

/// What requests have earned for retries.
#[derive(Debug, Default)]
struct Earned {
    credit: f64,
    /// Requests begun when it was last reckoned.
    begun: u32,
    /// Requests begun when the present second began.
    second: u32,
    /// Requests begun in the last whole second.
    recent: u32,
}

/// One retry that waits or runs. Dropping it makes room for another.
#[derive(Debug)]
pub struct Permit(Arc<Traffic>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.retries.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Traffic {
    /// Of a route that nobody has asked for yet.
    pub fn new(budget: RetryBudget) -> Self {
        Traffic {
            counts: Counts::default(),
            latencies: Latencies::default(),
            patience: AtomicU32::new(0),
            budget,
            retries: AtomicU32::new(0),
            // Else the first failures after a start would put the route into debt before it could earn.
            earned: Mutex::new(Earned { credit: f64::from(budget.min), ..Earned::default() }),
        }
    }

    /// A request begins. Each must end.
    pub fn begin(&self) {
        self.counts.0.fetch_add(BEGUN | 1, Ordering::Relaxed);
    }

    /// A request is over.
    pub fn end(&self) {
        self.counts.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Requests that have begun and are not over.
    pub fn live(&self) -> u32 {
        self.counts.0.load(Ordering::Relaxed) as u32
    }

    /// A response header took this long. For one that did not come at all, how long it was waited for: the true time is
    /// longer still, and without it a hang would look like fast answers.
    pub fn record(&self, took: Duration) {
        self.latencies.record(took);
    }

    /// From when on a header is late; None: too few have been seen.
    pub fn patience(&self) -> Option<Duration> {
        let millis = self.patience.load(Ordering::Relaxed);
        (millis > 0).then(|| Duration::from_millis(u64::from(millis)))
    }

    /// Room for one more retry. As many may wait or run at a time as `share` of the requests that are live, or that began
    /// in the last second where those are more: where a server begins to reset connections, its requests fail within
    /// milliseconds and are live no longer. And each request earns `share` of a retry, to be spent soon: however fast
    /// requests fail, no greater share of them is repeated, but for what a quarter of a second before has earned.
    ///
    /// Where that comes to less than `min` at a time, `min` at a time are allowed; what they take beyond the share is repaid
    /// when there is more traffic, or forgiven with time.
    pub fn retry(self: &Arc<Self>) -> Option<Permit> {
        let counts = self.counts.0.load(Ordering::Relaxed);
        let (live, begun) = (counts as u32, (counts >> 32) as u32);
        let share = f64::from(self.budget.share) / 100.0;
        let mut earned = self.earned();
        let most = share * f64::from(earned.recent.max(begun.wrapping_sub(earned.second)).max(live));
        let saved = (most * SAVED).max(share * f64::from(live)).max(f64::from(self.budget.min));
        earned.credit = (earned.credit + share * f64::from(begun.wrapping_sub(earned.begun))).min(saved);
        earned.begun = begun;
        let few = most < f64::from(self.budget.min);
        let places = if few { self.budget.min } else { most as u32 };
        if self.retries.load(Ordering::Relaxed) >= places || (!few && earned.credit < 1.0) {
            return None;
        }
        earned.credit = (earned.credit - 1.0).max(-DEBT * f64::from(self.budget.min));
        self.retries.fetch_add(1, Ordering::Relaxed);
        Some(Permit(self.clone()))
    }

    /// To be called each second, outside of requests.
    pub fn refresh(&self) {
        let p99 = self.latencies.quantile_ms(0.99);
        let millis =
            if self.latencies.count() < SAMPLES { 0.0 } else { (TIMES_P99 * p99).clamp(PATIENCE.0, PATIENCE.1) };
        self.patience.store(millis as u32, Ordering::Relaxed);
        let begun = (self.counts.0.load(Ordering::Relaxed) >> 32) as u32;
        let mut earned = self.earned();
        if earned.credit < 0.0 {
            earned.credit = (earned.credit + f64::from(self.budget.min)).min(0.0);
        }
        earned.recent = begun.wrapping_sub(earned.second);
        earned.second = begun;
    }

    /// Forgets the older half of the latencies. To be called about every ten seconds.
    pub fn rotate(&self) {
        self.latencies.rotate();
    }

    /// Only retries and the clock of each second come here.
    fn earned(&self) -> std::sync::MutexGuard<'_, Earned> {
        self.earned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(share: u32, min: u32) -> Arc<Traffic> {
        Arc::new(Traffic::new(RetryBudget { share, min }))
    }

    #[test]
    fn few_requests_have_the_least() {
        let traffic = traffic(20, 3);
        traffic.begin();
        let mut permits: Vec<_> = (0..3).map(|_| traffic.retry().unwrap()).collect();
        assert!(traffic.retry().is_none());
        permits.pop();
        assert!(traffic.retry().is_some(), "one is over");
    }

    #[test]
    fn a_fresh_route_has_the_least_to_spend() {
        let traffic = traffic(20, 3);
        for _ in 0..4 {
            traffic.begin();
            drop(traffic.retry().unwrap());
        }
        (0..12).for_each(|_| traffic.begin());
        assert!(traffic.retry().is_some(), "16 have earned 3.2, and the route began with 3");
    }

    #[test]
    fn a_share_of_the_live_requests_may_be_retries() {
        let traffic = traffic(20, 0);
        (0..100).for_each(|_| traffic.begin());
        let permits: Vec<_> = std::iter::from_fn(|| traffic.retry()).collect();
        assert_eq!(permits.len(), 20);
        (0..50).for_each(|_| traffic.end());
        assert_eq!(traffic.live(), 50);
        drop(permits);
        assert!(traffic.retry().is_none(), "what was earned is spent");
        (0..50).for_each(|_| traffic.begin());
        assert_eq!(std::iter::from_fn(|| traffic.retry()).count(), 10, "fifty more have earned ten");
    }

    #[test]
    fn nothing_allowed_is_nothing() {
        let traffic = traffic(0, 0);
        (0..100).for_each(|_| traffic.begin());
        traffic.refresh();
        assert!(traffic.retry().is_none());
    }

    #[test]
    fn the_requests_of_the_last_second_have_earned_a_small_burst() {
        let traffic = traffic(20, 3);
        for _ in 0..500 {
            traffic.begin();
            traffic.end();
        }
        traffic.refresh();
        let permits: Vec<_> = std::iter::from_fn(|| traffic.retry()).take(1000).collect();
        assert_eq!(permits.len(), 25);
        drop(permits);
        traffic.refresh();
        traffic.refresh();
        let permits: Vec<_> = std::iter::from_fn(|| traffic.retry()).collect();
        assert_eq!(permits.len(), 3, "a quiet second earns nothing");
    }

    #[test]
    fn when_all_requests_fail_at_once_retries_are_a_share_of_them() {
        let traffic = traffic(20, 3);
        let mut retries = 0;
        for second in 0..20 {
            for _ in 0..500 {
                traffic.begin();
                let first = traffic.retry();
                retries += u32::from(first.is_some());
                drop(first);
                traffic.end();
            }
            traffic.refresh();
            // The first 15 are few.
            assert!(retries <= 100 * (second + 1) + 15, "{retries} in {} s", second + 1);
        }
        assert!(retries > 1500, "{retries}");
    }

    #[test]
    fn patience_is_known_only_after_a_hundred_answers_and_stays_in_bounds() {
        let traffic = traffic(20, 3);
        for n in 0..99 {
            traffic.record(Duration::from_millis(n + 1));
        }
        traffic.refresh();
        assert_eq!(traffic.patience(), None);
        traffic.record(Duration::from_millis(100));
        traffic.refresh();
        let patience = traffic.patience().unwrap();
        assert!((297..=340).contains(&patience.as_millis()), "{patience:?}");
        (0..20_000).for_each(|_| traffic.record(Duration::from_millis(1)));
        traffic.refresh();
        assert_eq!(traffic.patience(), Some(Duration::from_millis(50)));
        (0..20_000).for_each(|_| traffic.record(Duration::from_secs(60)));
        traffic.refresh();
        assert_eq!(traffic.patience(), Some(Duration::from_secs(10)));
        traffic.rotate();
        traffic.rotate();
        traffic.refresh();
        assert_eq!(traffic.patience(), None);
    }
}
