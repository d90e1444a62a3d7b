//! The exchange of one pool: a loop that owns the protocol's [`Node`] and is the only one to call Redis for it.
//!
//! At most two calls are out, over one connection, so answers come in order. In batched mode calls go by the clock; in
//! exact mode a call goes as soon as somebody waits, and whoever arrives while two are out rides on the next. What
//! becomes of a call that is lost, refused or late is the protocol's business: here its waiters are let go, to choose
//! locally, and the next call settles the counts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{FuturesOrdered, FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot};

use crate::balance::view::{Decayed, OthersRate, age, interval};
use crate::config::Mode as Configured;
use crate::load::fleet::mode::{Signs, prefer_exact};
use crate::load::fleet::share::{Mode, Share, Waiter};
use crate::load::redis::calls::{self, Incarnations, TableOp, Terms};
use crate::load::redis::client::{CallError, Client};
use crate::load::redis::keys::Keys;
use crate::load::redis::{Answer, Node, Outcome, Request, Value, scripts};
use crate::load::{Lease, Ledger};
use crate::observe::fleet::FleetMetrics;

/// How long this node's counts outlive it.
pub const LEASE: Duration = Duration::from_secs(3);
/// How often the lease is renewed, and the longest that a view is left to age on an idle pool.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often one of the nodes audits.
const AUDIT_EVERY: Duration = Duration::from_secs(10);
/// In exact mode, how long a release may wait for an acquire to ride with.
const RELEASE_WITHIN: Duration = Duration::from_millis(1);
/// The most picks of one call.
const PICKS: usize = 64;
/// How far back a node's own completions count, in seconds.
const MEMORY: f64 = 2.0;
/// Pools without traffic do not count for the interval, but one always does.
const ACTIVE_POOLS: u32 = 1;

/// What the exchange of one pool needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The pool's name.
    pub pool: String,
    /// `redis.namespace`
    pub namespace: String,
    /// This process, among all processes ever.
    pub incarnation: String,
    /// `redis.mode`; exact picks are made only for pools whose policy wants the fleet's load.
    pub mode: Configured,
    /// `redis.timeout`
    pub timeout: Duration,
    /// `redis.max_calls`
    pub max_calls: u32,
    /// By server index: name and terms.
    pub servers: Vec<(String, Terms)>,
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

    waiting: VecDeque<Waiter<T>>,
    out: VecDeque<Out<T>>,
    calls: FuturesOrdered<Pending>,
    rare: FuturesUnordered<RarePending>,
    table: Table,
    registered_once: bool,
    epoch: u64,
    incarnations: Incarnations,

    interval: Duration,
    next_call: Instant,
    next_beat: Instant,
    next_quick_audit: Instant,
    next_audit: Instant,
    audit_now: bool,
    /// A wait ran out: nobody waits until a call answers in time again.
    suspended: bool,
    exact: bool,
    rtt: f64,
    taken_before: Vec<u32>,
    granted: u32,
    /// Picks made here, and told to Redis.
    made: u64,
    /// Picks made by Redis, for this node.
    picked: u64,
    born: Instant,
    others_rate: OthersRate,
    own_picks: Decayed,
    in_flight: f64,
    completed: Vec<(Decayed, u32)>,
}

type Pending = std::pin::Pin<Box<dyn Future<Output = (i64, Result<Value, CallError>)> + Send>>;
type RarePending = std::pin::Pin<Box<dyn Future<Output = Rare> + Send>>;

struct Out<T: AsRef<Ledger>> {
    seq: i64,
    waiters: VecDeque<Waiter<T>>,
    sent: Instant,
    /// What [`Exchange::made`] was, this call's included.
    made: u64,
}

enum Rare {
    Table(Result<Value, CallError>),
    Leases(Result<Vec<Bytes>, CallError>),
    Audited(Result<Value, CallError>),
    Reaped(Result<Value, CallError>),
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
        let keys = Keys::new(&settings.namespace, &settings.pool);
        let incarnation = Bytes::from(settings.incarnation.clone());
        let mut node = Node::new(incarnation.clone(), LEASE.as_millis() as u32);
        for (name, _) in &settings.servers {
            node.claim(name.as_bytes());
        }
        let now = Instant::now();
        let servers = settings.servers.len();
        Exchange {
            exchange_keys: keys.exchange(&incarnation),
            keys,
            node,
            client,
            metrics,
            queue,
            commands,
            first_view: Some(first_view),
            waiting: VecDeque::new(),
            out: VecDeque::new(),
            calls: FuturesOrdered::new(),
            rare: FuturesUnordered::new(),
            table: Table::Needed,
            registered_once: false,
            epoch: 0,
            incarnations: Incarnations::default(),
            interval: Duration::from_millis(1),
            next_call: now,
            next_beat: now,
            next_quick_audit: now + HEARTBEAT,
            next_audit: now + AUDIT_EVERY,
            audit_now: false,
            suspended: false,
            exact: settings.mode == Configured::Exact,
            rtt: 0.0,
            taken_before: share.servers().iter().map(|server| (**server).as_ref().taken()).collect(),
            granted: 0,
            made: 0,
            picked: 0,
            born: now,
            others_rate: OthersRate::default(),
            own_picks: Decayed::default(),
            in_flight: 0.0,
            completed: vec![(Decayed::default(), 0); servers],
            share,
            settings,
        }
    }

    /// Runs until it is told to leave.
    pub async fn run(mut self) {
        let sleep = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(sleep);
        loop {
            self.start_what_may_start();
            let due = tokio::time::Instant::from_std(self.next_due());
            if sleep.deadline() != due {
                sleep.as_mut().reset(due);
            }
            tokio::select! {
                biased;
                Some((seq, reply)) = self.calls.next(), if !self.calls.is_empty() => self.answered(seq, reply),
                Some(rare) = self.rare.next(), if !self.rare.is_empty() => self.rare_answered(rare),
                Some(waiter) = self.queue.recv() => {
                    self.waiting.push_back(waiter);
                    while let Ok(waiter) = self.queue.try_recv() {
                        self.waiting.push_back(waiter);
                    }
                }
                command = self.commands.recv() => match command {
                    Some(Command::Leave(done)) => {
                        self.leave().await;
                        done.send(()).ok();
                        return;
                    }
                    None => return,
                },
                () = &mut sleep => self.tick(Instant::now()),
            }
        }
    }

    /// Whatever the clock asks for.
    fn tick(&mut self, now: Instant) {
        self.let_go_of_the_overdue(now);
        if self.client.epoch() != self.epoch {
            self.epoch = self.client.epoch();
            self.give_up("a new connection");
            self.table = Table::Needed;
        }
        if self.share.age().is_none() {
            self.share.set_mode(Mode::Local);
        }
    }

    /// Starts every call that may and should go now.
    fn start_what_may_start(&mut self) {
        let now = Instant::now();
        if !self.client.is_up() {
            self.let_all_waiters_go();
            self.share.set_mode(Mode::Local);
            return;
        }
        match self.table {
            Table::Needed if self.out.is_empty() => return self.register(),
            Table::Needed | Table::Reading => return,
            Table::Known => {}
        }
        while !self.waiting.is_empty() && self.node.ready() {
            self.call(now, true);
        }
        if self.out.is_empty() && now >= self.next_call {
            let beat = now >= self.next_beat;
            let busy = self.node.changed(own(&self.share)) || (!self.exact && self.is_active());
            if beat || busy {
                self.call(now, false);
            } else {
                self.next_call = now + self.jittered();
            }
        }
        if self.rare.is_empty() && (self.audit_now || now >= self.next_audit.min(self.next_quick_audit)) {
            self.audit(now);
        }
    }

    /// Requests in flight, or made since the last call.
    fn is_active(&self) -> bool {
        let mut servers = self.share.servers().iter().zip(&self.taken_before);
        servers.any(|(server, before)| (**server).as_ref().own() > 0 || (**server).as_ref().taken() != *before)
    }

    fn call(&mut self, now: Instant, for_waiters: bool) {
        let mut riders = VecDeque::new();
        if for_waiters {
            // One call has one list of exclusions: whoever wants another rides on the next.
            while let Some(waiter) = self
                .waiting
                .pop_front_if(|waiter| riders.front().is_none_or(|first: &Waiter<T>| first.excluded == waiter.excluded))
            {
                riders.push_back(waiter);
                if riders.len() == PICKS {
                    break;
                }
            }
        }
        let beat = now >= self.next_beat;
        let made_locally = self.count_own_picks();
        let excluded = riders.front().map(|waiter| waiter.excluded.clone()).unwrap_or_default();
        let request = Request {
            picks: riders.len() as u32,
            excluded: &excluded,
            snapshot: beat || !for_waiters,
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
            self.next_beat = now + HEARTBEAT;
        }
        self.next_call = now + self.jittered();
        let call = self.client.call(&scripts::EXCHANGE, &self.exchange_keys, args);
        self.calls.push_back(Box::pin(async move { (seq, call.await) }));
        self.out.push_back(Out { seq, waiters: riders, sent: now, made: self.made });
    }

    /// Picks by this node that Redis did not make, since the last call.
    fn count_own_picks(&mut self) -> u32 {
        let mut taken = 0u32;
        for (server, before) in self.share.servers().iter().zip(&mut self.taken_before) {
            let now = (**server).as_ref().taken();
            taken = taken.wrapping_add(now.wrapping_sub(*before));
            *before = now;
        }
        self.own_picks.add(self.seconds(Instant::now()), f64::from(taken), MEMORY);
        let locally = taken.saturating_sub(self.granted);
        self.granted = self.granted.saturating_sub(taken);
        self.made += u64::from(locally);
        locally
    }

    fn answered(&mut self, seq: i64, reply: Result<Value, CallError>) {
        let now = Instant::now();
        let Some(mut out) = self.out.pop_front_if(|out| out.seq == seq) else { return };
        let took = now.saturating_duration_since(out.sent);
        let reply = match reply {
            Ok(value) => {
                self.metrics.called("exchange", "ok", took);
                Ok(value)
            }
            Err(CallError::Refused(text)) => {
                self.metrics.called("exchange", "refused", took);
                Err(text)
            }
            Err(CallError::Lost(why)) => {
                self.metrics.called("exchange", "lost", took);
                out.waiters.clear();
                return self.give_up(&why);
            }
        };
        match self.node.answered(seq, reply.as_ref().map(Value::clone).map_err(String::as_str)) {
            Outcome::Done(answer) => self.ran(answer, out, now, took),
            Outcome::Refused(refusal) => {
                if refusal.read_table() {
                    self.table = Table::Needed;
                }
                let text = reply.err().unwrap_or_default();
                log::debug!(pool = self.settings.pool, error = text; "exchange_refused");
                if !text.is_empty() && refusal == crate::load::redis::Refusal::Other {
                    self.metrics.refused(&self.settings.pool, &text);
                    self.next_call = now + Duration::from_millis(100);
                    self.share.set_mode(Mode::Local);
                    self.let_all_waiters_go();
                }
            }
            Outcome::GivenUp => {}
        }
    }

    fn ran(&mut self, answer: Answer, mut out: Out<T>, now: Instant, took: Duration) {
        let rtt = took.as_secs_f64();
        self.rtt = if self.rtt == 0.0 { rtt } else { self.rtt + 0.1 * (rtt - self.rtt) };
        if took <= self.settings.timeout {
            self.suspended = false;
        }
        self.picked += answer.picks.len() as u64 + u64::from(answer.foreign);
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
        self.audit_now |= answer.audit;
        if answer.view {
            self.take_view(now, out.sent, took, out.made);
        }
        if let Some(dead) = answer.dead {
            self.reap(dead);
        }
    }

    /// Hands out what Redis picked: to those who asked, and what is left over, because somebody gave up, to the next
    /// in line. What still is left the next call gives back.
    fn grant(&mut self, answer: &Answer, asked: VecDeque<Waiter<T>>) {
        let mut takers = asked.into_iter();
        for &pick in &answer.picks {
            let Some(server) = self.share.servers().get(pick) else { continue };
            self.granted += 1;
            let mut lease = Some(Lease::take(server.clone()));
            while let Some(granted) = lease.take() {
                let fits = |waiter: &mut Waiter<T>| !waiter.excluded.contains(&pick);
                let Some(taker) = takers.next().or_else(|| self.waiting.pop_front_if(fits)) else { break };
                lease = taker.grant.send(granted).err();
            }
        }
        // Redis has nobody for those who are left: every server excluded or full.
    }

    fn take_view(&mut self, now: Instant, sent: Instant, took: Duration, made: u64) {
        let view = self.node.view();
        let nodes = view.live_nodes.max(1);
        let seen = sent + took / 2;
        self.others_rate.observe(view.picks, made + self.picked, self.seconds(seen));
        self.interval = interval(nodes, ACTIVE_POOLS, f64::from(self.settings.max_calls));
        let rate = if nodes == 1 { 0.0 } else { self.others_rate.per_second() };
        let (rtt, sync) = (took.as_secs_f64(), self.interval.as_secs_f64());
        let lag = age(rtt / 2.0, 0.0, rtt, sync);
        let others = (0..self.share.servers().len()).map(|index| view.others(index));
        self.share.set_view(others, nodes, seen, Duration::from_secs_f64(lag.max(0.0)), rate);
        self.metrics.view(&self.settings.pool, nodes);
        self.update_completions(now);
        self.decide_mode(now);
        if let Some(first) = self.first_view.take() {
            first.send(()).ok();
        }
    }

    fn update_completions(&mut self, now: Instant) {
        let now = self.seconds(now);
        let mut in_flight = 0;
        for (index, (decayed, before)) in self.completed.iter_mut().enumerate() {
            let Some(server) = self.share.servers().get(index) else { continue };
            let ledger = (**server).as_ref();
            let own = ledger.own();
            let done = ledger.taken().wrapping_sub(own);
            decayed.add(now, f64::from(done.wrapping_sub(*before)), MEMORY);
            *before = done;
            in_flight += own;
            self.share.set_completions(index, decayed.value(now, MEMORY));
        }
        self.in_flight += 0.05 * (f64::from(in_flight) - self.in_flight);
    }

    fn decide_mode(&mut self, now: Instant) {
        let own_rate = self.own_picks.value(self.seconds(now), MEMORY) / MEMORY;
        self.exact = match self.settings.mode {
            Configured::Exact => true,
            Configured::Batched => false,
            Configured::Auto => {
                // Little's law: requests in flight = rate × time in flight.
                let service = if own_rate > 0.5 { self.in_flight / own_rate } else { 0.0 };
                let signs = Signs {
                    rtt: self.rtt,
                    service,
                    fleet_rate: own_rate + self.others_rate.per_second(),
                    own_rate,
                    exchange_rate: 1.0 / self.interval.as_secs_f64(),
                };
                prefer_exact(&signs, self.exact)
            }
        };
        self.share.set_mode(if self.exact && !self.suspended { Mode::Exact } else { Mode::Batched });
    }

    /// Lets go of everybody who has waited for `redis.timeout`, and closes a connection that does not answer.
    fn let_go_of_the_overdue(&mut self, now: Instant) {
        let overdue = |waiter: &Waiter<T>, limit: Duration| now.saturating_duration_since(waiter.since) >= limit;
        let limit = self.settings.timeout;
        let mut gone = 0;
        for list in self.out.iter_mut().map(|out| &mut out.waiters).chain(std::iter::once(&mut self.waiting)) {
            while list.pop_front_if(|waiter| overdue(waiter, limit)).is_some() {
                gone += 1;
            }
        }
        if gone > 0 {
            self.suspended = true;
            self.share.set_mode(Mode::Batched);
            self.metrics.waited_too_long(&self.settings.pool, gone);
        }
    }

    fn let_all_waiters_go(&mut self) {
        self.waiting.clear();
        self.out.iter_mut().for_each(|out| out.waiters.clear());
    }

    /// Nobody knows what became of the calls that are out.
    fn give_up(&mut self, why: &str) {
        log::debug!(pool = self.settings.pool, why = why; "exchange_given_up");
        self.node.lost();
        self.out.clear();
        self.calls = FuturesOrdered::new();
        self.waiting.clear();
        self.next_call = Instant::now() + Duration::from_millis(20);
        self.table = Table::Needed;
    }

    fn register(&mut self) {
        self.table = Table::Reading;
        // The first time this process says what its file says; later it only adds what is missing, so that nodes with
        // different files do not fight.
        let op = if self.registered_once { TableOp::Add } else { TableOp::Set };
        let names: Vec<_> =
            self.settings.servers.iter().map(|(name, terms)| (Bytes::from(name.clone()), *terms)).collect();
        self.send_register(op, &names);
    }

    fn send_register(&mut self, op: TableOp, servers: &[(Bytes, Terms)]) {
        let mut args = Vec::new();
        calls::register(op, servers.iter().map(|(name, terms)| (name, *terms)), &mut args);
        let call = self.client.call(&scripts::REGISTER, &self.keys.register(), args);
        self.rare.push(Box::pin(async move { Rare::Table(call.await) }));
    }

    fn reap(&mut self, dead: Bytes) {
        let mut args = Vec::new();
        calls::reap(&dead, false, &mut args);
        let call = self.client.call(&scripts::REAP, &self.keys.reap(&dead), args);
        log::info!(pool = self.settings.pool, node = String::from_utf8_lossy(&dead).into_owned(); "node_lease_ran_out");
        self.rare.push(Box::pin(async move { Rare::Reaped(call.await) }));
    }

    /// One node in the fleet, by lot, audits: each second quickly, whether the sorted sets agree with the totals, and
    /// each [`AUDIT_EVERY`] in full, whether the totals agree with the rows; in full at once where something is known
    /// to be wrong.
    fn audit(&mut self, now: Instant) {
        let drawn = fastrand::u32(0..self.share.nodes().max(1)) == 0;
        let mut full = std::mem::take(&mut self.audit_now);
        if now >= self.next_audit {
            self.next_audit = now + AUDIT_EVERY;
            full |= drawn;
        }
        if full {
            let (client, key) = (self.client.clone(), self.keys.lease.clone());
            self.rare.push(Box::pin(async move { Rare::Leases(client.zrange_members(&key).await) }));
        } else if now >= self.next_quick_audit && drawn {
            self.send_audit(&[]);
        }
        if now >= self.next_quick_audit {
            self.next_quick_audit = now + HEARTBEAT;
        }
    }

    fn send_audit(&mut self, incarnations: &[Bytes]) {
        let mut args = Vec::new();
        calls::audit(incarnations, LEASE.as_millis() as u32, &mut args);
        let call = self.client.call(&scripts::AUDIT, &self.keys.audit(incarnations), args);
        self.rare.push(Box::pin(async move { Rare::Audited(call.await) }));
    }

    fn rare_answered(&mut self, rare: Rare) {
        match rare {
            Rare::Table(Ok(table)) => match self.node.table_read(table, own(&self.share)) {
                Ok(read) if read.missing.is_empty() => {
                    self.registered_once = true;
                    self.table = Table::Known;
                }
                Ok(read) => {
                    let missing: Vec<_> = read.missing.iter().filter_map(|&index| self.terms_of(index)).collect();
                    self.send_register(TableOp::Add, &missing);
                }
                Err(error) => {
                    log::error!(pool = self.settings.pool, error = error.to_string(); "table_unreadable");
                    self.table = Table::Needed;
                }
            },
            Rare::Table(Err(error)) => {
                self.metrics.refused(&self.settings.pool, &format!("{error:?}"));
                self.table = Table::Needed;
                self.give_up("the table cannot be read");
            }
            Rare::Leases(Ok(leased)) => {
                let incarnations = self.incarnations.refresh(self.node.incarnation(), leased);
                self.send_audit(&incarnations);
            }
            Rare::Audited(Ok(reply)) => match calls::audited(reply) {
                Ok(audited) if audited.differences > 0 => {
                    self.metrics.drift(&self.settings.pool, audited.differences);
                    let first = audited.first.first();
                    log::warn!(
                        pool = self.settings.pool, differences = audited.differences,
                        first = first.map(|d| format!("{} {}: {} instead of {}", d.key, d.name, d.found, d.wanted)).unwrap_or_default();
                        "fleet_totals_put_right"
                    );
                }
                Ok(_) => {}
                Err(error) => log::error!(pool = self.settings.pool, error = error.to_string(); "audit_unreadable"),
            },
            Rare::Reaped(Ok(reply)) if calls::reaped(&reply) == Ok(true) => self.metrics.reaped(&self.settings.pool),
            // A quick audit that is not enough, or a lease set that changed meanwhile.
            Rare::Audited(Err(CallError::Refused(text))) if text.starts_with("RETRY") => self.audit_now = true,
            // The next round tries again.
            Rare::Reaped(_) | Rare::Leases(Err(_)) | Rare::Audited(Err(_)) => {}
        }
    }

    /// What the table should hold of a server it lacks: ours as configured, a stranger only to be counted.
    fn terms_of(&self, index: usize) -> Option<(Bytes, Terms)> {
        match self.settings.servers.get(index) {
            Some((name, terms)) => Some((Bytes::from(name.clone()), *terms)),
            None => Some((self.node.servers().name(index), Terms { weight: 0.0, cap: 0 })),
        }
    }

    /// A clean end: the row goes at once, instead of when the lease runs out.
    async fn leave(mut self) {
        self.let_all_waiters_go();
        let mut args = Vec::new();
        calls::reap(self.node.incarnation(), true, &mut args);
        let me = self.node.incarnation().clone();
        // Calls that are out run before it: one connection keeps the order.
        let call = self.client.call(&scripts::REAP, &self.keys.reap(&me), args);
        if let Err(error) = call.await {
            log::warn!(pool = self.settings.pool, error = format!("{error:?}"); "row_left_to_its_lease");
        }
    }

    fn seconds(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.born).as_secs_f64()
    }

    fn next_due(&self) -> Instant {
        let first_wait = self.out.iter().flat_map(|out| out.waiters.front()).chain(self.waiting.front());
        let wait = first_wait.map(|waiter| waiter.since + self.settings.timeout).min();
        let idle_call = self.next_call.min(self.next_beat);
        let call = if self.out.is_empty() { idle_call } else { self.next_beat.max(Instant::now()) };
        wait.map_or(call, |wait| wait.min(call)).max(Instant::now() + Duration::from_micros(200))
    }

    /// ±10 %, so that nodes do not call in step.
    fn jittered(&self) -> Duration {
        let base = if self.exact && !self.suspended { RELEASE_WITHIN } else { self.interval };
        base.mul_f64(0.9 + 0.2 * fastrand::f64())
    }
}

/// This process's requests in flight, by the protocol's index.
fn own<T: AsRef<Ledger>>(share: &Share<T>) -> impl Fn(usize) -> u32 + '_ {
    |index| share.servers().get(index).map_or(0, |server| (**server).as_ref().own())
}
