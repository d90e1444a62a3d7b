//! What this node knows of the fleet's load on one pool's servers. Written by the exchange, read by every choice:
//! plain atomics, so that neither waits for the other. A choice that reads while a new view is written sees some of
//! each, which is no worse than a view a moment older.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use tokio::sync::{mpsc, oneshot};

use crate::balance::tide;
use crate::load::{Lease, Ledger, Queue};

/// A view older than this says nothing any more.
const STALE: Duration = Duration::from_secs(1);

/// How a server is chosen at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// By this node's own counts: Redis is away.
    Local = 0,
    /// By the fleet's counts as of the last exchange.
    Batched = 1,
    /// By Redis itself, request by request.
    Exact = 2,
}

impl Mode {
    /// The word that the admin API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Local => "local",
            Mode::Batched => "batched",
            Mode::Exact => "exact",
        }
    }
}

/// A request that waits for Redis to choose.
#[derive(Debug)]
pub struct Waiter<T: AsRef<Ledger>> {
    /// Servers it must not get, by index, sorted.
    pub excluded: SmallVec<[usize; 8]>,
    /// Since when it waits.
    pub since: Instant,
    /// Where its lease goes; None: Redis has nobody with room. Dropped: it chooses locally.
    pub grant: oneshot::Sender<Option<Lease<T>>>,
}

/// What a request that waited for Redis gets.
#[derive(Debug)]
pub enum Reply<T: AsRef<Ledger>> {
    /// The server that Redis picked.
    Granted(Lease<T>),
    /// None of those that it might pick has room, or there is none.
    Full,
    /// Redis did not answer in time.
    ChooseYourself,
}

/// The fleet's load on one pool.
#[derive(Debug)]
pub struct Share<T: AsRef<Ledger>> {
    servers: Vec<Arc<T>>,
    waiters: mpsc::UnboundedSender<Waiter<T>>,
    born: Instant,
    mode: AtomicU8,
    others: Box<[AtomicU32]>,
    completions: Box<[AtomicU32]>,
    /// Nanoseconds after `born` at which the view was true; 0: none yet.
    seen: AtomicU64,
    /// Nanoseconds by which other nodes' rows lagged behind at that time.
    lag: AtomicU64,
    others_rate: AtomicU32,
    nodes: AtomicU32,
}

impl<T: AsRef<Ledger>> Share<T> {
    /// A share of which nothing is known, and the queue of those who will wait for it.
    pub fn new(servers: Vec<Arc<T>>) -> (Arc<Self>, mpsc::UnboundedReceiver<Waiter<T>>) {
        let (waiters, queue) = mpsc::unbounded_channel();
        let zeros = || servers.iter().map(|_| AtomicU32::new(0)).collect();
        let share = Share {
            waiters,
            born: Instant::now(),
            mode: AtomicU8::new(Mode::Local as u8),
            others: zeros(),
            completions: zeros(),
            seen: AtomicU64::new(0),
            lag: AtomicU64::new(0),
            others_rate: AtomicU32::new(0),
            nodes: AtomicU32::new(1),
            servers,
        };
        (Arc::new(share), queue)
    }

    /// The pool's servers.
    pub fn servers(&self) -> &[Arc<T>] {
        &self.servers
    }

    /// How to choose now.
    pub fn mode(&self) -> Mode {
        match self.mode.load(Ordering::Relaxed) {
            1 => Mode::Batched,
            2 => Mode::Exact,
            _ => Mode::Local,
        }
    }

    /// Requests of other nodes on a server.
    pub fn others(&self, index: usize) -> u32 {
        self.others.get(index).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// This node's completions on a server of late.
    pub fn completions(&self, index: usize) -> f32 {
        self.completions.get(index).map_or(0.0, |bits| f32::from_bits(bits.load(Ordering::Relaxed)))
    }

    /// Requests in flight on a server in the whole fleet.
    pub fn fleet(&self, index: usize) -> u32 {
        let own = self.servers.get(index).map_or(0, |server| (**server).as_ref().own());
        own.saturating_add(if self.age().is_some() { self.others(index) } else { 0 })
    }

    /// Nodes that are known to live, this one included.
    pub fn nodes(&self) -> u32 {
        if self.age().is_some() { self.nodes.load(Ordering::Relaxed) } else { 1 }
    }

    /// How old the view is; None: there is none, or it is stale.
    pub fn age(&self) -> Option<Duration> {
        self.seen_ago().filter(|age| *age <= STALE)
    }

    /// How old the last view is, be it stale; None: there was none yet.
    pub fn seen_ago(&self) -> Option<Duration> {
        let seen = self.seen.load(Ordering::Relaxed);
        let age = self.since_birth(Instant::now()).saturating_sub(seen);
        (seen > 0).then(|| Duration::from_nanos(age))
    }

    /// There is nobody now who exchanges anything.
    pub fn abandon(&self) {
        self.set_mode(Mode::Local);
    }

    /// How many picks by other nodes the view cannot show; None: it is stale.
    pub fn unseen(&self) -> Option<f32> {
        let age = self.age()? + Duration::from_nanos(self.lag.load(Ordering::Relaxed));
        let rate = f32::from_bits(self.others_rate.load(Ordering::Relaxed));
        Some(tide::unseen(rate, age.as_secs_f32()))
    }

    /// Waits until Redis has chosen.
    ///
    /// Bounded by the exchange, which gives up on waiters after `redis.timeout`; should it be gone, at once.
    pub async fn acquire(&self, excluded: SmallVec<[usize; 8]>) -> Reply<T> {
        let (grant, granted) = oneshot::channel();
        if self.waiters.send(Waiter { excluded, since: Instant::now(), grant }).is_err() {
            return Reply::ChooseYourself;
        }
        match granted.await {
            Ok(Some(lease)) => Reply::Granted(lease),
            Ok(None) => Reply::Full,
            Err(_) => Reply::ChooseYourself,
        }
    }

    /// Those who wait for room; None: no server is limited.
    pub fn queue(&self) -> Option<&Queue> {
        self.servers.first().and_then(|server| (**server).as_ref().queue()).map(|queue| &**queue)
    }

    /// Whether somebody waits for room.
    pub fn crowded(&self) -> bool {
        self.queue().is_some_and(|queue| queue.waiting() > 0)
    }

    /// Nodes that were alive when somebody last looked, this one included.
    pub fn last_nodes(&self) -> u32 {
        self.nodes.load(Ordering::Relaxed).max(1)
    }

    pub(super) fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }

    pub(super) fn set_completions(&self, index: usize, completions: f64) {
        if let Some(bits) = self.completions.get(index) {
            bits.store((completions as f32).to_bits(), Ordering::Relaxed);
        }
    }

    /// Takes over a view that was true at `seen`.
    pub(super) fn set_view(
        &self,
        others: impl Iterator<Item = u32>,
        nodes: u32,
        seen: Instant,
        lag: Duration,
        rate: f64,
    ) {
        for (count, others) in self.others.iter().zip(others) {
            count.store(others, Ordering::Relaxed);
        }
        self.nodes.store(nodes.max(1), Ordering::Relaxed);
        self.others_rate.store((rate as f32).to_bits(), Ordering::Relaxed);
        self.lag.store(u64::try_from(lag.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.seen.store(self.since_birth(seen).max(1), Ordering::Relaxed);
    }

    /// As if so many nodes had been seen last.
    #[cfg(test)]
    pub(crate) fn set_nodes(&self, nodes: u32) {
        self.nodes.store(nodes, Ordering::Relaxed);
    }

    fn since_birth(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.born).as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::testing::Server;

    fn share() -> (Arc<Share<Server>>, mpsc::UnboundedReceiver<Waiter<Server>>) {
        Share::new(vec![Arc::new(Server::default()), Arc::new(Server::default())])
    }

    #[tokio::test]
    async fn nobody_waits_for_an_exchange_that_has_ended() {
        let (share, mut queue) = share();
        let waits = tokio::spawn({
            let share = share.clone();
            async move { matches!(share.acquire(SmallVec::new()).await, Reply::ChooseYourself) }
        });
        let waiter = queue.recv().await.unwrap();
        drop((waiter, queue));
        assert!(waits.await.unwrap(), "it waited when the exchange ended");
        assert!(matches!(share.acquire(SmallVec::new()).await, Reply::ChooseYourself), "it came later");
    }

    #[tokio::test]
    async fn a_lease_for_one_who_left_is_given_back() {
        let (share, mut queue) = share();
        let mut waits = Box::pin(share.acquire(SmallVec::new()));
        assert!(futures_util::FutureExt::now_or_never(&mut waits).is_none());
        let waiter = queue.recv().await.unwrap();
        waiter.grant.send(Some(Lease::take(share.servers()[1].clone()))).unwrap();
        assert_eq!(share.fleet(1), 1);
        drop(waits);
        assert_eq!(share.fleet(1), 0);
    }

    #[test]
    fn a_view_counts_until_it_is_stale() {
        let (share, _queue) = share();
        assert_eq!((share.age(), share.seen_ago(), share.nodes()), (None, None, 1));
        std::thread::sleep(Duration::from_millis(2));
        let now = Instant::now();
        share.set_view([3, 4].into_iter(), 5, now, Duration::from_millis(1), 100.0);
        assert_eq!((share.fleet(0), share.fleet(1), share.nodes()), (3, 4, 5));
        assert!(share.unseen().is_some_and(|unseen| (0.1..50.0).contains(&unseen)));
        let Some(long_ago) = now.checked_sub(Duration::from_millis(1001)) else { return };
        let share = Share { born: long_ago, ..Arc::into_inner(share).unwrap() };
        share.set_view([3, 4].into_iter(), 5, long_ago + Duration::from_nanos(1), Duration::ZERO, 0.0);
        assert_eq!((share.fleet(0), share.nodes(), share.unseen()), (0, 1, None));
        assert_eq!(share.last_nodes(), 5);
        assert!(share.seen_ago().is_some_and(|age| age > STALE));
    }
}
