//! Keeps the pools: health checks and percentiles.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::ShutdownWatch;
use pingora::services::ServiceReadyNotifier;
use pingora::services::background::BackgroundService;
use tokio::sync::oneshot;

use crate::node::Node;
use crate::upstream::check;

/// The longest that a start waits for the first health checks.
const FIRST_PASS: Duration = Duration::from_secs(3);
/// Percentiles tell of the last one to two of these.
const ROTATE_EVERY: Duration = Duration::from_secs(10);

pub struct Pools {
    node: Arc<Node>,
}

impl Pools {
    pub fn new(node: Arc<Node>) -> Self {
        Pools { node }
    }

    /// Starts the tasks and returns when every server has a result, or it takes too long.
    async fn first_pass(&self, tasks: &mut tokio::task::JoinSet<()>) {
        let mut passes = Vec::new();
        for pool in &self.node.snapshot.load().pools {
            let (done, pass) = oneshot::channel();
            passes.push(pass);
            tasks.spawn(check::run(pool.clone(), done));
        }
        let all = async {
            for pass in passes {
                pass.await.ok();
            }
        };
        if tokio::time::timeout(FIRST_PASS, all).await.is_err() {
            log::warn!(waited_s = FIRST_PASS.as_secs(); "first_health_checks_take_long");
        }
    }

    async fn rotate(node: Arc<Node>) {
        loop {
            tokio::time::sleep(ROTATE_EVERY).await;
            for pool in &node.snapshot.load().pools {
                pool.servers.iter().for_each(|server| server.latencies.rotate());
            }
        }
    }
}

#[async_trait]
impl BackgroundService for Pools {
    async fn start_with_ready_notifier(&self, _shutdown: ShutdownWatch, ready: ServiceReadyNotifier) {
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(Self::rotate(self.node.clone()));
        self.first_pass(&mut tasks).await;
        self.node.lifecycle.set_checked();
        ready.notify_ready();
        // Not Pingora's shutdown: it comes when the drain begins, and requests that drain need health.
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                log::error!(error = error.to_string(); "a_pool_task_ended");
            }
        }
    }
}
