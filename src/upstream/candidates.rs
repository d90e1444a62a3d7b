//! Among whom the choice is: who may be chosen, whose turn it is to be tried again, and how much of each is to be had.

use std::time::Instant;

use smallvec::SmallVec;

use crate::balance::{Candidate, Draw, Policy};
use crate::load::fleet::Mode;
use crate::upstream::ejection::Standing;
use crate::upstream::pool::fastrand_with;
use crate::upstream::strain::{self, Presence};
use crate::upstream::{Pool, Probe, Server};

pub(super) type Candidates = SmallVec<[Candidate; 16]>;

impl Pool {
    /// Whether nobody of the pool answers, as far as is known: each is down, left out, or condemned for its silence.
    pub fn all_gone(&self) -> bool {
        !self.servers.iter().any(|server| server.is_alive())
    }

    /// A server that was left out and waits for a probe gets this request, if it is the first attempt of it. With
    /// `hash`, only if the server is the one that the key belongs to.
    ///
    /// And so does one that is condemned for its silence while a lower priority serves in its place: it may not be
    /// ejected, so its time is never over, and nobody else would ever ask it again.
    pub(super) fn probe(&self, tried: &[u32], key: u64) -> Option<(u32, Probe)> {
        if self.guard.probing() == 0 || !tried.is_empty() {
            return None;
        }
        let home = match self.config.balance {
            Policy::Hash => Some(self.home(key)?),
            _ => None,
        };
        let mut serving = None;
        let mut silent = None;
        for (index, server) in (0..).zip(&self.servers) {
            // Those of a lower priority are not tried while this one serves.
            if serving.is_some_and(|priority| server.priority > priority) {
                break;
            }
            if serving.is_none() && silent.is_none() && server.is_up() && server.is_silent() {
                silent = Some((index, server));
            }
            if server.wants_probe()
                && home.is_none_or(|home| home == index)
                && let Some(probe) = Probe::begin(server)
            {
                return Some((index, probe));
            }
            if server.is_alive() {
                serving = Some(server.priority);
            }
        }
        let (index, server) = silent.filter(|(_, server)| serving.is_some_and(|other| server.priority < other))?;
        let every = self.config.ejection.as_ref()?.base;
        server.begin_probe(Instant::now(), every).map(|probe| (index, probe))
    }

    /// Who would serve the key if those who wait for probes were well.
    fn home(&self, key: u64) -> Option<u32> {
        let mut tier = None;
        let mut candidates = Candidates::new();
        for (index, server) in (0..).zip(&self.servers) {
            if tier.is_some_and(|tier| server.priority > tier) {
                break;
            }
            if server.is_eligible() || (server.is_up() && server.conduct.standing() == Standing::Probing) {
                tier = Some(server.priority);
                candidates.push(self.candidate(index, server));
            }
        }
        let place = fastrand_with(|rng| {
            let mut draw = Draw { rng, ticket: 0, key, ring: self.ring.as_ref() };
            self.config.balance.pick(&candidates, &mut draw)
        });
        Some(candidates.get(place?)?.index)
    }

    /// Those among whom one is chosen now: who may be chosen, less those who were tried, and less those who sit out this
    /// choice because not all of them is to be had.
    pub(super) fn candidates(&self, tried: &[u32]) -> Candidates {
        let mut candidates = self.eligible(tried);
        self.thin(&mut candidates);
        candidates
    }

    /// The eligible servers of the first tier in which anybody answers; without such, those of the first that has any.
    pub(super) fn eligible(&self, tried: &[u32]) -> Candidates {
        if self.is_in_panic() {
            return self.anybody(tried);
        }
        let mut candidates = Candidates::new();
        let mut silent = Candidates::new();
        let mut tier = None;
        let mut alive = false;
        for (index, server) in (0..).zip(&self.servers) {
            if tier.is_some_and(|tier| server.priority > tier) {
                if alive {
                    break;
                }
                let those = std::mem::take(&mut candidates);
                if silent.is_empty() {
                    silent = those;
                }
                tier = None;
            }
            if !server.is_eligible() || tried.contains(&index) {
                continue;
            }
            tier = Some(server.priority);
            alive |= server.conduct.standing() != Standing::Silent;
            candidates.push(self.candidate(index, server));
        }
        if alive || silent.is_empty() { candidates } else { silent }
    }

    /// Everybody with an address.
    fn anybody(&self, tried: &[u32]) -> Candidates {
        let there = |(index, server): &(u32, &std::sync::Arc<Server>)| {
            !tried.contains(index) && (server.is_up() || server.resolved().is_some())
        };
        (0..).zip(&self.servers).filter(there).map(|(index, server)| self.candidate(index, server)).collect()
    }

    fn candidate(&self, index: u32, server: &Server) -> Candidate {
        Candidate { index, in_flight: server.in_flight(), weight: server.weight as f32 }
    }

    /// Those of whom not all is to be had get less weight, and some of them sit out.
    fn thin(&self, candidates: &mut Candidates) {
        let presence = |candidate: &Candidate| match self.servers.get(candidate.index as usize) {
            Some(server) => server.conduct.presence(),
            None => Presence::FULL,
        };
        if candidates.len() < 2 || candidates.iter().all(|candidate| presence(candidate) == Presence::FULL) {
            return;
        }
        let present: SmallVec<[Presence; 16]> = candidates.iter().map(presence).collect();
        let local = self.share.mode() == Mode::Local;
        match self.config.balance {
            Policy::LeastLoad | Policy::LeastConnections | Policy::PowerOfTwo => fastrand_with(|rng| {
                let busy = |candidate: &Candidate| {
                    candidate.in_flight > 0 || (!local && self.share.others(candidate.index as usize) > 0)
                };
                strain::thin(candidates, &present, busy, rng);
            }),
            Policy::RoundRobin | Policy::Random => {
                for (candidate, present) in candidates.iter_mut().zip(present) {
                    candidate.weight *= present.factor;
                }
            }
            Policy::Hash => {}
        }
    }
}

#[cfg(test)]
mod tests;
