//! The servers: few workers, one queue each, first come first served.
//!
//! When a worker is free again is reckoned, not waited for, so a timer or a core that is late makes one answer late but
//! never costs capacity: the same requests take the same work whatever else the machine does.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::common::Outcome;
use crate::common::http::{END_OF_HEAD, find};
use crate::common::load::SPENT;
use crate::options::Server;

/// A request's head is shorter.
const LONGEST_HEAD: usize = 16 * 1024;

/// When each worker is free again.
struct Workers {
    mean: Duration,
    free: Mutex<BinaryHeap<Reverse<Instant>>>,
}

impl Workers {
    /// Puts a request at the end of the queue and says when it will be done.
    fn take(&self, work: f64) -> Instant {
        let now = Instant::now();
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let first = free.pop().map_or(now, |Reverse(at)| at);
        let done = first.max(now) + self.mean.mul_f64(work);
        free.push(Reverse(done));
        done
    }
}

/// Starts all servers on free ports; they live as long as the runtime.
pub async fn start(servers: &[Server]) -> Outcome<Vec<SocketAddr>> {
    let mut addresses = Vec::new();
    for server in servers {
        let now = Instant::now();
        let free = Mutex::new((0..server.workers).map(|_| Reverse(now)).collect());
        let workers = Arc::new(Workers { mean: server.mean, free });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        addresses.push(listener.local_addr()?);
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    // Whoever breaks off is no business of a server's.
                    Ok((stream, _)) => drop(tokio::spawn(serve(stream, workers.clone()))),
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
    }
    Ok(addresses)
}

async fn serve(mut stream: TcpStream, workers: Arc<Workers>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = Vec::with_capacity(4096);
    loop {
        let end = loop {
            if let Some(at) = find(&input, END_OF_HEAD) {
                break at + END_OF_HEAD.len();
            }
            if input.len() > LONGEST_HEAD || stream.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
        };
        let arrived = Instant::now();
        if let Some(work) = work(&input[..end]) {
            tokio::time::sleep_until(workers.take(work).into()).await;
        }
        input.drain(..end);
        let spent = arrived.elapsed().as_micros();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n{SPENT}: {spent}\r\n\r\nok\n");
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// The work that a request asks for in its path; None: answer at once, as for a health check.
fn work(head: &[u8]) -> Option<f64> {
    let path = head.strip_prefix(b"GET /")?;
    let path = &path[..path.iter().position(|byte| *byte == b' ')?];
    std::str::from_utf8(path).ok()?.parse().ok().filter(|work| (0.0..1000.0).contains(work))
}
