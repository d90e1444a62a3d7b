//! The state of pools and servers, as JSON and as gauges.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::node::Node;
use crate::upstream::ejection::Standing;
use crate::upstream::health::Health;
use crate::upstream::{Pool, Server};

/// A pool, as `/api/v1/pools` shows it.
#[derive(Debug, Serialize)]
pub struct PoolState {
    name: String,
    balance: &'static str,
    mode: &'static str,
    view_age_ms: u64,
    nodes: u32,
    circuit: &'static str,
    /// Requests that wait for room.
    queued: usize,
    /// All servers, those that serve first before the others.
    pub servers: Vec<ServerState>,
}

/// A server, as `/api/v1/pools` shows it.
#[derive(Debug, Serialize)]
pub struct ServerState {
    /// Unique in its pool.
    pub name: String,
    address: String,
    /// `draining`, `down`, `ejected`, `starting` or `up`.
    pub state: &'static str,
    reason: String,
    health: &'static str,
    ejection: &'static str,
    draining: bool,
    weight: Weight,
    priority: u32,
    /// Requests in flight.
    pub in_flight: InFlight,
    /// Attempts made.
    pub requests: u64,
    /// Attempts that failed.
    pub errors: u64,
    /// Half of the requests of late took no longer to their response header.
    pub p50_ms: f64,
    /// 99 % of the requests of late took no longer to their response header.
    pub p99_ms: f64,
}

#[derive(Debug, Serialize)]
struct Weight {
    configured: u32,
    effective: f64,
}

/// Requests in flight on a server.
#[derive(Debug, Serialize)]
pub struct InFlight {
    /// Sent by this node.
    pub local: u32,
    /// Sent by all nodes.
    pub fleet: u32,
}

impl PoolState {
    /// The state of a pool now.
    pub fn of(pool: &Pool, shared: bool) -> Self {
        let age = pool.share.seen_ago().unwrap_or_default();
        PoolState {
            name: pool.config.name.clone(),
            balance: pool.config.balance.as_str(),
            mode: if shared { pool.share.mode().as_str() } else { "memory" },
            view_age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            nodes: pool.share.nodes(),
            circuit: pool.circuit_state().as_str(),
            queued: pool.queue.as_ref().map_or(0, |queue| queue.waiting()),
            servers: (0..).zip(&pool.servers).map(|(i, server)| ServerState::of(server, pool.share.fleet(i))).collect(),
        }
    }
}

impl ServerState {
    fn of(server: &Server, fleet: u32) -> Self {
        let (health, mut reason) = server.health();
        let standing = server.conduct.standing();
        let out = matches!(standing, Standing::Ejected | Standing::Probing);
        let presence = server.conduct.presence();
        let (requests, errors) = server.totals();
        let local = server.in_flight();
        let state = match health {
            Health::Down => "down",
            _ if out => "ejected",
            Health::Up if !server.conduct.is_starting() => "up",
            _ => "starting",
        };
        if health != Health::Down && standing != Standing::Serving {
            reason = server.conduct.reason();
        }
        if state == "starting" && reason.is_empty() {
            reason = match health {
                Health::Unknown => "not checked yet",
                _ => "slow start",
            }
            .to_owned();
        }
        if matches!(standing, Standing::Condemned | Standing::Silent) && !reason.is_empty() {
            reason.push_str(" (not ejected: too few others serve)");
        }
        ServerState {
            name: server.name.clone(),
            address: server.resolved().map_or_else(String::new, |address| address.to_string()),
            state,
            reason,
            health: health.as_str(),
            ejection: match standing {
                Standing::Ejected => "ejected",
                Standing::Probing => "probing",
                _ => "none",
            },
            draining: false,
            weight: Weight {
                configured: server.weight,
                effective: f64::from((server.weight as f32 * presence.factor * 1000.0).round()) / 1000.0,
            },
            priority: server.priority,
            in_flight: InFlight { local, fleet },
            requests,
            errors,
            p50_ms: server.latencies.quantile_ms(0.5),
            p99_ms: server.latencies.quantile_ms(0.99),
        }
    }
}

/// `GET /api/v1/pools`
pub async fn list(State(node): State<Arc<Node>>) -> Json<Vec<PoolState>> {
    let shared = node.fleet.get().is_some();
    Json(node.snapshot.load().pools.iter().map(|pool| PoolState::of(pool, shared)).collect())
}

/// `GET /api/v1/pools/{pool}`
pub async fn one(State(node): State<Arc<Node>>, Path(name): Path<String>) -> Response {
    match node.snapshot.load().pool(&name) {
        Some(pool) => Json(PoolState::of(pool, node.fleet.get().is_some())).into_response(),
        None => (StatusCode::NOT_FOUND, format!("there is no pool {name}\n")).into_response(),
    }
}

/// Sets what is only known when somebody asks.
pub fn set_gauges(node: &Node) {
    let snapshot = node.snapshot.load();
    for listener in snapshot.listeners() {
        let open = i64::try_from(listener.gate.open()).unwrap_or(i64::MAX);
        node.metrics.connections.with_label_values(&[listener.name.as_str()]).set(open);
    }
    for limit in node.limits.all() {
        let keys = i64::try_from(limit.keys()).unwrap_or(i64::MAX);
        node.metrics.rate_limit_keys.with_label_values(&[limit.route.as_str()]).set(keys);
    }
    for pool in &snapshot.pools {
        let age = pool.share.seen_ago().map_or(-1.0, |age| age.as_secs_f64());
        let name = [pool.config.name.as_str()];
        node.metrics.circuit.with_label_values(&name).set(pool.circuit_state() as i64);
        node.metrics.queued.with_label_values(&name).set(pool.queue.as_ref().map_or(0, |queue| queue.waiting() as i64));
        node.metrics.view_age.with_label_values(&[pool.config.name.as_str()]).set(age);
        for (index, server) in pool.servers.iter().enumerate() {
            let labels = [pool.config.name.as_str(), server.name.as_str()];
            node.metrics.server_up.with_label_values(&labels).set(i64::from(server.is_eligible()));
            for (scope, count) in [("local", server.in_flight()), ("fleet", pool.share.fleet(index))] {
                node.metrics.in_flight.with_label_values(&[labels[0], labels[1], scope]).set(i64::from(count));
            }
        }
    }
}
