//! Black-box tests: the real binary between a raw client and programmable origins, all on ports that the system chooses.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

mod accounting;
mod admin;
mod balancing;
mod capacity;
mod capacity_faults;
mod circuit;
mod cli;
mod demo_fleet;
mod ejection;
mod failover;
mod faults;
mod fleet_accounting;
mod fleet_faults;
mod fleet_return;
mod fleet_start;
mod fleet_view;
mod forwarding;
mod headers;
mod health;
mod logs;
mod never_twice;
mod overload;
mod per_try;
mod protocol;
mod rate_limits;
mod retries;
mod routes;
mod rules;
mod shutdown;
mod slow_clients;
mod status;
mod timeouts;
mod websocket;
