//! Time as a plain number, so that it fits into an atomic and into pure code.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Time since the process first asked; never zero, so that zero can mean "never".
pub fn now() -> Duration {
    of(Instant::now())
}

/// The same for a moment. What was before the first question is as late as the question.
pub fn of(at: Instant) -> Duration {
    at.saturating_duration_since(*BEGINNING) + Duration::from_nanos(1)
}

/// For an atomic.
pub fn nanos(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}
