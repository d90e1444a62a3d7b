//! The protocol by which nodes share their in-flight counts through Redis.
//!
//! Each node keeps a *row* of its own counts, and four scripts keep `total = load = Σ rows` true at every moment: each one that
//! changes a row changes the totals in the same run. Nodes send *changes* (`own - sent`) in one gapless numbered stream, at most
//! two calls outstanding; a call that is not the next one is void as a whole. Whatever becomes unknown (a lost reply, a lost
//! connection, a row that is gone) is settled by a `RESET`, which carries absolute counts. So no message, lost, late or doubled,
//! can leave a wrong count behind.
//!
//! | part | does |
//! |---|---|
//! | [`scripts`] | the four Lua scripts and their SHA1 |
//! | [`keys`] | the names of a pool's keys, and which script wants which |
//! | [`Node`] | the state machine of one node and pool: no sockets, no clock |
//! | [`servers`] | names, local indexes and slots of a pool's servers, and what has been sent of each |
//! | [`calls`] | arguments and replies of the rare scripts: register, reap, audit |
//! | [`client`] | the way to Redis: the only part that does input and output |
//! | [`reply`] | what Redis answers, independent of the client library |
//!
//! Nothing else here does input or output: the exchange loop does, and so does the random test in `tests/redis_protocol`.

pub mod calls;
pub mod client;
pub mod keys;
mod node;
pub mod reply;
pub mod scripts;
pub mod servers;
mod view;

pub use client::{CallError, Client, Link, StartError};
pub use node::{Answer, Node, Outcome, Refusal, Request, TableRead};
pub use reply::{BadReply, Value};
pub use view::View;

use bytes::Bytes;

/// Where the arguments of a script go: straight into what the client library sends, without a form in between.
pub trait Args {
    /// Appends a number.
    fn int(&mut self, number: i64);
    /// Appends a text; a clone of it is cheap.
    fn text(&mut self, text: &Bytes);
}

impl Args for Vec<fred::types::Value> {
    fn int(&mut self, number: i64) {
        self.push(fred::types::Value::Integer(number));
    }

    fn text(&mut self, text: &Bytes) {
        self.push(fred::types::Value::Bytes(text.clone()));
    }
}
