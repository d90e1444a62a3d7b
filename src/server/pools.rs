//! Keeps the pools: health checks, percentiles, and the deadlines of their attempts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora::server::ShutdownWatch;
use pingora::services::ServiceReadyNotifier;
use pingora::services::background::BackgroundService;
use tokio::sync::oneshot;

use crate::node::Node;
use crate::proxy::deadline::TICK;
use crate::server::{certificates, shutdown};
use crate::upstream::{check, watch};

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

    /// On a thread of its own: no task that blocks may make a deadline late.
    fn watch_deadlines(&self) -> std::io::Result<()> {
        let node = self.node.clone();
        let watch = move || loop {
            std::thread::sleep(TICK);
            node.deadlines.sweep(Instant::now());
        };
        std::thread::Builder::new().name("deadlines".into()).spawn(watch).map(drop)
    }

    async fn watch(node: Arc<Node>) {
        loop {
            tokio::time::sleep(watch::TICK).await;
            node.snapshot.load().pools.iter().for_each(|pool| pool.tick());
        }
    }

    /// What is known of routes and servers is reckoned here, not in requests.
    async fn refresh(node: Arc<Node>) {
        for second in 1u64.. {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let snapshot = node.snapshot.load_full();
            for server in snapshot.pools.iter().flat_map(|pool| &pool.servers) {
                let (attempts, errors) = server.totals();
                server.rhythm.refresh(attempts.saturating_sub(errors), server.in_flight() > 0);
            }
            for route in &snapshot.all_routes {
                route.traffic.refresh();
                if second.is_multiple_of(ROTATE_EVERY.as_secs()) {
                    route.traffic.rotate();
                }
            }
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
    async fn start_with_ready_notifier(&self, mut shutdown: ShutdownWatch, ready: ServiceReadyNotifier) {
        let mut tasks = tokio::task::JoinSet::new();
        if let Err(error) = self.watch_deadlines() {
            log::error!(error = error.to_string(); "cannot_start_a_thread");
            shutdown::end(&self.node, 1);
        }
        tasks.spawn(Self::rotate(self.node.clone()));
        tasks.spawn(certificates::keep(self.node.clone()));
        tasks.spawn(Self::watch(self.node.clone()));
        tasks.spawn(Self::refresh(self.node.clone()));
        tokio::select! {
            () = self.first_pass(&mut tasks) => self.node.lifecycle.set_checked(),
            // Nobody needs the results any more.
            _ = shutdown.changed() => {}
        }
        ready.notify_ready();
        // Pingora's shutdown is not for these: it comes when the drain begins, and requests that drain need health.
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                log::error!(error = error.to_string(); "a_pool_task_ended");
            }
        }
    }
}
