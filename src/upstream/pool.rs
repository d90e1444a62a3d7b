//! A pool of servers, and the one place where a server is chosen for a request: [`Pool::choose`].

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use smallvec::SmallVec;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::balance::{Candidate, Draw, Policy, Ring, tide};
use crate::config;
use crate::load::Queue;
use crate::load::fleet::share::Waiter;
use crate::load::fleet::{Mode, Share};
use crate::observe::metrics::Metrics;
use crate::upstream::Server;
use crate::upstream::circuit::Circuit;
use crate::upstream::guard::Guard;
use crate::upstream::health::Health;

/// Servers that were tried already for one request, by index.
pub type Tried = SmallVec<[u32; 4]>;

/// Servers that do the same work.
#[derive(Debug)]
pub struct Pool {
    /// Its settings.
    pub config: config::Pool,
    /// By priority; a server's place here is its index.
    pub servers: Vec<Arc<Server>>,
    /// What is known of the fleet's load on them.
    pub share: Arc<Share<Server>>,
    /// Opens while nobody may be chosen.
    pub circuit: Circuit,
    /// Those who wait for room; none where no server is limited.
    pub queue: Option<Arc<Queue>>,
    pub(super) limits: AtomicU8,
    pub(super) guard: Arc<Guard>,
    pub(super) panic: AtomicBool,
    waiters: Mutex<Option<UnboundedReceiver<Waiter<Server>>>>,
    pub(super) ring: Option<Ring>,
    ticket: AtomicU64,
    settled: AtomicBool,
}

impl Pool {
    /// A pool whose servers have not been checked yet.
    pub fn new(config: config::Pool, metrics: &Metrics) -> Self {
        let limited = config.servers.iter().any(|server| server.max_in_flight.is_some());
        let queue = limited.then(|| Arc::new(Queue::new(config.queue.max)));
        let guard = Arc::new(Guard::new(&config, metrics));
        let server = |server| Arc::new(Server::new(&guard, server, metrics, queue.clone()));
        let mut servers: Vec<_> = config.servers.iter().map(server).collect();
        servers.sort_by_key(|server| server.priority);
        let ring = (config.balance == Policy::Hash)
            .then(|| Ring::new(servers.iter().map(|server| (server.name.as_str(), server.weight))));
        let (share, waiters) = Share::new(servers.clone());
        Pool {
            circuit: Circuit::new(&config.name),
            config,
            servers,
            share,
            queue,
            limits: AtomicU8::new(0),
            guard,
            waiters: Mutex::new(Some(waiters)),
            ring,
            panic: AtomicBool::new(false),
            // At random, so that nodes do not take turns in step.
            ticket: AtomicU64::new(fastrand::u64(..)),
            settled: AtomicBool::new(false),
        }
    }

    /// Those who wait for Redis to choose; for the exchange, once.
    pub fn take_queue(&self) -> Option<UnboundedReceiver<Waiter<Server>>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// **The choice.** Takes the eligible servers of the first tier that has any, leaves out those tried already,
    /// and lets the pool's policy pick. `key` matters to `hash` only. None: nobody is left.
    pub fn choose(&self, tried: &[u32], key: u64) -> Option<&Arc<Server>> {
        let index = self.pick(&self.candidates(tried), key)?;
        self.servers.get(index as usize)
    }

    /// The index of the one that the policy picks.
    pub(super) fn pick(&self, candidates: &[Candidate], key: u64) -> Option<u32> {
        if self.config.balance == Policy::LeastLoad
            && self.share.mode() != Mode::Local
            && let Some(unseen) = self.share.unseen()
        {
            return self.pick_by_view(candidates, unseen);
        }
        let place = fastrand_with(|rng| {
            let mut draw = Draw { rng, ticket: self.next_ticket(), key, ring: self.ring.as_ref() };
            self.config.balance.pick(candidates, &mut draw)
        });
        candidates.get(place?).map(|candidate| candidate.index)
    }

    /// By the fleet's load as last seen, where `unseen` picks by others have happened since.
    fn pick_by_view(&self, candidates: &[Candidate], unseen: f32) -> Option<u32> {
        let shares: SmallVec<[tide::Share; 16]> = candidates
            .iter()
            .map(|candidate| {
                let index = candidate.index as usize;
                tide::Share {
                    index: candidate.index,
                    weight: candidate.weight,
                    queued: candidate.in_flight as f32 + self.share.others(index) as f32,
                    own: candidate.in_flight,
                    completions: self.share.completions(index),
                }
            })
            .collect();
        let place = fastrand_with(|rng| tide::pick(&shares, unseen, rng))?;
        shares.get(place).map(|share| share.index)
    }

    pub(super) fn all_but(&self, candidates: &[Candidate]) -> SmallVec<[usize; 8]> {
        let mut left = candidates.iter().map(|candidate| candidate.index as usize).peekable();
        (0..self.servers.len()).filter(|index| left.next_if_eq(index).is_none()).collect()
    }

    /// Whether anybody is left to try.
    pub fn has_other(&self, tried: &[u32]) -> bool {
        let left = |(index, server): (usize, &Arc<Server>)| server.is_eligible() && !tried.contains(&(index as u32));
        self.servers.iter().enumerate().any(left)
    }

    /// A server's index.
    pub fn index_of(&self, server: &Arc<Server>) -> Option<u32> {
        self.servers.iter().position(|other| Arc::ptr_eq(other, server)).map(|i| i as u32)
    }

    /// True the first time only: to be called when a server has passed a check, or when it was reported that none
    /// ever did.
    pub fn settle(&self) -> bool {
        !self.settled.swap(true, Ordering::Relaxed)
    }

    /// Takes in the result of a check of one of its servers (see [`Server::observe_check`]) and logs a change.
    pub fn observe_check(&self, server: &Server, at: Option<SocketAddr>, result: Result<(), String>) {
        let config::Health { rise, fall, .. } = self.config.health;
        let reason = result.as_ref().err().cloned().unwrap_or_default();
        match server.observe_check(at, result, rise, fall) {
            Some(Health::Up) => {
                self.settle();
                log::info!(pool = self.config.name, server = server.name; "server_up");
            }
            Some(_) => log::warn!(pool = self.config.name, server = server.name, reason = reason; "server_down"),
            None => {}
        }
    }

    fn next_ticket(&self) -> u64 {
        // Only turn-taking needs tickets; everybody else is spared the shared cache line.
        match self.config.balance {
            Policy::RoundRobin => self.ticket.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        }
    }
}

pub(super) fn fastrand_with<T>(run: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
    thread_local! {
        static RNG: std::cell::RefCell<fastrand::Rng> = std::cell::RefCell::new(fastrand::Rng::new());
    }
    RNG.with_borrow_mut(run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Lease;

    fn pool(balance: Policy, servers: &[(&str, u32, u32)]) -> Pool {
        let config = config::Pool {
            name: "app".into(),
            balance,
            hash: config::HashKey::ClientIp,
            servers: servers
                .iter()
                .map(|&(name, weight, priority)| config::Server {
                    name: name.into(),
                    address: config::Address { host: "127.0.0.1".into(), port: 1 },
                    weight,
                    priority,
                    max_in_flight: None,
                })
                .collect(),
            health: config::Health {
                check: config::Check::Tcp,
                interval: std::time::Duration::from_secs(5),
                timeout: std::time::Duration::from_secs(1),
                rise: 2,
                fall: 3,
            },
            upstream: config::Upstream {
                connect_timeout: std::time::Duration::from_secs(1),
                idle: std::time::Duration::from_secs(30),
                idle_max: 10,
                protocol: config::Protocol::H1,
                tls: None,
            },
            ejection: Some(config::Ejection::default()),
            panic_below: 0,
            slow_start: std::time::Duration::ZERO,
            queue: config::Queue::default(),
        };
        let pool = Pool::new(config, &Metrics::new().unwrap());
        for server in &pool.servers {
            server.observe_check(None, Ok(()), 1, 1);
        }
        pool
    }

    fn take_down(pool: &Pool, name: &str) {
        let server = pool.servers.iter().find(|s| s.name == name).unwrap();
        server.observe_check(None, Err("off".into()), 1, 1);
    }

    #[test]
    fn the_least_loaded_is_chosen() {
        let pool = pool(Policy::LeastLoad, &[("a", 1, 0), ("b", 1, 0)]);
        let _busy = Lease::take(pool.servers[0].clone());
        for _ in 0..20 {
            assert_eq!(pool.choose(&[], 0).unwrap().name, "b");
        }
    }

    #[test]
    fn a_server_that_was_never_checked_is_not_chosen() {
        let pool = pool(Policy::Random, &[("a", 1, 0)]);
        let unchecked = Pool::new(pool.config.clone(), &Metrics::new().unwrap());
        assert!(unchecked.choose(&[], 0).is_none());
    }

    #[test]
    fn a_lower_tier_serves_only_while_the_higher_has_nobody() {
        let pool = pool(Policy::LeastLoad, &[("spare", 1, 1), ("a", 1, 0), ("b", 1, 0)]);
        let _busy: Vec<_> = (0..9).map(|_| Lease::take(pool.servers[0].clone())).collect();
        for _ in 0..20 {
            assert_ne!(pool.choose(&[], 0).unwrap().name, "spare");
        }
        take_down(&pool, "a");
        take_down(&pool, "b");
        assert_eq!(pool.choose(&[], 0).unwrap().name, "spare");
    }

    #[test]
    fn tried_servers_are_left_out_and_then_nobody_is_left() {
        let pool = pool(Policy::RoundRobin, &[("a", 1, 0), ("b", 1, 0)]);
        assert_eq!(pool.choose(&[0], 0).unwrap().name, "b");
        assert!(pool.choose(&[0, 1], 0).is_none());
        assert!(!pool.has_other(&[0, 1]));
    }

    #[test]
    fn one_key_stays_on_one_server_until_it_is_down() {
        let pool = pool(Policy::Hash, &[("a", 1, 0), ("b", 1, 0), ("c", 1, 0)]);
        let home = pool.choose(&[], 42).unwrap().name.clone();
        for _ in 0..10 {
            assert_eq!(pool.choose(&[], 42).unwrap().name, home);
        }
        take_down(&pool, &home);
        assert_ne!(pool.choose(&[], 42).unwrap().name, home);
    }
}
