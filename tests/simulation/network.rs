//! What can happen to a message between a node and the store.
//!
//! Within one connection order holds, and a loss ends the connection: now for the node, or when its patience does. What was sent before
//! may still arrive, any time later and beside what the next connection carries.

use fairlead::load::redis::Value;

use crate::servers::exponential;
use crate::store::Words;
use crate::world::{MS, Nanos, SEC};

/// Which script, or command.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Exchange {
        seq: i64,
    },
    Register,
    /// To say which servers a node has.
    Claim,
    /// To have those forgotten that nobody has.
    Tidy,
    Reap,
    /// The members of `lease`, to audit them.
    Leased,
    Audit,
}

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Origin {
    pub member: usize,
    pub life: u32,
    pub connection: u32,
}

#[derive(Clone, Debug)]
pub struct Message {
    pub origin: Origin,
    pub kind: Kind,
    pub words: Words,
    /// Whether its answer finds the way back.
    pub answered: bool,
}

#[derive(Debug)]
pub struct Reply {
    pub origin: Origin,
    pub kind: Kind,
    pub result: Result<Value, String>,
}

/// How often what happens, per message; and how much delays vary, in half round trips.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub lost_before: f64,
    pub lost_after: f64,
    pub late: f64,
    pub doubled: f64,
    pub jitter: f64,
}

/// What becomes of one message.
#[derive(Debug, Default)]
pub struct Fate {
    pub arrives: Option<Nanos>,
    pub arrives_again: Option<Nanos>,
    pub answered: bool,
    /// When the node learns that its connection is gone.
    pub noticed: Option<Nanos>,
}

/// A node's connection.
#[derive(Debug, Default)]
pub struct Link {
    pub connection: u32,
    /// Later messages arrive, and later answers come back, after these.
    last_arrival: Nanos,
    last_reply: Nanos,
    /// Lost already, though the node may not know.
    cut: bool,
}

impl Link {
    pub fn new(connection: u32) -> Self {
        Self { connection, ..Self::default() }
    }

    /// Begins a new connection.
    pub fn renew(&mut self) {
        *self = Self::new(self.connection + 1);
    }

    pub fn send(&mut self, now: Nanos, rtt: Nanos, faults: &Faults, rng: &mut fastrand::Rng) -> Fate {
        let mut arrival = now + one_way(rtt, faults, rng);
        if self.cut {
            // Mostly what follows a loss is lost as well. Where it is not, the gate must stop it.
            let arrives = (rng.f64() < 0.3).then_some(arrival);
            return Fate { arrives, ..Fate::default() };
        }
        let dice = rng.f64();
        let lost_after = faults.lost_before + faults.lost_after;
        if dice > lost_after && dice < lost_after + faults.late {
            arrival += rng.u64(0..5 * SEC / 2);
        }
        self.last_arrival = self.last_arrival.max(arrival);
        let arrival = self.last_arrival;
        self.cut = dice < lost_after;
        Fate {
            arrives: (dice >= faults.lost_before).then_some(arrival),
            arrives_again: (rng.f64() < faults.doubled).then(|| arrival + rng.u64(0..2 * SEC)),
            answered: !self.cut,
            noticed: (self.cut && rng.bool()).then(|| now + rng.u64(0..50 * MS)),
        }
    }

    /// When an answer that leaves the store now is back.
    pub fn reply(&mut self, now: Nanos, rtt: Nanos, faults: &Faults, rng: &mut fastrand::Rng) -> Nanos {
        self.last_reply = self.last_reply.max(now + one_way(rtt, faults, rng));
        self.last_reply
    }
}

fn one_way(rtt: Nanos, faults: &Faults, rng: &mut fastrand::Rng) -> Nanos {
    let half = rtt as f64 / 2.0;
    if faults.jitter == 0.0 { half as Nanos } else { (half * (1.0 + faults.jitter * exponential(rng))) as Nanos }
}
