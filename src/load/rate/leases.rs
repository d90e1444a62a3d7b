//! Buckets that all nodes share, as one node sees them. No socket and no clock: [`super::exchange`] has both, and so has
//! the simulation in `tests/simulation`.
//!
//! # The protocol
//!
//! Of each bucket's burst one half lies with Redis (the *common* part, filled by its clock with the whole rate), the
//! other with the nodes, an equal part with each (what is *standing by*). A key that a node does not know has all of
//! that; so it can admit the first requests of anybody without asking. From then on:
//!
//! - The node counts down. Before its stock runs out it asks Redis for what it will need in the next two rounds, and
//!   gets as much of it as there is. One call asks for up to [`KEYS_A_CALL`] keys.
//! - What it holds beyond its demand, it gives back. When nobody has asked for a second, it is refilled to what stands
//!   by, as far as the common part is more than half full, and then forgotten: all is as it was.
//! - What a lost answer gave is lost, and what a lost call gave back too. So errors are on the safe side.
//!
//! Nothing is counted twice, so what all nodes admit in a time `t` is at most `rate × t + burst`: together they never
//! hold more than a full bucket, and only Redis adds to it. A client that stays on one node finds half of the burst, and
//! that node's part of the other. A node's part is at least one token, so a burst below the number of nodes plus one
//! counts as that.
//!
//! Without Redis (no connection, an error, no answer) for [`PATIENCE`] a node fills its stocks by itself, with the rate
//! divided by the nodes there were last, from the moment it went. A node that alone cannot reach it does so too: the others
//! still share the whole rate, so that is in excess; therefore the patience. Once Redis is back, for as long as it takes to fill the common part, no more of
//! it counts than what came in since: what was given out meanwhile is not given out again. And if it
//! was away for longer than that patience, the node asks for [`CAUTION`] for no more than its share, since others may not be
//! back yet.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::stock::{Ask, Next, Stock};
use super::table::Table;
use super::{Key, Terms, Verdict};

/// The longest that Redis may be away, or take to answer, before the node helps itself.
pub const PATIENCE: Duration = Duration::from_millis(250);
/// How long others may take to come back after this node did.
pub const CAUTION: Duration = Duration::from_secs(1);
/// From one round to the next, where the fleet is small.
pub const ROUND: Duration = Duration::from_millis(20);
/// Keys in one call: so many take Redis about a quarter of a millisecond.
pub const KEYS_A_CALL: usize = 100;
/// Keys that one round looks at, besides those that need something.
const LOOKS: usize = 2000;
/// Without keys, the loop still looks after itself this often.
const RESTING: Duration = Duration::from_secs(1);
/// A key that Redis could not be told of is forgotten after this long.
const FORGET: u64 = 60_000_000_000;

/// How a bucket is divided among so many nodes, in nanoseconds of rate time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Those that live, at least 1.
    pub nodes: u32,
    /// One request.
    pub token: i64,
    /// What each node holds of a key that nobody has asked for.
    pub standing: i64,
    /// What Redis holds of it.
    pub common: i64,
    /// The most that a node holds while it fills its stock by itself.
    pub alone: i64,
}

impl Share {
    /// The share of one of so many nodes.
    pub fn new(terms: Terms, nodes: u32) -> Self {
        let nodes = nodes.max(1);
        let (depth, token) = (signed(terms.depth()), signed(terms.token));
        let standing = (depth / 2 / i64::from(nodes)).max(token);
        Share {
            nodes,
            token,
            standing,
            common: depth.saturating_sub(standing.saturating_mul(nodes.into())).max(token),
            alone: (depth / i64::from(nodes)).max(standing),
        }
    }
}

/// Hashes of keys.
#[derive(Default)]
pub struct Queue {
    /// Those that need something.
    urgent: Vec<u64>,
    /// All of them, each once.
    all: VecDeque<u64>,
}

/// What this node holds of all buckets of one limit.
pub struct Leases {
    terms: Terms,
    table: Table<Stock, Queue>,
    nodes: OnceLock<Box<dyn Fn() -> u32 + Send + Sync>>,
    /// Since when Redis is away, and the node, after some patience, fills its stocks by itself; [`SHARED`]: it is not.
    alone_since: AtomicU64,
    /// Since when Redis is there again; negative: it was never away.
    back_at: AtomicI64,
    cautious_until: AtomicU64,
    /// In milliseconds.
    round: AtomicU32,
    /// Nobody looks at this: there are no keys.
    resting: AtomicBool,
    wake: Notify,
    next_part: AtomicU32,
}

const SHARED: u64 = u64::MAX;

/// What a round says to Redis.
#[derive(Debug, Default)]
pub struct Call {
    /// The size of the common part.
    pub common: i64,
    /// As much of it as counts at this moment.
    pub most: i64,
    /// For each key.
    pub asks: Vec<Ask>,
}

impl Leases {
    /// One node alone, until it is told otherwise: without Redis.
    pub fn new(terms: Terms) -> Self {
        Leases {
            terms,
            table: Table::default(),
            nodes: OnceLock::new(),
            alone_since: AtomicU64::new(0),
            back_at: AtomicI64::new(-1),
            cautious_until: AtomicU64::new(0),
            round: AtomicU32::new(ROUND.as_millis() as u32),
            resting: AtomicBool::new(false),
            wake: Notify::new(),
            next_part: AtomicU32::new(0),
        }
    }

    /// One request of `key`, at `now` nanoseconds.
    pub fn take(&self, key: Key<'_>, now: u64) -> Verdict {
        let (share, round, at) = (self.share(), self.round.load(Ordering::Relaxed), millis(now));
        let alone = self.alone_since.load(Ordering::Relaxed);
        let hash = self.table.hash(key);
        let mut part = self.table.lock(hash);
        let swept = part.sweep_if_due(now, |stock| self.rests_at(stock, &share, now));
        let known = part.map.contains_key(&hash);
        if !known && part.make_room(now, |stock| self.rests_at(stock, &share, now)) || swept {
            let part = &mut *part;
            part.queue.all.retain(|hash| part.map.contains_key(hash));
            part.queue.urgent.retain(|hash| part.map.contains_key(hash));
        }
        if !known {
            part.map.insert(hash, Stock::new(key.name(), &share, at));
            part.queue.all.push_back(hash);
        }
        let part = &mut *part;
        let Some(stock) = part.map.get_mut(&hash) else { return Verdict::Pass };
        if helps_itself(alone, now) {
            stock.fill_alone(&share, at, millis_of(now.saturating_sub(alone)));
        }
        let taken = stock.take(&share, at, round);
        if taken.needs {
            part.queue.urgent.push(hash);
        }
        if taken.now || (!known && self.resting.load(Ordering::Relaxed)) {
            self.wake.notify_one();
        }
        match taken.pass {
            true => Verdict::Pass,
            false => {
                Verdict::Refuse(Duration::from_nanos((taken.missing * i64::from(share.nodes)).max(1).unsigned_abs()))
            }
        }
    }

    /// Keys that somebody must look at.
    pub fn keys(&self, now: u64) -> usize {
        let share = self.share();
        self.table.keys(now, |stock| self.rests_at(stock, &share, now))
    }

    /// What they take, in bytes.
    pub fn bytes(&self) -> usize {
        let queues = (0..self.table.parts()).map(|number| {
            let part = self.table.part(number);
            part.queue.all.capacity() + part.queue.urgent.capacity()
        });
        self.table.bytes() + queues.sum::<usize>() * size_of::<u64>()
    }

    /// `nodes` tells how many nodes live, or did when that was known last; asked with every request. False: that
    /// was said already, and the first one counts.
    pub fn set_fleet(&self, nodes: impl Fn() -> u32 + Send + Sync + 'static) -> bool {
        self.nodes.set(Box::new(nodes)).is_ok()
    }

    /// From now on, rounds come this often.
    pub fn set_round(&self, round: Duration) {
        self.round.store(u32::try_from(round.as_millis()).unwrap_or(u32::MAX).max(1), Ordering::Relaxed);
    }

    /// Whether Redis is away, so that the node fills its stocks by itself, or will soon.
    pub fn is_alone(&self) -> bool {
        self.alone_since.load(Ordering::Relaxed) != SHARED
    }

    /// Redis is away, since `now`.
    pub fn away(&self, now: u64) {
        if !self.is_alone() {
            self.alone_since.store(now, Ordering::Relaxed);
        }
    }

    /// Redis is there (again), from `now` on.
    pub fn back(&self, now: u64) {
        let since = self.alone_since.load(Ordering::Relaxed);
        if since == SHARED {
            return;
        }
        // Who has admitted nothing has nothing to make up for.
        let unused = (0..self.table.parts()).all(|number| self.table.part(number).map.is_empty());
        self.back_at.store(if unused { -1 } else { signed(now) }, Ordering::Relaxed);
        // After a moment only, nobody else will have helped himself.
        let cautious = !unused && helps_itself(since, now);
        let until = if cautious { now.saturating_add(CAUTION.as_nanos() as u64) } else { 0 };
        self.cautious_until.store(until, Ordering::Relaxed);
        self.alone_since.store(SHARED, Ordering::Relaxed);
    }

    /// What there is to say at `now`; empty: nothing. The answers go to [`Leases::granted`].
    pub fn round(&self, now: u64) -> Call {
        let (share, at, round) = (self.share(), millis(now), self.round.load(Ordering::Relaxed));
        let since_back = match self.back_at.load(Ordering::Relaxed) {
            never if never < 0 => i64::MAX,
            back => signed(now).saturating_sub(back),
        };
        let cautious = now < self.cautious_until.load(Ordering::Relaxed);
        let mut call = Call { common: share.common, most: share.common.min(since_back), asks: Vec::new() };
        let (first, parts) = (self.next_part.load(Ordering::Relaxed) as usize, self.table.parts());
        let mut looks = LOOKS;
        for urgent in [true, false] {
            for number in first..first + parts {
                let mut part = self.table.part(number);
                let part = &mut *part;
                let many = if urgent { part.queue.urgent.len() } else { part.queue.all.len().min(LOOKS / parts) };
                for _ in 0..many {
                    if call.asks.len() >= KEYS_A_CALL || looks == 0 {
                        // Who comes last this time comes first the next.
                        self.next_part.store((number % parts) as u32, Ordering::Relaxed);
                        return call;
                    }
                    let hash = if urgent { part.queue.urgent.pop() } else { part.queue.all.pop_front() };
                    let Some((hash, stock)) = hash.and_then(|hash| Some((hash, part.map.get_mut(&hash)?))) else {
                        continue;
                    };
                    let next = stock.look(hash, &share, at, round, cautious);
                    looks -= usize::from(!urgent);
                    if next == Next::Forget && !urgent {
                        part.map.remove(&hash);
                    } else if !urgent {
                        part.queue.all.push_back(hash);
                    }
                    if let Next::Ask(ask) = next {
                        call.asks.push(ask);
                    }
                }
            }
        }
        call
    }

    /// The answer to one ask: what Redis gave.
    pub fn granted(&self, ask: &Ask, amount: i64) {
        if let Some(stock) = self.table.lock(ask.hash).map.get_mut(&ask.hash) {
            stock.granted(amount.clamp(0, ask.need.max(0).saturating_add(ask.fill)));
        }
    }

    /// Returns when somebody must be served at once, or when there is a key after there was none. At least every `limit`.
    pub async fn woken(&self, limit: Duration) {
        let resting = (0..self.table.parts()).all(|number| self.table.part(number).map.is_empty());
        self.resting.store(resting, Ordering::Relaxed);
        let limit = if resting { limit.max(RESTING) } else { limit };
        tokio::time::timeout(limit, self.wake.notified()).await.ok();
        self.resting.store(false, Ordering::Relaxed);
    }

    /// How a bucket is divided now.
    pub fn share(&self) -> Share {
        Share::new(self.terms, self.nodes.get().map_or(1, |nodes| nodes()))
    }

    fn rests_at(&self, stock: &Stock, share: &Share, now: u64) -> u64 {
        let age = u64::from(millis(now).wrapping_sub(stock.at)) * 1_000_000;
        let alone = self.alone_since.load(Ordering::Relaxed);
        let since = now.saturating_sub(age).max(if alone == SHARED { 0 } else { alone });
        let rests = since.saturating_add(stock.rests_in(share));
        if alone == SHARED { rests.saturating_add(FORGET) } else { rests }
    }
}

/// Whether a node for which Redis is away since `alone` fills its stocks by itself.
fn helps_itself(alone: u64, now: u64) -> bool {
    alone != SHARED && now.saturating_sub(alone) >= PATIENCE.as_nanos() as u64
}

/// Milliseconds of the limit's clock, which wrap around after 49 days.
fn millis(now: u64) -> u32 {
    (now / 1_000_000) as u32
}

/// A time in milliseconds, at most as long as those that wrap around can tell.
fn millis_of(time: u64) -> u32 {
    u32::try_from(time / 1_000_000).unwrap_or(u32::MAX)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::rate::KEYS;

    const MS: u64 = 1_000_000;

    fn leases(burst: u32) -> Leases {
        let leases = Leases::new(Terms { token: 10 * MS, burst });
        leases.set_fleet(|| 3);
        leases.back(0);
        leases
    }

    fn resident() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
    }

    #[test]
    fn what_all_hold_together_is_one_full_bucket() {
        for burst in 1..200 {
            for nodes in 1..20u32 {
                let terms = Terms { token: 7_777_777, burst };
                let share = Share::new(terms, nodes);
                let all = share.standing * i64::from(nodes) + share.common;
                let most = signed(terms.depth()).max(i64::from(nodes + 1) * share.token);
                assert!(all <= most, "{burst} among {nodes}: {share:?}");
                assert!(share.standing >= share.token && share.alone >= share.standing);
                // Alone, all together admit what the rate allows.
                assert!(share.alone * i64::from(nodes) <= most);
            }
        }
    }

    #[test]
    fn a_million_keys_fit() {
        let before = resident();
        let leases = leases(100);
        for key in 0..1_000_000u32 {
            assert_eq!(leases.take(Key::V4(key.to_be_bytes()), 0), Verdict::Pass);
        }
        let (keys, bytes) = (leases.keys(0), leases.bytes());
        let rss = (resident().saturating_sub(before)) / 1024;
        println!("{keys} keys, {} bytes each, {} MB; resident: {rss} MiB more", bytes / keys, bytes / 1_000_000);
        assert!(keys >= 990_000, "{keys}");
        assert!(bytes <= 128_000_000, "{bytes}");
        for key in 0..KEYS as u32 {
            let key = Key::V4((key + 2_000_000).to_be_bytes());
            assert_eq!(leases.take(key, MS), Verdict::Pass, "never refused for want of space");
        }
        assert!(leases.keys(MS) <= KEYS && leases.bytes() <= 128_000_000, "{}", leases.bytes());
    }

    #[test]
    fn a_round_serves_those_in_need_first_and_all_in_turn() {
        let leases = leases(6);
        let name = |key: u32| Key::V4(key.to_be_bytes());
        for key in 0..1000 {
            assert_eq!(leases.take(name(key), 0), Verdict::Pass);
        }
        for key in 0..50 {
            assert!(matches!(leases.take(name(key), MS), Verdict::Refuse(_)));
        }
        let in_need: std::collections::HashSet<_> = (0..50).map(|key| leases.table.hash(name(key))).collect();
        let first = leases.round(20 * MS);
        assert!(first.asks.len() <= KEYS_A_CALL);
        assert_eq!(first.asks.iter().filter(|ask| in_need.contains(&ask.hash)).count(), 50);
        let mut asked: std::collections::HashSet<u64> = first.asks.iter().map(|ask| ask.hash).collect();
        for round in 2..20 {
            asked.extend(leases.round(round * 20 * MS).asks.iter().map(|ask| ask.hash));
        }
        assert_eq!(asked.len(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_after_none_and_a_refusal_wake_the_loop() {
        let leases = leases(6);
        let start = tokio::time::Instant::now();
        leases.woken(ROUND).await;
        assert_eq!(start.elapsed(), RESTING, "nothing to do");
        let woken = leases.woken(ROUND);
        tokio::pin!(woken);
        assert!(futures_util::poll!(&mut woken).is_pending());
        leases.take(Key::All, 500 * MS);
        woken.await;
        assert_eq!(start.elapsed(), RESTING);
        let woken = leases.woken(ROUND);
        tokio::pin!(woken);
        assert!(futures_util::poll!(&mut woken).is_pending());
        leases.take(Key::All, 600 * MS);
        woken.await;
        assert_eq!(start.elapsed(), RESTING);
        leases.woken(ROUND).await;
        assert_eq!(start.elapsed(), RESTING + ROUND, "once is enough");
    }
}
