//! `fairlead demo --redis`: several nodes before the same servers, each a process of its own, because a process holds
//! one node. This one has the servers, the traffic and the table, and ends the others.

use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::display::Display;
use super::member::{self, Order, Place};
use super::sample::Sampler;
use super::table::Head;
use super::traffic::{Counts, Traffic};
use super::{ADMIN_PORT, Arguments, GLANCE, Places, local, log_level, origins, places};
use crate::cli::remote::Remote;
use crate::cli::state::{self, Pool};
use crate::config::{Log, LogFormat};
use crate::observe::logging;

/// The longest that nodes may take to become ready: the first health checks and the wait for Redis are over long before.
const READY_WITHIN: Duration = Duration::from_secs(15);
/// Who has not ended after this is killed; Redis then gives its counts back when its lease runs out.
const END_WITHIN: Duration = Duration::from_millis(900);
/// The longest that a frame waits for a node.
const ANSWER_WITHIN: Duration = Duration::from_millis(400);
/// The longest that the end waits for the last frame.
const LAST_FRAME: Duration = Duration::from_millis(100);

/// Runs until Ctrl-C.
///
/// # Errors
/// What is wrong with the arguments, or why the nodes did not start.
pub fn run(arguments: &Arguments, url: &str) -> Result<(), String> {
    let redis = member::redis(url)?;
    let origins = origins(&arguments.delays)?;
    let orders = orders(arguments, url, &places(&origins))?;
    logging::init(Log { level: log_level(), format: LogFormat::Text });

    let runtime = Runtime::new().map_err(|error| format!("cannot start a thread: {error}"))?;
    let result = runtime.block_on(async {
        for origin in origins {
            tokio::spawn(origin.serve());
        }
        let mut stop = Stop::new()?;
        // From here on they end when this does, whatever happens.
        let mut members = Members::start(&orders)?;
        let redis = Some(redis.servers.to_string());
        let result = supervise(&mut members, redis, arguments.rate, &mut stop).await;
        members.end().await;
        result
    });
    // Its tasks may hold connections that somebody keeps open; a table may be stuck in a pipe that nobody reads.
    runtime.shutdown_background();
    result
}

async fn supervise(members: &mut Members, redis: Option<String>, rate: u32, stop: &mut Stop) -> Result<(), String> {
    let places = members.places()?;
    let balance = places.first().map_or(String::new(), |place| place.balance.clone());
    let (listen, admin): (Vec<_>, Vec<_>) = places.into_iter().map(|place| (place.listen, place.admin)).unzip();
    let remotes: Vec<_> = admin.iter().map(|&address| Remote::at(address, ANSWER_WITHIN)).collect();
    let head = Head { listen, admin, balance, redis };
    tokio::select! {
        () = stop.asked() => return Ok(()),
        ready = members.ready(&remotes) => ready?,
    }
    let traffic = Traffic::new(head.listen.clone(), rate);
    let counts = traffic.counts();
    let traffic = tokio::spawn(traffic.run());
    let shown = Shown::start(head, remotes, counts)?;
    let result = shown.until(stop, members).await;
    // Dropping the traffic closes its connections, so that the drain finds none of them.
    traffic.abort();
    traffic.await.ok();
    result
}

/// What each node is to do: listen on `--port` and those after it, or on any if that is 0.
fn orders(arguments: &Arguments, url: &str, origins: &Places) -> Result<Vec<Order>, String> {
    let Arguments { port, nodes, .. } = *arguments;
    let after = |node: u16| if port == 0 { Some(0) } else { port.checked_add(node) };
    let listen: Option<Vec<u16>> = (0..nodes).map(after).collect();
    let listen = listen.ok_or_else(|| format!("--port {port}: there are no {nodes} ports from there on"))?;
    let admin = |node| Some(ADMIN_PORT + node).filter(|port| !listen.contains(port)).unwrap_or(0);
    let quiet = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
    let order = |(node, &port): (u16, &u16)| Order {
        listen: local(port),
        admin_port: admin(node),
        origins: origins.clone(),
        redis: url.to_owned(),
        quiet,
    };
    Ok((0..).zip(&listen).map(order).collect())
}

/// Whoever asks for the end.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> Result<Self, String> {
        let on = |kind| signal(kind).map_err(|error| format!("cannot handle signals: {error}"));
        Ok(Stop { interrupt: on(SignalKind::interrupt())?, terminate: on(SignalKind::terminate())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// The nodes. Killed when dropped, should they not have been ended.
struct Members(Vec<Member>);

struct Member {
    /// Its standard input, kept open, is what keeps it running.
    child: Child,
}

impl Members {
    fn start(orders: &[Order]) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot start a node: {error}");
        let program = std::env::current_exe().map_err(failed)?;
        let mut members = Members(Vec::new());
        for order in orders {
            let line = serde_json::to_string(order).map_err(|error| failed(error.into()))?;
            let mut command = Command::new(&program);
            command.arg("demo-node").stdin(Stdio::piped()).stdout(Stdio::piped());
            // Ctrl-C on the terminal is for the demo, which then ends its nodes in order.
            let mut member = Member { child: command.process_group(0).spawn().map_err(failed)? };
            if let Some(input) = &mut member.child.stdin {
                writeln!(input, "{line}").map_err(failed)?;
            }
            members.0.push(member);
        }
        Ok(members)
    }

    /// Where they are. Each tells as soon as it has bound its sockets.
    fn places(&mut self) -> Result<Vec<Place>, String> {
        let place = |(number, member): (usize, &mut Member)| {
            let output = member.child.stdout.take();
            let mut line = String::new();
            let read = output.map(|output| BufReader::new(output).read_line(&mut line));
            // Otherwise it has ended, and said why.
            let place = read.and_then(|_| serde_json::from_str(&line).ok());
            place.ok_or_else(|| format!("node {number} did not start"))
        };
        (1..).zip(&mut self.0).map(place).collect()
    }

    /// Waits until all serve.
    async fn ready(&mut self, remotes: &[Remote]) -> Result<(), String> {
        let limit = Instant::now() + READY_WITHIN;
        for (number, (member, remote)) in (1..).zip(self.0.iter_mut().zip(remotes)) {
            while remote.get("/readyz").await.is_err() {
                if member.has_ended() {
                    return Err(format!("node {number} did not start"));
                }
                if Instant::now() > limit {
                    return Err(format!("node {number} is not ready after {READY_WITHIN:?}"));
                }
                tokio::time::sleep(GLANCE).await;
            }
        }
        Ok(())
    }

    fn all_ended(&mut self) -> bool {
        self.0.iter_mut().all(Member::has_ended)
    }

    /// Ends all of them.
    async fn end(mut self) {
        for member in &mut self.0 {
            member.child.stdin = None;
        }
        let limit = Instant::now() + END_WITHIN;
        while !self.all_ended() && Instant::now() < limit {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Member {
    fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // Nothing happens to one that has been waited for.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The table, in a thread of its own: standard output may block for as long as nobody reads it.
struct Shown {
    stop: Arc<AtomicBool>,
    done: oneshot::Receiver<()>,
}

impl Shown {
    fn start(head: Head, remotes: Vec<Remote>, counts: Arc<Counts>) -> Result<Self, String> {
        let (runtime, stop) = (Handle::current(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let (over, done) = oneshot::channel();
        let show = move || {
            // An error: nobody reads any more (`| head -1`), and the demo has no other purpose.
            show(&runtime, head, &remotes, &counts, &stopped).ok();
            over.send(()).ok();
        };
        let thread = std::thread::Builder::new().name("demo-table".into());
        thread.spawn(show).map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(Shown { stop, done })
    }

    /// Returns when somebody asks for the end, nobody reads, or all nodes are gone, which is an error.
    async fn until(mut self, stop: &mut Stop, members: &mut Members) -> Result<(), String> {
        let gone = async {
            while !members.all_ended() {
                tokio::time::sleep(GLANCE).await;
            }
        };
        let result = tokio::select! {
            () = stop.asked() => Ok(()),
            _ = &mut self.done => return Ok(()),
            () = gone => Err("all nodes have ended".to_owned()),
        };
        self.stop.store(true, Ordering::Relaxed);
        tokio::time::timeout(LAST_FRAME, self.done).await.ok();
        result
    }
}

fn show(runtime: &Handle, head: Head, remotes: &[Remote], sent: &Counts, stop: &AtomicBool) -> std::io::Result<()> {
    let mut sampler = Sampler::new(remotes.len());
    let mut display = Display::open(head)?;
    while !stop.load(Ordering::Relaxed) {
        if display.is_due(Instant::now()) {
            let told = runtime.block_on(join_all(remotes.iter().map(ask)));
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let now = Instant::now();
            display.show(now, &sampler.frame(now, told), &sent.read())?;
        }
        std::thread::sleep(GLANCE);
    }
    display.close()
}

async fn ask(remote: &Remote) -> Option<Vec<Pool>> {
    state::read(&remote.get("/api/v1/pools").await.ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(port: u16, nodes: u16) -> Arguments {
        Arguments { port, delays: vec![1], rate: 1, redis: None, nodes }
    }

    fn ports(port: u16, nodes: u16) -> Result<Vec<(u16, u16)>, String> {
        let orders = orders(&arguments(port, nodes), "redis://h", &Vec::new())?;
        Ok(orders.iter().map(|order| (order.listen.port(), order.admin_port)).collect())
    }

    #[test]
    fn nodes_listen_on_one_port_after_the_other() {
        assert_eq!(ports(9090, 3).unwrap(), [(9090, 9900), (9091, 9901), (9092, 9902)]);
        assert_eq!(ports(0, 2).unwrap(), [(0, 9900), (0, 9901)]);
        assert_eq!(ports(9899, 3).unwrap(), [(9899, 0), (9900, 0), (9901, 9902)], "the admin listener makes way");
        assert!(ports(u16::MAX, 2).unwrap_err().contains("65535"));
    }
}
