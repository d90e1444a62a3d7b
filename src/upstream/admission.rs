//! Whether a request may go to a server now, and the way there: circuit → choice → queue.
//!
//! Where servers have `max_in_flight` the whole fleet keeps to it:
//!
//! | the pool | who keeps the limit |
//! |---|---|
//! | no Redis | this node's ledger, exactly |
//! | `exact`, and `auto`, which then always is exact | Redis: it picks nobody who is full |
//! | the same, Redis late or away | each node for itself, with its share: the limit ÷ the last known nodes, at least 1 |
//! | `batched`, or another policy than `least-load` | each node by the last view of the fleet: picks by others since may exceed it |

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use crate::balance::{Candidate, Policy};
use crate::load::fleet::{Mode, Reply};
use crate::load::{Lease, Left};
use crate::upstream::circuit::{State, Trial};
use crate::upstream::pool::Tried;
use crate::upstream::{Pool, Probe, Server};

/// Servers that fail at the same moment, or become slow, are chosen nevertheless: others are not to be had. Only when
/// nothing has come from any of them for this long is it certain that there is nothing to be had from them either.
const DARK_AFTER: Duration = Duration::from_secs(1);

/// While no server of a pool is known to answer, each gets a request at most this often; or every `ejection.base`, if
/// that is shorter. A pool that is out altogether should not have to wait for it longer than a client would.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Where all servers are full: how long a node that has its part of the room leaves what it has just given back to the
/// others, who must see it first. Else whoever had the room would keep it.
const YIELD: Duration = Duration::from_millis(4);

/// How long a retry waits, first in line, for a server that it has not tried, while only those that it has tried have
/// room: nobody else can use that meanwhile.
const PICKY: Duration = Duration::from_millis(100);

/// A server for one attempt.
#[derive(Debug)]
pub struct Seat {
    /// The count on it.
    pub lease: Lease<Server>,
    /// The pool's circuit was not closed.
    pub trial: Option<Trial>,
    /// It tries a server that was left out.
    pub probe: Option<Probe>,
}

/// Why there is no server for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// None may be chosen, or all that may were tried.
    NoServer,
    /// None works, and others find out whether one does again.
    CircuitOpen,
    /// All are full, and so is the queue.
    QueueFull,
    /// All were full for as long as a request may wait.
    QueueTimeout,
    /// The client left while it waited.
    ClientLeft,
}

/// How the limits of a pool's servers are kept. Said by the exchange, when there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Limits {
    /// This node is alone.
    Own = 0,
    /// Redis picks nobody who is full; without it each node has its share.
    Asked = 1,
    /// By the last view of the fleet.
    Seen = 2,
}

/// What one try comes to.
enum Try {
    Found(Lease<Server>),
    /// Those who may be chosen have no room.
    Full,
    Nobody,
}

impl Pool {
    /// A server that shall take a request, and the count on it: one that waits for a probe, else chosen by Redis in exact
    /// mode, else, or when Redis does not answer in time, by [`Pool::choose`]. Waits in the pool's queue while all servers are full, at most for
    /// `patience` and only until `left` resolves.
    ///
    /// # Errors
    /// There is none.
    pub async fn acquire(
        &self,
        tried: &[u32],
        key: u64,
        patience: Duration,
        left: impl Future<Output = ()>,
    ) -> Result<Seat, Unavailable> {
        // Where nobody answers, those of `in_the_dark` are enough.
        if self.guard.probing() > 0
            && !self.all_gone()
            && let Some((index, probe)) = self.probe(tried, key)
            && let Some(lease) = self.lease_on(index, probe.server().clone()).await
        {
            return Ok(Seat { lease, trial: None, probe: Some(probe) });
        }
        let trial = match self.circuit.state() {
            State::Closed => None,
            _ if self.is_dark() => return self.in_the_dark(tried).await,
            // All are used, whatever is known of them.
            _ if self.is_in_panic() => None,
            _ => self.circuit.admit().map_err(|_| Unavailable::CircuitOpen)?,
        };
        // Nobody overtakes those who wait.
        let found = match &self.queue {
            Some(queue) if queue.waiting() > 0 => Try::Full,
            _ => self.try_lease(tried, key).await,
        };
        match found {
            // One of those who answer nothing, which is chosen only where there is no other.
            Try::Found(lease) if lease.holder().is_silent() && self.is_dark() => self.in_the_dark(tried).await,
            Try::Found(lease) => Ok(Seat { lease, trial, probe: None }),
            Try::Nobody if self.is_dark() => self.in_the_dark(tried).await,
            // One request that has tried all servers tells nothing about them.
            Try::Nobody => Err(Unavailable::NoServer),
            Try::Full => {
                let lease = self.wait_in_line(tried, key, patience, left).await?;
                Ok(Seat { lease, trial, probe: None })
            }
        }
    }

    async fn wait_in_line(
        &self,
        tried: &[u32],
        key: u64,
        patience: Duration,
        left: impl Future<Output = ()>,
    ) -> Result<Lease<Server>, Unavailable> {
        let Some(queue) = &self.queue else { return Err(Unavailable::QueueFull) };
        let limit = self.config.queue.timeout.min(patience);
        let first_in_line = OnceLock::new();
        let turn = queue.wait(limit, || async {
            if self.has_its_part() {
                tokio::time::sleep(YIELD).await;
            }
            let since = *first_in_line.get_or_init(tokio::time::Instant::now);
            let found = match self.try_lease(tried, key).await {
                Try::Full if !tried.is_empty() && since.elapsed() >= PICKY => self.try_lease(&[], key).await,
                found => found,
            };
            match found {
                Try::Found(lease) => Some(Ok(lease)),
                Try::Nobody => Some(Err(Unavailable::NoServer)),
                Try::Full => None,
            }
        });
        tokio::select! {
            biased;
            turn = turn => match turn {
                Ok(found) => found,
                Err(Left::Full) => Err(Unavailable::QueueFull),
                Err(Left::TooLong) => Err(Unavailable::QueueTimeout),
            },
            () = left => Err(Unavailable::ClientLeft),
        }
    }

    /// Whether this node has as much of the servers' room as each node of the fleet could have.
    fn has_its_part(&self) -> bool {
        let nodes = self.share.last_nodes();
        if nodes == 1 || self.share.mode() != Mode::Exact {
            return false;
        }
        let room = self.servers.iter().map(|server| server.max_in_flight.unwrap_or(0)).sum::<u32>();
        let own = self.servers.iter().map(|server| server.in_flight()).sum::<u32>();
        own >= room.div_ceil(nodes)
    }

    async fn try_lease(&self, tried: &[u32], key: u64) -> Try {
        if self.config.balance != Policy::LeastLoad || self.share.mode() != Mode::Exact {
            return self.take(tried, key);
        }
        let mut passed = Tried::from_slice(tried);
        let mut full = false;
        loop {
            let candidates = self.candidates(&passed);
            if candidates.is_empty() {
                return if full { Try::Full } else { Try::Nobody };
            }
            match self.share.acquire(self.all_but(&candidates)).await {
                Reply::Granted(lease) => return Try::Found(lease),
                // The next tier, if there is one.
                Reply::Full if self.queue.is_some() => {
                    full = true;
                    passed.extend(candidates.iter().map(|candidate| candidate.index));
                }
                Reply::Full | Reply::ChooseYourself => return self.take(tried, key),
            }
        }
    }

    /// A lease on this server, if it has room. Where Redis keeps a limit, only Redis can say so.
    async fn lease_on(&self, index: u32, server: Arc<Server>) -> Option<Lease<Server>> {
        let asks = self.config.balance == Policy::LeastLoad && self.share.mode() == Mode::Exact;
        if asks && server.max_in_flight.is_some() {
            let others = (0..self.servers.len()).filter(|other| *other != index as usize).collect();
            match self.share.acquire(others).await {
                Reply::Granted(lease) => return Some(lease),
                Reply::Full => return None,
                Reply::ChooseYourself => {}
            }
        }
        Lease::take_below(server, self.allowance(index))
    }

    /// A lease on a server that this node chooses.
    fn take(&self, tried: &[u32], key: u64) -> Try {
        if self.queue.is_none() {
            return self.choose(tried, key).cloned().map_or(Try::Nobody, |server| Try::Found(Lease::take(server)));
        }
        let mut passed = Tried::from_slice(tried);
        let mut full = false;
        loop {
            let candidates = self.candidates(&passed);
            if candidates.is_empty() {
                return if full { Try::Full } else { Try::Nobody };
            }
            let (free, taken): (SmallVec<[Candidate; 16]>, SmallVec<[Candidate; 16]>) =
                candidates.iter().copied().partition(|candidate| candidate.in_flight < self.allowance(candidate.index));
            full |= !taken.is_empty();
            let Some(index) = self.pick(&free, key) else {
                // The next tier, if there is one.
                passed.extend(candidates.iter().map(|candidate| candidate.index));
                continue;
            };
            let server = self.servers.get(index as usize).cloned();
            match server.and_then(|server| Lease::take_below(server, self.allowance(index))) {
                Some(lease) => return Try::Found(lease),
                // Another thread was quicker.
                None => {
                    full = true;
                    passed.push(index);
                }
            }
        }
    }

    /// The most requests that this node may have in flight on a server now.
    fn allowance(&self, index: u32) -> u32 {
        let index = index as usize;
        let Some(limit) = self.servers.get(index).and_then(|server| server.max_in_flight) else { return u32::MAX };
        let share = (limit / self.share.last_nodes()).max(1);
        // What the others hold, where that is known.
        let room = self.share.age().map(|_| limit.saturating_sub(self.share.others(index)));
        match self.limits() {
            Limits::Own => limit,
            Limits::Seen => room.unwrap_or(share),
            Limits::Asked => room.map_or(share, |room| room.min(share)),
        }
    }

    /// How limits are kept from now on.
    pub fn set_limits(&self, limits: Limits) {
        self.limits.store(limits as u8, Ordering::Relaxed);
    }

    fn limits(&self) -> Limits {
        match self.limits.load(Ordering::Relaxed) {
            1 => Limits::Asked,
            2 => Limits::Seen,
            _ => Limits::Own,
        }
    }

    /// Whether nobody of the pool is known to answer, and none is asked all the same.
    pub(super) fn is_dark(&self) -> bool {
        let gone = || self.servers.iter().all(|server| server.is_gone(DARK_AFTER));
        (gone() && !self.is_in_panic()) || self.eligible(&[]).is_empty()
    }

    /// Nobody is known to answer: a few requests find out whether that is still so, the others are refused at once.
    async fn in_the_dark(&self, tried: &[u32]) -> Result<Seat, Unavailable> {
        self.circuit.open();
        let now = Instant::now();
        let every = self.config.ejection.as_ref().map_or(PROBE_EVERY, |ejection| ejection.base.min(PROBE_EVERY));
        for (index, server) in (0..).zip(&self.servers) {
            if !tried.contains(&index)
                && let Some(probe) = server.begin_probe(now, every)
                && let Some(lease) = self.lease_on(index, server.clone()).await
            {
                return Ok(Seat { lease, trial: None, probe: Some(probe) });
            }
        }
        let any_up = self.servers.iter().any(|server| server.is_up());
        Err(if any_up { Unavailable::CircuitOpen } else { Unavailable::NoServer })
    }

    /// What the circuit does with requests. A full queue is an open circuit too, until it moves on.
    pub fn circuit_state(&self) -> State {
        // Nobody need have asked since the last server fell silent.
        match self.queue.as_ref().is_some_and(|queue| queue.is_full()) || self.is_dark() {
            true => State::Open,
            false => self.circuit.state(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Config};
    use crate::observe::metrics::Metrics;

    const SOON: Duration = Duration::from_millis(20);

    /// Servers that are up, each with a limit (0: none) and a priority.
    fn pool(servers: &[(u32, u32)], queue: usize) -> Arc<Pool> {
        let listen = "127.0.0.1:0".parse().unwrap();
        let names: Vec<_> = (1..).take(servers.len()).map(|port| ("127.0.0.1".to_owned(), port)).collect();
        let mut config = Config::quick(listen, &names, None, None).unwrap().pools.remove(0);
        for (server, &(limit, priority)) in config.servers.iter_mut().zip(servers) {
            server.max_in_flight = (limit > 0).then_some(limit);
            server.priority = priority;
        }
        config.queue = config::Queue { max: queue, timeout: Duration::from_millis(200) };
        let pool = Arc::new(Pool::new(config, &Metrics::new().unwrap()));
        set_up(&pool, true);
        pool
    }

    fn set_up(pool: &Pool, up: bool) {
        for server in &pool.servers {
            server.observe_check(None, if up { Ok(()) } else { Err("off".into()) }, 1, 1);
        }
    }

    async fn acquire(pool: &Pool) -> Result<Seat, Unavailable> {
        pool.acquire(&[], 0, Duration::MAX, std::future::pending()).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_in_panic_passes_all_whatever_its_circuit_was() {
        let pool = pool(&[(0, 0), (0, 0)], 5);
        pool.circuit.open();
        let _trial = acquire(&pool).await.unwrap();
        assert_eq!(acquire(&pool).await.unwrap_err(), Unavailable::CircuitOpen);
        pool.panic.store(true, Ordering::Relaxed);
        let _all = [acquire(&pool).await.unwrap(), acquire(&pool).await.unwrap()];
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_does_not_keep_a_server_idle_for_long() {
        let pool = pool(&[(1, 0), (1, 0)], 5);
        let mut seats = vec![acquire(&pool).await.unwrap(), acquire(&pool).await.unwrap()];
        seats.retain(|seat| seat.lease.holder().name != pool.servers[0].name);
        let began = tokio::time::Instant::now();
        let again = pool.acquire(&[0], 0, Duration::MAX, std::future::pending()).await.unwrap();
        assert_eq!(again.lease.holder().name, pool.servers[0].name);
        assert!((PICKY..2 * PICKY).contains(&began.elapsed()), "{:?}", began.elapsed());
        drop(again);
        let another = tokio::spawn({
            let pool = pool.clone();
            async move { pool.acquire(&[0], 0, Duration::MAX, std::future::pending()).await.unwrap() }
        });
        tokio::time::sleep(SOON).await;
        seats.clear();
        assert_eq!(
            another.await.unwrap().lease.holder().name,
            pool.servers[1].name,
            "one that it has not tried comes first"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_server_gets_nothing_and_then_requests_wait_for_room() {
        let pool = pool(&[(2, 0), (1, 0)], 5);
        let mut seats = Vec::new();
        for _ in 0..3 {
            seats.push(acquire(&pool).await.unwrap());
        }
        assert_eq!([0, 1].map(|i: usize| pool.servers[i].in_flight()), [2, 1]);
        let waits = tokio::spawn({
            let pool = pool.clone();
            async move { acquire(&pool).await.map(|seat| seat.lease.holder().name.clone()) }
        });
        tokio::time::sleep(SOON).await;
        assert!(!waits.is_finished());
        let freed = seats.remove(0);
        let name = freed.lease.holder().name.clone();
        drop(freed);
        assert_eq!(waits.await.unwrap().unwrap(), name);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_or_leaves_is_told_apart_from_who_finds_no_place() {
        let pool = pool(&[(1, 0)], 1);
        let _busy = acquire(&pool).await.unwrap();
        let began = tokio::time::Instant::now();
        assert_eq!(acquire(&pool).await.unwrap_err(), Unavailable::QueueTimeout);
        assert_eq!(began.elapsed(), Duration::from_millis(200));
        let began = tokio::time::Instant::now();
        let hasty = pool.acquire(&[], 0, Duration::from_millis(50), std::future::pending());
        assert_eq!(hasty.await.unwrap_err(), Unavailable::QueueTimeout);
        assert_eq!(began.elapsed(), Duration::from_millis(50));
        let leaves = pool.acquire(&[], 0, Duration::MAX, tokio::time::sleep(SOON));
        let (leaves, no_place) = tokio::join!(leaves, acquire(&pool));
        assert_eq!((leaves.unwrap_err(), no_place.unwrap_err()), (Unavailable::ClientLeft, Unavailable::QueueFull));
        assert_eq!(pool.queue.as_ref().unwrap().waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_overtakes_and_no_queue_means_no_wait() {
        let pool = pool(&[(1, 0)], 5);
        let busy = acquire(&pool).await.unwrap();
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for who in 0..3 {
            let (pool, order) = (pool.clone(), order.clone());
            tasks.spawn(async move {
                let seat = acquire(&pool).await.unwrap();
                order.lock().unwrap().push(who);
                tokio::time::sleep(SOON).await;
                drop(seat);
            });
            tokio::task::yield_now().await;
        }
        drop(busy);
        // Room, and three who came before.
        drop(acquire(&pool).await.unwrap());
        assert_eq!(*order.lock().unwrap(), [0, 1, 2]);
        tasks.join_all().await;
        let pool = super::tests::pool(&[(1, 0)], 0);
        let _busy = acquire(&pool).await.unwrap();
        assert_eq!(acquire(&pool).await.unwrap_err(), Unavailable::QueueFull);
        assert_eq!(pool.circuit_state(), State::Closed, "where there is no queue it is never full");
    }

    #[tokio::test]
    async fn the_next_tier_serves_what_the_first_has_no_room_for() {
        let pool = pool(&[(1, 0), (1, 1)], 5);
        let seats = [acquire(&pool).await.unwrap(), acquire(&pool).await.unwrap()];
        assert_eq!(seats.map(|seat| seat.lease.holder().priority), [0, 1]);
    }

    #[tokio::test]
    async fn without_its_fleet_a_node_keeps_to_its_share() {
        let pool = pool(&[(7, 0)], 0);
        pool.share.set_nodes(3);
        pool.set_limits(Limits::Asked);
        let seats: Vec<_> = [acquire(&pool).await, acquire(&pool).await].into_iter().map(Result::unwrap).collect();
        assert_eq!(acquire(&pool).await.unwrap_err(), Unavailable::QueueFull, "7 ÷ 3 = 2");
        pool.share.set_nodes(100);
        drop(seats);
        let _one = acquire(&pool).await.unwrap();
        assert_eq!(acquire(&pool).await.unwrap_err(), Unavailable::QueueFull, "one is always allowed");
    }

    #[tokio::test]
    async fn nobody_up_opens_the_circuit_and_who_comes_back_is_met_by_a_few() {
        let pool = pool(&[(0, 0), (0, 0)], 5);
        assert!(acquire(&pool).await.is_ok_and(|seat| seat.trial.is_none()));
        assert_eq!(pool.acquire(&[0, 1], 0, SOON, async {}).await.unwrap_err(), Unavailable::NoServer);
        assert_eq!(pool.circuit_state(), State::Closed, "that was one request's own misfortune");
        set_up(&pool, false);
        assert_eq!(acquire(&pool).await.unwrap_err(), Unavailable::NoServer);
        assert_eq!(pool.circuit_state(), State::Open);
        set_up(&pool, true);
        let first = acquire(&pool).await.unwrap();
        assert_eq!(acquire(&pool).await.unwrap_err(), Unavailable::CircuitOpen);
        pool.circuit.learned(true);
        let second = acquire(&pool).await.unwrap();
        assert_eq!(acquire(&pool).await.unwrap_err(), Unavailable::CircuitOpen);
        drop((first, second));
    }
}
