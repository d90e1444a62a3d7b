//! Whether Redis is of use, and the two lines of the log that tell: one when it is lost, one when it is back.
//!
//! It is of no use while there is no connection, and while it refuses the calls of a pool (out of memory, no
//! permission). One trouble may be both, in turn: a Redis that is out of memory is started anew with more.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use log::{debug, info, warn};
use tokio::sync::watch;

/// How Redis stands.
pub(super) struct Standing {
    /// For the log: where Redis is, without credentials.
    servers: String,
    state: Mutex<State>,
    /// Whether it is of use.
    well: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    link: bool,
    version: String,
    /// Pools whose calls it refuses.
    refused: BTreeSet<String>,
    trouble: Option<Trouble>,
}

/// A time without Redis.
struct Trouble {
    since: Instant,
    /// The cause, as long as it has not been logged.
    untold: Option<String>,
}

impl State {
    fn trouble(&mut self, since: Instant, cause: &str) -> &mut Trouble {
        self.trouble.get_or_insert_with(|| Trouble { since, untold: Some(cause.to_owned()) })
    }
}

impl Standing {
    pub(super) fn new(servers: String) -> Self {
        Standing { servers, state: Mutex::default(), well: watch::Sender::new(false) }
    }

    /// Whether Redis is of use, now and later.
    pub(super) fn well(&self) -> watch::Receiver<bool> {
        self.well.subscribe()
    }

    /// There is a connection, the first one or one more.
    pub(super) fn connected(&self, version: &str) {
        let mut state = self.state();
        if state.trouble.is_none() {
            info!(servers = self.servers.as_str(), version = version; "redis_up");
        }
        state.link = true;
        version.clone_into(&mut state.version);
        self.perhaps_well(&mut state);
    }

    /// The connection is lost. An attempt to make a new one may soon tell a better reason: the log waits for it.
    pub(super) fn lost(&self, reason: &str) {
        let mut state = self.state();
        state.link = false;
        state.trouble(Instant::now(), reason);
        self.well.send_replace(false);
    }

    /// An attempt to connect has failed; `since` is when the attempts began, where there was no connection yet.
    pub(super) fn failed(&self, since: Instant, reason: &str) {
        let mut state = self.state();
        debug!(servers = self.servers.as_str(), error = reason; "redis_away");
        let trouble = state.trouble(since, reason);
        if let Some(untold) = &mut trouble.untold {
            reason.clone_into(untold);
        }
        self.tell(trouble);
    }

    /// The log waits no longer.
    pub(super) fn overdue(&self) {
        if let Some(trouble) = &mut self.state().trouble {
            self.tell(trouble);
        }
    }

    /// It answers, but not as it should.
    pub(super) fn refused(&self, pool: &str, error: &str) {
        let mut state = self.state();
        if !state.refused.contains(pool) {
            state.refused.insert(pool.to_owned());
        }
        let trouble = state.trouble(Instant::now(), error);
        self.tell(trouble);
        self.well.send_replace(false);
    }

    /// What it refused to a pool it does again.
    pub(super) fn answers_again(&self, pool: &str) {
        let mut state = self.state();
        if state.refused.remove(pool) {
            self.perhaps_well(&mut state);
        }
    }

    /// Nobody wants to know any more.
    pub(super) fn closed(&self) {
        self.well.send_replace(false);
    }

    fn tell(&self, trouble: &mut Trouble) {
        if let Some(cause) = trouble.untold.take() {
            warn!(servers = self.servers.as_str(), error = cause.as_str(); "redis_lost");
        }
    }

    fn perhaps_well(&self, state: &mut State) {
        if !state.link || !state.refused.is_empty() {
            return;
        }
        if let Some(mut trouble) = state.trouble.take() {
            self.tell(&mut trouble);
            let away_ms = u64::try_from(trouble.since.elapsed().as_millis()).unwrap_or(u64::MAX);
            let version = state.version.as_str();
            info!(servers = self.servers.as_str(), version = version, away_ms = away_ms; "redis_back");
        }
        self.well.send_replace(true);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn troubles(standing: &Standing) -> (bool, bool, Option<String>) {
        let state = standing.state();
        let untold = state.trouble.as_ref().and_then(|trouble| trouble.untold.clone());
        (*standing.well.borrow(), state.trouble.is_some(), untold)
    }

    #[test]
    fn a_loss_is_told_with_the_reason_of_the_first_attempt() {
        let standing = Standing::new(String::new());
        standing.connected("7");
        assert_eq!(troubles(&standing), (true, false, None));
        standing.lost("closed");
        assert_eq!(troubles(&standing), (false, true, Some("closed".into())));
        standing.failed(Instant::now(), "WRONGPASS");
        assert_eq!(troubles(&standing), (false, true, None), "told");
        standing.failed(Instant::now(), "Connection refused");
        assert_eq!(troubles(&standing), (false, true, None), "and no more");
        standing.connected("7");
        assert_eq!(troubles(&standing), (true, false, None));
    }

    #[test]
    fn one_trouble_ends_when_all_of_it_has() {
        let standing = Standing::new(String::new());
        standing.connected("7");
        standing.refused("a", "OOM");
        standing.refused("b", "OOM");
        let since = standing.state().trouble.as_ref().unwrap().since;
        standing.lost("closed");
        standing.answers_again("a");
        standing.connected("7");
        assert_eq!(troubles(&standing), (false, true, None), "b is refused still");
        assert_eq!(standing.state().trouble.as_ref().unwrap().since, since);
        standing.answers_again("b");
        assert_eq!(troubles(&standing), (true, false, None));
        standing.answers_again("b");
        assert_eq!(troubles(&standing), (true, false, None));
    }
}
