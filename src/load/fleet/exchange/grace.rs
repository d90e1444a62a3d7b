//! When a node may call another one dead.
//!
//! While Redis is away or hangs, leases run out though their nodes live. Whoever is back first would take the counts of
//! those that need a moment longer. So nobody reaps who has not had answers for a while himself.

use std::time::{Duration, Instant};

/// Until all have connected again and renewed their leases: the longest pause between attempts to connect, an attempt,
/// and a beat.
const GRACE: Duration = Duration::from_millis(2500);
/// Without an answer for this long, the lease of others may have run out for the same reason. Answers come with each
/// beat at least.
const SILENCE: Duration = Duration::from_millis(1700);

/// Since when this node has had answers without a gap.
#[derive(Debug, Default)]
pub(super) struct Grace {
    since: Option<Instant>,
    last: Option<Instant>,
}

impl Grace {
    /// There is another connection, or none.
    pub(super) fn cut(&mut self) {
        *self = Grace::default();
    }

    /// A call was answered.
    pub(super) fn answered(&mut self, now: Instant) {
        let gap = self.last.is_none_or(|last| now.saturating_duration_since(last) > SILENCE);
        if gap {
            self.since = Some(now);
        }
        self.last = Some(now);
    }

    /// Whether a lease that has run out means that its node is dead.
    pub(super) fn over(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now.saturating_duration_since(since) >= GRACE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn beats(grace: &mut Grace, from: Instant, ms: u32) -> Instant {
        for at in (0..=ms).step_by(800) {
            grace.answered(from + at * MS);
        }
        from + ms * MS
    }

    #[test]
    fn nobody_is_dead_just_after_a_gap() {
        let (mut grace, start) = (Grace::default(), Instant::now());
        assert!(!grace.over(start), "before the first answer");
        let now = beats(&mut grace, start, 2400);
        assert!(!grace.over(now) && grace.over(now + 100 * MS));
        let now = now + 4000 * MS;
        grace.answered(now);
        assert!(!grace.over(now), "nothing was answered for 4 s");
        let now = beats(&mut grace, now, 2500);
        assert!(grace.over(now));
        grace.cut();
        grace.answered(now);
        assert!(!grace.over(now + 2400 * MS), "another connection");
        assert!(grace.over(now + 2500 * MS));
    }
}
