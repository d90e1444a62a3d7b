//! How often a server usually answers, and whether it has fallen silent: what tells a server that hangs from one where a
//! single request takes long.
//!
//! One slow request means nothing while the server answers others meanwhile. And where it answers seldom, a pause means
//! nothing either. So it is silent only when nothing at all has come since an attempt was sent, for longer than answers of
//! the route take, *and* for several times its own usual interval. Then the other attempts that wait on it are silent as
//! well, even those sent before its last answer. Any answer ends it.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Where answers come at random, a pause of five mean intervals happens by chance seven times in a thousand.
const INTERVALS: u32 = 5;
/// Weight of the last second in the usual rate.
const LATEST: f64 = 0.3;

/// Milliseconds count from here.
static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

/// How often a server answers.
#[derive(Debug, Default)]
pub struct Rhythm {
    /// When a response header last came; 0: never.
    last: AtomicU64,
    /// When the attempt was sent whose wait showed that the server is silent; 0: none.
    silent: AtomicU64,
    /// Answers in a thousand seconds.
    rate: AtomicU32,
    /// Answers until the present second began.
    counted: AtomicU64,
}

impl Rhythm {
    /// A response header has come.
    pub fn answered(&self, at: Instant) {
        let at = millis(at);
        // Most of the time somebody has said so in this millisecond: the line stays with all threads then.
        if self.last.load(Ordering::Relaxed) != at {
            self.last.store(at, Ordering::Relaxed);
        }
    }

    /// Whether a response header has come since then.
    pub fn answered_since(&self, sent: Instant) -> bool {
        self.last.load(Ordering::Relaxed) > millis(sent)
    }

    /// Whether an attempt that was sent then, and for which it is late by the measure of its route, waits on a server that is
    /// silent at `now`.
    pub fn is_silent(&self, sent: Instant, now: Instant) -> bool {
        let rate = self.rate.load(Ordering::Relaxed);
        let shown = !self.answered_since(sent)
            && rate > 0
            && now.saturating_duration_since(sent) > Duration::from_secs(1000) / rate * INTERVALS;
        if shown {
            self.silent.store(millis(sent), Ordering::Relaxed);
        }
        let silent = self.silent.load(Ordering::Relaxed);
        shown || (silent > 0 && self.last.load(Ordering::Relaxed) <= silent)
    }

    /// To be called each second with the number of answers until now. `busy`: the server has requests to answer.
    pub fn refresh(&self, answers: u64, busy: bool) {
        let new = answers.saturating_sub(self.counted.swap(answers, Ordering::Relaxed));
        if new == 0 && busy {
            // A server that is asked and does not answer says nothing about how often it usually does.
            return;
        }
        let before = f64::from(self.rate.load(Ordering::Relaxed));
        let now = new as f64 * 1000.0;
        let rate = if before == 0.0 { now } else { before + LATEST * (now - before) };
        self.rate.store(rate as u32, Ordering::Relaxed);
    }
}

fn millis(at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(*BEGINNING).as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A server that answers a hundred times a second: five intervals are 50 ms.
    fn rhythm() -> (Rhythm, Instant) {
        let rhythm = Rhythm::default();
        let start = *BEGINNING + Duration::from_secs(1);
        rhythm.refresh(100, true);
        rhythm.answered(start);
        (rhythm, start)
    }

    #[test]
    fn silent_is_who_answers_nothing_for_longer_than_usual() {
        let (rhythm, start) = rhythm();
        let sent = start + MS;
        assert!(!rhythm.is_silent(sent, sent + 49 * MS));
        assert!(rhythm.is_silent(sent, sent + 60 * MS));
    }

    #[test]
    fn who_answers_others_is_not_silent() {
        let (rhythm, start) = rhythm();
        let sent = start + MS;
        rhythm.answered(sent + 20 * MS);
        assert!(!rhythm.is_silent(sent, sent + 3000 * MS), "slow, not hung; or nobody else asks any more");
    }

    #[test]
    fn one_silent_attempt_speaks_for_those_before_the_last_answer_until_the_next_answer() {
        let (rhythm, start) = rhythm();
        let (before, after) = (start - 10 * MS, start + 10 * MS);
        assert!(!rhythm.is_silent(before, start + 90 * MS));
        assert!(rhythm.is_silent(after, start + 90 * MS));
        assert!(rhythm.is_silent(before, start + 90 * MS));
        rhythm.answered(start + 100 * MS);
        assert!(!rhythm.is_silent(before, start + 110 * MS));
        assert!(!rhythm.is_silent(after, start + 110 * MS));
    }

    #[test]
    fn who_never_answered_or_does_so_seldom_is_given_time() {
        let fresh = Rhythm::default();
        let start = *BEGINNING + Duration::from_secs(1);
        assert!(!fresh.is_silent(start, start + Duration::from_secs(100)));
        fresh.refresh(1, true);
        assert!(!fresh.is_silent(start, start + Duration::from_secs(4)));
        assert!(fresh.is_silent(start, start + Duration::from_secs(6)));
    }

    #[test]
    fn the_usual_rate_follows_but_not_into_a_hang() {
        let (rhythm, start) = rhythm();
        for _ in 0..60 {
            rhythm.refresh(100, true);
        }
        assert!(rhythm.is_silent(start + MS, start + 60 * MS), "still five intervals of 10 ms");
        for second in 1..60 {
            rhythm.refresh(100 + second, true);
        }
        rhythm.answered(start + 65 * MS);
        assert!(!rhythm.is_silent(start + 70 * MS, start + Duration::from_secs(3)), "now it answers once a second");
    }
}
