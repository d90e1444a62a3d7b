//! One load for the whole fleet: keeps this node's counts in Redis and the fleet's counts here.
//!
//! | part | does |
//! |---|---|
//! | [`share`] | what this node knows of one pool; read by each choice |
//! | [`exchange`] | the loop of one pool: publishes, takes views, lets Redis pick, keeps lease and table |
//! | [`meter`] | measures rates and times, for the above |
//! | [`decision`] | whether a pool asks Redis for each request now |
//! | [`mode`] | when that pays: the rule of `auto` |
//!
//! A request never waits for Redis, except in exact mode, and there at most `redis.timeout`. The counts in Redis are
//! right whatever happens on the way: that is the protocol's work ([`crate::load::redis`]).

pub mod decision;
pub mod exchange;
pub mod meter;
pub mod mode;
pub mod share;

pub use exchange::{Command, Exchange, Settings, Upkeep};
pub use share::{Mode, Reply, Share};

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::load::redis::client::Client;

/// The longest that a node waits for its rows to be taken out of Redis at its end.
const LEAVE_WITHIN: Duration = Duration::from_millis(1500);

/// This node's part in the fleet.
pub struct Fleet {
    client: Client,
    exchanges: Vec<mpsc::UnboundedSender<Command>>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").field("pools", &self.exchanges.len()).finish_non_exhaustive()
    }
}

impl Fleet {
    /// The exchanges of all pools, running, and the client they share.
    pub fn new(client: Client, exchanges: Vec<mpsc::UnboundedSender<Command>>) -> Self {
        Fleet { client, exchanges }
    }

    /// Takes this node's rows out of Redis and closes the connection; what does not work in time is left to the lease.
    pub async fn leave(&self) {
        let left = async {
            let mut left = Vec::new();
            for exchange in &self.exchanges {
                let (done, gone) = oneshot::channel();
                exchange.send(Command::Leave(done)).ok();
                left.push(gone);
            }
            for gone in left {
                gone.await.ok();
            }
            self.client.close().await;
        };
        if tokio::time::timeout(LEAVE_WITHIN, left).await.is_err() {
            log::warn!("redis_not_left_in_time");
        }
    }
}
