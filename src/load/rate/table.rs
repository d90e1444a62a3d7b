//! A map from keys to small values, in parts that are locked one at a time, that forgets what is at rest.
//!
//! Keys are kept as a hash of 64 bits with a secret of this process: nobody can aim at another's bucket, and two of a
//! million keys share one with a chance of 1 to 37 million.
//!
//! A part is swept when it has doubled since the last time, and at least every 10 s while it is used: a pass
//! over at most [`super::KEYS`] ÷ 64 keys, some 50 µs. A part that is full forgets the eighth of its keys that is
//! nearest to rest: their clients get a full bucket a little early. Nobody is refused for want of space.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{KEYS, Key};

/// Locked one at a time.
const PARTS: usize = 64;
/// Fewer keys are not worth a sweep.
const FEW: usize = 256;
/// In nanoseconds.
const SWEEP_EVERY: u64 = 10_000_000_000;

/// The map; `Q` is whatever else belongs to a part.
pub struct Table<V, Q> {
    parts: Box<[Mutex<Part<V, Q>>]>,
    hasher: RandomState,
}

/// What one lock guards.
pub struct Part<V, Q> {
    /// By hash.
    pub map: HashMap<u64, V, BuildHasherDefault<AsIs>>,
    /// Whatever else.
    pub queue: Q,
    sweep_at: usize,
    swept: u64,
}

/// The keys are hashes already.
#[derive(Default)]
pub struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

impl<V, Q: Default> Default for Table<V, Q> {
    fn default() -> Self {
        let part = || Part { map: HashMap::default(), queue: Q::default(), sweep_at: FEW, swept: 0 };
        Table { parts: (0..PARTS).map(|_| Mutex::new(part())).collect(), hasher: RandomState::new() }
    }
}

impl<V, Q> Table<V, Q> {
    /// A key's hash.
    pub fn hash(&self, key: Key<'_>) -> u64 {
        self.hasher.hash_one(key)
    }

    /// The part that holds a key. By bits that the map inside does not use to find its place.
    pub fn lock(&self, hash: u64) -> MutexGuard<'_, Part<V, Q>> {
        self.part((hash >> 40) as usize)
    }

    /// A part by number, counted around.
    pub fn part(&self, number: usize) -> MutexGuard<'_, Part<V, Q>> {
        self.parts[number % self.parts.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Keys in all; sweeps what is due, so that a limit that nobody uses any more gives its memory back.
    pub fn keys(&self, now: u64, rests_at: impl Fn(&V) -> u64) -> usize {
        (0..self.parts())
            .map(|number| {
                let mut part = self.part(number);
                part.sweep_if_due(now, &rests_at);
                part.map.len()
            })
            .sum()
    }

    /// What the tables take, in bytes: a byte of control and a pair for each place.
    pub fn bytes(&self) -> usize {
        let place = size_of::<(u64, V)>() + 1;
        (0..self.parts())
            .map(|number| (self.part(number).map.capacity() * 8).div_ceil(7).next_power_of_two() * place)
            .sum()
    }
}

impl<V, Q> Part<V, Q> {
    /// Makes room for one more key. `rests_at`: from when a value says no more than none would. True: some were forgotten.
    pub fn make_room(&mut self, now: u64, rests_at: impl Fn(&V) -> u64) -> bool {
        if self.map.len() < self.sweep_at {
            return false;
        }
        self.sweep(now, &rests_at);
        let most = KEYS / PARTS;
        if self.map.len() >= most {
            let mut rests: Vec<u64> = self.map.values().map(&rests_at).collect();
            let (_, until, _) = rests.select_nth_unstable(most / 8);
            let until = *until;
            // Those that tie with the last one may stay: enough go in any case.
            let mut left = most / 8;
            self.map.retain(|_, value| {
                let goes = left > 0 && rests_at(value) <= until;
                left -= usize::from(goes);
                !goes
            });
        }
        self.sweep_at = (2 * self.map.len()).clamp(FEW, most);
        true
    }

    /// Forgets what is at rest, where that was not done for a while. True: it was due.
    pub fn sweep_if_due(&mut self, now: u64, rests_at: impl Fn(&V) -> u64) -> bool {
        let due = now.saturating_sub(self.swept) >= SWEEP_EVERY && !self.map.is_empty();
        if due {
            self.sweep(now, &rests_at);
        }
        due
    }

    fn sweep(&mut self, now: u64, rests_at: &impl Fn(&V) -> u64) {
        self.swept = now;
        self.map.retain(|_, value| rests_at(value) > now);
        self.sweep_at = (2 * self.map.len()).clamp(FEW, KEYS / PARTS);
        if self.map.capacity() > 4 * self.map.len().max(FEW) {
            self.map.shrink_to(2 * self.map.len());
        }
    }
}
