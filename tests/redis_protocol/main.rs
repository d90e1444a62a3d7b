//! The protocol against a real Redis: the delivered scripts and the delivered state machine, with the network and the fleet simulated.
//!
//! `REDIS_SERVER` names another program than `redis-server` to start, such as `valkey-server`.
//! `FAIRLEAD_PROTOCOL_STEPS` and `FAIRLEAD_PROTOCOL_SEEDS` make the random test longer; `--nocapture` shows what happened in it.
//! `FAIRLEAD_PROTOCOL_SOCKET` names a running Redis, Valkey or cluster node for the random test to use instead: **it is emptied**.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests are tests too

mod audit;
mod heavy;
mod member;
mod oracle;
mod random;
mod rate;
mod resp;
mod server;
mod table;
mod world;
