//! Connects, notices the end, waits, connects again: for ever.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use super::connection;
use super::settings::Settings;

/// The pause before the first attempt after a loss, at most; each further failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause: a Redis that is back, or lets us in again, is to be found well within a second.
const LONGEST_PAUSE: Duration = Duration::from_millis(700);
/// A connection that lasted this long was a good one: the next loss is a new one, not the same again.
const GOOD: Duration = Duration::from_secs(2);
/// How long the log waits for what the first attempt after a loss has to say.
const TELL_WITHIN: Duration = Duration::from_millis(150);

/// Runs until it is aborted.
pub(super) async fn run(shared: Arc<Shared>, settings: Settings) {
    let standing = &shared.standing;
    let started = std::time::Instant::now();
    let mut failures = 0;
    let mut wait = Duration::ZERO;
    let mut lost: Option<Instant> = None;
    loop {
        let first = wait;
        let attempt = async {
            tokio::time::sleep(first).await;
            connection::open(&settings).await
        };
        tokio::pin!(attempt);
        let outcome = match lost.take() {
            Some(lost) => match tokio::time::timeout_at(lost + TELL_WITHIN, &mut attempt).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    standing.overdue();
                    attempt.await
                }
            },
            None => attempt.await,
        };
        match outcome {
            Ok((live, mut held)) => {
                let since = Instant::now();
                // First the log: whoever waits for the connection may be the next to write there.
                standing.connected(&held.version);
                shared.up(live);
                let reason = held.ended().await;
                shared.down();
                standing.lost(&reason);
                lost = Some(Instant::now());
                if since.elapsed() >= GOOD {
                    failures = 0;
                }
            }
            Err(reason) => standing.failed(started, &reason),
        }
        wait = pause(failures, fastrand::f64());
        failures += 1;
    }
}

/// How long to wait after so many failures in a row; half of it by chance, so that the nodes of a fleet do not come at once.
fn pause(failures: u32, chance: f64) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures)).min(LONGEST_PAUSE);
    pause.mul_f64(0.5 + chance / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let pauses: Vec<_> = (0..8).map(|failures| pause(failures, 1.0).as_millis()).collect();
        assert_eq!(pauses, [20, 40, 80, 160, 320, 640, 700, 700]);
        assert_eq!(pause(u32::MAX, 0.0), LONGEST_PAUSE / 2);
        assert_eq!(pause(u32::MAX, 1.0), LONGEST_PAUSE);
    }
}
