//! Who is busy: how many requests are in flight on each server, and how many connections each listener has.
//!
//! Every count is held by exactly one [`Lease`]. A lease is taken before a connection is made and given back when
//! it is dropped, so a panic, a client that leaves, or a task that is thrown away cannot leave a count behind.

pub mod connections;
pub mod fleet;
mod ledger;
mod queue;
pub mod rate;
pub mod redis;
#[cfg(test)]
mod testing;
pub mod traffic;

pub use ledger::{Lease, Ledger};
pub use queue::{Left, Queue};
pub use traffic::{Permit, Traffic};
