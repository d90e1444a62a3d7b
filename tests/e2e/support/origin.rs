//! A server behind the proxy. The path of a request says how it behaves:
//!
//! | path | answer |
//! |---|---|
//! | `/heartbeat` | as [`Origin::heartbeat`] says |
//! | `/echo` | the request's body, after all of it |
//! | `/stream-echo` | every piece of the request's body at once |
//! | `/headers` | the request's head as JSON |
//! | `/status/N` | status N with the origin's name |
//! | `/delay/MS` | the name, later |
//! | `/hang` | none |
//! | `/reset`, `/reset-header`, `/reset-body` | none, or one that ends half-way with a reset |
//! | `/early-hang`, `/early-reset` | an interim 103, then none |
//! | `/garbage` | not HTTP |
//! | `/busy/N` | 503 and `Retry-After: N` |
//! | `/pauses/N/MS` | N chunks with pauses between them |
//! | `/events` | an event stream without end |
//! | `/bytes/N` | N bytes |
//! | `/hop` | with headers that are not for the client |
//! | `/ws` | 101, then an echo of bytes |
//! | `/close` | the name, and the end of the connection without warning |
//! | any other | the name |

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::fault::{Fate, Fault, pause};
use super::ports::Reserved;
use super::wire::{Framing, Head, Wire, chunk};

/// How an origin answers health checks.
#[derive(Clone, Copy, Debug)]
pub enum Heartbeat {
    /// With this status and body.
    Answer(u16, &'static str),
    /// Not at all.
    Hang,
    /// A byte now and then, without end.
    Drip,
}

/// What an origin knows about itself; outlives its stops and starts.
struct State {
    name: String,
    heartbeat: Mutex<Heartbeat>,
    checks: Mutex<Vec<Head>>,
    /// Method and target of each request, other than health checks.
    seen: Mutex<Vec<String>>,
    delay: AtomicUsize,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
    cancelled: AtomicUsize,
    connections: AtomicUsize,
    lost: AtomicUsize,
    hang_up_on_reuse: AtomicBool,
    fault: Mutex<Fault>,
    fails: AtomicBool,
    /// Stands for the path of every request.
    instead: Mutex<Option<&'static str>>,
}

/// A server behind the proxy.
pub struct Origin {
    /// Where it is, also while it is stopped.
    pub address: SocketAddr,
    port: Reserved,
    state: Arc<State>,
    running: Option<(watch::Sender<bool>, tokio::task::JoinHandle<()>)>,
}

impl Origin {
    /// One that listens.
    pub fn start(name: &str) -> Self {
        let mut origin = Self::stopped(name);
        origin.listen();
        origin
    }

    /// One that refuses connections until [`Origin::listen`].
    pub fn stopped(name: &str) -> Self {
        let state = State {
            name: name.to_string(),
            heartbeat: Mutex::new(Heartbeat::Answer(200, "ok")),
            checks: Mutex::default(),
            seen: Mutex::default(),
            delay: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
            cancelled: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            lost: AtomicUsize::new(0),
            hang_up_on_reuse: AtomicBool::new(false),
            fault: Mutex::new(Fault::None),
            fails: AtomicBool::new(false),
            instead: Mutex::default(),
        };
        let port = Reserved::new();
        Origin { address: port.address, port, state: Arc::new(state), running: None }
    }

    /// Starts to listen (again).
    pub fn listen(&mut self) {
        let (kill, killed) = watch::channel(false);
        let task = tokio::spawn(accept(self.port.listen(), self.state.clone(), killed));
        self.running = Some((kill, task));
    }

    /// Dies: resets all connections. Returns how many requests it had not answered.
    pub async fn kill(&mut self) -> usize {
        self.state.lost.store(0, SeqCst);
        let (kill, task) = self.running.take().expect("a running origin");
        kill.send(true).unwrap();
        task.await.unwrap();
        self.state.lost.load(SeqCst)
    }

    /// How it answers health checks from now on.
    pub fn heartbeat(&self, heartbeat: Heartbeat) {
        *self.state.heartbeat.lock().unwrap() = heartbeat;
    }

    /// Milliseconds that every answer takes from now on.
    pub fn delay(&self, ms: usize) {
        self.state.delay.store(ms, SeqCst);
    }

    /// Answers 500 at once from now on, or no longer; health checks are answered as before.
    pub fn fails(&self, fails: bool) {
        self.state.fails.store(fails, SeqCst);
    }

    /// A second request over one connection is read, and then the connection ends.
    pub fn hang_up_on_reuse(&self) {
        self.state.hang_up_on_reuse.store(true, SeqCst);
    }

    /// What goes wrong from now on.
    pub fn fault(&self, fault: Fault) {
        *self.state.fault.lock().unwrap() = fault;
    }

    /// Answers every request from now on as if it were for this path; None: for its own again.
    pub fn answer_as(&self, path: Option<&'static str>) {
        *self.state.instead.lock().unwrap() = path;
    }

    /// Its address, as the configuration and the admin API name it.
    pub fn server(&self) -> String {
        self.address.to_string()
    }

    /// Requests that came (no health checks).
    pub fn requests(&self) -> usize {
        self.state.seen.lock().unwrap().len()
    }

    /// Method and target of each of them.
    pub fn seen(&self) -> Vec<String> {
        self.state.seen.lock().unwrap().clone()
    }

    /// Heads of the health checks that came.
    pub fn checks(&self) -> Vec<Head> {
        self.state.checks.lock().unwrap().clone()
    }

    /// Requests being answered now.
    pub fn in_flight(&self) -> usize {
        self.state.in_flight.load(SeqCst)
    }

    /// The most requests it had at once.
    pub fn most_in_flight(&self) -> usize {
        self.state.most_in_flight.load(SeqCst)
    }

    /// The most is counted anew.
    pub fn forget_most(&self) {
        self.state.most_in_flight.store(self.in_flight(), SeqCst);
    }

    /// Requests whose connection ended before their answer.
    pub fn cancelled(&self) -> usize {
        self.state.cancelled.load(SeqCst)
    }

    /// Connections over which a request (no health check) came.
    pub fn connections(&self) -> usize {
        self.state.connections.load(SeqCst)
    }
}

/// The origins as a list of servers for a configuration.
pub fn servers(origins: &[&Origin]) -> String {
    origins.iter().map(|o| o.server()).collect::<Vec<_>>().join(", ")
}

async fn accept(listener: TcpListener, state: Arc<State>, mut killed: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            accepted = listener.accept() => {
                let wire = Wire::new(accepted.unwrap().0);
                connections.spawn(connection(wire, state.clone(), killed.clone()));
            }
            _ = killed.changed() => break,
        }
    }
    drop(listener);
    connections.join_all().await;
}

async fn connection(mut wire: Wire, state: Arc<State>, mut killed: watch::Receiver<bool>) {
    let mut busy = false;
    tokio::select! {
        biased;
        _ = killed.changed() => {
            if busy || wire.has_bytes() {
                state.lost.fetch_add(1, SeqCst);
            }
            wire.reset();
        }
        _ = requests(&mut wire, &state, &mut busy) => {}
    }
}

/// Serves one request after the other.
async fn requests(wire: &mut Wire, state: &State, busy: &mut bool) -> io::Result<()> {
    let mut served = 0;
    while let Some(head) = wire.head().await? {
        if head.word(1) == "/heartbeat" {
            check(wire, state, head).await?;
            continue;
        }
        *busy = true;
        state.seen.lock().unwrap().push(format!("{} {}", head.word(0), head.word(1)));
        if served == 0 {
            state.connections.fetch_add(1, SeqCst);
        }
        served += 1;
        let _in_flight = InFlight::new(state);
        if served > 1 && state.hang_up_on_reuse.load(SeqCst) {
            wire.body(head.framing(Framing::Length(0))).await?;
            return Ok(());
        }
        let cancelled = |_: &io::Error| {
            state.cancelled.fetch_add(1, SeqCst);
        };
        let fate = Fault::meet(&state.fault, wire, &head, &state.name).await.inspect_err(cancelled)?;
        let more = match fate {
            Fate::Answer => answer(wire, state, &head).await.inspect_err(cancelled)?,
            Fate::Done => true,
            Fate::End => false,
        };
        if !more {
            return Ok(());
        }
        *busy = false;
    }
    Ok(())
}

async fn check(wire: &mut Wire, state: &State, head: Head) -> io::Result<()> {
    state.checks.lock().unwrap().push(head);
    let heartbeat = *state.heartbeat.lock().unwrap();
    match heartbeat {
        Heartbeat::Answer(status, body) => wire.write(page(status, "", body)).await,
        Heartbeat::Hang => {
            wire.closed().await;
            Err(io::ErrorKind::BrokenPipe.into())
        }
        Heartbeat::Drip => {
            wire.write("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n").await?;
            loop {
                wire.write("x").await?;
                pause(wire, 50).await?;
            }
        }
    }
}

/// Answers one request; false: the connection ends.
async fn answer(wire: &mut Wire, state: &State, head: &Head) -> io::Result<bool> {
    let mut body = head.framing(Framing::Length(0));
    let instead = *state.instead.lock().unwrap();
    let path = instead.unwrap_or(head.word(1)).split('?').next().unwrap_or("");
    let words: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let number = |n: usize| words.get(n).and_then(|w| w.parse::<u64>().ok()).unwrap_or(0);
    if state.fails.load(SeqCst) {
        wire.body(body).await?;
        wire.write(page(500, "", "broken")).await?;
        return Ok(true);
    }
    let delay = state.delay.load(SeqCst) as u64;
    if delay > 0 {
        pause(wire, delay).await?;
    }
    if head.header("expect").is_some() {
        wire.write("HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    if words[0] == "stream-echo" {
        wire.write(CHUNKED).await?;
        while let Some(part) = wire.part(&mut body).await? {
            wire.write(chunk(part)).await?;
        }
        wire.write(chunk("")).await?;
        return Ok(true);
    }
    let body = wire.body(body).await?;
    let mut more = true;
    match words[0] {
        "echo" => {
            wire.write(page(200, "", "").replace("Content-Length: 0", &format!("Content-Length: {}", body.len())))
                .await?;
            wire.write(body).await?;
        }
        "headers" => {
            let seen = json!({ "method": head.word(0), "target": head.word(1), "headers": head.headers });
            wire.write(page(200, "Content-Type: application/json\r\n", &seen.to_string())).await?;
        }
        "status" => wire.write(page(number(1) as u16, "", &state.name)).await?,
        "delay" => {
            pause(wire, number(1)).await?;
            wire.write(page(200, "", &state.name)).await?;
        }
        "hang" => {
            wire.closed().await;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        "early-hang" => {
            wire.write("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n").await?;
            wire.closed().await;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        "early-reset" => {
            wire.write("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n").await?;
            more = false;
        }
        "reset" => more = false,
        "reset-header" => {
            wire.write("HTTP/1.1 200 OK\r\nContent-Le").await?;
            more = false;
        }
        "reset-body" => {
            wire.write("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf").await?;
            pause(wire, 50).await?;
            more = false;
        }
        "garbage" => {
            wire.write("220 mail.example.com ESMTP\r\n\r\n").await?;
            more = false;
        }
        "busy" => wire.write(page(503, &format!("Retry-After: {}\r\n", number(1)), &state.name)).await?,
        "pauses" => {
            wire.write(CHUNKED).await?;
            for n in 0..number(1) {
                if n > 0 {
                    pause(wire, number(2)).await?;
                }
                wire.write(chunk(format!("part {n}\n"))).await?;
            }
            wire.write(chunk("")).await?;
        }
        "events" => {
            wire.write(CHUNKED.replace("text/plain", "text/event-stream")).await?;
            loop {
                wire.write(chunk("data: tick\n\n")).await?;
                pause(wire, 30).await?;
            }
        }
        "bytes" => {
            let n = number(1) as usize;
            wire.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {n}\r\n\r\n")).await?;
            wire.write(pattern(n)).await?;
        }
        "hop" => {
            let headers = "Connection: X-Internal\r\nX-Internal: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
                           Fairlead-Error: no-server\r\nX-Public: 1\r\n";
            wire.write(page(200, headers, &state.name)).await?;
        }
        "ws" => {
            let accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
            wire.write(format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            ))
            .await?;
            let mut tunnel = Framing::UntilClose;
            while let Some(bytes) = wire.part(&mut tunnel).await? {
                wire.write(bytes).await?;
            }
            return Ok(false);
        }
        "close" => {
            wire.write(page(200, "", &state.name)).await?;
            return Ok(false);
        }
        _ if head.word(0) == "HEAD" => wire.write(page(200, "", &state.name).trim_end_matches(&state.name)).await?,
        _ => wire.write(page(200, "", &state.name)).await?,
    }
    if !more {
        wire.reset();
    }
    Ok(more)
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";

fn page(status: u16, headers: &str, body: &str) -> String {
    let length =
        if matches!(status, 204 | 304) { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let body = if length.is_empty() { "" } else { body };
    format!("HTTP/1.1 {status} Whatever\r\n{headers}{length}\r\n{body}")
}

/// Bytes in which a lost or doubled piece shows.
pub fn pattern(n: usize) -> Vec<u8> {
    let period: Vec<u8> = (0..7 * 251).map(|i| (i / 7) as u8).collect();
    let mut bytes = period.repeat(n / period.len() + 1);
    bytes.truncate(n);
    bytes
}

/// Counts a request while it lives.
struct InFlight<'a>(&'a State);

impl<'a> InFlight<'a> {
    fn new(state: &'a State) -> Self {
        let now = state.in_flight.fetch_add(1, SeqCst) + 1;
        state.most_in_flight.fetch_max(now, SeqCst);
        InFlight(state)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, SeqCst);
    }
}
