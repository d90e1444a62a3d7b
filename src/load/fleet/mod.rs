//! One load for the whole fleet: keeps this node's counts in Redis and the fleet's counts here.
//!
//! | part | does |
//! |---|---|
//! | [`share`] | what this node knows of one pool; read by each choice |
//! | [`exchange`] | the loop of one pool: publishes, takes views, lets Redis pick, keeps lease and table |
//! | [`mode`] | when `auto` asks Redis for each request, and when it does not |
//!
//! A request never waits for Redis, except in exact mode, and there at most `redis.timeout`. The counts in Redis are
//! right whatever happens on the way: that is the protocol's work ([`crate::load::redis`]).

pub mod exchange;
pub mod mode;
pub mod share;

pub use exchange::{Command, Exchange, Settings};
pub use share::{Mode, Share};
