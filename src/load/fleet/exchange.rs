//! The exchange of one pool: a loop that owns the protocol's [`Node`] and is the only one to call Redis for it.
//!
//! At most two calls are out, over one connection, so answers come in order. In batched mode calls go by the clock; in
//! exact mode a call goes as soon as somebody waits, and whoever arrives while two are out rides on the next. What
//! becomes of a call that is lost, refused or late is the protocol's business: here its waiters are let go, to choose
//! locally, and the next call settles the counts.

mod active;
mod complaints;
mod grace;
mod run;
mod upkeep;
mod waiters;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use tokio::sync::{mpsc, oneshot};

use self::active::Active;
use self::complaints::Complaints;
use self::grace::Grace;
use self::upkeep::Audits;
pub use self::upkeep::Upkeep;
use crate::balance::view::{age, interval};
use crate::config::Mode as Configured;
use crate::load::Ledger;
use crate::load::fleet::decision::{Decision, Rates};
use crate::load::fleet::meter::Meter;
use crate::load::fleet::share::{Mode, Share, Waiter};
use crate::load::redis::calls::{Incarnations, Terms};
use crate::load::redis::client::{CallError, Client, Link};
use crate::load::redis::keys::Keys;
use crate::load::redis::{Answer, Node, Outcome, Refusal, Request, Value, scripts};
use crate::observe::fleet::FleetMetrics;

/// How long this node's counts outlive it.
pub const LEASE: Duration = Duration::from_secs(3);
/// How often the lease is renewed, and the longest that a view is left to age on an idle pool. A bit under a second, so
/// that an idle fleet notices a dead node within four, and its view is never stale.
const BEAT: Duration = Duration::from_millis(800);
/// In exact mode, how long a release may wait for an acquire to ride with.
const RELEASE_WITHIN: Duration = Duration::from_millis(1);
/// In exact mode, and where nothing is chosen by the view, how old it may get while there is traffic.
const VIEW_EVERY: Duration = Duration::from_millis(100);
/// A pool without picks for this long is idle: its view is left to age until the next beat.
const IDLE_AFTER: Duration = Duration::from_millis(100);
/// The longest pause between two looks whether there is something to tell.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// The pause before the next attempt after a call was lost, and where Redis refuses.
const AFTER_LOSS: Duration = Duration::from_millis(20);
const AFTER_REFUSAL: Duration = Duration::from_millis(100);
/// So many refusals in a row are settled at once: they belong to the protocol. More are trouble.
const QUICK_REFUSALS: u32 = 3;

/// What the exchange of one pool needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The pool's name.
    pub pool: String,
    /// `redis.namespace`
    pub namespace: String,
    /// This process, among all processes ever.
    pub incarnation: String,
    /// `redis.mode`
    pub mode: Configured,
    /// Whether the pool's policy chooses by the fleet's load. If not, the fleet is only told, and seldom asked.
    pub by_load: bool,
    /// `redis.timeout`
    pub timeout: Duration,
    /// `redis.max_calls`
    pub max_calls: u32,
    /// Pools of this node that have traffic: they share `max_calls`.
    pub active_pools: Arc<AtomicU32>,
    /// By server index: name and terms.
    pub servers: Vec<(String, Terms)>,
    /// No key: only tests have it otherwise than by default.
    pub upkeep: Upkeep,
}

/// What others ask of an exchange.
#[derive(Debug)]
pub enum Command {
    /// Take this node's row out of Redis and end.
    Leave(oneshot::Sender<()>),
}

/// The loop of one pool.
pub struct Exchange<T: AsRef<Ledger>> {
    settings: Settings,
    client: Client,
    share: Arc<Share<T>>,
    metrics: FleetMetrics,
    keys: Keys,
    exchange_keys: [Bytes; 6],
    node: Node,
    queue: mpsc::UnboundedReceiver<Waiter<T>>,
    commands: mpsc::UnboundedReceiver<Command>,
    first_view: Option<oneshot::Sender<()>>,

    link: Link,
    waiting: VecDeque<Waiter<T>>,
    out: VecDeque<Out<T>>,
    calls: FuturesOrdered<Pending>,
    rare: FuturesUnordered<upkeep::Pending>,
    table: Table,
    registered_once: bool,
    next_claim: Instant,
    reaping: bool,
    grace: Grace,
    complaints: Complaints,
    audits: Audits,
    incarnations: Incarnations,

    interval: Duration,
    next_call: Instant,
    next_beat: Instant,
    next_view: Instant,
    /// After trouble: nothing is sent before.
    not_before: Instant,
    /// The last time that there was a pick, or something to tell.
    stirred: Instant,
    active: Active,
    /// Refusals in a row.
    refusals: u32,
    /// Redis is there and does not do what it should.
    refused: bool,
    decision: Decision,
    meter: Meter,
}

type Pending = std::pin::Pin<Box<dyn Future<Output = (i64, Result<Value, CallError>)> + Send>>;

struct Out<T: AsRef<Ledger>> {
    seq: i64,
    waiters: VecDeque<Waiter<T>>,
    sent: Instant,
    /// What [`Meter::made`] was, this call's included.
    made: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Table {
    Needed,
    Reading,
    Known,
}

impl<T: AsRef<Ledger> + Send + Sync + 'static> Exchange<T> {
    /// A loop that has not called yet; `first_view` is told of the first view.
    pub fn new(
        settings: Settings,
        client: Client,
        share: Arc<Share<T>>,
        queue: mpsc::UnboundedReceiver<Waiter<T>>,
        commands: mpsc::UnboundedReceiver<Command>,
        first_view: oneshot::Sender<()>,
        metrics: FleetMetrics,
    ) -> Self {
        let node = Node::new(settings.incarnation.clone(), LEASE.as_millis() as u32);
        Self::with(settings, client, share, queue, commands, Some(first_view), metrics, node)
    }

    #[allow(clippy::too_many_arguments)] // all that outlives a failure, and nothing else
    fn with(
        settings: Settings,
        client: Client,
        share: Arc<Share<T>>,
        queue: mpsc::UnboundedReceiver<Waiter<T>>,
        commands: mpsc::UnboundedReceiver<Command>,
        first_view: Option<oneshot::Sender<()>>,
        metrics: FleetMetrics,
        mut node: Node,
    ) -> Self {
        let keys = Keys::new(&settings.namespace, &settings.pool);
        for (name, _) in &settings.servers {
            node.claim(name.as_bytes());
        }
        // Only Redis can keep a limit for all nodes.
        let mode = match settings.mode {
            Configured::Auto if share.queue().is_some() => Configured::Exact,
            other => other,
        };
        metrics.begin(&settings.pool);
        let now = Instant::now();
        Exchange {
            exchange_keys: keys.exchange(node.incarnation()),
            keys,
            node,
            metrics,
            queue,
            commands,
            first_view,
            link: Link::default(),
            waiting: VecDeque::new(),
            out: VecDeque::new(),
            calls: FuturesOrdered::new(),
            rare: FuturesUnordered::new(),
            table: Table::Needed,
            registered_once: false,
            next_claim: now,
            reaping: false,
            grace: Grace::default(),
            complaints: Complaints::default(),
            audits: Audits::new(settings.upkeep.audit_every, now),
            incarnations: Incarnations::default(),
            interval: Duration::from_millis(1),
            next_call: now,
            next_beat: now,
            next_view: now,
            not_before: now,
            stirred: now,
            active: Active::new(&settings.active_pools),
            refusals: 0,
            refused: false,
            decision: Decision::new(mode, settings.by_load, settings.timeout, now),
            meter: Meter::new(share.servers()),
            client,
            share,
            settings,
        }
    }

    /// The connection was lost, or there is a new one.
    fn linked(&mut self, link: Link) {
        let now = Instant::now();
        if link.epoch != self.link.epoch || !link.up {
            self.give_up(now, "another connection");
            // A new one begins with a clean slate; waiting is for those that failed.
            self.not_before = now;
            self.grace.cut();
            self.complaints.forget();
        }
        self.link = link;
    }

    /// Starts every call that may and should go now.
    fn start_what_may_start(&mut self, now: Instant) {
        if !self.link.up || now < self.not_before {
            return self.let_all_waiters_go();
        }
        match self.table {
            Table::Needed if self.out.is_empty() => return self.register(),
            Table::Needed | Table::Reading => return,
            Table::Known => {}
        }
        while !self.waiting.is_empty() && self.node.ready() {
            self.call(now, true);
        }
        if self.out.is_empty() && now >= self.next_call.min(self.next_beat) {
            self.call_or_rest(now);
        }
        self.claim_if_due(now);
        self.audit_if_due(now);
    }

    /// It is time for a call, if there is anything to tell or to ask.
    fn call_or_rest(&mut self, now: Instant) {
        self.meter.look(self.share.servers(), now);
        let changed = self.node.changed(own(&self.share));
        let picks = self.meter.has_picks(self.share.servers());
        let crowded = self.share.crowded();
        if changed || picks || crowded {
            self.stirred = now;
        }
        let quiet = now.saturating_duration_since(self.stirred);
        self.active.set(quiet < IDLE_AFTER);
        let curious = match self.chooses_by_view() {
            true => self.active.get(),
            // Whoever waits for room on other nodes' servers learns of it by the view.
            false => self.active.get() && (now >= self.next_view || crowded),
        };
        if changed || curious || now >= self.next_beat {
            self.call(now, false);
        } else {
            // The longer nothing happens, the less it matters to be told at once.
            let base = if self.chooses_by_view() || crowded { self.interval } else { RELEASE_WITHIN };
            self.next_call = now + jittered(base.max(quiet / 8).min(LOOK_EVERY.max(base)));
        }
    }

    /// Whether requests are sent by what the last view says.
    fn chooses_by_view(&self) -> bool {
        self.settings.by_load && !self.decision.asks()
    }

    fn call(&mut self, now: Instant, for_waiters: bool) {
        let riders = if for_waiters { self.board() } else { VecDeque::new() };
        if for_waiters && riders.is_empty() {
            return;
        }
        if for_waiters {
            // Under a constant load one call follows another, and nobody else would notice that the pool has traffic.
            self.stirred = now;
            self.active.set(true);
        }
        let beat = now >= self.next_beat;
        let made_locally = self.meter.picks_to_tell(self.share.servers(), now);
        let excluded = riders.front().map(|waiter| waiter.excluded.clone()).unwrap_or_default();
        let request = Request {
            picks: riders.len() as u32,
            excluded: &excluded,
            snapshot: beat
                || now >= self.next_view
                || (!for_waiters && (self.chooses_by_view() || self.share.crowded())),
            own_row: beat,
            renew: beat,
            made_locally,
            seed: fastrand::u32(..1 << 31),
        };
        let mut args = Vec::with_capacity(16);
        let Some(seq) = self.node.begin(&request, own(&self.share), &mut args) else {
            riders.into_iter().rev().for_each(|waiter| self.waiting.push_front(waiter));
            return;
        };
        if beat {
            self.next_beat = now + jittered(BEAT);
        }
        if request.snapshot {
            self.next_view = now + VIEW_EVERY;
        }
        self.next_call = now + jittered(self.pause());
        let call = self.client.call(&scripts::EXCHANGE, &self.exchange_keys, args);
        self.calls.push_back(Box::pin(async move { (seq, call.await) }));
        self.out.push_back(Out { seq, waiters: riders, sent: now, made: self.meter.made() });
    }

    /// Between two calls while there is something to tell or to ask.
    fn pause(&self) -> Duration {
        match (self.chooses_by_view(), self.settings.by_load) {
            _ if self.share.crowded() => self.interval,
            (true, _) => self.interval,
            (false, true) => RELEASE_WITHIN,
            (false, false) => self.interval.max(LOOK_EVERY),
        }
    }

    fn answered(&mut self, seq: i64, reply: Result<Value, CallError>) {
        let now = Instant::now();
        let Some(mut out) = waiters::pop_if(&mut self.out, |out| out.seq == seq) else { return };
        let took = now.saturating_duration_since(out.sent);
        self.metrics.called("exchange", upkeep::result(&reply), took);
        let (outcome, text) = match reply {
            Ok(value) => (self.node.answered(seq, Ok(value)), String::new()),
            Err(CallError::Refused(text)) => (self.node.answered(seq, Err(&text)), text),
            Err(CallError::Lost(why)) => {
                out.waiters.clear();
                return self.give_up(now, &why);
            }
        };
        match outcome {
            Outcome::Done(answer) => self.ran(answer, out, now, took),
            Outcome::Refused(Refusal::Other) => self.refused(now, &text),
            Outcome::Refused(refusal) => {
                log::debug!(pool = self.settings.pool, error = text; "exchange_void");
                if refusal.read_table() {
                    self.table = Table::Needed;
                }
                self.refusals += 1;
                if self.refusals > QUICK_REFUSALS {
                    self.refused(now, &text);
                }
            }
            Outcome::GivenUp => {}
        }
    }

    fn ran(&mut self, answer: Answer, mut out: Out<T>, now: Instant, took: Duration) {
        self.decision.answered(now, out.sent, took);
        self.grace.answered(now);
        if let Some((call, error)) = self.complaints.tell(out.sent) {
            log::warn!(pool = self.settings.pool, call = call, error = error; "redis_refuses");
        }
        self.refusals = 0;
        if std::mem::take(&mut self.refused) {
            self.client.answers_again(&self.settings.pool);
        }
        self.meter.picked(answer.picks.len() as u64 + u64::from(answer.foreign));
        self.grant(&answer, std::mem::take(&mut out.waiters));
        if answer.read_table {
            self.table = Table::Needed;
        }
        if answer.put_right > 0 {
            log::debug!(pool = self.settings.pool, requests = answer.put_right; "row_put_right");
        }
        if answer.refused > 0 || answer.row_differs > 0 {
            self.metrics.drift(&self.settings.pool, u64::from(answer.refused + answer.row_differs));
            log::error!(pool = self.settings.pool, refused = answer.refused, differs = answer.row_differs; "row_differs");
        }
        self.audits.in_full |= answer.audit;
        if answer.view {
            self.take_view(now, out.sent, took, out.made);
        }
        if let Some(dead) = answer.dead {
            self.reap(dead);
        }
    }

    fn take_view(&mut self, now: Instant, sent: Instant, took: Duration, made: u64) {
        let view = self.node.view();
        let nodes = view.live_nodes.max(1);
        let seen = sent + took / 2;
        self.meter.saw(view.picks, made, seen);
        let before = self.interval;
        self.interval = interval(nodes, self.active.pools(), f64::from(self.settings.max_calls));
        if self.interval < before {
            // Somebody has joined a node that was alone and exchanged seldom.
            self.next_call = self.next_call.min(now + self.interval);
        }
        let rate = if nodes == 1 { 0.0 } else { self.meter.others_rate() };
        let (rtt, sync) = (took.as_secs_f64(), self.interval.as_secs_f64());
        let lag = age(rtt / 2.0, 0.0, rtt, sync);
        let others = (0..self.share.servers().len()).map(|index| view.others(index));
        self.share.set_view(others, nodes, seen, Duration::from_secs_f64(lag.max(0.0)), rate);
        if let Some(queue) = self.share.queue() {
            queue.call();
        }
        self.metrics.view(&self.settings.pool, nodes);
        self.meter.look(self.share.servers(), now);
        for (index, completions) in self.meter.completions(now).enumerate() {
            self.share.set_completions(index, completions);
        }
        let own = self.meter.own_rate(now);
        let rates = Rates {
            service: self.meter.service(),
            fleet: own + self.meter.others_rate(),
            own,
            exchanges: 1.0 / self.interval.as_secs_f64(),
        };
        self.decision.decide(now, &rates);
        if let Some(first) = self.first_view.take() {
            first.send(()).ok();
        }
    }

    /// Lets everybody know how to choose now.
    fn show_mode(&self) {
        let mode = match self.decision.asks() {
            _ if !self.link.up || self.refused || self.share.age().is_none() => Mode::Local,
            true => Mode::Exact,
            false => Mode::Batched,
        };
        if self.share.mode() != mode {
            self.share.set_mode(mode);
        }
    }

    /// Nobody knows what became of the calls that are out.
    fn give_up(&mut self, now: Instant, why: &str) {
        log::debug!(pool = self.settings.pool, why = why; "exchange_given_up");
        self.node.lost();
        self.out.clear();
        self.calls = FuturesOrdered::new();
        self.waiting.clear();
        self.not_before = now + AFTER_LOSS;
        self.next_call = self.not_before;
        self.table = Table::Needed;
    }

    /// Redis answers, but not as it should: it has no memory left, takes no writes, forbids a key.
    fn refused(&mut self, now: Instant, text: &str) {
        self.let_all_waiters_go();
        self.refused = true;
        self.client.refused(&self.settings.pool, text);
        self.complaints.trouble();
        self.not_before = now + AFTER_REFUSAL;
        self.next_call = self.not_before;
        self.table = Table::Needed;
    }
}

/// ±10 %, so that nodes do not call in step.
fn jittered(base: Duration) -> Duration {
    base.mul_f64(0.9 + 0.2 * fastrand::f64())
}

/// This process's requests in flight, by the protocol's index.
fn own<T: AsRef<Ledger>>(share: &Share<T>) -> impl Fn(usize) -> u32 + '_ {
    |index| share.servers().get(index).map_or(0, |server| (**server).as_ref().own())
}
