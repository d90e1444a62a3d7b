//! Rate limits that the fleet shares, in virtual time: real nodes (`load::rate::leases`), a model of the script and of the
//! way to it. What all nodes admit is held against one bucket that sees every request.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use fairlead::load::rate::leases::{Call, Leases, PATIENCE, ROUND};
use fairlead::load::rate::stock::Name;
use fairlead::load::rate::{Key, Terms, Verdict};

use crate::world::{MS, Nanos, SEC};

/// The rate of all tests: 100/s.
const TOKEN: u64 = 10 * MS;
/// The longest that a node takes to connect again.
const SKEW: u64 = 700;

struct Rng(u64);

impl Rng {
    fn unit(&mut self) -> f64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn between(&mut self, from: u64, to: u64) -> u64 {
        from + (self.unit() * (to - from) as f64) as u64
    }
}

/// What the script does, in its microseconds.
#[derive(Default)]
struct Store {
    empty_at: HashMap<Name, i64>,
}

impl Store {
    fn run(&mut self, call: &Call, now: Nanos) -> Vec<i64> {
        let (now, common, most) = ((now / 1000) as i64, call.common / 1000, call.most / 1000);
        let mut given = Vec::new();
        let names: std::collections::HashSet<_> = call.asks.iter().map(|ask| ask.name).collect();
        assert_eq!(names.len(), call.asks.len(), "a bucket twice in one call");
        for ask in &call.asks {
            let (need, fill) = (ask.need / 1000, ask.fill / 1000);
            let before = self.empty_at.get(&ask.name).map_or(i64::MAX, |at| now - at);
            let level = before.max(0).min(most);
            let get = need.min(level).max(0);
            let level = (level - need.min(get)).min(common);
            let extra = fill.min(level - common / 2).max(0);
            let level = level - extra;
            given.push((get + extra) * 1000);
            if level >= common {
                self.empty_at.remove(&ask.name);
            } else if level != before {
                self.empty_at.insert(ask.name, now - level);
            }
        }
        given
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Power {
    Up,
    /// Connections end at once.
    Down,
    /// Nothing is answered.
    Hangs,
}

enum Event {
    Arrival(usize),
    Round(usize),
    /// A call gets to the store; of this connection.
    Runs(usize, u64, Call),
    Answered(usize, u64, Call, Vec<i64>),
    Overdue(usize, u64, Nanos),
    Lost(usize, u64),
    /// A call had no answer for a second: the connection is given up.
    TimedOut(usize, u64),
    Connected(usize),
}

struct Node {
    leases: Leases,
    /// Requests a second.
    demand: f64,
    up: bool,
    /// Which connection.
    epoch: u64,
    calling: bool,
    calls: u64,
}

struct World {
    now: Nanos,
    nodes: Vec<Node>,
    store: Store,
    power: Power,
    /// A node that cannot connect.
    cut_off: Option<usize>,
    /// Calls that end their connection, before they run or after.
    loss: f64,
    queue: BinaryHeap<Reverse<(Nanos, u64)>>,
    events: HashMap<u64, Event>,
    number: u64,
    rng: Rng,
    key: [u8; 4],
    burst: u32,
    admitted: u64,
    asked: u64,
    /// The one bucket that sees everything, in tokens, and the least it ever held.
    ideal: f64,
    ideal_at: Nanos,
    least: f64,
}

impl World {
    fn new(demands: &[f64], burst: u32, seed: u64) -> Self {
        let nodes = demands.len() as u32;
        let mut world = World {
            now: 0,
            nodes: Vec::new(),
            store: Store::default(),
            power: Power::Up,
            cut_off: None,
            loss: 0.0,
            queue: BinaryHeap::new(),
            events: HashMap::new(),
            number: 0,
            rng: Rng(seed),
            key: [10, 0, 0, 1],
            burst,
            admitted: 0,
            asked: 0,
            ideal: burst.into(),
            ideal_at: 0,
            least: burst.into(),
        };
        for (i, &demand) in demands.iter().enumerate() {
            let leases = Leases::new(Terms { token: TOKEN, burst });
            leases.set_fleet(move || nodes);
            leases.back(0);
            world.nodes.push(Node { leases, demand, up: true, epoch: 0, calling: false, calls: 0 });
            let at = world.rng.between(0, ROUND.as_nanos() as u64);
            world.at(at, Event::Round(i));
            world.next_arrival(i);
        }
        world
    }

    fn at(&mut self, time: Nanos, event: Event) {
        self.number += 1;
        self.queue.push(Reverse((time, self.number)));
        self.events.insert(self.number, event);
    }

    fn after(&mut self, time: Nanos, event: Event) {
        self.at(self.now + time, event);
    }

    fn next_arrival(&mut self, node: usize) {
        let demand = self.nodes[node].demand;
        // A node without demand looks again from time to time.
        let gap = if demand > 0.0 { -(1.0 - self.rng.unit()).ln() / demand } else { 0.01 };
        self.after((gap * 1e9) as u64, Event::Arrival(node));
    }

    fn run(&mut self, time: Nanos) {
        let end = self.now + time;
        while let Some(&Reverse((at, number))) = self.queue.peek() {
            if at > end {
                break;
            }
            self.queue.pop();
            self.now = at;
            let event = self.events.remove(&number).unwrap();
            self.happens(event);
        }
        self.now = end;
    }

    fn happens(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Arrival(node) => {
                if self.nodes[node].demand > 0.0 {
                    self.request(node);
                }
                self.next_arrival(node);
            }
            Event::Round(node) => {
                self.after(ROUND.as_nanos() as u64, Event::Round(node));
                if self.nodes[node].up && !self.nodes[node].calling {
                    self.call(node);
                }
            }
            Event::Runs(node, epoch, call) => {
                if self.power == Power::Up {
                    let given = self.store.run(&call, now);
                    if self.rng.unit() < self.loss / 2.0 {
                        return self.happens(Event::Lost(node, epoch));
                    }
                    let way = self.rng.between(100_000, MS);
                    self.after(way, Event::Answered(node, epoch, call, given));
                }
            }
            Event::Answered(node, epoch, call, given) => {
                let node = &mut self.nodes[node];
                if node.epoch == epoch && node.up {
                    call.asks.iter().zip(given).for_each(|(ask, given)| node.leases.granted(ask, given));
                    node.leases.back(now);
                    node.calling = false;
                }
            }
            Event::Overdue(node, call, sent) => {
                let node = &self.nodes[node];
                if node.calling && node.calls == call {
                    node.leases.away(sent);
                }
            }
            Event::Lost(node, epoch) => {
                if self.nodes[node].epoch == epoch && self.nodes[node].up {
                    self.cut(node);
                }
            }
            Event::TimedOut(node, call) => {
                if self.nodes[node].calling && self.nodes[node].calls == call {
                    self.cut(node);
                }
            }
            Event::Connected(node) => match self.power {
                Power::Up if self.cut_off != Some(node) => {
                    let node = &mut self.nodes[node];
                    (node.up, node.calling) = (true, false);
                }
                _ => self.reconnect(node),
            },
        }
    }

    /// A connection ends.
    fn cut(&mut self, node: usize) {
        let now = self.now;
        let it = &mut self.nodes[node];
        it.leases.away(now);
        (it.up, it.calling, it.epoch) = (false, false, it.epoch + 1);
        self.reconnect(node);
    }

    fn reconnect(&mut self, node: usize) {
        // Soon after a mere hiccup, later when attempts have failed.
        let pause = if self.power == Power::Up { self.rng.between(10, 150) } else { self.rng.between(10, SKEW) };
        self.after(pause * MS, Event::Connected(node));
    }

    fn call(&mut self, node: usize) {
        let (now, it) = (self.now, &mut self.nodes[node]);
        let alone = it.leases.is_alone();
        let call = if alone { Call::default() } else { it.leases.round(now) };
        if call.asks.is_empty() && !alone {
            return;
        }
        (it.calling, it.calls) = (true, it.calls + 1);
        let (epoch, calls) = (it.epoch, it.calls);
        self.after(PATIENCE.as_nanos() as u64, Event::Overdue(node, calls, now));
        self.after(SEC, Event::TimedOut(node, calls));
        if self.rng.unit() < self.loss / 2.0 {
            return self.happens(Event::Lost(node, epoch));
        }
        let way = self.rng.between(100_000, MS);
        self.after(way, Event::Runs(node, epoch, call));
    }

    fn set_power(&mut self, power: Power) {
        self.power = power;
        if power == Power::Down {
            (0..self.nodes.len()).for_each(|node| self.cut(node));
        }
    }

    fn request(&mut self, node: usize) -> bool {
        self.asked += 1;
        let pass = self.nodes[node].leases.take(Key::V4(self.key), self.now) == Verdict::Pass;
        if pass {
            self.admitted += 1;
            let back = (self.now - self.ideal_at) as f64 / TOKEN as f64;
            self.ideal = (self.ideal + back).min(self.burst.into()) - 1.0;
            self.ideal_at = self.now;
            self.least = self.least.min(self.ideal);
        }
        pass
    }

    /// The rate and one burst, since the start.
    fn allowed(&self) -> f64 {
        self.now as f64 / TOKEN as f64 + f64::from(self.burst)
    }

    /// By how much any window had more than the rate and one burst, in tokens.
    fn excess(&self) -> f64 {
        (-self.least).max(0.0)
    }

    fn say(&self, what: &str) -> f64 {
        let part = self.admitted as f64 / self.allowed();
        println!(
            "{what}: {} of {:.0} ({:.1} %), excess {:.2}",
            self.admitted,
            self.allowed(),
            100.0 * part,
            self.excess()
        );
        part
    }
}

const DEMANDS: [(&str, [f64; 3]); 6] = [
    ("even", [100.0, 100.0, 100.0]),
    ("uneven", [270.0, 15.0, 15.0]),
    ("one node", [300.0, 0.0, 0.0]),
    ("far too much", [2000.0, 2000.0, 2000.0]),
    ("far too much and uneven", [4000.0, 200.0, 200.0]),
    ("hardly enough", [70.0, 40.0, 5.0]),
];

#[test]
fn the_fleet_admits_the_rate_and_no_more() {
    for seed in 0..4 {
        for (what, demands) in DEMANDS {
            let mut world = World::new(&demands, 100, seed);
            world.run(20 * SEC);
            let part = world.say(what);
            let can = (world.asked as f64 / world.allowed()).min(1.0);
            assert!(part >= 0.97 * can, "{what}, seed {seed}: {part}");
            assert!(world.excess() < 1e-3, "{what}, seed {seed}: {}", world.excess());
        }
    }
}

#[test]
fn demand_that_moves_from_node_to_node_is_followed() {
    for seed in 0..4 {
        let mut world = World::new(&[0.0; 3], 100, seed);
        for turn in 0..30 {
            world
                .nodes
                .iter_mut()
                .enumerate()
                .for_each(|(i, node)| node.demand = if i == turn % 3 { 400.0 } else { 0.0 });
            let for_ms = world.rng.between(300, 2000);
            world.run(for_ms * MS);
        }
        let part = world.say("moving");
        assert!(part >= 0.97, "seed {seed}: {part}");
        assert!(world.excess() < 1e-3, "seed {seed}: {}", world.excess());
    }
}

#[test]
fn pauses_fill_the_bucket_once() {
    for seed in 0..4 {
        let mut world = World::new(&[0.0; 3], 100, seed);
        let mut got = 0;
        for _ in 0..20 {
            let before = world.admitted;
            world.nodes.iter_mut().for_each(|node| node.demand = 2000.0);
            world.run(100 * MS);
            got += world.admitted - before;
            world.nodes.iter_mut().for_each(|node| node.demand = 0.0);
            world.run(5 * SEC);
        }
        println!("bursts: {got} of {}", 20 * 110);
        assert!(world.excess() < 1e-3, "seed {seed}: {}", world.excess());
        assert!(got >= 20 * 100, "seed {seed}: {got}");
    }
}

#[test]
fn lost_calls_and_answers_cost_little_and_give_nothing_away() {
    for seed in 0..4 {
        for (what, demands) in &DEMANDS[..5] {
            let mut world = World::new(demands, 100, seed);
            world.loss = 0.005;
            world.run(20 * SEC);
            let part = world.say(what);
            assert!(world.excess() < 1e-3, "{what}, seed {seed}: {}", world.excess());
            // Who is the only one to ask cannot be helped out by others while it has no connection.
            let least = if *what == "one node" { 0.85 } else { 0.93 };
            assert!(part >= least, "{what}, seed {seed}: {part}");
        }
    }
}

#[test]
fn an_outage_costs_little_and_the_return_gives_nothing_twice() {
    for seed in 0..4 {
        for forgets in [false, true] {
            for (power, demands) in [
                (Power::Down, [100.0, 100.0, 100.0]),
                (Power::Hangs, [100.0, 100.0, 100.0]),
                (Power::Down, [2000.0, 2000.0, 2000.0]),
                (Power::Hangs, [2000.0, 2000.0, 2000.0]),
            ] {
                let mut world = World::new(&demands, 100, seed);
                world.run(10 * SEC);
                world.set_power(power);
                world.run(10 * SEC);
                let part = world.say("until the return");
                assert!((0.95..=1.0).contains(&part), "seed {seed}: {part}");
                if forgets {
                    world.store = Store::default();
                }
                world.set_power(Power::Up);
                world.run(10 * SEC);
                let part = world.say("after it");
                assert!((0.95..=1.0).contains(&part), "seed {seed}: {part}");
                assert!(world.excess() < 1.0, "seed {seed}: {}", world.excess());
            }
        }
    }
}

/// The others still share the whole rate, and cannot know what it does.
#[test]
fn a_node_that_alone_cannot_reach_redis_takes_no_more_than_its_share_besides() {
    let mut world = World::new(&[300.0; 3], 100, 5);
    world.run(5 * SEC);
    world.cut_off = Some(0);
    world.cut(0);
    world.run(6 * SEC);
    world.cut_off = None;
    world.run(9 * SEC);
    let part = world.say("one cut off for 6 s");
    assert!(part >= 0.97);
    assert!(world.excess() < 6.0 * 100.0 / 3.0, "{}", world.excess());
}

/// Without Redis a node cannot know what others are not asked for.
#[test]
fn in_an_outage_each_node_has_its_share() {
    let mut world = World::new(&[300.0, 0.0, 0.0], 100, 1);
    world.run(5 * SEC);
    world.set_power(Power::Down);
    let before = world.admitted;
    world.run(10 * SEC);
    let admitted = world.admitted - before;
    assert!((315..340).contains(&admitted), "{admitted}");
    assert!(world.excess() < 1e-3);
}

#[test]
fn small_bursts_count_as_one_for_each_node_and_one() {
    for burst in [1, 2, 4, 7] {
        let mut world = World::new(&[300.0; 3], burst, 3);
        world.burst = burst.max(4);
        (world.ideal, world.least) = (world.burst.into(), world.burst.into());
        world.run(20 * SEC);
        let part = world.say(&format!("burst {burst}"));
        assert!(world.excess() < 1e-3, "{}", world.excess());
        assert!(part > 0.6, "{part}");
    }
}

#[test]
fn a_node_forgets_who_is_gone() {
    let mut world = World::new(&[100.0; 3], 100, 4);
    for client in 0..200u8 {
        world.key = [10, 0, 0, client];
        (world.ideal, world.ideal_at) = (100.0, world.now);
        world.run(20 * MS);
    }
    assert!(world.nodes.iter().all(|node| node.leases.keys(world.now) > 50));
    world.nodes.iter_mut().for_each(|node| node.demand = 0.0);
    world.run(5 * SEC);
    let left: Vec<_> = world.nodes.iter().map(|node| node.leases.keys(world.now)).collect();
    assert_eq!(left, [0; 3]);
    // Redis forgets a full bucket by itself: its key has an end.
    assert!(world.store.empty_at.values().all(|at| (world.now / 1000) as i64 - at > 500_000));
}
