//! A node of the fleet under test: the delivered state machine, the requests it holds, and a connection on which anything can go wrong.

use std::collections::VecDeque;

use bytes::Bytes;
use fairlead::load::redis::calls::{TableOp, Terms};
use fairlead::load::redis::{Args, Node, Outcome, Refusal, Request, Value, scripts};

use crate::resp::{Command, Conn};
use crate::world::{LEASE_MS, Late, World};

/// What becomes of a message.
#[derive(Clone, Copy, PartialEq)]
pub enum Fate {
    Sent,
    /// Never arrives.
    Lost,
    /// Arrives later, if at all, by another connection.
    Late,
    /// Arrives, but the reply does not.
    Cut,
    /// Arrives, and once more later.
    Doubled,
    /// A client library sends it again on its own.
    Resent,
    /// Redis refuses it before it runs (`MOVED`, `LOADING`, …), and runs what comes behind it.
    Bounced,
}

struct Call {
    seq: i64,
    picks: u32,
    reset: bool,
    bounced: bool,
    resent: bool,
}

pub struct Member {
    pub node: Node,
    /// Requests in flight, by the node's index.
    pub own: Vec<u32>,
    made_locally: u32,
    pub conn: Conn,
    calls: VecDeque<Call>,
    /// Steps to go without doing anything.
    pub frozen: u32,
}

fn count(own: &[u32]) -> impl Fn(usize) -> u32 + '_ {
    |index| own.get(index).copied().unwrap_or(0)
}

impl Member {
    pub fn new(world: &mut World) -> Self {
        let me = world.new_incarnation();
        let mut member = Self {
            node: Node::new(me, LEASE_MS),
            own: Vec::new(),
            made_locally: 0,
            conn: Conn::open(&world.socket),
            calls: VecDeque::new(),
            frozen: 0,
        };
        let table = world.register_all(TableOp::Add);
        member.take_table(world, table);
        member
    }

    pub fn me(&self) -> Bytes {
        self.node.incarnation().clone()
    }

    pub fn held(&self) -> u32 {
        self.own.iter().sum()
    }

    pub fn held_of(&self, name: &str) -> u32 {
        self.node.servers().index(name.as_bytes()).map_or(0, count(&self.own))
    }

    pub fn outstanding(&self) -> usize {
        self.calls.len()
    }

    pub fn unsettled(&self) -> bool {
        self.node.changed(count(&self.own))
    }

    fn take(&mut self, index: usize) {
        if self.own.len() <= index {
            self.own.resize(index + 1, 0);
        }
        self.own[index] += 1;
    }

    /// A pick without Redis: batched mode, or Redis was too slow.
    pub fn pick_locally(&mut self, name: &str) {
        let index = self.node.claim(name.as_bytes());
        self.take(index);
        self.made_locally += 1;
    }

    /// A request ends.
    pub fn finish_one(&mut self, world: &mut World) {
        let busy: Vec<usize> = (0..self.own.len()).filter(|i| self.own[*i] > 0).collect();
        if let Some(index) = world.rng.choice(busy) {
            self.own[index] -= 1;
        }
    }

    /// Takes in the table; claims most of it, to have strangers too. Returns what the table lacks.
    fn take_table(&mut self, world: &mut World, reply: Value) -> Vec<usize> {
        let read = self.node.table_read(reply, count(&self.own)).unwrap();
        for index in 0..self.node.servers().len() {
            let name = self.node.servers().name(index);
            let held = count(&self.own)(index) > 0;
            if self.node.servers().entry(index).is_some() && (held || world.chance(0.95)) {
                self.node.claim(&name);
            } else if !held {
                self.node.release(index);
            }
        }
        read.missing
    }

    pub fn call(&mut self, world: &mut World, picks: u32, snapshot: bool, fate: Fate) {
        let known = self.node.servers().len();
        let mut excluded = Vec::new();
        if picks > 0 && known > 0 && world.chance(0.5) {
            let many = [0, 0, 1, 3, known * 3][world.rng.usize(..5)];
            excluded.extend((0..many).map(|_| world.rng.usize(..known)));
        }
        let request = Request {
            picks,
            excluded: &excluded,
            snapshot,
            own_row: snapshot && world.chance(0.5),
            renew: snapshot || world.chance(0.2),
            made_locally: std::mem::take(&mut self.made_locally),
            seed: world.rng.u32(..1 << 31),
        };
        let reset = self.node.broken();
        let keys = world.keys.exchange(self.node.incarnation());
        let mut command = Command::script(&world.shas.exchange, &keys);
        let seq = self.node.begin(&request, count(&self.own), &mut command).expect("ready");
        world.hit("calls");
        world.hits("resets", reset.into());
        world.hits("resets with picks", (reset && picks > 0).into());
        let unread = self.calls.back().is_some_and(|call| call.picks > 0);
        world.hits("sent before picks were known", unread.into());
        match fate {
            Fate::Lost => world.hit("lost, not executed"),
            Fate::Late => {
                world.late.push(Late { message: command.bytes(), again: false, reset });
                world.hit("delayed");
            }
            Fate::Cut => {
                self.conn.send(&command.bytes());
                world.hit("reply lost");
            }
            Fate::Sent | Fate::Doubled | Fate::Resent | Fate::Bounced => {
                let bounced = fate == Fate::Bounced;
                world.hits("bounced", bounced.into());
                if !bounced {
                    self.conn.send(&command.bytes());
                }
                let resent = fate == Fate::Resent;
                if resent {
                    self.conn.send(&command.bytes());
                    world.hit("resent");
                }
                self.calls.push_back(Call { seq, picks, reset, bounced, resent });
                if fate == Fate::Doubled {
                    world.late.push(Late { message: command.bytes(), again: true, reset });
                    world.hit("doubled");
                }
                return;
            }
        }
        self.disconnect(world);
    }

    /// One plain call, with the script as delivered; how many picks came.
    pub fn picks(&mut self, world: &World, request: &Request<'_>) -> usize {
        let keys = world.keys.exchange(self.node.incarnation());
        let source = scripts::EXCHANGE.source.as_bytes();
        let mut command = Command::of(&[b"EVAL", source]);
        command.int(keys.len() as i64);
        keys.iter().for_each(|key| command.text(key));
        let own = count(&self.own);
        let seq = self.node.begin(request, own, &mut command).expect("ready");
        match self.node.answered(seq, Ok(self.conn.call(&command).unwrap())) {
            Outcome::Done(answer) => answer.picks.len(),
            other => panic!("{other:?}"),
        }
    }

    /// The connection is lost, whatever was on it.
    pub fn disconnect(&mut self, world: &World) {
        self.conn = Conn::open(&world.socket);
        self.calls.clear();
        self.node.lost();
    }

    /// Reads the next reply and does what it calls for.
    pub fn read(&mut self, world: &mut World) -> Result<(), String> {
        let call = self.calls.pop_front().expect("a call is out");
        let reply = match call.bounced {
            true => Err("MOVED elsewhere".to_owned()),
            false => self.conn.read(),
        };
        if call.resent && self.conn.read().is_ok() {
            return Err("a call ran twice".into());
        }
        let (reply, error) = match reply {
            Ok(reply) => (Some(reply), String::new()),
            Err(error) => (None, error),
        };
        match self.node.answered(call.seq, reply.ok_or(error.as_str())) {
            Outcome::GivenUp => Err("a call that is out was given up".into()),
            Outcome::Refused(refusal) => self.refused(world, refusal, &error),
            Outcome::Done(answer) => {
                for index in &answer.picks {
                    world.hit("picks");
                    if world.chance(0.9) {
                        self.take(*index);
                    } else {
                        world.hit("picks given back");
                    }
                }
                world.hits("picks of servers that the node lacks", answer.foreign.into());
                let given = answer.picks.len() as u32 + answer.foreign;
                world.hits("fewer picks than asked", (given < call.picks).into());
                if answer.refused > 0 {
                    return Err(format!("{} changes refused", answer.refused));
                }
                if answer.row_differs > 0 {
                    return Err("the row is not what the node believes".into());
                }
                if answer.audit {
                    return Err(format!("audit without need (reset {})", call.reset));
                }
                if answer.read_table {
                    let table = world.read_table();
                    self.take_table(world, table);
                    world.hit("table read again");
                }
                world.hits("views", answer.view.into());
                if let Some(dead) = answer.dead.filter(|_| world.chance(0.7)) {
                    let done = world.reap(&dead, false);
                    world.hits("reaped", done.into());
                }
                Ok(())
            }
        }
    }

    fn refused(&mut self, world: &mut World, refusal: Refusal, error: &str) -> Result<(), String> {
        world.hit(match refusal {
            Refusal::NoLease => "NOLEASE",
            Refusal::Gap => "GAP",
            Refusal::Stale => "STALE",
            Refusal::Unknown => "UNKNOWN",
            Refusal::Other if error.starts_with("MOVED") => "MOVED",
            Refusal::Other => return Err(error.to_owned()),
        });
        if refusal.read_table() {
            let table = world.register_all(TableOp::Add);
            let missing = self.take_table(world, table);
            // Ours still, though no longer configured: counted, not picked.
            let held = missing.into_iter().filter(|index| count(&self.own)(*index) > 0);
            let name = |index| String::from_utf8(self.node.servers().name(index).to_vec()).unwrap();
            let held: Vec<_> = held.map(|i| (name(i), Terms { weight: 0.0, cap: 0 })).collect();
            if !held.is_empty() {
                let table = world.register(TableOp::Add, &held);
                self.take_table(world, table);
                world.hit("held a forgotten server");
            }
        }
        Ok(())
    }
}
