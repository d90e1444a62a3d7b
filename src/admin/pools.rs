//! The state of pools and servers, as JSON and as gauges.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::node::Node;
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
    pub fn of(pool: &Pool) -> Self {
        PoolState {
            name: pool.config.name.clone(),
            balance: pool.config.balance.as_str(),
            mode: "memory",
            view_age_ms: 0,
            nodes: 1,
            circuit: "closed",
            servers: pool.servers.iter().map(|server| ServerState::of(server)).collect(),
        }
    }
}

impl ServerState {
    fn of(server: &Server) -> Self {
        let (health, reason) = server.health();
        let (requests, errors) = server.totals();
        let local = server.in_flight();
        let state = match health {
            Health::Up => "up",
            Health::Down => "down",
            Health::Unknown => "starting",
        };
        ServerState {
            name: server.name.clone(),
            address: server.resolved().map_or_else(String::new, |address| address.to_string()),
            state,
            reason,
            health: health.as_str(),
            ejection: "none",
            draining: false,
            weight: Weight { configured: server.weight, effective: f64::from(server.weight) },
            priority: server.priority,
            in_flight: InFlight { local, fleet: local },
            requests,
            errors,
            p50_ms: server.latencies.quantile_ms(0.5),
            p99_ms: server.latencies.quantile_ms(0.99),
        }
    }
}

/// `GET /api/v1/pools`
pub async fn list(State(node): State<Arc<Node>>) -> Json<Vec<PoolState>> {
    Json(node.snapshot.load().pools.iter().map(|pool| PoolState::of(pool)).collect())
}

/// `GET /api/v1/pools/{pool}`
pub async fn one(State(node): State<Arc<Node>>, Path(name): Path<String>) -> Response {
    match node.snapshot.load().pool(&name) {
        Some(pool) => Json(PoolState::of(pool)).into_response(),
        None => (StatusCode::NOT_FOUND, format!("there is no pool {name}\n")).into_response(),
    }
}

/// Sets what is only known when somebody asks.
pub fn set_gauges(node: &Node) {
    for pool in &node.snapshot.load().pools {
        for server in &pool.servers {
            let labels = [pool.config.name.as_str(), server.name.as_str()];
            let local = i64::from(server.in_flight());
            node.metrics.server_up.with_label_values(&labels).set(i64::from(server.is_eligible()));
            for scope in ["local", "fleet"] {
                node.metrics.in_flight.with_label_values(&[labels[0], labels[1], scope]).set(local);
            }
        }
    }
}
