//! Who is busy: how many requests are in flight on each server.
//!
//! Every count is held by exactly one [`Lease`]. A lease is taken before a connection is made and given back when
//! it is dropped, so a panic, a client that leaves, or a task that is thrown away cannot leave a count behind.

pub mod fleet;
mod ledger;
mod queue;
pub mod redis;

pub use ledger::{Lease, Ledger};
pub use queue::{Left, Queue};
