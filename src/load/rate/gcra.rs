//! Buckets that this node fills by itself, each one number: the time at which it will be full again.
//!
//! That is the generic cell rate algorithm (ITU-T I.371): a request moves the time on by one token, and is refused where
//! that would put it further ahead than a full bucket.

use std::time::Duration;

use super::table::Table;
use super::{Key, Terms, Verdict};

/// The buckets of one limit.
pub struct Buckets {
    terms: Terms,
    table: Table<u64, ()>,
}

impl Buckets {
    /// All full.
    pub fn new(terms: Terms) -> Self {
        Buckets { terms, table: Table::default() }
    }

    /// One request of `key`, at `now` nanoseconds.
    pub fn take(&self, key: Key<'_>, now: u64) -> Verdict {
        let hash = self.table.hash(key);
        let mut part = self.table.lock(hash);
        part.sweep_if_due(now, rests_at);
        let full_at = match part.map.get_mut(&hash) {
            Some(full_at) => full_at,
            None => {
                part.make_room(now, rests_at);
                part.map.entry(hash).or_insert(now)
            }
        };
        let next = now.max(*full_at).saturating_add(self.terms.token);
        let latest = now.saturating_add(self.terms.depth());
        if next > latest {
            return Verdict::Refuse(Duration::from_nanos(next - latest));
        }
        *full_at = next;
        Verdict::Pass
    }

    /// Keys that are not at rest.
    pub fn keys(&self, now: u64) -> usize {
        self.table.keys(now, rests_at)
    }

    /// What they take, in bytes.
    pub fn bytes(&self) -> usize {
        self.table.bytes()
    }
}

/// A full bucket is as good as none.
fn rests_at(full_at: &u64) -> u64 {
    *full_at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::rate::KEYS;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    fn number(key: &u32) -> Key<'static> {
        Key::V4(key.to_be_bytes())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        /// Between any two requests that passed, no more passed than the rate and one burst allow.
        #[test]
        fn never_more_than_rate_and_burst_in_any_window(
            token in 1..50 * MS, burst in 1u32..20,
            gaps in prop::collection::vec(prop_oneof![Just(0), 0..10 * MS, 0..400 * MS], 1..150),
        ) {
            let buckets = Buckets::new(Terms { token, burst });
            let (mut now, mut passed) = (0, Vec::new());
            for gap in gaps {
                now += gap;
                match buckets.take(Key::All, now) {
                    Verdict::Pass => passed.push(now),
                    Verdict::Refuse(wait) => {
                        prop_assert!(!passed.is_empty(), "a full bucket refuses");
                        let wait = wait.as_nanos() as u64;
                        prop_assert!((1..=token).contains(&wait), "{wait} of {token}");
                        // It says when: not a nanosecond before.
                        let same = Buckets::new(Terms { token, burst });
                        passed.iter().for_each(|at| assert_eq!(same.take(Key::All, *at), Verdict::Pass));
                        let early = same.take(Key::All, now + wait - 1);
                        prop_assert!(early != Verdict::Pass);
                        prop_assert_eq!(same.take(Key::All, now + wait), Verdict::Pass);
                    }
                }
            }
            for (i, from) in passed.iter().enumerate() {
                for (n, to) in passed[i..].iter().enumerate() {
                    let allowed = (to - from) / token + u64::from(burst);
                    prop_assert!((n as u64) < allowed, "{} passed in {}, {allowed} allowed", n + 1, to - from);
                }
            }
        }
    }

    #[test]
    fn a_steady_client_gets_all_of_its_rate() {
        let buckets = Buckets::new(Terms { token: 10 * MS, burst: 5 });
        let passed = (0..10_000u64).filter(|ms| buckets.take(Key::All, ms * MS) == Verdict::Pass).count();
        assert_eq!(passed, 1004);
    }

    #[test]
    fn a_million_keys_fit_and_idle_ones_go() {
        let buckets = Buckets::new(Terms { token: 1000 * MS, burst: 1 });
        for key in 0..1_000_000u32 {
            assert_eq!(buckets.take(number(&key), 0), Verdict::Pass);
        }
        let (keys, bytes) = (buckets.keys(0), buckets.bytes());
        println!("{keys} keys, {} bytes each, {} MB", bytes / keys, bytes / 1_000_000);
        assert!(keys >= 990_000, "{keys}");
        assert!(bytes <= 64_000_000, "{bytes}");
        // All but one rest after a second; the others go by and by as that one asks.
        assert_eq!(buckets.take(number(&7), 999 * MS), Verdict::Refuse(Duration::from_millis(1)));
        assert_eq!(buckets.keys(11_000 * MS), 0);
        assert!(buckets.bytes() < 1_000_000, "{}", buckets.bytes());
    }

    #[test]
    fn a_full_table_forgets_those_nearest_to_rest() {
        let buckets = Buckets::new(Terms { token: 1000 * MS, burst: 3 });
        // Far from rest: it has used all it may.
        let greedy = || buckets.take(Key::All, 0);
        assert_eq!([greedy(), greedy(), greedy()], [Verdict::Pass; 3]);
        for key in 0..2 * KEYS as u32 {
            assert_eq!(buckets.take(number(&key), 0), Verdict::Pass, "never refused for want of space");
        }
        let keys = buckets.keys(0);
        assert!((KEYS / 2..=KEYS).contains(&keys), "{keys}");
        assert!(matches!(greedy(), Verdict::Refuse(_)));
    }

    #[test]
    fn clients_that_come_once_leave_nothing_behind() {
        let buckets = Buckets::new(Terms { token: MS, burst: 10 });
        for key in 0..500_000u32 {
            buckets.take(number(&key), u64::from(key) * 10_000);
        }
        // 100 of them are not at rest at a time.
        assert!(buckets.bytes() < 3_000_000, "{}", buckets.bytes());
    }
}
