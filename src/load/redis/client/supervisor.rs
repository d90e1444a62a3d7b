//! Connects, notices the end, waits, connects again: for ever. One line in the log when Redis is lost, one when it is back.

use std::sync::Arc;
use std::time::Duration;

use log::{info, warn};
use tokio::time::Instant;

use super::Shared;
use super::connection::{self, Away};
use super::settings::Settings;

/// The pause before the first attempt after a loss, at most; each further failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause: a Redis that is back is to be found well within a second.
const LONGEST_PAUSE: Duration = Duration::from_millis(700);
/// The longest pause where Redis refuses us: nothing changes before an operator acts.
const LONGEST_REFUSED: Duration = Duration::from_secs(2);
/// A connection that lasted this long was a good one: the next loss is a new one, not the same again.
const GOOD: Duration = Duration::from_secs(2);

/// Runs until it is aborted.
pub(super) async fn run(shared: Arc<Shared>, settings: Settings) {
    let mut outage: Option<Outage> = None;
    let mut started = Some(Instant::now());
    let mut failures = 0;
    loop {
        let away = match connection::open(&settings).await {
            Ok((live, mut held)) => {
                let since = Instant::now();
                shared.up(live);
                let (servers, version) = (settings.servers.as_str(), held.version.as_str());
                match outage.take() {
                    Some(outage) => {
                        let away_ms = u64::try_from(outage.since.elapsed().as_millis()).unwrap_or(u64::MAX);
                        info!(servers = servers, version = version, away_ms = away_ms; "redis_back");
                    }
                    None => info!(servers = servers, version = version; "redis_up"),
                }
                started = None;
                let away = held.ended().await;
                shared.down();
                if since.elapsed() >= GOOD {
                    failures = 0;
                }
                away
            }
            Err(away) => away,
        };
        let now = started.unwrap_or_else(Instant::now);
        outage.get_or_insert_with(|| Outage::new(now)).log(&settings.servers, &away);
        tokio::time::sleep(pause(failures, away.refused, fastrand::f64())).await;
        failures += 1;
    }
}

/// How long to wait after so many failures in a row; half of it by chance, so that the nodes of a fleet do not come at once.
fn pause(failures: u32, refused: bool, chance: f64) -> Duration {
    let longest = if refused { LONGEST_REFUSED } else { LONGEST_PAUSE };
    let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures)).min(longest);
    pause.mul_f64(0.5 + chance / 2.0)
}

/// A time without Redis.
struct Outage {
    since: Instant,
    logged: Vec<Away>,
}

impl Outage {
    fn new(since: Instant) -> Self {
        Self { since, logged: Vec::new() }
    }

    /// Logs the first reason, and later only what an operator must act on: a retry that fails is no news, a wrong password is.
    fn log(&mut self, servers: &str, away: &Away) {
        const MOST: usize = 4;
        let first = self.logged.is_empty();
        if first || (away.refused && self.logged.len() < MOST && !self.logged.contains(away)) {
            let event = if first { "redis_lost" } else { "redis_refuses" };
            warn!(servers = servers, error = away.reason.as_str(); "{event}");
            self.logged.push(away.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let pauses: Vec<_> = (0..8).map(|failures| pause(failures, false, 1.0).as_millis()).collect();
        assert_eq!(pauses, [20, 40, 80, 160, 320, 640, 700, 700]);
        assert_eq!(pause(u32::MAX, true, 0.0), Duration::from_secs(1));
        assert_eq!(pause(u32::MAX, true, 1.0), LONGEST_REFUSED);
    }

    #[test]
    fn an_outage_is_logged_once_and_each_refusal_once() {
        let mut outage = Outage::new(Instant::now());
        let away = |reason: &str, refused| Away { reason: reason.to_owned(), refused };
        for (reason, refused, logged) in [
            ("Connection refused", false, 1),
            ("no answer", false, 1),
            ("WRONGPASS", true, 2),
            ("Connection refused", false, 2),
            ("WRONGPASS", true, 2),
        ] {
            outage.log("", &away(reason, refused));
            assert_eq!(outage.logged.len(), logged, "{reason}");
        }
    }
}
