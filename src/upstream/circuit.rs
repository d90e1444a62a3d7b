//! The circuit of a pool: while no server may be chosen, requests are refused at once instead of each finding out by
//! itself; and when servers come back they are not met by everybody at the same moment.
//!
//! ```text
//!            nobody may be chosen                    a server may be chosen again
//!  Closed ─────────────────────────▶  Open  ───────────────────────────────────────▶  HalfOpen(1)
//!     ▲                                ▲                                              │    │
//!     │                                └──────────── nobody may be chosen ────────────┘    │
//!     └───────── enough answers in a row; each lets one more request in flight ────────────┘
//! ```
//!
//! Each answer raises the limit of the half-open circuit by one, so that it doubles with each round: 1, 2, 4 … as in
//! TCP's slow start. A failure sets it back to 1.
//!
//! A request is on trial until its response header is there. One that takes long, since its client is still sending it,
//! must not keep everybody else out: when nobody was let in for `PATIENCE`, one more is.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::upstream::clock;

/// A half-open circuit that lets so many in at once is closed.
const CLOSES_AT: u32 = 64;
/// How long those who are on trial may keep others out.
const PATIENCE: Duration = Duration::from_secs(1);
const OPEN: u32 = 0;
const CLOSED: u32 = u32::MAX;

/// What a circuit does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Passes all.
    Closed,
    /// Passes some.
    HalfOpen,
    /// Refuses all.
    Open,
}

impl State {
    /// The word that the admin API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Closed => "closed",
            State::HalfOpen => "half-open",
            State::Open => "open",
        }
    }
}

/// The circuit of one pool.
#[derive(Debug)]
pub struct Circuit {
    pool: String,
    /// Requests that may be on trial at once: [`OPEN`], [`CLOSED`] or a number between.
    limit: AtomicU32,
    /// Requests on trial.
    trials: Arc<AtomicU32>,
    /// When the last was let in; nanoseconds.
    admitted: AtomicU64,
    opened: Mutex<Option<Instant>>,
}

/// A request that a half-open circuit has let in. Dropped when its answer begins, or it ends without.
#[derive(Debug)]
pub struct Trial(Arc<AtomicU32>);

impl Drop for Trial {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Circuit {
    /// A closed circuit of the pool.
    pub fn new(pool: &str) -> Self {
        Circuit {
            pool: pool.to_owned(),
            limit: AtomicU32::new(CLOSED),
            trials: Arc::default(),
            admitted: AtomicU64::new(0),
            opened: Mutex::default(),
        }
    }

    /// What it does now.
    pub fn state(&self) -> State {
        match self.limit.load(Ordering::Relaxed) {
            OPEN => State::Open,
            CLOSED => State::Closed,
            _ => State::HalfOpen,
        }
    }

    /// Nobody may be chosen.
    pub fn open(&self) {
        if self.limit.swap(OPEN, Ordering::Relaxed) == OPEN {
            return;
        }
        self.opened().get_or_insert_with(Instant::now);
        log::warn!(pool = self.pool; "circuit_opened");
    }

    /// Somebody may be chosen: whether this request may pass. On trial, if the circuit was not closed.
    ///
    /// # Errors
    /// Others are on trial already, and what becomes of them is not known yet.
    pub fn admit(&self) -> Result<Option<Trial>, Refused> {
        self.admit_at(clock::now)
    }

    fn admit_at(&self, now: impl FnOnce() -> Duration) -> Result<Option<Trial>, Refused> {
        if self.limit.load(Ordering::Relaxed) == CLOSED {
            return Ok(None);
        }
        if self.limit.compare_exchange(OPEN, 1, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            log::info!(pool = self.pool; "circuit_half_open");
        }
        let limit = self.limit.load(Ordering::Relaxed);
        let more = |trials: u32| (trials < limit).then_some(trials + 1);
        let now = clock::nanos(now());
        let last = self.admitted.load(Ordering::Relaxed);
        if self.trials.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok() {
            self.admitted.store(now, Ordering::Relaxed);
        } else {
            let waited = now.saturating_sub(last) >= clock::nanos(PATIENCE);
            let first = || self.admitted.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
            if !waited || !first() {
                return Err(Refused);
            }
            self.trials.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Some(Trial(self.trials.clone())))
    }

    /// A request on trial got an answer, or failed by a server's fault.
    pub fn learned(&self, answered: bool) {
        let now = self.limit.load(Ordering::Relaxed);
        if now == OPEN || now == CLOSED {
            return;
        }
        let next = match answered {
            true if now + 1 >= CLOSES_AT => CLOSED,
            true => now + 1,
            false => 1,
        };
        let changed = self.limit.compare_exchange(now, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if changed && next == CLOSED {
            let open_ms = self.opened().take().map_or(0, |since| since.elapsed().as_millis());
            log::info!(pool = self.pool, open_ms = u64::try_from(open_ms).unwrap_or(u64::MAX); "circuit_closed");
        }
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The circuit lets nobody else in for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

#[cfg(test)]
mod tests {
    use super::*;

    /// How many are let in at this moment.
    fn let_in(circuit: &Circuit) -> Vec<Trial> {
        std::iter::from_fn(|| circuit.admit().ok().flatten()).collect()
    }

    #[test]
    fn a_closed_circuit_lets_everybody_in() {
        let circuit = Circuit::new("app");
        assert!((0..1000).all(|_| circuit.admit().is_ok_and(|trial| trial.is_none())));
        circuit.learned(false);
        assert_eq!(circuit.state(), State::Closed);
    }

    #[test]
    fn each_round_of_answers_lets_twice_as_many_in() {
        let circuit = Circuit::new("app");
        circuit.open();
        assert_eq!(circuit.state(), State::Open);
        let mut rounds = Vec::new();
        while circuit.state() != State::Closed {
            let round = let_in(&circuit);
            rounds.push(round.len());
            for trial in round {
                circuit.learned(true);
                drop(trial);
            }
        }
        assert_eq!(rounds, [1, 2, 4, 8, 16, 32]);
    }

    #[test]
    fn who_takes_long_on_trial_does_not_keep_all_others_out() {
        let circuit = Circuit::new("app");
        circuit.open();
        let admit = |ms: u64| circuit.admit_at(|| Duration::from_millis(ms)).ok().flatten();
        let _upload = admit(5_000).unwrap();
        assert!(admit(5_999).is_none());
        let second = admit(6_000).unwrap();
        assert!(admit(6_001).is_none(), "one a second");
        circuit.learned(true);
        drop(second);
        assert!(admit(6_002).is_some());
    }

    #[test]
    fn a_failure_begins_anew_and_nobody_left_opens_it_again() {
        let circuit = Circuit::new("app");
        circuit.open();
        let first = let_in(&circuit);
        circuit.learned(true);
        assert_eq!(let_in(&circuit).len(), 1);
        circuit.learned(false);
        assert!(let_in(&circuit).is_empty(), "the first is still on trial");
        drop(first);
        assert_eq!(let_in(&circuit).len(), 1);
        circuit.open();
        assert_eq!(circuit.state(), State::Open);
        assert_eq!(let_in(&circuit).len(), 1);
    }
}
