//! What the servers of one pool share about being left out: the rules, and how many are out already.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntCounterVec;

use crate::balance::Policy;
use crate::config;
use crate::observe::metrics::Metrics;

/// What the servers of one pool share.
#[derive(Debug)]
pub struct Guard {
    /// The pool's name.
    pub pool: String,
    /// None: nobody is ever ejected.
    pub rules: Option<config::Ejection>,
    /// How long the share of a server that came back grows.
    pub slow_start: Duration,
    /// Ejections by pool and server.
    pub ejections: IntCounterVec,
    /// Times that a server was found to be slow, by pool and server.
    pub slow: IntCounterVec,
    by_key: bool,
    probing: AtomicUsize,
    members: Mutex<Vec<Member>>,
}

/// A server, as far as the others must know.
#[derive(Clone, Copy, Debug)]
struct Member {
    priority: u32,
    up: bool,
    ejected: bool,
}

impl Guard {
    /// The guard of a pool without servers.
    pub fn new(pool: &config::Pool, metrics: &Metrics) -> Self {
        Guard {
            pool: pool.name.clone(),
            rules: pool.ejection,
            slow_start: pool.slow_start,
            ejections: metrics.ejections.clone(),
            slow: metrics.slow.clone(),
            by_key: pool.balance == Policy::Hash,
            probing: AtomicUsize::new(0),
            members: Mutex::default(),
        }
    }

    /// Adds a server, which is not up yet, and returns its place.
    pub fn join(&self, priority: u32) -> usize {
        let mut members = self.members();
        members.push(Member { priority, up: false, ejected: false });
        members.len() - 1
    }

    /// What is done about slow servers. Where the key decides who serves, requests are not alike, and so the times are not.
    pub fn latency(&self) -> config::Latency {
        match &self.rules {
            Some(rules) if !self.by_key => rules.latency,
            _ => config::Latency::Off,
        }
    }

    /// Whether a server may be left out; if so, it counts as such from now on.
    ///
    /// Of the servers of one priority at most `max_ejected` are out, rounded down, but one may always be while another is
    /// there. One that has no other is never out.
    pub fn may_eject(&self, place: usize) -> bool {
        let Some(rules) = &self.rules else { return false };
        let mut members = self.members();
        let Some(&this) = members.get(place) else { return false };
        let tier = || members.iter().enumerate().filter(|(_, other)| other.priority == this.priority);
        let count = tier().count() as u64;
        let out = tier().filter(|(_, other)| other.ejected).count() as u64;
        let another_stays = tier().any(|(other, member)| other != place && member.up && !member.ejected);
        let allowed = (count * u64::from(rules.max_ejected) / 100).max(u64::from(another_stays));
        let may = count > 1 && out < allowed;
        if may && let Some(member) = members.get_mut(place) {
            member.ejected = true;
        }
        may
    }

    /// A server is left out no longer.
    pub fn let_back(&self, place: usize) {
        if let Some(member) = self.members().get_mut(place) {
            member.ejected = false;
        }
    }

    /// What the health checks say of a server.
    pub fn set_up(&self, place: usize, up: bool) {
        if let Some(member) = self.members().get_mut(place) {
            member.up = up;
        }
    }

    /// How many wait for a probe, or are silent and may need one, so that no choice looks for them where there are none.
    pub fn probing(&self) -> usize {
        self.probing.load(Ordering::Relaxed)
    }

    /// One more waits for probes.
    pub fn add_probing(&self) {
        self.probing.fetch_add(1, Ordering::Relaxed);
    }

    /// One less waits for probes.
    pub fn less_probing(&self) {
        self.probing.fetch_sub(1, Ordering::Relaxed);
    }

    fn members(&self) -> MutexGuard<'_, Vec<Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Servers of these priorities, all up.
    fn guard(max_ejected: u32, priorities: &[u32]) -> Guard {
        let listen = "127.0.0.1:0".parse().unwrap();
        let mut pool = config::Config::quick(listen, &[("web".into(), 80)], None, None).unwrap().pools.remove(0);
        pool.ejection = Some(config::Ejection { max_ejected, ..Default::default() });
        let guard = Guard::new(&pool, &Metrics::new().unwrap());
        for &priority in priorities {
            let place = guard.join(priority);
            guard.set_up(place, true);
        }
        guard
    }

    fn most(max_ejected: u32, servers: usize) -> usize {
        let guard = guard(max_ejected, &vec![0; servers]);
        (0..servers).filter(|&place| guard.may_eject(place)).count()
    }

    #[test]
    fn the_share_rounds_down_but_one_may_go_while_another_stays() {
        for (max_ejected, servers, expected) in [
            (30, 1, 0),
            (30, 2, 1),
            (30, 4, 1),
            (30, 6, 1),
            (30, 7, 2),
            (29, 100, 29),
            (100, 1, 0),
            (100, 3, 3),
            (1, 50, 1),
        ] {
            assert_eq!(most(max_ejected, servers), expected, "{max_ejected} % of {servers}");
        }
    }

    #[test]
    fn who_is_down_does_not_stay() {
        let guard = guard(30, &[0, 0]);
        guard.set_up(1, false);
        assert!(!guard.may_eject(0));
        guard.set_up(1, true);
        assert!(guard.may_eject(0));
        assert!(!guard.may_eject(1));
        guard.let_back(0);
        assert!(guard.may_eject(1));
    }

    #[test]
    fn each_priority_counts_for_itself() {
        let guard = guard(30, &[0, 0, 1, 2, 2]);
        assert!(guard.may_eject(0));
        assert!(!guard.may_eject(2), "it has no other of its priority");
        assert!(guard.may_eject(4) && !guard.may_eject(3) && !guard.may_eject(1));
    }
}
