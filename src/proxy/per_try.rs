//! When the wait of one attempt for its response header is over: by the route's deadline, by a fixed time per attempt, or
//! because its server has fallen silent and another can have the request.
//!
//! The last ("adaptive") ends only attempts at a server that hangs, never those that are slow:
//!
//! - more than three times as long has passed as 99 of 100 answers of the route take ([`Traffic::patience`]), counted from
//!   when the whole request was sent;
//! - the server is silent ([`crate::upstream::rhythm`]);
//! - the request may be sent again: its method and body allow it, it is not the last attempt, another server is left,
//!   there is time, and the budget has room. The permit is taken here, so that no attempt ends without a next one.
//!
//! Otherwise the attempt goes on and is looked at again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::PerTry;
use crate::load::Permit;
use crate::proxy::deadline::TICK;
use crate::snapshot::Target;
use crate::upstream::Server;
use crate::upstream::pool::Tried;

/// An attempt sooner than this is never looked at.
const EARLIEST: Duration = Duration::from_millis(50);
/// While nobody knows how long answers take.
const UNKNOWN: Duration = Duration::from_millis(500);

/// What the wait of one attempt depends on.
#[derive(Debug)]
pub struct Wait {
    /// Until when the response header must be there, all attempts included; None: no limit.
    pub until: Option<Instant>,
    /// When the whole request was sent; None: the client still sends it.
    pub sent: Option<Instant>,
    /// The request may be sent once more, as far as its method, its body and the number of attempts go.
    pub repeatable: bool,
    /// As configured.
    pub per_try: PerTry,
    /// It is alike enough to others for their times to say something about it: no upgrade, no stream.
    pub comparable: bool,
    /// Who is asked.
    pub server: Arc<Server>,
    /// Which pool and route.
    pub target: Arc<Target>,
    /// Servers tried before.
    pub tried: Tried,
    /// The server was told of its silence.
    pub told: bool,
    look: Option<Instant>,
}

/// Why a wait is over.
#[derive(Debug)]
pub enum Over {
    /// The route's `response`.
    Response,
    /// The route's `per_try`; with the permit for the next attempt, where it was taken already.
    PerTry(Option<Permit>),
}

impl Wait {
    /// A wait that begins.
    pub fn new(server: Arc<Server>, target: Arc<Target>) -> Self {
        Wait {
            until: None,
            sent: None,
            repeatable: false,
            per_try: PerTry::None,
            comparable: false,
            server,
            target,
            tried: Tried::new(),
            told: false,
            look: None,
        }
    }

    /// Whether it is over at `now`. Cheap while the attempt is young: no more than comparing times.
    pub fn is_over(&mut self, now: Instant) -> Option<Over> {
        if self.until.is_some_and(|until| until <= now) {
            return Some(Over::Response);
        }
        let sent = self.sent?;
        if let PerTry::Limit(limit) = self.per_try
            && now >= sent + limit
        {
            return Some(Over::PerTry(None));
        }
        if !self.comparable || now < self.look.unwrap_or(sent + EARLIEST) {
            return None;
        }
        let Some(patience) = self.target.traffic.patience() else {
            self.look = Some(now + UNKNOWN);
            return None;
        };
        self.look = Some((sent + patience).max(now + TICK / 2));
        if now < sent + patience || !self.server.rhythm.is_silent(sent, now) {
            return None;
        }
        if !self.told {
            self.told = true;
            self.server.observe_silence(sent);
        }
        let in_time = self.until.is_none_or(|until| now + patience < until);
        if self.per_try != PerTry::Adaptive || !self.repeatable || !in_time || !self.is_another_left() {
            return None;
        }
        self.target.traffic.retry().map(|permit| Over::PerTry(Some(permit)))
    }

    fn is_another_left(&self) -> bool {
        let mut tried = self.tried.clone();
        tried.extend(self.target.pool.index_of(&self.server));
        self.target.pool.has_other(&tried)
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::config::Config;
    use crate::server;

    /// The wait of an attempt at the first of two servers.
    pub fn wait() -> Wait {
        let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let servers = [("127.0.0.1".into(), 9), ("127.0.0.1".into(), 10)];
        let node = server::prepare(Config::quick(listen, &servers, None, None).unwrap()).unwrap().node().clone();
        let snapshot = node.snapshot.load();
        for server in &snapshot.pools[0].servers {
            server.observe_check(None, Ok(()), 1, 1);
        }
        let target = snapshot.all_routes[0].draw().unwrap().clone();
        Wait::new(target.pool.servers[0].clone(), target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// An attempt at a server that usually answers a thousand times a second, on a route where answers take 20 ms. Its
    /// patience is some 60 ms.
    fn wait(per_try: PerTry) -> (Wait, Instant) {
        let mut wait = testing::wait();
        (0..1000).for_each(|_| wait.target.traffic.record(20 * MS));
        wait.target.traffic.refresh();
        wait.server.rhythm.refresh(1000, true);
        let sent = Instant::now() + Duration::from_secs(1);
        (wait.sent, wait.repeatable, wait.comparable, wait.per_try) = (Some(sent), true, true, per_try);
        (wait, sent)
    }

    fn ends_with_a_permit(wait: &mut Wait, now: Instant) -> bool {
        matches!(wait.is_over(now), Some(Over::PerTry(Some(_))))
    }

    #[test]
    fn a_silent_server_loses_the_request_once_it_is_late() {
        let (mut wait, sent) = wait(PerTry::Adaptive);
        assert!(wait.is_over(sent + 51 * MS).is_none() && !wait.told);
        assert!(ends_with_a_permit(&mut wait, sent + 80 * MS));
        assert!(wait.told);
    }

    #[test]
    fn a_server_that_answers_others_keeps_it() {
        let (mut wait, sent) = wait(PerTry::Adaptive);
        wait.server.answered(sent + 30 * MS);
        assert!(wait.is_over(sent + 3000 * MS).is_none());
        assert!(!wait.told);
    }

    #[test]
    fn what_may_not_be_sent_again_waits_but_the_server_is_told() {
        let cases: [(&str, fn(&mut Wait)); 6] = [
            ("method, body or last attempt", |wait| wait.repeatable = false),
            ("by configuration", |wait| wait.per_try = PerTry::None),
            ("a longer fixed limit", |wait| wait.per_try = PerTry::Limit(Duration::from_secs(2))),
            ("the other was tried", |wait| wait.tried.push(1)),
            ("the other is down", |wait| {
                wait.target.pool.servers[1].observe_check(None, Err("off".into()), 1, 1);
            }),
            ("no time for another", |wait| wait.until = wait.sent.map(|sent| sent + 100 * MS)),
        ];
        for (what, change) in cases {
            let (mut wait, sent) = wait(PerTry::Adaptive);
            change(&mut wait);
            assert!(wait.is_over(sent + 80 * MS).is_none(), "{what}");
            assert!(wait.told, "{what}");
        }
    }

    #[test]
    fn without_budget_it_waits_for_room() {
        let (mut wait, sent) = wait(PerTry::Adaptive);
        let mut permits: Vec<_> = std::iter::from_fn(|| wait.target.traffic.retry()).collect();
        assert!(wait.is_over(sent + 80 * MS).is_none());
        permits.clear();
        assert!(ends_with_a_permit(&mut wait, sent + 100 * MS));
    }

    #[test]
    fn the_clients_own_upload_does_not_count() {
        let (mut wait, sent) = wait(PerTry::Limit(100 * MS));
        wait.sent = None;
        assert!(wait.is_over(sent + 3000 * MS).is_none());
    }

    #[test]
    fn upgrades_and_streams_are_no_measure() {
        let (mut wait, sent) = wait(PerTry::Adaptive);
        wait.comparable = false;
        assert!(wait.is_over(sent + 3000 * MS).is_none() && !wait.told);
    }

    #[test]
    fn a_fixed_limit_ends_any_attempt() {
        let (mut wait, sent) = wait(PerTry::Limit(200 * MS));
        (wait.repeatable, wait.comparable) = (false, false);
        assert!(wait.is_over(sent + 199 * MS).is_none());
        assert!(matches!(wait.is_over(sent + 200 * MS), Some(Over::PerTry(None))));
    }

    #[test]
    fn nobody_knows_what_is_late_until_answers_were_seen() {
        let mut wait = testing::wait();
        wait.server.rhythm.refresh(1000, true);
        let sent = Instant::now();
        (wait.sent, wait.repeatable, wait.comparable, wait.per_try) = (Some(sent), true, true, PerTry::Adaptive);
        assert!(wait.is_over(sent + 3000 * MS).is_none());
    }
}
