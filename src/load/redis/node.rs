//! One node's side of the protocol, for one pool: what to send, and what an answer means.
//!
//! For each server `own` is what this node has in flight now: it lives elsewhere, in the leases of requests, and is only read here, when a
//! call begins. `sent` is what the row in Redis holds once all sent calls have run, picks of unread replies aside. The next call carries
//! `own - sent`. A pick raises `sent`; if a waiting request takes it, that raises `own` as well, else the next call gives it back.
//!
//! | what happens | why the counts stay right |
//! |---|---|
//! | call 2 is sent before call 1's picks are known | changes add to them; picks enter `sent` when they are read |
//! | a reply is lost, or the call never ran, or it is late | the outcome is given up; a `RESET` sets the row to `own`, and an older call that comes after it is void |
//! | a call is doubled | the second is `STALE`, void. Not so a `RESET` whose row was deleted in between: then the node's next call may go on from what the second one picked, until its row is checked. No connection brings a message twice, so nothing must send one twice: the client repeats no call |
//! | an error in a pipeline | the call behind it is void too (`GAP` or `NOLEASE`) |
//! | failover to a lagging replica | `GAP`, or a new connection, which begins with `RESET` |
//! | lease run out and reaped, or everything deleted | no row, so `NOLEASE`, so `RESET` makes row and lease |
//! | frozen past the lease, not reaped | the row is whole: the next call goes on, and renews |
//! | the table changes | names on the wire, not slots; a slot is used again only at total 0 |

use bytes::Bytes;
use smallvec::SmallVec;

use super::Args;
use super::reply::{BadReply, Exchanged, Value};
use super::servers::Servers;
use super::view::View;

/// The most calls outstanding.
const WINDOW: usize = 2;

const RESET: i64 = 1;
const SNAPSHOT: i64 = 2;
const OWN_ROW: i64 = 4;

/// What a call is to do, besides publishing this node's counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// How many servers the script picks; 0 in batched mode.
    pub picks: u32,
    /// Servers it must not pick. Those that this process does not have are excluded anyway.
    pub excluded: &'a [usize],
    /// Ask for the fleet's counts.
    pub snapshot: bool,
    /// Ask for this node's row too: only to check what the node believes.
    pub own_row: bool,
    /// Renew the lease; do so about once a second. A reset always does.
    pub renew: bool,
    /// Picks made here without Redis since the last call; lost with a lost call, as only the fleet's rate comes from them.
    pub made_locally: u32,
    /// Breaks ties.
    pub seed: u32,
}

/// What an answer means.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// The call ran.
    Done(Answer),
    /// The call did not run, or nobody can tell: its waiters choose locally, and the next call is a `RESET`.
    Refused(Refusal),
    /// The call had been given up, or another process's call was meant: its waiters chose locally long ago.
    GivenUp,
}

/// A call that ran.
#[derive(Debug, Default, PartialEq)]
pub struct Answer {
    /// The picked servers. Counted already: raise `own` for each that a request takes; the next call gives the others back.
    pub picks: SmallVec<[usize; 16]>,
    /// Picks of servers this process does not have: given back by the next call.
    pub foreign: u32,
    /// Requests that a reset put right in the row.
    pub put_right: u32,
    /// Changes that the script refused. Only a bug does that; a reset follows.
    pub refused: u32,
    /// Servers whose row was not what the node believed (only with [`Request::own_row`]); a reset follows.
    pub row_differs: u32,
    /// Read the table (`register` without servers) before anything else.
    pub read_table: bool,
    /// [`Node::view`] is new.
    pub view: bool,
    /// Totals are wrong, because a key was deleted or changed by hand: audit now.
    pub audit: bool,
    /// A node whose lease has run out: reap it.
    pub dead: Option<Bytes>,
}

/// Why a call did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no row: reaped, or everything was deleted. Read the table.
    NoLease,
    /// An earlier call is missing.
    Gap,
    /// Its number was seen before.
    Stale,
    /// A server or the whole table is missing. Read the table.
    Unknown,
    /// Another error, or an answer that makes no sense: nobody can tell what ran.
    Other,
}

impl Refusal {
    fn of(error: &str) -> Self {
        match error.split(' ').next() {
            Some("NOLEASE") => Self::NoLease,
            Some("GAP") => Self::Gap,
            Some("STALE") => Self::Stale,
            Some("UNKNOWN") => Self::Unknown,
            _ => Self::Other,
        }
    }

    /// Whether the table must be read before the next call can succeed.
    pub fn read_table(self) -> bool {
        matches!(self, Self::NoLease | Self::Unknown)
    }
}

/// What reading the table calls for.
#[derive(Debug, PartialEq)]
pub struct TableRead {
    /// Servers that this process has, or holds requests on, and the table lacks: register them (`add`), those no longer configured
    /// with weight 0.
    pub missing: Vec<usize>,
}

#[derive(Debug)]
struct Outstanding {
    seq: i64,
    flags: i64,
    /// The changes it carries, by index.
    pairs: Vec<(usize, i64)>,
}

/// The state of one node and pool.
///
/// A node lives as long as its process: its numbers go on over all connections. All calls go over one connection, and answers are handed
/// in in their order.
#[derive(Debug)]
pub struct Node {
    incarnation: Bytes,
    lease_ms: u32,
    seq: i64,
    /// Something is unknown: the next call is a `RESET`.
    broken: bool,
    outstanding: SmallVec<[Outstanding; WINDOW]>,
    /// Buffers of answered calls, to be used again.
    spare: Vec<Vec<(usize, i64)>>,
    servers: Servers,
    view: View,
}

impl Node {
    /// A node that has never called. `incarnation`: unique among all processes ever; `lease_ms`: how long its counts outlive it.
    pub fn new(incarnation: impl Into<Bytes>, lease_ms: u32) -> Self {
        Self {
            incarnation: incarnation.into(),
            lease_ms: lease_ms.max(1),
            seq: 0,
            broken: true,
            outstanding: SmallVec::new(),
            spare: Vec::new(),
            servers: Servers::default(),
            view: View::default(),
        }
    }

    /// A node that knows nothing any more and goes on in the name of this one: what this one has sent is settled or void, once the
    /// other's first call has run.
    pub fn successor(&self) -> Self {
        Self { seq: self.seq, ..Self::new(self.incarnation.clone(), self.lease_ms) }
    }

    /// This node's name among all.
    pub fn incarnation(&self) -> &Bytes {
        &self.incarnation
    }

    /// The servers, and what has been published of them.
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// The last snapshot; a new one is told by [`Answer::view`].
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Takes a server into use: [`Servers::claim`].
    pub fn claim(&mut self, name: &[u8]) -> usize {
        self.servers.claim(name)
    }

    /// Gives up a server without requests: [`Servers::release`].
    pub fn release(&mut self, index: usize) {
        self.servers.release(index);
    }

    /// Calls whose answer is to come.
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// Whether the next call is a `RESET`.
    pub fn broken(&self) -> bool {
        self.broken
    }

    /// Whether a call may begin now. A `RESET` waits for what is outstanding: it must not erase picks that are still to be read.
    pub fn ready(&self) -> bool {
        match self.broken {
            true => self.outstanding.is_empty(),
            false => self.outstanding.len() < WINDOW,
        }
    }

    /// Whether a call would have something to publish.
    pub fn changed(&self, own: impl Fn(usize) -> u32) -> bool {
        self.broken || self.servers.changed(own)
    }

    /// Begins a call: writes the arguments of `exchange` and returns the call's number, or none if not [`ready`](Self::ready).
    ///
    /// `own`: requests of this node in flight on a server, by index; 0 for an index that the caller does not know.
    pub fn begin(&mut self, request: &Request<'_>, own: impl Fn(usize) -> u32, args: &mut impl Args) -> Option<i64> {
        if !self.ready() {
            return None;
        }
        self.seq += 1;
        let reset = std::mem::take(&mut self.broken);
        let flag = |on: bool, flag: i64| if on { flag } else { 0 };
        let flags = flag(reset, RESET) | flag(request.snapshot, SNAPSHOT) | flag(request.own_row, OWN_ROW);
        let mut pairs = self.spare.pop().unwrap_or_default();
        self.servers.collect(reset, own, &mut pairs);

        args.text(&self.incarnation);
        args.int(self.seq);
        args.int(if reset || request.renew { self.lease_ms.into() } else { 0 });
        args.int(flags);
        args.int(request.made_locally.into());
        args.int(request.picks.into());
        args.int(request.seed.into());
        args.int(pairs.len() as i64);
        for (index, change) in &pairs {
            args.text(self.servers.name_at(*index));
            args.int(*change);
        }
        if request.picks > 0 {
            for index in request.excluded.iter().chain(self.servers.foreign()) {
                args.text(self.servers.name_at(*index));
            }
        }
        self.outstanding.push(Outstanding { seq: self.seq, flags, pairs });
        Some(self.seq)
    }

    /// Takes in the answer to call `seq`: a reply, or the error as Redis wrote it.
    pub fn answered(&mut self, seq: i64, reply: Result<Value, &str>) -> Outcome {
        let Some(place) = self.outstanding.iter().position(|call| call.seq == seq) else {
            return Outcome::GivenUp;
        };
        // Answers come in order; should one not, those before it are given up.
        for call in self.outstanding.drain(..place) {
            self.broken = true;
            self.spare.push(call.pairs);
        }
        let Outstanding { flags, pairs, .. } = self.outstanding.remove(0);
        self.spare.push(pairs);
        let parsed = match reply {
            Ok(reply) => {
                let parsed = Exchanged::parse(reply, flags & SNAPSHOT != 0, flags & OWN_ROW != 0);
                parsed.map_err(|_| Refusal::Other)
            }
            Err(error) => Err(Refusal::of(error)),
        };
        match parsed {
            Ok(answer) => Outcome::Done(self.ran(answer, flags & RESET != 0)),
            Err(refusal) => {
                self.broken = true;
                Outcome::Refused(refusal)
            }
        }
    }

    fn ran(&mut self, reply: Exchanged, reset: bool) -> Answer {
        let mut answer = Answer {
            read_table: reply.table_gen != self.servers.table_gen(),
            audit: reply.off < 0,
            ..Answer::default()
        };
        for pick in reply.picks {
            let Value::Bytes(name) = pick else { continue };
            let index = self.servers.intern(&name);
            self.servers.raise_sent(index);
            match self.servers.claimed(index) {
                true => answer.picks.push(index),
                false => answer.foreign += 1,
            }
        }
        let off = reply.off.max(0).try_into().unwrap_or(u32::MAX);
        match reset {
            true => answer.put_right = off,
            false => answer.refused = off,
        }
        // A snapshot of another generation has other slots; a broken node does not know its own share in it.
        if let Some(snapshot) = &reply.snapshot
            && !answer.read_table
            && !self.broken
        {
            let later = self.outstanding.iter().flat_map(|call| call.pairs.iter().copied());
            let own_row = reply.own_row.as_ref();
            let checked = self.view.take(&self.servers, snapshot, own_row, later);
            answer.view = !checked.damaged;
            answer.audit |= checked.damaged;
            answer.row_differs = checked.row_differs;
        }
        answer.dead = reply.snapshot.and_then(|snapshot| snapshot.dead);
        self.broken |= answer.refused > 0 || answer.row_differs > 0;
        answer
    }

    /// The connection is lost, a call failed in the client, or an answer is overdue (then close the connection): what became of the
    /// outstanding calls is unknown. Their waiters choose locally.
    pub fn lost(&mut self) {
        self.spare.extend(self.outstanding.drain(..).map(|call| call.pairs));
        self.broken = true;
    }

    /// Takes in the answer of `register`: the table and its generation. Generation 0: there is none, and all of ours are missing.
    pub fn table_read(&mut self, reply: Value, own: impl Fn(usize) -> u32) -> Result<TableRead, BadReply> {
        let (table_gen, fields) = super::calls::registered(reply)?;
        // A name may still stand in a call that is out.
        let may_forget = self.outstanding.is_empty();
        let changes = self.servers.read_table(table_gen, fields, own, may_forget)?;
        self.broken |= changes.slots_moved;
        Ok(TableRead { missing: changes.missing })
    }
}

#[cfg(test)]
pub(super) mod tests;
