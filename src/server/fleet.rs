//! Joins the fleet: a client, an exchange for each pool, and the wait for the first view.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use tokio::sync::{mpsc, oneshot};

use crate::balance::Policy;
use crate::config;
use crate::load::fleet::{Exchange, Fleet, Settings, Upkeep};
use crate::load::rate::exchange as rate;
use crate::load::redis::calls::Terms;
use crate::load::redis::client::Client;
use crate::node::Node;
use crate::observe::fleet::FleetMetrics;
use crate::upstream::admission::Limits;
use crate::upstream::{Pool, Server};

/// Where all servers are full: requests of a pool that ask Redis for room at the same time, and share its calls.
const ASK_AT_ONCE: usize = 32;

/// Joins from where the exchanges shall run.
///
/// With one worker that is the proxy's own thread: in exact mode a request and the exchange it waits for then wake each
/// other without a switch of threads. With more it is a thread beside them: the exchange's short timers would keep
/// idle workers looking for work, and one that takes a request over at the wrong moment makes Pingora throw a pooled
/// connection away.
pub async fn join_beside(node: &Arc<Node>, redis: config::Redis) {
    if tokio::runtime::Handle::current().metrics().num_workers() == 1 {
        return join(node, &redis).await;
    }
    let (joined, wait) = oneshot::channel();
    let node = node.clone();
    let run = move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return log::error!(error = error.to_string(); "cannot_join_the_fleet"),
        };
        runtime.block_on(async {
            join(&node, &redis).await;
            joined.send(()).ok();
            std::future::pending::<()>().await;
        });
    };
    if let Err(error) = std::thread::Builder::new().name("fleet".into()).spawn(run) {
        log::error!(error = error.to_string(); "cannot_join_the_fleet");
    }
    wait.await.ok();
}

/// Starts the exchanges in this runtime and waits, at most for `redis.start_wait`, until the fleet's load is known. With
/// Redis away the node serves on its own counts and joins when Redis appears.
async fn join(node: &Arc<Node>, redis: &config::Redis) {
    let metrics = match FleetMetrics::new(&node.metrics) {
        Ok(metrics) => metrics,
        Err(error) => return log::error!(error = error.to_string(); "cannot_register_metrics"),
    };
    let client = match Client::start(redis) {
        Ok(client) => client,
        Err(error) => return log::error!(error = error.to_string(); "cannot_use_redis"),
    };
    tokio::spawn(show(client.clone(), metrics.clone()));
    tokio::spawn(watch(client.clone()));
    let incarnation = incarnation();
    let active_pools = Arc::new(AtomicU32::new(0));
    let mut exchanges = Vec::new();
    let mut views = Vec::new();
    for pool in &node.snapshot.load().pools {
        let Some(queue) = pool.take_queue() else { continue };
        let (command, commands) = mpsc::unbounded_channel();
        let (first_view, view) = oneshot::channel();
        keep_limits(pool, redis.mode);
        let settings = settings(pool, redis, &incarnation, &active_pools);
        let exchange =
            Exchange::new(settings, client.clone(), pool.share.clone(), queue, commands, first_view, metrics.clone());
        tokio::spawn(exchange.run());
        exchanges.push(command);
        views.push(view);
    }
    share_limits(node, redis, &client, &metrics);
    node.fleet.set(Fleet::new(client, exchanges)).ok();
    let all = async {
        for view in views {
            view.await.ok();
        }
    };
    match tokio::time::timeout(redis.start_wait, all).await {
        Ok(()) => log::info!(node = incarnation; "joined_the_fleet"),
        Err(_) => log::warn!(node = incarnation; "started_without_the_fleet"),
    }
}

/// How `max_in_flight` is kept from now on.
fn keep_limits(pool: &Pool, mode: config::Mode) {
    let asked = pool.config.balance == Policy::LeastLoad && mode != config::Mode::Batched;
    pool.set_limits(if asked { Limits::Asked } else { Limits::Seen });
    if let (true, Some(queue)) = (asked, &pool.queue) {
        queue.widen(ASK_AT_ONCE - 1);
    }
}

/// Starts the loops of the rate limits that the fleet shares, where they do not run yet.
fn share_limits(node: &Node, redis: &config::Redis, client: &Client, metrics: &FleetMetrics) {
    let snapshot = node.snapshot.load();
    let shared: Vec<_> = node.limits.all().into_iter().filter(|limit| limit.leases().is_some()).collect();
    let limits = shared.len();
    for limit in shared {
        let route = snapshot.routes.all().find(|route| route.name == limit.route);
        let pools: Vec<Arc<Pool>> = route.map(|route| route.pools().cloned().collect()).unwrap_or_default();
        let nodes = move || pools.iter().map(|pool| pool.share.last_nodes()).max().unwrap_or(1);
        if limit.leases().is_some_and(|leases| leases.set_fleet(nodes)) {
            let settings = rate::Settings { namespace: redis.namespace.clone(), max_calls: redis.max_calls, limits };
            tokio::spawn(rate::run(limit, client.clone(), metrics.clone(), settings));
        }
    }
}

fn settings(pool: &Pool, redis: &config::Redis, incarnation: &str, active_pools: &Arc<AtomicU32>) -> Settings {
    let terms = |server: &Server| Terms { weight: f64::from(server.weight), cap: server.max_in_flight.unwrap_or(0) };
    Settings {
        pool: pool.config.name.clone(),
        namespace: redis.namespace.clone(),
        incarnation: incarnation.to_owned(),
        mode: redis.mode,
        by_load: pool.config.balance == Policy::LeastLoad,
        timeout: redis.timeout,
        max_calls: redis.max_calls,
        active_pools: active_pools.clone(),
        servers: pool.servers.iter().map(|server| (server.name.clone(), terms(server))).collect(),
        upkeep: Upkeep::default(),
    }
}

/// Unique among all processes ever, and readable for whoever looks into Redis.
fn incarnation() -> String {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')).take(24).collect();
    format!("{host}-{}-{:08x}", std::process::id(), fastrand::u32(..))
}

/// Keeps the metric.
async fn show(client: Client, metrics: FleetMetrics) {
    let mut well = client.well();
    loop {
        metrics.set_up(*well.borrow_and_update());
        if well.changed().await.is_err() {
            return;
        }
    }
}

/// Looks whether Redis may throw counts away.
async fn watch(client: Client) {
    const SAFE: &str = "noeviction";
    let mut link = client.link();
    let mut told = None;
    loop {
        if link.up {
            let policy = client.max_memory_policy().await.filter(|policy| policy != SAFE);
            if policy.is_some() && policy != told {
                log::warn!(policy = policy.as_deref().unwrap_or_default(), better = SAFE; "redis_may_evict");
                told = policy;
            }
        }
        link = client.changed(link).await;
    }
}
