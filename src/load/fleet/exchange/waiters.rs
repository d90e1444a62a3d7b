//! Requests that wait for Redis to choose: who rides on which call, who gets what, and who has waited long enough.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Exchange;
use crate::load::fleet::share::Waiter;
use crate::load::redis::Answer;
use crate::load::{Lease, Ledger};

/// The most picks of one call.
const PICKS: usize = 64;

impl<T: AsRef<Ledger> + Send + Sync + 'static> Exchange<T> {
    /// Those who ride on the next call. It has one list of exclusions: whoever wants another rides on the one after.
    pub(super) fn board(&mut self) -> VecDeque<Waiter<T>> {
        self.waiting.retain(|waiter| !waiter.grant.is_closed());
        let mut riders: VecDeque<Waiter<T>> = VecDeque::new();
        while riders.len() < PICKS {
            let first = riders.front();
            let alike = |waiter: &Waiter<T>| first.is_none_or(|first| first.excluded == waiter.excluded);
            let Some(rider) = pop_if(&mut self.waiting, alike) else { break };
            riders.push_back(rider);
        }
        riders
    }

    /// Hands out what Redis picked: to those who asked, and what is left over, because somebody gave up, to the next
    /// in line. What still is left the next call gives back.
    pub(super) fn grant(&mut self, answer: &Answer, asked: VecDeque<Waiter<T>>) {
        let mut takers = asked.into_iter();
        for &pick in &answer.picks {
            let Some(server) = self.share.servers().get(pick) else { continue };
            self.meter.granted();
            let mut lease = Some(Lease::take(server.clone()));
            while let Some(granted) = lease.take() {
                let fits = |waiter: &Waiter<T>| !waiter.excluded.contains(&pick);
                let Some(taker) = takers.next().or_else(|| pop_if(&mut self.waiting, fits)) else { break };
                lease = taker.grant.send(Some(granted)).err().flatten();
            }
        }
        // Redis has nobody for those who are left. Either all are full, or the sorted set it picks from is not whole.
        let limited = self.share.queue().is_some();
        for taker in takers {
            self.audits.quickly |= !limited && taker.excluded.len() < self.share.servers().len();
            if limited {
                taker.grant.send(None).ok();
            }
        }
    }

    /// Lets go of everybody who has waited for `redis.timeout`.
    pub(super) fn let_go_of_the_overdue(&mut self, now: Instant) {
        let overdue = |waiter: &Waiter<T>, limit: Duration| now.saturating_duration_since(waiter.since) >= limit;
        let limit = self.settings.timeout;
        let mut gone = 0;
        for list in self.out.iter_mut().map(|out| &mut out.waiters).chain(std::iter::once(&mut self.waiting)) {
            while pop_if(list, |waiter| overdue(waiter, limit)).is_some() {
                gone += 1;
            }
        }
        if gone > 0 {
            self.decision.waited_in_vain(now);
            self.metrics.waited_too_long(&self.settings.pool, gone);
        }
    }

    pub(super) fn let_all_waiters_go(&mut self) {
        self.waiting.clear();
        self.out.iter_mut().for_each(|out| out.waiters.clear());
    }
}

/// The first one, if it is such a one.
pub(super) fn pop_if<W>(queue: &mut VecDeque<W>, such: impl FnOnce(&W) -> bool) -> Option<W> {
    if queue.front().is_some_and(such) { queue.pop_front() } else { None }
}
