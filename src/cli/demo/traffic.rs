//! The demo's own clients: so many requests a second, whatever the answers take, over kept connections.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HOST;
use hyper::{Request, Version};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Requests that may wait for their answers; when so many do, the next are left out.
const AT_ONCE: usize = 256;
/// A request that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(10);
/// After a pause longer than this (a laptop that slept) nothing is caught up.
const CATCH_UP: Duration = Duration::from_secs(1);

type Client = SendRequest<String>;
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What became of the requests.
#[derive(Debug, Default)]
pub struct Counts {
    answered: AtomicU64,
    failed: AtomicU64,
}

/// [`Counts`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Got an answer with a status below 400.
    pub answered: u64,
    /// Got another answer, none, or none in time.
    pub failed: u64,
}

impl Counts {
    /// The counts now.
    pub fn read(&self) -> Sent {
        Sent { answered: self.answered.load(Ordering::Relaxed), failed: self.failed.load(Ordering::Relaxed) }
    }
}

/// A steady stream of requests.
pub struct Traffic {
    targets: Vec<Arc<Target>>,
    per_second: u32,
    counts: Arc<Counts>,
}

/// One proxy, and the connections to it that nobody uses now.
struct Target {
    address: SocketAddr,
    idle: Mutex<Vec<Client>>,
}

impl Traffic {
    /// Requests to `targets` in turn.
    pub fn new(targets: Vec<SocketAddr>, per_second: u32) -> Self {
        let target = |address| Arc::new(Target { address, idle: Mutex::default() });
        Traffic { targets: targets.into_iter().map(target).collect(), per_second, counts: Arc::default() }
    }

    /// What became of them.
    pub fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }

    /// Sends until it is dropped, which closes all connections.
    pub async fn run(self) {
        if self.per_second == 0 {
            return std::future::pending().await;
        }
        let mut running = JoinSet::new();
        let mut due = Instant::now();
        for target in self.targets.iter().cycle() {
            let gap = -(1.0 - fastrand::f64()).ln() / f64::from(self.per_second);
            due = (due + Duration::from_secs_f64(gap)).max(Instant::now() - CATCH_UP);
            tokio::time::sleep_until(due).await;
            while running.try_join_next().is_some() {}
            if running.len() >= AT_ONCE {
                continue;
            }
            let (target, counts) = (target.clone(), self.counts.clone());
            running.spawn(async move {
                let fine = matches!(tokio::time::timeout(TIMEOUT, target.request()).await, Ok(Ok(true)));
                let count = if fine { &counts.answered } else { &counts.failed };
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
    }
}

impl Target {
    /// One request and its whole answer; whether its status is a good one.
    async fn request(&self) -> Result<bool, Failure> {
        let mut client = self.client().await?;
        let request = Request::get("/").header(HOST, self.address.to_string()).version(Version::HTTP_11);
        let mut response = client.send_request(request.body(String::new())?).await?;
        while let Some(frame) = response.frame().await {
            frame?;
        }
        if let Ok(mut idle) = self.idle.lock() {
            idle.push(client);
        }
        Ok(response.status().as_u16() < 400)
    }

    async fn client(&self) -> Result<Client, Failure> {
        while let Some(mut client) = self.idle.lock().ok().and_then(|mut idle| idle.pop()) {
            if client.ready().await.is_ok() {
                return Ok(client);
            }
        }
        connect(self.address).await
    }
}

/// Opens a connection, which closes when the client is dropped.
///
/// # Errors
/// It cannot be opened.
pub async fn connect(address: SocketAddr) -> Result<Client, Failure> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (client, connection) = handshake(TokioIo::new(stream)).await?;
    // What goes wrong on it, the request on it learns.
    tokio::spawn(async { connection.await.ok() });
    Ok(client)
}

#[cfg(test)]
mod tests {
    use super::super::origin::Origin;
    use super::*;

    async fn until(done: impl Fn() -> bool) {
        let waited = async {
            while !done() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waited).await.unwrap();
    }

    #[tokio::test]
    async fn requests_keep_coming_over_few_connections() {
        let origin = Origin::bind("s1".into(), Duration::from_millis(1)).unwrap();
        let traffic = Traffic::new(vec![origin.address], 500);
        let (counts, target) = (traffic.counts(), traffic.targets[0].clone());
        let tasks = [tokio::spawn(origin.serve()), tokio::spawn(traffic.run())];
        until(|| counts.read().answered >= 100).await;
        assert_eq!(counts.read().failed, 0);
        assert!(target.idle.lock().unwrap().len() < 50, "connections are used again");
        tasks.iter().for_each(|task| task.abort());
    }

    #[tokio::test]
    async fn what_nobody_answers_has_failed() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let traffic = Traffic::new(vec![nobody], 500);
        let counts = traffic.counts();
        let task = tokio::spawn(traffic.run());
        until(|| counts.read().failed >= 3).await;
        assert_eq!(counts.read().answered, 0);
        task.abort();
    }
}
