//! Virtual time: what happens, in its order, to nodes, servers, network and store.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use fairlead::balance::{Candidate, Draw, Policy};

use crate::network::{Faults, Kind, Message, Origin, Reply};
use crate::node::{Member, Mode, name};
use crate::servers::{Law, Request, Server, Spec, exponential};
use crate::stats::Latencies;
use crate::store::Store;

/// Virtual time, ns.
pub type Nanos = u64;
pub const MS: Nanos = 1_000_000;
pub const SEC: Nanos = 1_000 * MS;

pub fn seconds(time: Nanos) -> f64 {
    time as f64 / SEC as f64
}

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Setup {
    pub nodes: usize,
    pub servers: Vec<Spec>,
    /// Load of all servers together; requests come as a Poisson process.
    pub load: f64,
    pub law: Law,
    pub max_calls: f64,
    pub rtt: Nanos,
    pub seed: u64,
    /// Check the store's books after every so many of its steps.
    pub check_every: u64,
    /// How many of the processes do not have the last server; and whether it is forgotten when nobody has it.
    pub lacking: Option<f64>,
}

/// What state the store is in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Power {
    Up,
    /// Connections are refused.
    Refuses,
    /// Messages get there and lie until it goes on.
    Hangs,
}

enum Event {
    Arrival,
    /// A request reaches a node that was frozen when it came.
    Handed(Request),
    Completion(usize, Request),
    /// A node learns of an end.
    Ended(usize, Request),
    Tick(usize, u32),
    Waited(usize, u32),
    ToStore(Box<Message>),
    ToNode(Box<Reply>),
    Lost(Origin),
}

struct Timed(Nanos, u64, Event);

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

pub struct World {
    pub setup: Setup,
    pub now: Nanos,
    pub members: Vec<Member>,
    pub store: Store,
    pub faults: Faults,
    pub latencies: Latencies,
    /// The longest that a request waited for its choice.
    pub longest_wait: Nanos,
    /// How many waited at all.
    pub waits: u64,
    pub steps: u64,
    power: Power,
    held: Vec<Message>,
    servers: Vec<Server>,
    events: BinaryHeap<Reverse<Timed>>,
    order: u64,
    rate: f64,
    paused: bool,
    arrival_due: bool,
    in_flight: Vec<u32>,
    stopped: Vec<(usize, Request)>,
    lives: u32,
    /// The same for every policy of one seed: when requests come, where, and how much work they are.
    workload: fastrand::Rng,
    rng: fastrand::Rng,
    candidates: Vec<Candidate>,
}

impl World {
    pub fn new(setup: Setup, mode: impl Fn(usize) -> Mode) -> Self {
        let capacity: f64 = setup.servers.iter().map(|s| f64::from(s.workers) * 1000.0 / s.mean_ms).sum();
        let mut world = Self {
            now: 10 * SEC, // so that nothing depends on the zero of the clock
            members: Vec::new(),
            store: Store::new(setup.seed ^ 1),
            faults: Faults::default(),
            latencies: Latencies::default(),
            longest_wait: 0,
            waits: 0,
            steps: 0,
            power: Power::Up,
            held: Vec::new(),
            servers: setup.servers.iter().map(|spec| Server::new(*spec)).collect(),
            events: BinaryHeap::new(),
            order: 0,
            rate: setup.load * capacity,
            paused: false,
            arrival_due: false,
            in_flight: vec![0; setup.servers.len()],
            stopped: Vec::new(),
            lives: 0,
            workload: fastrand::Rng::with_seed(setup.seed),
            rng: fastrand::Rng::with_seed(setup.seed ^ 2),
            candidates: Vec::new(),
            setup,
        };
        for number in 0..world.setup.nodes {
            let member = world.start(number, mode(number));
            world.members.push(member);
        }
        world.next_arrival();
        world
    }

    fn start(&mut self, number: usize, mode: Mode) -> Member {
        self.lives += 1;
        if mode.uses_store() {
            let first = self.now + self.rng.u64(0..100 * MS);
            self.push(first, Event::Tick(number, self.lives));
        }
        let weights: Vec<f32> = self.setup.servers.iter().map(|spec| spec.weight).collect();
        let mut member =
            Member::new(number, self.lives, mode, &weights, self.setup.max_calls, self.now, self.rng.u64(..));
        if let Some(share) = self.setup.lacking {
            member.tidies(self.rng.f64() < share);
        }
        member
    }

    fn push(&mut self, at: Nanos, event: Event) {
        self.order += 1;
        self.events.push(Reverse(Timed(at, self.order, event)));
    }

    fn next_arrival(&mut self) {
        self.arrival_due = true;
        let gap = exponential(&mut self.workload) / self.rate;
        self.push(self.now + (gap * SEC as f64) as Nanos, Event::Arrival);
    }

    pub fn run(&mut self, span: Nanos) -> Range<Nanos> {
        let (from, end) = (self.now, self.now + span);
        while self.events.peek().is_some_and(|next| next.0.0 <= end) {
            let Some(Reverse(Timed(at, _, event))) = self.events.pop() else { break };
            self.now = at;
            self.happens(event);
        }
        self.now = end;
        from..end
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Arrival if self.paused || self.rate == 0.0 => self.arrival_due = false,
            Event::Arrival => {
                let at = self.workload.usize(0..self.members.len());
                let work = self.setup.law.draw(&mut self.workload);
                self.next_arrival();
                let alive =
                    (0..self.members.len()).map(|i| (at + i) % self.members.len()).find(|i| self.members[*i].alive);
                if let Some(member) = alive {
                    let life = self.members[member].life;
                    self.arrives(Request { arrived: self.now, member, life, work });
                }
            }
            Event::Handed(request) => self.arrives(Request { arrived: self.now, ..request }),
            Event::Completion(server, request) if self.paused => self.stopped.push((server, request)),
            Event::Completion(server, request) => {
                self.in_flight[server] -= 1;
                if let Some((next, takes)) = self.servers[server].next() {
                    self.push(self.now + takes, Event::Completion(server, next));
                }
                self.latencies.add(request.arrived, self.now - request.arrived);
                self.ended(server, request);
            }
            Event::Ended(server, request) => self.ended(server, request),
            Event::Tick(member, life) => {
                if self.awake(member, life, || Event::Tick(member, life)) {
                    let next = self.members[member].tick(self.now);
                    self.push(next, Event::Tick(member, life));
                    self.flush(member);
                }
            }
            Event::Waited(member, life) => {
                if self.awake(member, life, || Event::Waited(member, life)) {
                    self.members[member].waited(self.now);
                    self.flush(member);
                }
            }
            Event::Lost(origin) => {
                if self.awake(origin.member, origin.life, || Event::Lost(origin)) {
                    self.lost(origin);
                }
            }
            Event::ToStore(message) => self.at_store(*message),
            Event::ToNode(reply) => self.at_node(*reply),
        }
    }

    /// Whether a node can take note; if it is frozen, it will later; if it is gone, never.
    fn awake(&mut self, member: usize, life: u32, event: impl FnOnce() -> Event) -> bool {
        let it = &self.members[member];
        let (here, until) = (it.alive && it.life == life, it.frozen_until);
        if here && until > self.now {
            self.push(until, event());
        }
        here && until <= self.now
    }

    fn arrives(&mut self, request: Request) {
        let Request { member, life, .. } = request;
        if !self.awake(member, life, || Event::Handed(request)) {
            return;
        }
        if self.members[member].mode == Mode::Ideal {
            let server = self.ideal();
            self.members[member].own[server] += 1;
            return self.serve(request, server);
        }
        if self.members[member].arrive(request, self.now) {
            self.push(self.now + crate::node::TIMEOUT, Event::Waited(member, life));
        }
        self.flush(member);
    }

    fn ideal(&mut self) -> usize {
        self.candidates.clear();
        for (at, spec) in self.setup.servers.iter().enumerate() {
            self.candidates.push(Candidate { index: at as u32, in_flight: self.in_flight[at], weight: spec.weight });
        }
        let mut draw = Draw { rng: &mut self.rng, ticket: 0, key: 0, ring: None };
        Policy::LeastLoad.pick(&self.candidates, &mut draw).unwrap()
    }

    fn serve(&mut self, request: Request, server: usize) {
        self.in_flight[server] += 1;
        if let Some(takes) = self.servers[server].offer(request) {
            self.push(self.now + takes, Event::Completion(server, request));
        }
    }

    fn ended(&mut self, server: usize, request: Request) {
        let Request { member, life, .. } = request;
        if self.awake(member, life, || Event::Ended(server, request)) {
            self.members[member].completed(server, self.now);
            self.flush(member);
        }
    }

    /// Carries out what a node decided.
    fn flush(&mut self, at: usize) {
        for (request, server) in std::mem::take(&mut self.members[at].placed) {
            let waited = self.now - request.arrived;
            self.waits += u64::from(waited > 0);
            self.longest_wait = self.longest_wait.max(waited);
            self.serve(request, server);
        }
        for (kind, words) in std::mem::take(&mut self.members[at].outbox) {
            let member = &mut self.members[at];
            let origin = Origin { member: at, life: member.life, connection: member.link.connection };
            let fate = member.link.send(self.now, self.setup.rtt, &self.faults, &mut self.rng);
            let message = Box::new(Message { origin, kind, words, answered: fate.answered });
            if let Some(again) = fate.arrives_again {
                self.push(again, Event::ToStore(Box::new(Message { answered: false, ..(*message).clone() })));
            }
            if let Some(arrives) = fate.arrives {
                self.push(arrives, Event::ToStore(message));
            }
            if let Some(noticed) = fate.noticed {
                self.push(noticed, Event::Lost(origin));
            }
        }
    }

    fn lost(&mut self, origin: Origin) {
        let member = &mut self.members[origin.member];
        if member.link.connection == origin.connection {
            member.connection_lost(self.now);
            self.flush(origin.member);
        }
    }

    fn at_store(&mut self, message: Message) {
        let origin = message.origin;
        match self.power {
            Power::Up => {}
            Power::Hangs => return self.held.push(message),
            Power::Refuses => return self.push(self.now + self.setup.rtt / 2, Event::Lost(origin)),
        }
        let (words, now) = (&message.words.0, (self.now / MS) as i64);
        let result = match message.kind {
            Kind::Exchange { .. } => self.store.exchange(words, now),
            Kind::Register | Kind::Claim | Kind::Tidy => self.store.register(words, now),
            Kind::Reap => self.store.reap(words, now),
            Kind::Leased => self.store.leased(),
            Kind::Audit => self.store.audit(words, now),
        };
        self.steps += 1;
        if self.steps.is_multiple_of(self.setup.check_every) {
            self.store.check();
        }
        if message.answered && self.members[origin.member].life == origin.life {
            let link = &mut self.members[origin.member].link;
            // A lost connection's answers go nowhere, but some come out of a client's buffers nevertheless.
            let back = link.reply(self.now, self.setup.rtt, &self.faults, &mut self.rng);
            self.push(back, Event::ToNode(Box::new(Reply { origin, kind: message.kind, result })));
        }
    }

    fn at_node(&mut self, reply: Reply) {
        let Origin { member, life, connection } = reply.origin;
        let it = &self.members[member];
        if it.alive && it.life == life && it.frozen_until > self.now {
            return self.push(it.frozen_until, Event::ToNode(Box::new(reply)));
        }
        let current = it.link.connection == connection;
        // Of a connection given up: the state machine must know a late answer by its number.
        if it.alive && it.life == life && (current || matches!(reply.kind, Kind::Exchange { .. })) {
            self.members[member].answered(reply.kind, reply.result, self.now);
            self.flush(member);
        }
    }

    // What the tests do to it.

    pub fn crash(&mut self, member: usize) {
        self.members[member].alive = false;
    }

    /// A new process in the place of a dead one.
    pub fn restart(&mut self, member: usize) {
        let mode = self.members[member].mode;
        self.members[member] = self.start(member, mode);
    }

    pub fn freeze(&mut self, member: usize, span: Nanos) {
        let it = &mut self.members[member];
        it.frozen_until = it.frozen_until.max(self.now + span);
    }

    pub fn drop_connection(&mut self, member: usize) {
        let it = &self.members[member];
        let origin = Origin { member, life: it.life, connection: it.link.connection };
        self.push(self.now, Event::Lost(origin));
    }

    pub fn set_power(&mut self, power: Power) {
        self.power = power;
        if power != Power::Up {
            return;
        }
        // First what came over living connections, in its order; what lies in those given up comes as it may, beside newer calls.
        for message in std::mem::take(&mut self.held) {
            let Origin { member, life, connection } = message.origin;
            let it = &self.members[member];
            let living = it.life == life && it.link.connection == connection;
            let delay = if living { 0 } else { self.rng.u64(0..5 * MS) };
            self.push(self.now + delay, Event::ToStore(Box::new(message)));
        }
    }

    /// Requests at servers.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.iter().sum()
    }

    /// Nothing comes any more.
    pub fn end_arrivals(&mut self) {
        self.rate = 0.0;
    }

    /// Nothing comes and nothing ends any more; what is in flight stays so.
    pub fn pause(&mut self) {
        self.paused = true;
    }

    pub fn resume(&mut self) {
        self.paused = false;
        for (server, request) in std::mem::take(&mut self.stopped) {
            self.push(self.now, Event::Completion(server, request));
        }
        if !self.arrival_due {
            self.next_arrival();
        }
    }

    /// At rest: what the store says of each server is what live nodes hold. Returns how many requests are in flight.
    pub fn assert_settled(&self) -> u32 {
        self.store.check();
        assert!(!self.store.damaged(), "the audit has put right what was deleted");
        let mut sum = 0;
        for server in 0..self.servers.len() {
            let live = self.members.iter().filter(|member| member.alive && member.mode.uses_store());
            let held: u32 = live.map(|member| member.own[server]).sum();
            assert_eq!(self.store.total(&name(server)), held, "server {server}: total = sum of what live nodes hold");
            sum += held;
        }
        sum
    }

    /// Whether the store knows a node, by number and life.
    pub fn has_row(&self, member: usize, life: u32) -> bool {
        let who = format!("n{member}.{life}");
        self.store.rows().any(|row| *row == who.as_bytes())
    }
}
