//! Runs the health checks of one pool, on Pingora's backends.
//!
//! Pingora holds the set of backends and drives a pass over them; what a check does, how long it may take, how many
//! run at once and when its results count is ours ([`crate::upstream::health`]). A backend is an address: servers
//! whose names resolve to the same one share a check.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::{TransportConnector, http::Connector};
use pingora::http::RequestHeader;
use pingora::lb::discovery::ServiceDiscovery;
use pingora::lb::health_check::HealthCheck;
use pingora::lb::{Backend, Backends, Extensions};
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};
use tokio::sync::{Notify, Semaphore, oneshot};

use crate::config::Check;
use crate::tls;
use crate::upstream::errno::{OURS, our_own_want};
use crate::upstream::health::Health;
use crate::upstream::{Pool, Server, refused, resolve};

/// How much of a body is looked at for `expect.body`.
const BODY_LIMIT: usize = 64 * 1024;

/// Keeps one pool until the task is dropped: addresses and health, neither of which waits for the other. `first_pass` is
/// told when every server has a result.
pub async fn run(pool: Arc<Pool>, first_pass: oneshot::Sender<()>) {
    let news = Arc::new(Notify::new());
    resolve::set_literal(&pool);
    tokio::join!(resolve::keep(&pool, &news), keep(&pool, &news, first_pass));
}

/// Looks up the names of a pool and checks each server once.
pub async fn once(pool: &Arc<Pool>) {
    resolve::set_literal(pool);
    resolve::names(pool, &Arc::default()).await;
    Checks::new(pool.clone()).pass(false).await;
}

/// Checks a pool every interval, and whoever is new or has moved at once.
async fn keep(pool: &Arc<Pool>, news: &Notify, first_pass: oneshot::Sender<()>) {
    let mut first_pass = Some(first_pass);
    let checks = Checks::new(pool.clone());
    let mut next = tokio::time::Instant::now();
    loop {
        let only_new = tokio::select! {
            biased;
            () = tokio::time::sleep_until(next) => false,
            () = news.notified() => true,
        };
        if !only_new {
            next = tokio::time::Instant::now() + jittered(pool.config.health.interval);
        }
        checks.pass(only_new).await;
        if pool.servers.iter().all(|server| server.health().0 != Health::Unknown) {
            if let Some(done) = first_pass.take() {
                done.send(()).ok();
            }
            report_if_nobody_ever_passed(pool);
        }
    }
}

/// Pingora's backends of a pool, with our checks.
struct Checks {
    pool: Arc<Pool>,
    backends: Backends,
    only_new: Arc<AtomicBool>,
}

impl Checks {
    fn new(pool: Arc<Pool>) -> Self {
        // Not within the time of the first check.
        match pool.config.health.check {
            Check::Http { .. } => _ = LazyLock::force(&HTTP),
            Check::Tcp => _ = LazyLock::force(&TCP),
        }
        let mut backends = Backends::new(Box::new(Membership(pool.clone())));
        let only_new = Arc::new(AtomicBool::new(false));
        backends.set_health_check(Box::new(Checker::new(pool.clone(), only_new.clone())));
        Checks { pool, backends, only_new }
    }

    /// One check of each server, or only of those that have none yet where they are.
    async fn pass(&self, only_new: bool) {
        if let Err(error) = self.backends.update(|_| {}).await {
            log::error!(pool = self.pool.config.name, error = error.to_string(); "membership_update_failed");
        }
        self.only_new.store(only_new, Ordering::Relaxed);
        self.backends.run_health_check(true).await;
    }
}

/// ±10 %, so that the nodes of a fleet do not check in step.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + 0.2 * fastrand::f64())
}

/// The addresses of the pool's servers, as backends.
struct Membership(Arc<Pool>);

#[async_trait]
impl ServiceDiscovery for Membership {
    async fn discover(&self) -> Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        let backend = |address| Backend {
            addr: pingora::protocols::l4::socket::SocketAddr::Inet(address),
            weight: 1,
            ext: Extensions::new(),
        };
        Ok((self.0.servers.iter().filter_map(|server| server.resolved()).map(backend).collect(), HashMap::new()))
    }
}

/// For all pools: each reads the authorities that the system trusts, which takes a while.
static HTTP: LazyLock<Connector> = LazyLock::new(|| Connector::new(None));
static TCP: LazyLock<TransportConnector> = LazyLock::new(|| TransportConnector::new(None));

struct Checker {
    pool: Arc<Pool>,
    permits: Semaphore,
    /// Those that have been checked where they are wait for the next pass.
    only_new: Arc<AtomicBool>,
}

impl Checker {
    fn new(pool: Arc<Pool>, only_new: Arc<AtomicBool>) -> Self {
        let health = &pool.config.health;
        // Enough at once that a pass over servers that all time out still fits its interval, with a quarter to spare.
        let rounds = (health.interval.as_secs_f64() * 0.75 / health.timeout.as_secs_f64()).floor().max(1.0);
        let permits = (pool.servers.len() as f64 / rounds).ceil().max(4.0) as usize;
        Checker { permits: Semaphore::new(permits), only_new, pool }
    }

    async fn probe(&self, address: SocketAddr, server: &Server) -> std::result::Result<(), String> {
        let Some(peer) = peer(server, address) else { return Err("it has moved".to_owned()) };
        match &self.pool.config.health.check {
            Check::Tcp => match TCP.new_stream(&peer).await {
                Ok(_) => Ok(()),
                Err(error) => Err(reason(&error, server).await),
            },
            Check::Http { path, host, status, body } => {
                let own = || format!("{}:{}", bracketed(&server.address.host), server.address.port);
                let host = host.clone().unwrap_or_else(own);
                let found = match self.get(&peer, path, &host, body.is_some()).await {
                    Ok(found) => found,
                    Err(error) => return Err(reason(&error, server).await),
                };
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

    async fn get(&self, peer: &HttpPeer, path: &str, host: &str, with_body: bool) -> Result<Found> {
        let (mut session, _) = HTTP.get_http_session(peer).await?;
        let mut request = RequestHeader::build("GET", path.as_bytes(), Some(3))?;
        request.insert_header("Host", host)?;
        request.insert_header("User-Agent", concat!("fairlead-health/", env!("CARGO_PKG_VERSION")))?;
        if matches!(session, HttpSession::H1(_)) {
            request.insert_header("Connection", "close")?;
        }
        session.write_request_header(Box::new(request)).await?;
        session.finish_request_body().await?;
        session.read_response_header().await?;
        let status = session.response_header().map_or(0, |header| header.status.as_u16());
        let body = if with_body { read_body(&mut session).await? } else { Vec::new() };
        Ok(Found { status, body })
    }
}

/// How to connect to a server at this address; None: it is elsewhere by now. The time limit is the check's own.
fn peer(server: &Server, address: SocketAddr) -> Option<HttpPeer> {
    let mut peer = server.peer().filter(|peer| peer._address.as_inet() == Some(&address))?;
    peer.options.connection_timeout = None;
    peer.options.total_connection_timeout = None;
    Some(*peer)
}

/// What was wrong. What is wrong with a certificate is found out by asking again.
async fn reason(error: &Error, server: &Server) -> String {
    // A server that wants a certificate may say so only after the handshake, while we write.
    let ask = refused::is_tls(error) || *error.etype() == ErrorType::WriteError;
    let why = if ask { refused::why(server).await } else { None };
    why.or_else(|| tls::alert(&error.to_string())).unwrap_or_else(|| plain(error))
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
        let Some(address) = target.addr.as_inet() else {
            return Error::e_explain(ErrorType::InternalError, "a backend without address");
        };
        // Looked up here: Pingora would not notice that another server has moved to an address it knows.
        let here = |server: &&Arc<Server>| server.resolved() == Some(*address);
        let servers: Vec<_> = self.pool.servers.iter().filter(here).collect();
        let health = &self.pool.config.health;
        if !servers.iter().any(|server| server.health().0 == Health::Unknown) {
            if self.only_new.load(Ordering::Relaxed) {
                return Ok(());
            }
            // Spread a pass over a tenth of its interval.
            tokio::time::sleep(health.interval.mul_f64(0.1 * fastrand::f64()).min(Duration::from_millis(500))).await;
        }
        // The time starts when the check does, not when it queues.
        let Ok(_permit) = self.permits.acquire().await else {
            return Error::e_explain(ErrorType::InternalError, "the checks have ended");
        };
        for server in servers {
            let result = match tokio::time::timeout(health.timeout, self.probe(*address, server)).await {
                Ok(result) => result,
                Err(_) => Err(format!("the check took longer than {:?}", health.timeout)),
            };
            if let Err(reason) = &result
                && OURS.contains(&reason.as_str())
            {
                // Says nothing about the server: it stays what it is.
                let (pool, server) = (&self.pool.config.name, &server.name);
                log::warn!(pool = pool, server = server, reason = reason.as_str(); "cannot_check_server");
                continue;
            }
            self.pool.observe_check(server, Some(*address), result);
        }
        Ok(())
    }

    fn health_threshold(&self, _success: bool) -> usize {
        1
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
        hint = match pool.config.health.check {
            Check::Http { .. } => "every request gets 503 no-server; is health.path right?",
            Check::Tcp => "every request gets 503 no-server; are the addresses right, and do the servers run?",
        };
        "no_server_ever_passed"
    );
}

fn plain(error: &Error) -> String {
    if let Some(want) = our_own_want(error) {
        return want.to_owned();
    }
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

    fn pool(servers: &[(String, u16)]) -> Arc<Pool> {
        let listen = "127.0.0.1:0".parse().unwrap();
        let mut config = crate::config::Config::quick(listen, servers, None, None).unwrap().pools.remove(0);
        config.health.interval = Duration::from_secs(600);
        Arc::new(Pool::new(config, &crate::observe::metrics::Metrics::new().unwrap()))
    }

    fn listener() -> (std::net::TcpListener, SocketAddr) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    async fn until(what: &str, holds: impl Fn() -> bool) {
        let wait = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect(what);
    }

    #[tokio::test]
    async fn a_server_that_moves_is_checked_at_once_and_the_others_are_not() {
        let ((_first, first), (other, elsewhere)) = (listener(), listener());
        let pool = pool(&[("127.0.0.1".into(), first.port()), ("127.0.0.1".into(), elsewhere.port())]);
        resolve::set_literal(&pool);
        let news = Arc::new(Notify::new());
        let (done, passed) = oneshot::channel();
        let kept = (pool.clone(), news.clone());
        let task = tokio::spawn(async move { keep(&kept.0, &kept.1, done).await });
        passed.await.unwrap();
        let [mover, stayer] = &pool.servers[..] else { panic!("two servers") };
        assert!(mover.is_eligible() && stayer.is_eligible());

        // To where the other is, which is a backend that Pingora knows already.
        mover.set_address(elsewhere, &pool.config.upstream);
        assert!(!mover.is_eligible());
        news.notify_one();
        until("up at the new address", || mover.is_eligible()).await;

        drop(other);
        mover.set_address(first, &pool.config.upstream);
        mover.set_address(elsewhere, &pool.config.upstream);
        news.notify_one();
        until("down at the new address", || mover.health().0 == Health::Down).await;
        task.abort();
    }

    #[tokio::test]
    async fn a_name_that_is_looked_up_keeps_nobody_waiting() {
        let (_listener, address) = listener();
        let pool = pool(&[("127.0.0.1".into(), address.port()), ("slow.test".into(), 80)]);
        resolve::set_literal(&pool);
        let news = Arc::new(Notify::new());
        let (done, mut passed) = oneshot::channel();
        let kept = (pool.clone(), news.clone());
        let task = tokio::spawn(async move { keep(&kept.0, &kept.1, done).await });
        until("the other is up", || pool.servers[0].is_eligible()).await;
        assert_eq!(pool.servers[1].health().0, Health::Unknown);
        assert!(passed.try_recv().is_err(), "one has no result");
        pool.observe_check(&pool.servers[1], None, Err("does not resolve".into()));
        news.notify_one();
        tokio::time::timeout(Duration::from_secs(10), passed).await.unwrap().unwrap();
        task.abort();
    }
}
