//! Runs the health checks of one pool, on Pingora's backends.
//!
//! Pingora holds the set of backends and drives a pass over them; what a check does, how long it may take, how many
//! run at once and when its results count is ours ([`crate::upstream::health`]). A backend is an address: servers
//! whose names resolve to the same one share a check.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::{TransportConnector, http::Connector};
use pingora::http::RequestHeader;
use pingora::lb::discovery::ServiceDiscovery;
use pingora::lb::health_check::HealthCheck;
use pingora::lb::{Backend, Backends, Extensions};
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::{BasicPeer, HttpPeer};
use pingora::{Error, ErrorType, Result};
use tokio::sync::Semaphore;

use crate::config::{self, Check};
use crate::upstream::health::Health;
use crate::upstream::{Pool, Server, resolve};

/// How much of a body is looked at for `expect.body`.
const BODY_LIMIT: usize = 64 * 1024;

/// Checks one pool until the task is dropped. `first_pass` is told when every server has a result.
pub async fn run(pool: Arc<Pool>, first_pass: tokio::sync::oneshot::Sender<()>) {
    let mut first_pass = Some(first_pass);
    let backends = backends(&pool);
    resolve::resolve(&pool).await;
    // Beside the checks, which a slow name server must not hold up; ends with this task.
    let mut names = tokio::task::JoinSet::new();
    names.spawn(resolve::keep(pool.clone()));
    loop {
        let began = tokio::time::Instant::now();
        pass(&pool, &backends).await;
        if let Some(done) = first_pass.take() {
            done.send(()).ok();
        }
        report_if_nobody_ever_passed(&pool);
        let interval = jittered(pool.config.health.interval);
        tokio::time::sleep_until(began + interval).await;
    }
}

/// Looks up the names of a pool and checks each server once.
pub async fn once(pool: &Arc<Pool>) {
    resolve::resolve(pool).await;
    pass(pool, &backends(pool)).await;
}

fn backends(pool: &Arc<Pool>) -> Backends {
    let mut backends = Backends::new(Box::new(Membership(pool.clone())));
    backends.set_health_check(Box::new(Checker::new(pool.clone())));
    backends
}

async fn pass(pool: &Pool, backends: &Backends) {
    if let Err(error) = backends.update(|_| {}).await {
        log::error!(pool = pool.config.name, error = error.to_string(); "membership_update_failed");
    }
    for server in pool.servers.iter().filter(|server| server.resolved().is_none()) {
        let reason = format!("the name {} does not resolve", server.address.host);
        note(pool, server, Err(reason));
    }
    backends.run_health_check(true).await;
}

/// ±10 %, so that the nodes of a fleet do not check in step.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + 0.2 * fastrand::f64())
}

/// The pool's servers that have an address, as backends.
struct Membership(Arc<Pool>);

/// The servers behind one backend.
type Behind = Arc<Vec<Arc<Server>>>;

#[async_trait]
impl ServiceDiscovery for Membership {
    async fn discover(&self) -> Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        let mut behind: BTreeMap<SocketAddr, Vec<Arc<Server>>> = BTreeMap::new();
        for server in &self.0.servers {
            if let Some(address) = server.resolved() {
                behind.entry(address).or_default().push(server.clone());
            }
        }
        let backend = |(address, servers): (SocketAddr, Vec<Arc<Server>>)| {
            let mut ext = Extensions::new();
            ext.insert::<Behind>(Arc::new(servers));
            Backend { addr: pingora::protocols::l4::socket::SocketAddr::Inet(address), weight: 1, ext }
        };
        Ok((behind.into_iter().map(backend).collect(), HashMap::new()))
    }
}

struct Checker {
    pool: Arc<Pool>,
    http: Connector,
    tcp: TransportConnector,
    permits: Semaphore,
    first: AtomicBool,
}

impl Checker {
    fn new(pool: Arc<Pool>) -> Self {
        let health = &pool.config.health;
        // Enough at once that a pass over servers that all time out still fits its interval, with a quarter to spare.
        let rounds = (health.interval.as_secs_f64() * 0.75 / health.timeout.as_secs_f64()).floor().max(1.0);
        let permits = (pool.servers.len() as f64 / rounds).ceil().max(4.0) as usize;
        Checker {
            permits: Semaphore::new(permits),
            http: Connector::new(None),
            tcp: TransportConnector::new(None),
            first: AtomicBool::new(true),
            pool,
        }
    }

    async fn probe(&self, address: SocketAddr, server: &Server) -> std::result::Result<(), String> {
        match &self.pool.config.health.check {
            Check::Tcp => {
                let mut peer = BasicPeer::new("0.0.0.0:1");
                peer._address = pingora::protocols::l4::socket::SocketAddr::Inet(address);
                self.tcp.new_stream(&peer).await.map(drop).map_err(|e| plain(&e))
            }
            Check::Http { path, host, status, body } => {
                let own = || format!("{}:{}", bracketed(&server.address.host), server.address.port);
                let host = host.clone().unwrap_or_else(own);
                let found = self.get(address, path, &host, body.is_some()).await.map_err(|e| plain(&e))?;
                if !status.iter().any(|&(low, high)| (low..=high).contains(&found.status)) {
                    let expected: Vec<_> = status.iter().map(|&(l, h)| range(l, h)).collect();
                    return Err(format!("GET {path} answered {} (expected {})", found.status, expected.join(", ")));
                }
                match body {
                    Some(wanted) if !contains(&found.body, wanted.as_bytes()) => {
                        Err(format!("GET {path} answered {} but its body does not contain {wanted:?}", found.status))
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    async fn get(&self, address: SocketAddr, path: &str, host: &str, with_body: bool) -> Result<Found> {
        let peer = HttpPeer::new(address, false, String::new());
        let (mut session, _) = self.http.get_http_session(&peer).await?;
        let mut request = RequestHeader::build("GET", path.as_bytes(), Some(3))?;
        request.insert_header("Host", host)?;
        request.insert_header("User-Agent", concat!("fairlead-health/", env!("CARGO_PKG_VERSION")))?;
        request.insert_header("Connection", "close")?;
        session.write_request_header(Box::new(request)).await?;
        session.finish_request_body().await?;
        session.read_response_header().await?;
        let status = session.response_header().map_or(0, |header| header.status.as_u16());
        let body = if with_body { read_body(&mut session).await? } else { Vec::new() };
        Ok(Found { status, body })
    }
}

struct Found {
    status: u16,
    body: Vec<u8>,
}

async fn read_body(session: &mut HttpSession) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = session.read_response_body().await? {
        body.extend_from_slice(&chunk);
        if body.len() >= BODY_LIMIT {
            body.truncate(BODY_LIMIT);
            break;
        }
    }
    Ok(body)
}

#[async_trait]
impl HealthCheck for Checker {
    async fn check(&self, target: &Backend) -> Result<()> {
        let (Some(address), Some(servers)) = (target.addr.as_inet(), target.ext.get::<Behind>()) else {
            return Error::e_explain(ErrorType::InternalError, "a backend without address or servers");
        };
        let health = &self.pool.config.health;
        if !self.first.load(Ordering::Relaxed) {
            // Spread a pass over a tenth of its interval.
            tokio::time::sleep(health.interval.mul_f64(0.1 * fastrand::f64()).min(Duration::from_millis(500))).await;
        }
        // The time starts when the check does, not when it queues.
        let Ok(_permit) = self.permits.acquire().await else {
            return Error::e_explain(ErrorType::InternalError, "the checks have ended");
        };
        for server in servers.iter() {
            let result = match tokio::time::timeout(health.timeout, self.probe(*address, server)).await {
                Ok(result) => result,
                Err(_) => Err(format!("the check took longer than {:?}", health.timeout)),
            };
            note(&self.pool, server, result);
        }
        self.first.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn health_threshold(&self, _success: bool) -> usize {
        1
    }
}

/// Takes in a result and logs a change.
fn note(pool: &Pool, server: &Server, result: std::result::Result<(), String>) {
    let config::Health { rise, fall, .. } = pool.config.health;
    let reason = result.as_ref().err().cloned().unwrap_or_default();
    match server.observe_check(result, rise, fall) {
        Some(Health::Up) => {
            pool.settle();
            log::info!(pool = pool.config.name, server = server.name; "server_up");
        }
        Some(_) => log::warn!(pool = pool.config.name, server = server.name, reason = reason; "server_down"),
        None => {}
    }
}

/// Most often the check is wrong, not all the servers: say once what came back.
fn report_if_nobody_ever_passed(pool: &Pool) {
    if !pool.settle() {
        return;
    }
    let first = pool.servers.first();
    let reason = first.map(|server| server.health().1).unwrap_or_default();
    let name = first.map(|server| server.name.as_str()).unwrap_or_default();
    log::error!(
        pool = pool.config.name, server = name, reason = reason,
        hint = "every request gets 503 no-server; is health.path right?";
        "no_server_ever_passed"
    );
}

fn plain(error: &Error) -> String {
    match error.etype() {
        ErrorType::ConnectRefused => "connection refused".to_owned(),
        ErrorType::ConnectTimedout => "connecting took too long".to_owned(),
        ErrorType::ConnectionClosed => "the server closed the connection without an answer".to_owned(),
        other => other.as_str().to_owned(),
    }
}

fn range(low: u16, high: u16) -> String {
    if low == high { low.to_string() } else { format!("{low}-{high}") }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    needle.is_empty() || haystack.windows(needle.len()).any(|window| window == needle)
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_searched() {
        assert!(contains(b"status: ok\n", b"ok"));
        assert!(!contains(b"status: bad\n", b"ok"));
        assert!(contains(b"", b""));
        assert!(!contains(b"o", b"ok"));
    }

    #[test]
    fn intervals_are_jittered_by_a_tenth() {
        for _ in 0..1000 {
            let interval = jittered(Duration::from_secs(10));
            assert!((9.0..=11.0).contains(&interval.as_secs_f64()));
        }
    }
}
