//! Latency percentiles of one server over the last ten to twenty seconds, in constant memory and without locks.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

/// Eight buckets for each power of two: a percentile is at most an eighth too high.
const BUCKETS: usize = 304;
const WINDOWS: usize = 2;

/// Two histograms that take turns: the older is emptied when [`Latencies::rotate`] is called.
#[derive(Debug)]
pub struct Latencies {
    current: AtomicUsize,
    windows: [Box<[AtomicU32]>; WINDOWS],
}

impl Default for Latencies {
    fn default() -> Self {
        let window = || (0..BUCKETS).map(|_| AtomicU32::new(0)).collect();
        Latencies { current: AtomicUsize::new(0), windows: [window(), window()] }
    }
}

impl Latencies {
    /// Counts one request.
    pub fn record(&self, took: Duration) {
        let window = &self.windows[self.current.load(Ordering::Relaxed) % WINDOWS];
        window[bucket(took)].fetch_add(1, Ordering::Relaxed);
    }

    /// Forgets the older window. To be called about every ten seconds.
    pub fn rotate(&self) {
        let next = (self.current.load(Ordering::Relaxed) + 1) % WINDOWS;
        for count in &self.windows[next] {
            count.store(0, Ordering::Relaxed);
        }
        self.current.store(next, Ordering::Relaxed);
    }

    /// Requests counted.
    pub fn count(&self) -> u64 {
        self.windows.iter().flat_map(|window| window.iter()).map(|count| u64::from(count.load(Ordering::Relaxed))).sum()
    }

    /// The latency below which `share` (0 to 1) of the requests stayed, in milliseconds; 0 when there were none.
    pub fn quantile_ms(&self, share: f64) -> f64 {
        let counts: Vec<u64> =
            (0..BUCKETS).map(|i| self.windows.iter().map(|w| u64::from(w[i].load(Ordering::Relaxed))).sum()).collect();
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return 0.0;
        }
        let rank = ((share * total as f64).ceil() as u64).clamp(1, total);
        let mut seen = 0;
        for (i, count) in counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_micros(i) as f64 / 1000.0;
            }
        }
        0.0
    }
}

fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    if micros < 8 {
        return micros as usize;
    }
    let exponent = 63 - micros.leading_zeros() as usize;
    let eighth = (micros >> (exponent - 3)) as usize & 7;
    ((exponent - 2) * 8 + eighth).min(BUCKETS - 1)
}

fn upper_micros(bucket: usize) -> u64 {
    if bucket < 8 {
        return bucket as u64;
    }
    let exponent = bucket / 8 + 2;
    let eighth = (bucket % 8) as u64;
    ((8 + eighth + 1) << (exponent - 3)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_falls_below_the_upper_end_of_its_bucket() {
        for micros in [0, 1, 7, 8, 9, 15, 16, 17, 1000, 1023, 1024, 123_456, 60_000_000] {
            let i = bucket(Duration::from_micros(micros));
            assert!(upper_micros(i) >= micros, "{micros} in {i}");
            assert!(i == 0 || upper_micros(i - 1) < micros, "{micros} in {i}");
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_close_and_forget() {
        let latencies = Latencies::default();
        assert_eq!(latencies.quantile_ms(0.5), 0.0);
        for ms in 1..=100 {
            latencies.record(Duration::from_millis(ms));
        }
        let p50 = latencies.quantile_ms(0.5);
        let p99 = latencies.quantile_ms(0.99);
        assert!((50.0..=57.0).contains(&p50), "{p50}");
        assert!((99.0..=113.0).contains(&p99), "{p99}");
        assert_eq!(latencies.count(), 100);
        latencies.rotate();
        assert!(latencies.quantile_ms(0.5) > 0.0, "the last window still counts");
        latencies.rotate();
        assert_eq!(latencies.quantile_ms(0.5), 0.0);
    }
}
