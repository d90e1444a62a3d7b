//! The composition root: from a configuration to running services, and how they start and end.
//!
//! Start: sockets are bound (a taken port ends the process at once) → pools are checked once → listeners accept →
//! ready. End: see `shutdown`.

mod certificates;
mod edge;
mod fleet;
mod limits;
mod listeners;
mod pools;
mod shutdown;

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use pingora::proxy::HttpProxy;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server};
use pingora::services::background::background_service;

use crate::admin;
use crate::config::{Config, Findings};
use crate::load::connections::Gate;
use crate::load::rate::Limits;
use crate::load::redis::Client;
use crate::node::{Lifecycle, Node};
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::Metrics;
use crate::proxy::Proxy;
use crate::proxy::app::EdgeApp;
use crate::snapshot::Snapshot;
use crate::tls::Tls;

pub use limits::raise_open_files;
pub use listeners::StartError;
pub(crate) use listeners::{BACKLOG, bind_socket};
pub use shutdown::survive_hang_up;

/// Pingora's own bound on attempts. Ours are lower; 0 would mean that nothing is ever proxied.
const MAX_RETRIES: usize = 16;

/// A node whose sockets are bound and that has not started yet.
pub struct Prepared {
    node: Arc<Node>,
    listeners: Vec<listeners::Bound>,
    admin: Option<admin::Bound>,
    config: Config,
    budget: limits::Budget,
}

impl Prepared {
    /// What the node's parts share; for whoever wants to look into it.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }
}

/// Binds all sockets and opens all files, so that whatever can fail at a start fails here.
///
/// # Errors
/// A socket or file that cannot be had, with what to do about it.
pub fn prepare(config: Config) -> Result<Prepared, StartError> {
    let listeners = config.listeners.iter().map(listeners::bind).collect::<Result<Vec<_>, _>>()?;
    let admin = config.admin.as_ref().map(admin::bind).transpose()?;
    config.redis.as_ref().map_or(Ok(()), Client::check).map_err(StartError::Redis)?;
    let metrics = Metrics::new().map_err(StartError::Metrics)?;
    let access_log = match &config.access_log {
        None => None,
        Some(settings) => {
            let opened = AccessLog::open(settings, metrics.access_log_dropped.clone());
            Some(opened.map_err(|error| StartError::AccessLog { path: settings.path.clone(), error })?)
        }
    };
    let mut found = Findings::default();
    let Some(tls) = Tls::load(&config, &metrics, &mut found) else {
        return Err(StartError::Certificates(found.into_problems("the configuration", |_| None)));
    };
    let budget = limits::budget(&config);
    let bound: Vec<_> = listeners.iter().map(|listener| listener.address).collect();
    let limits = Limits::default();
    let node = Arc::new(Node {
        snapshot: ArcSwap::from_pointee(Snapshot::new(&config, &bound, &metrics, &limits).with_tls(&tls)),
        metrics,
        access_log,
        deadlines: Default::default(),
        limits,
        tls,
        lifecycle: Lifecycle::default(),
        max_connections: budget.connections,
        in_flight: limits::in_flight(&config, budget).map(|limit| Arc::new(Gate::new(limit, None))),
        fleet: OnceLock::new(),
    });
    Ok(Prepared { node, listeners, admin, config, budget })
}

/// Runs a node until it is told to stop. Ends the process when it has drained.
pub fn run(prepared: Prepared) {
    let Prepared { node, listeners, admin, config, budget } = prepared;
    let mut server = Server::new_with_opt_and_conf(None, pingora_conf(&config, budget));

    let pools = server.add_service(background_service("pools", pools::Pools::new(node.clone())));
    let mut proxy = HttpProxy::new(Proxy::new(node.clone()), server.configuration.clone());
    proxy.handle_init_modules();
    let app = EdgeApp::new(node.clone(), proxy);
    let edge = server.add_service(edge::Edge::new(node.clone(), app, listeners, config.redis.clone()));
    edge.add_dependency(&pools);
    if let Some(bound) = admin {
        server.add_service(background_service("admin", admin::Service::new(node.clone(), bound)));
    }
    server.run(RunArgs { shutdown_signal: Box::new(shutdown::Orderly::new(node, config.shutdown)) });
}

fn pingora_conf(config: &Config, budget: limits::Budget) -> ServerConf {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = if config.threads == 0 { cores } else { config.threads };
    ServerConf {
        threads,
        max_retries: MAX_RETRIES,
        // Pingora takes it for each thread.
        upstream_keepalive_pool_size: budget.idle.div_ceil(threads),
        // `shutdown` ends the process before Pingora would.
        grace_period_seconds: Some(config.shutdown.drain.as_secs() + 60),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    }
}
