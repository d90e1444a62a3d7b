//! The client against real servers: `redis-server` must be installed. Each test starts its own, on ports that the system chooses.
//! `REDIS_SERVER` names another one, such as `valkey-server`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cluster;
mod credentials;
mod exchange;
mod sentinel;
mod single;
mod support;
mod tls;
mod trouble;
