//! The fleet in virtual time, seeded: real nodes (state machine and choice), and a model of everything else.
//!
//! `FAIRLEAD_SIM_SECONDS` makes the runs longer, in virtual seconds each; `FAIRLEAD_SIM_SEEDS` makes the random test try more;
//! `FAIRLEAD_SIM_SEED` is where seeds begin. `--nocapture` shows the tables.
//!
//! | file | models |
//! |---|---|
//! | `world` | time: what happens, in its order |
//! | `node` | a Fairlead node around the real parts |
//! | `store` | the scripts, with an oracle |
//! | `network` | delay, loss, late and doubled messages |
//! | `servers` | workers, queues, service times |
//! | `rate` | rate limits: a world of its own, with the real leases |

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests are tests too

mod accounting;
mod network;
mod node;
mod outage;
mod rate;
mod servers;
mod stats;
mod store;
mod tails;
mod world;

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}
