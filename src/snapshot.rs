//! What a request sees of the configuration: routes, pools, trusted peers. Made as a whole, replaced as a whole, and
//! held by a request to its end.

use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::sync::Arc;

use ipnet::IpNet;
use prometheus::{Histogram, IntCounter};

use crate::config::{
    self, ClientLimits, ClientTimeouts, Config, Match, Protocols, Retry, RouteTimeouts, Rules, ServerHeader,
};
use crate::filters::rate_limit::Guard;
use crate::load::Traffic;
use crate::load::connections::Gate;
use crate::load::rate::Limits;
use crate::observe::metrics::{Class, Metrics};
use crate::routing::RouteTable;
use crate::tls::{self, Tls};
use crate::upstream::Pool;

/// One consistent set of routes and pools.
#[derive(Debug)]
pub struct Snapshot {
    /// Who serves what.
    pub routes: RouteTable<Arc<Route>>,
    /// All routes, in the file's order.
    pub all_routes: Vec<Arc<Route>>,
    /// All pools, in the file's order.
    pub pools: Vec<Arc<Pool>>,
    listeners: Vec<Listener>,
    trusted: Vec<IpNet>,
}

/// A listener as a request sees it.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Where it is bound.
    pub bound: SocketAddr,
    /// As configured.
    pub name: String,
    /// As configured.
    pub limits: ClientLimits,
    /// As configured.
    pub timeouts: ClientTimeouts,
    /// As configured.
    pub protocols: Protocols,
    /// As configured.
    pub proxy_protocol: Vec<IpNet>,
    /// As configured.
    pub redirect_to_https: Option<u16>,
    /// None: without TLS.
    pub tls: Option<Arc<tls::Listener>>,
    /// As configured.
    pub server_header: ServerHeader,
    /// Whether a client that closes its own half is answered all the same.
    pub serve_half_closed: bool,
    /// Counts its connections. Outlives the snapshot that made it.
    pub gate: Arc<Gate>,
}

impl Listener {
    /// Whether a peer's connections begin with a header of the PROXY protocol.
    pub fn expects_header(&self, peer: impl FnOnce() -> Option<IpAddr>) -> bool {
        // Most listeners need not ask who it is.
        !self.proxy_protocol.is_empty()
            && peer().map(|peer| peer.to_canonical()).is_some_and(|peer| contains(&self.proxy_protocol, peer))
    }
}

/// A route with its pools.
#[derive(Debug)]
pub struct Route {
    /// For logs and metrics.
    pub name: String,
    /// As configured.
    pub timeouts: RouteTimeouts,
    /// As configured.
    pub retry: Retry,
    /// Its requests.
    pub traffic: Arc<Traffic>,
    /// As configured.
    pub rules: Rules,
    /// As configured.
    pub path_prefix: String,
    /// None: no limit.
    pub limit: Option<Guard>,
    /// Pool and the sum of the shares up to and including it.
    targets: Vec<(Arc<Target>, u32)>,
}

/// A pool as one route uses it, with the metrics of the pair.
#[derive(Debug)]
pub struct Target {
    /// Who serves.
    pub pool: Arc<Pool>,
    /// The route's requests.
    pub traffic: Arc<Traffic>,
    /// `fairlead_requests_total` by class.
    pub requests: [IntCounter; Class::COUNT],
    /// `fairlead_request_duration_seconds`.
    pub duration: Histogram,
}

/// A request on its route: live until this is dropped.
#[derive(Debug)]
pub struct Visit(Arc<Route>);

impl Deref for Visit {
    type Target = Route;

    fn deref(&self) -> &Route {
        &self.0
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.traffic.end();
    }
}

impl Route {
    /// A request begins.
    pub fn visit(self: &Arc<Self>) -> Visit {
        self.traffic.begin();
        Visit(self.clone())
    }

    /// All pools that serve it.
    pub fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.targets.iter().map(|(target, _)| &target.pool)
    }

    /// Draws a pool by the route's shares.
    pub fn draw(&self) -> Option<&Arc<Target>> {
        if let [(only, _)] = self.targets.as_slice() {
            return Some(only);
        }
        let total = self.targets.last()?.1;
        let point = fastrand::u32(0..total.max(1));
        self.targets.iter().find(|(_, upto)| point < *upto).map(|(target, _)| target)
    }
}

impl Snapshot {
    /// Makes pools and routes from a valid configuration. `bound` holds the listeners' addresses, in their order.
    /// `limits`: those there are already go on.
    pub fn new(config: &Config, bound: &[SocketAddr], metrics: &Metrics, limits: &Limits) -> Self {
        let pools: Vec<_> = config.pools.iter().map(|pool| Arc::new(Pool::new(pool.clone(), metrics))).collect();
        let whole = whole_traffic(config);
        let routes = if config.routes.is_empty() { std::slice::from_ref(&whole) } else { &config.routes };
        let all_routes: Vec<_> =
            routes.iter().map(|route| Arc::new(make_route(route, &pools, metrics, limits))).collect();
        let matches = routes.iter().map(|route| route.matches.clone());
        let table = RouteTable::new(matches.zip(all_routes.iter().cloned()));
        let listeners = config.listeners.iter().zip(bound);
        let listeners = listeners
            .map(|(listener, &bound)| Listener {
                bound,
                name: listener.name.clone(),
                limits: listener.limits,
                timeouts: listener.timeouts,
                protocols: listener.protocols,
                proxy_protocol: listener.proxy_protocol.clone(),
                redirect_to_https: listener.redirect_to_https,
                tls: None,
                server_header: listener.server_header.clone(),
                serve_half_closed: listener.serve_half_closed,
                gate: Arc::new(Gate::new(listener.limits.connections, listener.limits.per_client)),
            })
            .collect();
        Snapshot { routes: table, all_routes, pools, listeners, trusted: config.trusted_proxies.clone() }
    }

    /// All listeners, in the file's order.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// With the certificates that were loaded for the same configuration. Pools that are to be reached by TLS cannot be
    /// without.
    pub fn with_tls(mut self, tls: &Tls) -> Self {
        for (place, listener) in self.listeners.iter_mut().enumerate() {
            listener.tls = tls.listener(place).cloned();
        }
        for (place, pool) in self.pools.iter().enumerate() {
            if let Some(tls) = tls.pool(place) {
                pool.servers.iter().for_each(|server| server.set_tls(tls.clone()));
            }
        }
        self
    }

    /// Whether any listener speaks TLS.
    pub fn has_tls(&self) -> bool {
        self.listeners.iter().any(|listener| listener.tls.is_some())
    }

    /// The listener that a connection to `local` came in by: its own address before a wildcard on its port.
    pub fn listener(&self, local: Option<SocketAddr>) -> Option<&Listener> {
        if let [only] = self.listeners.as_slice() {
            return Some(only);
        }
        let local = local?;
        let exact = self.listeners.iter().find(|listener| listener.bound == local);
        let wildcard = || {
            let same = |bound: SocketAddr| bound.port() == local.port() && bound.is_ipv4() == local.is_ipv4();
            let same_port = self.listeners.iter().filter(|listener| same(listener.bound));
            same_port.min_by_key(|listener| !listener.bound.ip().is_unspecified())
        };
        exact.or_else(wildcard)
    }

    /// Whether a peer's `X-Forwarded-*` headers are believed.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        contains(&self.trusted, peer)
    }

    /// Whether anybody is trusted at all.
    pub fn trusts_somebody(&self) -> bool {
        !self.trusted.is_empty()
    }

    /// A pool by name.
    pub fn pool(&self, name: &str) -> Option<&Arc<Pool>> {
        self.pools.iter().find(|pool| pool.config.name == name)
    }
}

fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// The route of a file that has none: everything goes to the only pool.
fn whole_traffic(config: &Config) -> config::Route {
    let only = config.pools.first().map(|pool| pool.name.clone()).unwrap_or_default();
    config::Route {
        name: only.clone(),
        matches: Match { path_prefix: "/".into(), ..Match::default() },
        split: vec![config::Share { pool: only, weight: 1 }],
        rules: Rules::default(),
        timeouts: RouteTimeouts::default(),
        retry: Retry::default(),
        rate_limit: None,
    }
}

fn make_route(route: &config::Route, pools: &[Arc<Pool>], metrics: &Metrics, limits: &Limits) -> Route {
    let traffic = Arc::new(Traffic::new(route.retry.budget));
    let mut upto = 0;
    let mut targets = Vec::new();
    for share in &route.split {
        let Some(pool) = pools.iter().find(|pool| pool.config.name == share.pool) else { continue };
        upto += share.weight;
        let labels = [route.name.as_str(), pool.config.name.as_str()];
        let counter = |class: Class| metrics.requests.with_label_values(&[labels[0], labels[1], class.as_str()]);
        let target = Target {
            pool: pool.clone(),
            traffic: traffic.clone(),
            requests: Class::ALL.map(counter),
            duration: metrics.duration.with_label_values(&labels),
        };
        targets.push((Arc::new(target), upto));
    }
    Route {
        name: route.name.clone(),
        timeouts: route.timeouts,
        rules: route.rules.clone(),
        path_prefix: route.matches.path_prefix.clone(),
        retry: route.retry.clone(),
        traffic,
        limit: route.rate_limit.as_ref().map(|settings| Guard::new(limits.get(&route.name, settings))),
        targets,
    }
}
