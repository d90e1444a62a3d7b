//! One Fairlead node: the real state machine of the protocol and the real choice, under virtual time.
//!
//! What a method wants sent or placed it leaves in `outbox` and `placed`; the world takes it from there.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use fairlead::balance::tide::{self, Share};
use fairlead::balance::view::{self, COMPLETIONS_TAU, Decayed, OthersRate, TOO_OLD};
use fairlead::balance::{Candidate, Draw, Policy};
use fairlead::load::redis::calls::{self, Incarnations, TableOp, Terms};
use fairlead::load::redis::{self as protocol, Outcome, Value};

use crate::network::{Kind, Link};
use crate::servers::Request;
use crate::store::Words;
use crate::world::{MS, Nanos, SEC, seconds};

/// How long the counts of a dead node stay, ms of Redis time.
pub const LEASE_MS: u32 = 3000;
/// The longest that a request waits for the store.
pub const TIMEOUT: Nanos = 5 * MS;
/// The longest that a background call waits.
const COMMAND_TIMEOUT: Nanos = SEC;
/// Between attempts to connect.
const BACKOFF: Nanos = 100 * MS;
/// How often a node says which servers it has, and how long one stays that nobody has, where that is tested.
const CLAIM_EVERY: Nanos = SEC;
const UNCLAIMED: Duration = Duration::from_secs(3);
/// The most picks of one call.
const MOST_PICKS: usize = 64;

/// How a node chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Knows everything at every moment: what a fleet could reach at best.
    Ideal,
    Exact,
    Batched,
    /// Takes the least of its last view, whatever its age: the mistake that `tide` avoids.
    Stale,
    /// Least-connections over the node's own requests.
    Local,
    PowerOfTwo,
}

impl Mode {
    pub fn uses_store(self) -> bool {
        matches!(self, Mode::Exact | Mode::Batched | Mode::Stale)
    }
}

/// A call that is out.
#[derive(Debug)]
struct Call {
    seq: i64,
    sent: Nanos,
    picks: usize,
    made_locally: u32,
}

pub struct Member {
    pub mode: Mode,
    pub life: u32,
    pub alive: bool,
    pub frozen_until: Nanos,
    pub link: Link,
    /// Requests in flight, by server; the protocol's indexes are the same.
    pub own: Vec<u32>,
    pub node: protocol::Node,
    pub outbox: Vec<(Kind, Words)>,
    /// Requests that found their server.
    pub placed: Vec<(Request, usize)>,
    /// When it claimed its servers last; None: that is not simulated.
    claimed: Option<Nanos>,
    /// This process does not have the last server.
    lacks: Option<usize>,
    max_calls: f64,
    weights: Vec<f32>,
    rng: fastrand::Rng,
    /// Read the table before the next call; and whether that is under way.
    need_table: bool,
    asking: Option<Nanos>,
    retry_at: Nanos,
    calls: VecDeque<Call>,
    /// First those for whom a call is out.
    waiters: VecDeque<Request>,
    asked: usize,
    /// The last call was answered in time, so requests may wait for one.
    answering: bool,
    dirty: bool,
    made_locally: u32,
    counted: u64,
    rate: OthersRate,
    viewed: Option<(f64, f64)>,
    sync: f64,
    completions: Vec<Decayed>,
    /// Those as of the last view, if a choice has asked for them since.
    faded: Vec<f32>,
    looked: Nanos,
    renewed: Nanos,
    audited: Nanos,
    audit: bool,
    incarnations: Incarnations,
    shares: Vec<Share>,
    candidates: Vec<Candidate>,
}

impl Member {
    pub fn new(number: usize, life: u32, mode: Mode, weights: &[f32], max_calls: f64, now: Nanos, seed: u64) -> Self {
        let mut node = protocol::Node::new(format!("n{number}.{life}"), LEASE_MS);
        for server in 0..weights.len() {
            assert_eq!(node.claim(&name(server)), server);
        }
        Self {
            mode,
            life,
            alive: true,
            frozen_until: 0,
            link: Link::new(0),
            own: vec![0; weights.len()],
            node,
            outbox: Vec::new(),
            placed: Vec::new(),
            claimed: None,
            lacks: None,
            max_calls,
            weights: weights.to_vec(),
            rng: fastrand::Rng::with_seed(seed),
            need_table: true,
            asking: None,
            retry_at: 0,
            calls: VecDeque::new(),
            waiters: VecDeque::new(),
            asked: 0,
            answering: false,
            dirty: false,
            made_locally: 0,
            counted: 0,
            rate: OthersRate::default(),
            viewed: None,
            sync: 0.0,
            completions: vec![Decayed::default(); weights.len()],
            faded: Vec::new(),
            looked: 0,
            renewed: 0,
            audited: now,
            audit: false,
            incarnations: Incarnations::default(),
            shares: Vec::new(),
            candidates: Vec::new(),
        }
    }

    /// Servers that nobody has are to be forgotten; this process perhaps lacks the last one. (Not more than one: the protocol's
    /// indexes are to stay the same as the servers'.)
    pub fn tidies(&mut self, lacking: bool) {
        self.claimed = Some(0);
        self.lacks = lacking.then(|| self.weights.len() - 1);
        if let Some(server) = self.lacks {
            self.node.release(server);
        }
    }

    /// A request comes in. Whether it must wait for the store.
    pub fn arrive(&mut self, request: Request, now: Nanos) -> bool {
        if self.mode == Mode::Exact && self.answering && self.retry_at <= now {
            self.waiters.push_back(request);
            self.pump(now);
            return true;
        }
        self.place_locally(request, now);
        false
    }

    /// A request has ended.
    pub fn completed(&mut self, server: usize, now: Nanos) {
        self.own[server] -= 1;
        self.completions[server].add(seconds(now), 1.0, COMPLETIONS_TAU);
        self.dirty = true;
        self.pump(now);
    }

    /// Nobody waits longer than the timeout; and after one has, nobody waits until the store answers in time again.
    pub fn waited(&mut self, now: Nanos) {
        if self.waiters.front().is_some_and(|request| request.arrived + TIMEOUT <= now) {
            self.answering = false;
            self.release_waiters(self.waiters.len(), now);
        }
    }

    fn release_waiters(&mut self, n: usize, now: Nanos) {
        for _ in 0..n {
            let Some(request) = self.waiters.pop_front() else { break };
            self.place_locally(request, now);
        }
    }

    fn place(&mut self, request: Request, server: usize) {
        self.own[server] += 1;
        self.dirty = true;
        self.placed.push((request, server));
    }

    fn place_locally(&mut self, request: Request, now: Nanos) {
        let server = self.choose(now).expect("there are servers");
        self.made_locally += 1;
        self.place(request, server);
    }

    fn choose(&mut self, now: Nanos) -> Option<usize> {
        let policy = if self.mode == Mode::PowerOfTwo { Policy::PowerOfTwo } else { Policy::LeastConnections };
        let now = seconds(now);
        let age = self.viewed.map_or(f64::INFINITY, |(sent, rtt)| view::age(now, sent, rtt, self.sync));
        if !self.mode.uses_store() || age > TOO_OLD {
            self.candidates.clear();
            let has = |index: u32| self.lacks != Some(index as usize);
            for (index, (own, weight)) in (0..).zip(self.own.iter().zip(&self.weights)).filter(|(index, _)| has(*index))
            {
                self.candidates.push(Candidate { index, in_flight: *own, weight: *weight });
            }
            let mut draw = Draw { rng: &mut self.rng, ticket: 0, key: 0, ring: None };
            return policy.pick(&self.candidates, &mut draw);
        }
        if self.faded.is_empty() {
            self.faded.extend(self.completions.iter().map(|count| count.value(now, COMPLETIONS_TAU) as f32));
        }
        self.shares.clear();
        let view = self.node.view();
        for (at, own) in self.own.iter().enumerate().filter(|(at, _)| self.lacks != Some(*at)) {
            self.shares.push(Share {
                index: at as u32,
                weight: self.weights[at],
                queued: (view.others(at) + own) as f32,
                own: *own,
                completions: self.faded[at],
            });
        }
        let unseen = match self.mode {
            Mode::Stale => 0.0,
            _ => tide::unseen(self.rate.per_second() as f32, age as f32),
        };
        tide::pick(&self.shares, unseen, &mut self.rng)
    }

    /// The timer. Returns when to come again.
    pub fn tick(&mut self, now: Nanos) -> Nanos {
        let overdue = |sent: Nanos| sent + COMMAND_TIMEOUT < now;
        if self.calls.front().is_some_and(|call| overdue(call.sent)) || self.asking.is_some_and(overdue) {
            self.connection_lost(now);
        }
        let exact = self.mode == Mode::Exact;
        let due = !exact || self.looked + SEC <= now || !self.answering || self.node.broken();
        if self.retry_at <= now {
            if self.need_table {
                self.read_table(now);
            } else if due && self.node.outstanding() == 0 {
                self.call(now, 0, true);
            }
            if self.claimed.is_some_and(|at| at + CLAIM_EVERY <= now) && !self.need_table {
                self.claimed = Some(now);
                let all: Vec<usize> = (0..self.weights.len()).filter(|at| self.lacks != Some(*at)).collect();
                let words = self.to_add(&all);
                self.outbox.push((Kind::Claim, words));
            }
            if self.audit || self.audited + 3 * SEC <= now {
                (self.audit, self.audited) = (false, now);
                self.outbox.push((Kind::Leased, Words::default()));
            }
        }
        let live = self.node.view().live_nodes;
        let pause = if exact { 0.1 } else { view::interval(live, 1, self.max_calls).as_secs_f64() };
        self.sync = pause;
        now + (pause * (0.9 + 0.2 * self.rng.f64()) * SEC as f64) as Nanos
    }

    fn read_table(&mut self, now: Nanos) {
        if self.asking.is_none() {
            self.asking = Some(now);
            let mut words = Words::default();
            calls::register(TableOp::Add, [], &mut words);
            self.outbox.push((Kind::Register, words));
        }
    }

    /// Exact mode: what waits goes out as soon as there is room.
    fn pump(&mut self, now: Nanos) {
        while self.mode == Mode::Exact && !self.need_table && self.retry_at <= now && self.node.ready() {
            let picks = self.waiters.len().saturating_sub(self.asked).min(MOST_PICKS);
            if picks == 0 && !self.dirty {
                break;
            }
            self.call(now, picks, self.looked + SEC <= now);
        }
    }

    fn call(&mut self, now: Nanos, picks: usize, snapshot: bool) {
        let request = protocol::Request {
            picks: picks as u32,
            snapshot,
            own_row: snapshot && self.rng.u32(0..64) == 0,
            renew: self.renewed + SEC <= now,
            made_locally: self.made_locally,
            seed: self.rng.u32(..),
            ..protocol::Request::default()
        };
        let mut words = Words::default();
        let own = &self.own;
        let Some(seq) = self.node.begin(&request, |at| own.get(at).copied().unwrap_or(0), &mut words) else { return };
        self.looked = if snapshot { now } else { self.looked };
        self.renewed = if request.renew { now } else { self.renewed };
        let made_locally = std::mem::take(&mut self.made_locally);
        self.calls.push_back(Call { seq, sent: now, picks, made_locally });
        self.asked += picks;
        self.dirty = false;
        self.outbox.push((Kind::Exchange { seq }, words));
    }

    /// The outcome of what is out is unknown; who waits for it chooses now.
    pub fn connection_lost(&mut self, now: Nanos) {
        self.node.lost();
        self.link.renew();
        (self.asking, self.answering, self.asked) = (None, false, 0);
        self.renewed = 0;
        self.calls.clear();
        self.release_waiters(self.waiters.len(), now);
        self.retry_at = now + BACKOFF / 2 + self.rng.u64(0..BACKOFF);
    }

    /// An answer, in the order of the calls.
    pub fn answered(&mut self, kind: Kind, result: Result<Value, String>, now: Nanos) {
        match kind {
            Kind::Exchange { seq } => self.exchanged(seq, result, now),
            Kind::Register => self.registered(result, now),
            Kind::Leased => {
                let Ok(Value::Array(leased)) = result else { return };
                let leased = leased.into_iter().filter_map(|who| match who {
                    Value::Bytes(who) => Some(who),
                    _ => None,
                });
                let all = self.incarnations.refresh(self.node.incarnation(), leased);
                let mut words = Words::default();
                calls::audit(&all, LEASE_MS, &mut words);
                self.outbox.push((Kind::Audit, words));
                if self.claimed.is_some() {
                    let mut words = Words::default();
                    calls::tidy(UNCLAIMED, &mut words);
                    self.outbox.push((Kind::Tidy, words));
                }
            }
            Kind::Claim | Kind::Tidy => {
                let Ok(table) = result else { return };
                let own = &self.own;
                let read = self.node.table_read(table, |at| own.get(at).copied().unwrap_or(0)).unwrap();
                self.need_table |= !read.missing.is_empty();
            }
            Kind::Audit => self.audit |= result.is_err_and(|error| error.starts_with("RETRY")),
            Kind::Reap => {}
        }
    }

    fn registered(&mut self, result: Result<Value, String>, now: Nanos) {
        self.asking = None;
        let own = &self.own;
        let read = self.node.table_read(result.unwrap(), |at| own.get(at).copied().unwrap_or(0)).unwrap();
        self.need_table = !read.missing.is_empty();
        if self.need_table {
            // In any order, so that a table made anew has other slots.
            let mut missing = read.missing;
            self.rng.shuffle(&mut missing);
            let words = self.to_add(&missing);
            self.asking = Some(now);
            self.outbox.push((Kind::Register, words));
        }
        self.pump(now);
    }

    fn to_add(&self, servers: &[usize]) -> Words {
        let names: Vec<Bytes> = servers.iter().map(|at| name(*at)).collect();
        let terms = |at: &usize| Terms { weight: self.weights[*at].into(), cap: 0 };
        let mut words = Words::default();
        calls::register(TableOp::Add, names.iter().zip(servers.iter().map(terms)), &mut words);
        words
    }

    fn exchanged(&mut self, seq: i64, result: Result<Value, String>, now: Nanos) {
        let error = result.as_ref().err().cloned().unwrap_or_default();
        let answer = match self.node.answered(seq, result.map_err(|_| error.as_str())) {
            Outcome::GivenUp => return,
            Outcome::Refused(refusal) => {
                self.need_table |= refusal.read_table();
                let call = self.calls.pop_front().unwrap();
                self.asked -= call.picks;
                self.release_waiters(call.picks, now);
                if self.need_table {
                    self.read_table(now);
                }
                return self.pump(now);
            }
            Outcome::Done(answer) => answer,
        };
        assert_eq!(answer.row_differs, 0, "a row is what its node believes");
        let call = self.calls.pop_front().unwrap();
        assert_eq!(call.seq, seq, "answers come in order");
        let rtt = now - call.sent;
        self.answering |= rtt <= TIMEOUT;
        self.asked -= call.picks;
        self.counted += u64::from(call.made_locally) + answer.picks.len() as u64;
        for server in &answer.picks {
            match self.waiters.pop_front() {
                Some(request) => self.place(request, *server),
                None => self.dirty = true,
            }
        }
        // The script may find fewer than were asked for.
        self.release_waiters(call.picks.saturating_sub(answer.picks.len()), now);
        if answer.view {
            let (sent, rtt) = (seconds(call.sent), seconds(rtt));
            self.viewed = Some((sent, rtt));
            self.faded.clear();
            self.rate.observe(self.node.view().picks, self.counted, sent + rtt / 2.0);
        }
        self.audit |= answer.audit;
        if let Some(dead) = answer.dead {
            let mut words = Words::default();
            calls::reap(&dead, false, &mut words);
            self.outbox.push((Kind::Reap, words));
        }
        if answer.read_table {
            self.need_table = true;
            self.read_table(now);
        }
        self.pump(now);
    }
}

/// A server's name.
pub fn name(server: usize) -> Bytes {
    format!("s{server}").into()
}
