//! When the wait of one attempt for its response header is over: by the route's deadline, by a fixed time per attempt, or
//! because its server has fallen silent and another can have the request.
//!
//! The last ("adaptive") ends only attempts at a server that hangs, never those that are slow:
//!
//! - more than three times as long has passed as 99 of 100 answers of the route take ([`crate::load::Traffic::patience`]), counted from
//!   when the whole request was sent;
//! - the server is silent ([`crate::upstream::rhythm`]), at two looks in a row: where this process itself could not run for a
//!   while, the answers are only waiting to be read;
//! - another server that the request can go to has answered meanwhile, or has nothing to answer: where all are silent, it is
//!   not this server's fault, and no other would do better;
//! - the request may be sent again: its method and body allow it, it is not the last attempt, there is time, and the budget
//!   has room. The permit is taken here, so that no attempt ends without a next one.
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

/// A look that comes so long after the last one shows that this process could not run.
const LATE: Duration = TICK.saturating_mul(4);

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
    /// At which looks in a row its server was silent: the first and the last.
    silent: Option<(Instant, Instant)>,
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
            silent: None,
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
        if now < sent + patience {
            return None;
        }
        let since = self.silent_since(sent, now)?;
        if !self.told {
            self.told = true;
            self.server.observe_silence(sent);
        }
        let in_time = self.until.is_none_or(|until| now + patience < until);
        if self.per_try != PerTry::Adaptive || !self.repeatable || !in_time || !self.another_works(since) {
            return None;
        }
        self.target.traffic.retry().map(|permit| Over::PerTry(Some(permit)))
    }

    /// Since when every look found the server silent; None: this is the first, or it is not silent.
    fn silent_since(&mut self, sent: Instant, now: Instant) -> Option<Instant> {
        let before = self.silent.take();
        if !self.server.rhythm.is_silent(sent, now) {
            return None;
        }
        let before = before.filter(|(_, last)| now.saturating_duration_since(*last) < LATE);
        self.silent = Some((before.map_or(now, |(first, _)| first), now));
        before.map(|(first, _)| first)
    }

    /// Whether a server that was not tried has answered since then, as far as it had to.
    fn another_works(&self, since: Instant) -> bool {
        let own = self.target.pool.index_of(&self.server);
        self.target.pool.servers.iter().zip(0u32..).any(|(server, index)| {
            server.is_eligible()
                && Some(index) != own
                && !self.tried.contains(&index)
                && (server.in_flight() == 0 || server.rhythm.answered_since(since))
        })
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
    use crate::load::Lease;

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

    /// Looks at it at every tick between two moments. The other server has nothing to answer.
    fn watch(wait: &mut Wait, from: Instant, to: Instant) -> Option<(Duration, Over)> {
        let mut now = from;
        while now <= to {
            if let Some(over) = wait.is_over(now) {
                return Some((now - from, over));
            }
            now += TICK;
        }
        None
    }

    #[test]
    fn a_silent_server_loses_the_request_once_it_is_late() {
        let (mut wait, sent) = wait(PerTry::Adaptive);
        assert!(watch(&mut wait, sent, sent + 60 * MS).is_none() && !wait.told);
        let (after, over) = watch(&mut wait, sent, sent + 1000 * MS).unwrap();
        assert!(matches!(over, Over::PerTry(Some(_))), "{over:?}");
        assert!(after >= 80 * MS && after <= 140 * MS, "{after:?}");
        assert!(wait.told);
    }

    #[test]
    fn a_server_that_answers_others_keeps_it() {
        let (mut wait, sent) = wait(PerTry::Adaptive);
        wait.server.answered(sent + 30 * MS);
        assert!(watch(&mut wait, sent, sent + 3000 * MS).is_none());
        assert!(!wait.told);
    }

    #[test]
    fn where_all_are_silent_nobody_loses_it_but_the_server_is_told() {
        let (mut wait, sent) = wait(PerTry::Adaptive);
        let asked = Lease::take(wait.target.pool.servers[1].clone());
        for tick in 0..100 {
            assert!(wait.is_over(sent + tick * TICK).is_none());
        }
        assert!(wait.told);
        drop(asked);
        let over = wait.is_over(sent + 2000 * MS);
        assert!(matches!(over, Some(Over::PerTry(Some(_)))), "the other has nothing to answer: {over:?}");
    }

    #[test]
    fn what_a_standstill_of_our_own_leaves_unread_is_no_silence() {
        let (mut wait, sent) = wait(PerTry::Adaptive);
        for gap in 1..20 {
            let now = sent + gap * 300 * MS;
            wait.target.pool.servers[1].answered(now);
            assert!(wait.is_over(now).is_none());
        }
        assert!(!wait.told);
    }

    #[test]
    fn what_may_not_be_sent_again_waits_but_the_server_is_told() {
        type Change = fn(&mut Wait);
        let cases: [(&str, Change); 6] = [
            ("method, body or last attempt", |wait| wait.repeatable = false),
            ("by configuration", |wait| wait.per_try = PerTry::None),
            ("a longer fixed limit", |wait| wait.per_try = PerTry::Limit(Duration::from_secs(2))),
            ("the other was tried", |wait| wait.tried.push(1)),
            ("the other is down", |wait| {
                wait.target.pool.servers[1].observe_check(None, Err("off".into()), 1, 1);
            }),
            ("no time for another", |wait| wait.until = wait.sent.map(|sent| sent + 350 * MS)),
        ];
        for (what, change) in cases {
            let (mut wait, sent) = wait(PerTry::Adaptive);
            change(&mut wait);
            let from = if wait.until.is_some() { sent + 300 * MS } else { sent };
            assert!(watch(&mut wait, from, from + 40 * MS).is_none(), "{what}");
            assert!(watch(&mut wait, from, sent + 340 * MS).is_none(), "{what}");
            assert!(wait.told, "{what}");
        }
    }

    #[test]
    fn without_budget_it_waits_for_room() {
        let (mut wait, sent) = wait(PerTry::Adaptive);
        let mut permits: Vec<_> = std::iter::from_fn(|| wait.target.traffic.retry()).collect();
        assert!(watch(&mut wait, sent, sent + 1000 * MS).is_none());
        permits.clear();
        assert!(watch(&mut wait, sent + 1020 * MS, sent + 1040 * MS).is_some());
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
        assert!(watch(&mut wait, sent, sent + 3000 * MS).is_none() && !wait.told);
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
        assert!(watch(&mut wait, sent, sent + 3000 * MS).is_none());
    }
}
