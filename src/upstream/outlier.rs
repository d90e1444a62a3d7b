//! Which server answers far later than the others. Pure, but for the ring that the times are kept in.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// So many times make a median.
pub const SAMPLES: usize = 20;
/// A little more than needed, so that a writer in between spoils nothing.
const RING: usize = 32;
/// Older ones do not count, milliseconds.
const FRESH: u32 = 30_000;
/// Fewer servers cannot be compared: which of two is the odd one?
const SERVERS: usize = 3;
/// Slower than the others' median by this factor, and
const FACTOR: u32 = 5;
/// by more than this.
const MARGIN: Duration = Duration::from_millis(100);

/// The last times to first byte of one server.
#[derive(Debug, Default)]
pub struct Times {
    next: AtomicU32,
    /// High half: milliseconds at which it was measured, wrapping; low half: microseconds. 0: none.
    ring: [AtomicU64; RING],
}

impl Times {
    /// Keeps one.
    pub fn record(&self, took: Duration, now: Duration) {
        let place = self.next.fetch_add(1, Ordering::Relaxed) as usize % RING;
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
        self.ring[place].store(u64::from(now.as_millis() as u32) << 32 | u64::from(micros), Ordering::Relaxed);
    }

    /// The median of the last 20; None: there were fewer of late.
    pub fn median(&self, now: Duration) -> Option<Duration> {
        let next = self.next.load(Ordering::Relaxed) as usize;
        let mut last = [0_u32; SAMPLES];
        for (i, micros) in last.iter_mut().enumerate() {
            let packed = self.ring[next.wrapping_sub(i + 1) % RING].load(Ordering::Relaxed);
            let age = (now.as_millis() as u32).wrapping_sub((packed >> 32) as u32);
            if packed == 0 || (age > FRESH && age < u32::MAX / 2) {
                return None;
            }
            *micros = packed as u32;
        }
        let (_, median, _) = last.select_nth_unstable(SAMPLES / 2);
        Some(Duration::from_micros(u64::from(*median)))
    }

    /// How many there were, wrapping.
    pub fn taken(&self) -> u32 {
        self.next.load(Ordering::Relaxed)
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.ring.iter().for_each(|packed| packed.store(0, Ordering::Relaxed));
    }
}

/// One that answers far later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlier {
    /// Its place.
    pub place: usize,
    /// Its median.
    pub median: Duration,
    /// The median of the others' medians.
    pub others: Duration,
    /// What its median may not exceed.
    pub limit: Duration,
}

/// The slowest server, if its median is too far from the others'. `medians`: None where there are too few times.
pub fn find(medians: &[Option<Duration>]) -> Option<Outlier> {
    let known = || medians.iter().enumerate().filter_map(|(place, median)| Some((place, (*median)?)));
    if known().count() < SERVERS {
        return None;
    }
    let (place, median) = known().max_by_key(|(_, median)| *median)?;
    let mut others: smallvec::SmallVec<[Duration; 16]> =
        known().filter(|(other, _)| *other != place).map(|(_, median)| median).collect();
    others.sort_unstable();
    // Of an even number the upper one: in doubt for the accused.
    let others = *others.get(others.len() / 2)?;
    let limit = (others * FACTOR).max(others + MARGIN);
    (median > limit).then_some(Outlier { place, median, others, limit })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn found(medians: &[u64]) -> Option<usize> {
        let medians: Vec<_> = medians.iter().map(|&m| (m > 0).then(|| ms(m))).collect();
        find(&medians).map(|outlier| outlier.place)
    }

    #[test]
    fn only_who_is_far_from_the_others_is_found() {
        assert_eq!(found(&[20, 20, 200, 20]), Some(2));
        assert_eq!(found(&[20, 40, 20, 40]), None);
        assert_eq!(found(&[20, 20, 119, 20]), None, "within 100 ms");
        assert_eq!(found(&[20, 20, 121, 20]), Some(2));
        assert_eq!(found(&[100, 100, 450, 100]), None, "within five times");
        assert_eq!(found(&[100, 100, 501, 100]), Some(2));
        assert_eq!(found(&[20, 200]), None, "two servers");
        assert_eq!(found(&[20, 200, 0, 0]), None, "two with enough times");
        assert_eq!(found(&[200, 200, 200, 200]), None, "all are slow");
        assert_eq!(found(&[20, 300, 200, 20]), Some(1), "the slowest first");
        assert_eq!(found(&[20, 300, 300]), None, "most of them");
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn a_median_needs_twenty_fresh_times() {
        let times = Times::default();
        for n in 1..20 {
            times.record(ms(n), ms(1000));
        }
        assert_eq!(times.median(ms(1000)), None);
        times.record(ms(1000), ms(1000));
        assert_eq!(times.median(ms(1000)), Some(ms(11)));
        assert_eq!(times.median(ms(31_000)), Some(ms(11)));
        assert_eq!(times.median(ms(31_001)), None);
        for _ in 0..100 {
            times.record(ms(7), ms(40_000));
        }
        assert_eq!(times.median(ms(40_000)), Some(ms(7)));
        times.clear();
        assert_eq!(times.median(ms(40_000)), None);
    }

    proptest! {
        #[test]
        fn whoever_is_found_is_the_slowest_by_far(
            medians in prop::collection::vec(prop::option::of(1_u64..3_000), 0..12)
        ) {
            let medians: Vec<_> = medians.into_iter().map(|m| m.map(ms)).collect();
            if let Some(outlier) = find(&medians) {
                prop_assert!(medians.iter().flatten().count() >= SERVERS);
                prop_assert_eq!(medians[outlier.place], Some(outlier.median));
                for (place, median) in medians.iter().enumerate() {
                    prop_assert!(place == outlier.place || median.is_none_or(|m| m <= outlier.median));
                }
                // More than half of the others are five times faster.
                let faster = medians.iter().flatten().filter(|m| **m * FACTOR < outlier.median).count();
                prop_assert!(faster * 2 > medians.iter().flatten().count() - 1);
            }
        }
    }
}
