//! Which servers may be chosen now: membership, addresses, health.

pub mod admission;
pub mod check;
pub mod circuit;
pub mod errno;
pub mod health;
pub mod pool;
pub mod resolve;
pub mod rhythm;
pub mod server;

pub use pool::Pool;
pub use server::Server;
