//! The servers: some workers, one queue each, first come first served; and what goes wrong with them. A request that has
//! been read is worked on whether or not somebody still waits for it, as with most servers.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::common::Outcome;
use crate::common::http::{END_OF_HEAD, find};
use crate::common::load::SPENT;

/// How much longer a slow server takes.
const SLOWER: f64 = 10.0;
/// A request's head is shorter.
const LONGEST_HEAD: usize = 16 * 1024;

/// What a server does with requests, other than health checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Answers after its work.
    Fine,
    /// Answers 500 at once.
    Error,
    /// Takes requests and answers none, until it does something else.
    Hang,
    /// Closes the connection instead of answering.
    Reset,
    /// Takes ten times longer.
    Slow,
}

/// An attempt that has arrived at a server.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// When.
    pub at: Instant,
    /// The request's number.
    pub number: usize,
}

/// One server; dropped, it takes no more connections.
pub struct Origin {
    /// Where it is.
    pub address: SocketAddr,
    behaviour: watch::Sender<Behaviour>,
    state: Arc<State>,
    accepts: tokio::task::AbortHandle,
}

struct State {
    mean: Duration,
    workers: Semaphore,
    behaviour: watch::Receiver<Behaviour>,
    arrivals: Mutex<Vec<Arrival>>,
}

impl Origin {
    /// One on a free port, with this mean time of a request of work 1.
    pub async fn start(mean: Duration, workers: usize) -> Outcome<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (sender, behaviour) = watch::channel(Behaviour::Fine);
        let state = Arc::new(State { mean, workers: Semaphore::new(workers), behaviour, arrivals: Mutex::default() });
        let serving = state.clone();
        let accepts = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    // Whoever breaks off is no business of a server's.
                    Ok((stream, _)) => drop(tokio::spawn(serve(stream, serving.clone()))),
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
        Ok(Origin { address, behaviour: sender, state, accepts: accepts.abort_handle() })
    }

    /// What it does from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }

    /// All attempts that have arrived.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.state.arrivals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepts.abort();
    }
}

async fn serve(mut stream: TcpStream, state: Arc<State>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut behaviour = state.behaviour.clone();
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
        let at = Instant::now();
        let asked = asked(&input[..end]);
        input.drain(..end);
        let mut status = "200 OK";
        if let Some((work, number)) = asked {
            state.arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(Arrival { at, number });
            let mut does = *behaviour.borrow_and_update();
            while does == Behaviour::Hang {
                tokio::select! {
                    changed = behaviour.changed() => if changed.is_err() { return Ok(()) },
                    read = stream.read_buf(&mut input) => if read? == 0 { return Ok(()) },
                }
                does = *behaviour.borrow_and_update();
            }
            match does {
                Behaviour::Reset => return Ok(()),
                Behaviour::Error => status = "500 Internal Server Error",
                Behaviour::Fine | Behaviour::Hang | Behaviour::Slow => {
                    let Ok(_worker) = state.workers.acquire().await else { return Ok(()) };
                    let slow = *behaviour.borrow() == Behaviour::Slow;
                    tokio::time::sleep(state.mean.mul_f64(if slow { SLOWER * work } else { work })).await;
                }
            }
        }
        let spent = at.elapsed().as_micros();
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 3\r\n{SPENT}: {spent}\r\n\r\nok\n");
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// The work that a request asks for, and its number: `/WORK/NUMBER`. None: answer at once, as for a health check.
fn asked(head: &[u8]) -> Option<(f64, usize)> {
    let path = head.strip_prefix(b"GET /")?;
    let path = std::str::from_utf8(&path[..path.iter().position(|byte| *byte == b' ')?]).ok()?;
    let (work, number) = path.split_once('/')?;
    Some((work.parse().ok().filter(|work| (0.0..100_000.0).contains(work))?, number.parse().ok()?))
}
