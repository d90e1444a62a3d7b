//! The admin listener: health of the node itself, metrics, and the state of its pools. Never on the path of a request.

mod guard;
pub mod pools;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use async_trait::async_trait;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, middleware};
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;

use crate::config::Admin;
use crate::node::Node;
use crate::server::{BACKLOG, StartError, bind_socket};

/// The admin listener's socket, bound.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    config: Admin,
}

/// Binds the admin listener.
///
/// # Errors
/// The address cannot be had.
pub fn bind(config: &Admin) -> Result<Bound, StartError> {
    let bound = || -> std::io::Result<Bound> {
        let (socket, address) = bind_socket(config.address)?;
        socket.listen(BACKLOG)?;
        Ok(Bound { address, listener: socket.into(), config: config.clone() })
    };
    bound().map_err(|error| StartError::Bind { address: config.address, what: "admin".into(), error })
}

/// Serves the admin listener until the process ends: an operator wants to watch a drain.
pub struct Service {
    node: Arc<Node>,
    bound: Bound,
}

impl Service {
    /// Ready to be started.
    pub fn new(node: Arc<Node>, bound: Bound) -> Self {
        Service { node, bound }
    }
}

#[async_trait]
impl BackgroundService for Service {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let served = async {
            let listener = tokio::net::TcpListener::from_std(self.bound.listener.try_clone()?)?;
            log::info!(address = self.bound.address.to_string(); "admin_listening");
            axum::serve(listener, router(self.node.clone(), self.bound.config.clone())).await
        };
        if let Err(error) = served.await {
            log::error!(error = error.to_string(); "admin_stopped");
        }
    }
}

/// All pages behind their guards.
pub fn router(node: Arc<Node>, config: Admin) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/v1/pools", get(pools::list))
        .route("/api/v1/pools/{pool}", get(pools::one))
        .fallback(|| async { (StatusCode::NOT_FOUND, "no such page\n") })
        .with_state(node)
        .layer(middleware::from_fn_with_state(Arc::new(config), guard::check))
}

async fn readyz(State(node): State<Arc<Node>>) -> Response {
    match node.lifecycle.unready() {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn metrics(State(node): State<Arc<Node>>) -> Response {
    pools::set_gauges(&node);
    match node.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
