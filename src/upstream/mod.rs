//! Which servers may be chosen now: membership, addresses, health, and what became of requests.
//!
//! | part | does |
//! |---|---|
//! | [`pool`], `candidates` | the servers of a pool, and **the choice** among those that may be chosen |
//! | [`admission`], [`circuit`] | the way to a choice: what is refused, and who waits |
//! | [`server`] | one server: where it is, how it is |
//! | [`resolve`], [`check`], [`health`] | its address, its health checks, what follows from them |
//! | [`conduct`] | what requests tell about it; drives the three below |
//! | [`ejection`] | whether it is left out for that: a pure state machine |
//! | [`strain`] | how much less than its weight it gets: failures of late, slow start |
//! | [`outlier`] | whether it answers far later than the others |
//! | [`guard`] | how many may be left out at the same time |
//! | [`probe`] | requests that try a server that was left out |
//! | [`watch`] | what is looked at several times a second |

pub mod admission;
mod candidates;
pub mod check;
pub mod circuit;
pub mod clock;
pub mod conduct;
pub mod ejection;
pub mod errno;
pub mod guard;
pub mod health;
pub mod outlier;
pub mod pool;
pub mod probe;
pub mod refused;
pub mod resolve;
pub mod rhythm;
pub mod server;
pub mod strain;
pub mod watch;

pub use pool::Pool;
pub use probe::Probe;
pub use server::Server;
