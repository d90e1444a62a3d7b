//! `fairlead demo`: servers, the proxy, traffic and a table, in one process.
//!
//! The main thread runs the proxy exactly as `run` does, signals and drain included; everything else here only looks
//! at it, or talks to it over TCP. With `--redis` every node is a process of its own ([`fleet`], [`member`]).

mod display;
mod fleet;
mod member;
mod origin;
mod sample;
mod screen;
mod table;
mod traffic;

use std::io::IsTerminal;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use log::LevelFilter;
use tokio::runtime::Runtime;

use self::display::Display;
use self::origin::Origin;
use self::sample::Sampler;
use self::table::Head;
use self::traffic::Traffic;
use super::state;
use crate::config::Config;
use crate::node::Node;
use crate::observe::logging;
use crate::server::{self, Prepared, StartError};

/// Where the admin listener is, unless somebody else is there.
const ADMIN_PORT: u16 = 9900;
/// More servers than this would not fit on a screen.
const MAX_SERVERS: usize = 16;
/// As many fit beside each other on a screen.
const MAX_NODES: u16 = 8;
/// How soon the end is noticed.
const GLANCE: Duration = Duration::from_millis(20);
/// Between a signal and the closing of listeners: time to stop the traffic and give the terminal back.
const DELAY: Duration = Duration::from_millis(100);
/// A browser may keep a connection open; the demo does not wait for it.
const DRAIN: Duration = Duration::from_millis(500);

/// What can be set.
#[derive(clap::Args)]
pub struct Arguments {
    /// Where the proxy listens, on 127.0.0.1; 0 = any free port
    #[arg(long, default_value_t = 9090)]
    port: u16,
    /// Mean delay of each server in milliseconds; one server for each
    #[arg(long, value_delimiter = ',', default_value = "20,40,80,120", value_parser = clap::value_parser!(u64).range(..=10_000))]
    delays: Vec<u64>,
    /// Requests a second that the demo makes itself; 0 = none
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(..=10_000))]
    rate: u32,
    /// Share counts through this Redis, e.g. redis://127.0.0.1:6379
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// Nodes before the servers, on one port after the other; several need --redis
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_NODES)))]
    nodes: u16,
}

/// Runs until Ctrl-C.
pub fn run(arguments: &Arguments) -> ExitCode {
    let ran = match &arguments.redis {
        Some(url) => fleet::run(arguments, url),
        None if arguments.nodes > 1 => Err(format!(
            "--nodes {0}: nodes share their counts through Redis: add --redis redis://127.0.0.1:6379, or leave out --nodes",
            arguments.nodes
        )),
        None => prepare(arguments).and_then(start),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => super::refused(why),
    }
}

/// One node of [`fleet`], in a process of its own.
pub fn run_node() -> ExitCode {
    match member::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => super::refused(why),
    }
}

/// Everything bound, nothing started.
struct Demo {
    origins: Vec<Origin>,
    prepared: Prepared,
    head: Head,
    rate: u32,
}

/// What [`prepare`] and [`fleet`] begin with.
fn origins(delays: &[u64]) -> Result<Vec<Origin>, String> {
    if delays.len() > MAX_SERVERS {
        return Err(format!("--delays: at most {MAX_SERVERS} servers"));
    }
    let named = delays.iter().enumerate().map(|(i, &delay)| (format!("s{}", i + 1), delay));
    let origins = named.map(|(name, delay)| Origin::bind(name, Duration::from_millis(delay)));
    origins.collect::<Result<Vec<_>, _>>().map_err(|error| format!("cannot start a server: {error}"))
}

fn prepare(arguments: &Arguments) -> Result<Demo, String> {
    let origins = origins(&arguments.delays)?;
    let usual = if arguments.port == ADMIN_PORT { 0 } else { ADMIN_PORT };
    let admin = free(usual).map_err(|error| format!("no port is free on this machine: {error}"))?;
    let config = config(local(arguments.port), &places(&origins), admin)?;
    logging::init(config.log);
    let balance = balance(&config).to_owned();
    let prepared = server::prepare(config).map_err(|error| explain(&error, arguments.port))?;
    let bound = prepared.node().snapshot.load().listener(None).map(|listener| listener.bound);
    let listen = bound.unwrap_or_else(|| local(arguments.port));
    let head = Head { listen: vec![listen], admin: vec![admin], balance, redis: None };
    Ok(Demo { origins, prepared, head, rate: arguments.rate })
}

/// Blocks until the proxy has ended, which ends the process.
fn start(demo: Demo) -> Result<(), String> {
    let Demo { origins, prepared, head, rate } = demo;
    let node = prepared.node().clone();
    let traffic = Traffic::new(head.listen.clone(), rate);
    let sent = traffic.counts();

    let threads = "cannot start a thread";
    let runtime = Runtime::new().map_err(|error| format!("{threads}: {error}"))?;
    for origin in origins {
        runtime.spawn(origin.serve());
    }
    let watched = node.clone();
    runtime.spawn(async move {
        while !is_ready(&watched) {
            tokio::time::sleep(GLANCE).await;
        }
        // Dropping the traffic closes its connections, so that the drain finds none of them.
        tokio::select! {
            () = traffic.run() => {}
            () = async { while !watched.lifecycle.is_draining() { tokio::time::sleep(GLANCE).await } } => {}
        }
    });
    let show = move || {
        if show(&node, head, &sent).is_err() {
            // Nobody reads the table any more (`| head -1`): the demo has no other purpose.
            logging::flush(super::FLUSH);
            std::process::exit(0);
        }
    };
    let table = std::thread::Builder::new().name("demo-table".into());
    table.spawn(show).map_err(|error| format!("{threads}: {error}"))?;
    server::run(prepared);
    Ok(())
}

/// Draws until the end begins. An error: standard output is closed.
fn show(node: &Node, head: Head, sent: &traffic::Counts) -> std::io::Result<()> {
    // Until it is ready a start may still fail; its message should meet an ordinary terminal.
    while !is_ready(node) {
        if node.lifecycle.is_draining() {
            return Ok(());
        }
        std::thread::sleep(GLANCE);
    }
    let mut sampler = Sampler::new(1);
    let mut display = Display::open(head)?;
    while !node.lifecycle.is_draining() {
        let now = Instant::now();
        if display.is_due(now) {
            display.show(now, &sampler.frame(now, vec![Some(state::of(node))]), &sent.read())?;
        }
        std::thread::sleep(GLANCE);
    }
    display.close()
}

fn is_ready(node: &Node) -> bool {
    node.lifecycle.unready().is_none()
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// This port if nobody has it, else any.
fn free(wanted: u16) -> std::io::Result<SocketAddr> {
    TcpListener::bind(local(wanted)).or_else(|_| TcpListener::bind(local(0)))?.local_addr()
}

/// Name and address of each.
type Places = Vec<(String, SocketAddr)>;

fn places(origins: &[Origin]) -> Places {
    origins.iter().map(|origin| (origin.name.clone(), origin.address)).collect()
}

fn config(listen: SocketAddr, origins: &Places, admin: SocketAddr) -> Result<Config, String> {
    let servers: Vec<_> = origins.iter().map(|(_, address)| (address.ip().to_string(), address.port())).collect();
    let mut config =
        Config::quick(listen, &servers, Some("/heartbeat"), Some(admin)).map_err(|problems| problems.to_string())?;
    for pool in &mut config.pools {
        pool.health.interval = Duration::from_secs(1);
        for (server, (name, _)) in pool.servers.iter_mut().zip(origins) {
            server.name.clone_from(name);
        }
    }
    config.shutdown.delay = DELAY;
    config.shutdown.drain = DRAIN;
    config.log.level = log_level();
    Ok(config)
}

/// A line in the middle of the table would tear it, and the table shows what a warning would tell.
fn log_level() -> LevelFilter {
    let on_screen = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
    if on_screen { LevelFilter::Error } else { LevelFilter::Warn }
}

fn balance(config: &Config) -> &'static str {
    config.pools.first().map_or("", |pool| pool.balance.as_str())
}

fn explain(error: &StartError, port: u16) -> String {
    match error {
        StartError::Bind { address, error, .. }
            if address.port() == port && error.kind() == std::io::ErrorKind::AddrInUse =>
        {
            taken(port)
        }
        other => other.to_string(),
    }
}

fn taken(port: u16) -> String {
    let other = if port == u16::MAX { port - 1 } else { port + 1 };
    format!("port {port} is in use by another program: stop it, or choose another port: fairlead demo --port {other}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(port: u16) -> Arguments {
        Arguments { port, delays: vec![1, 2], rate: 10, redis: None, nodes: 1 }
    }

    #[test]
    fn a_taken_port_is_named_with_the_way_out() {
        let taken = TcpListener::bind(local(0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let message = prepare(&arguments(port)).err().unwrap();
        assert!(message.contains(&format!("port {port} is in use by another program")), "{message}");
        assert!(message.contains("--port"), "{message}");
    }

    #[test]
    fn servers_are_named_and_the_end_is_quick() {
        let config = config(local(0), &vec![("s1".into(), local(2))], local(1)).unwrap();
        assert_eq!(config.pools[0].servers[0].name, "s1");
        assert!(config.shutdown.delay + config.shutdown.drain < Duration::from_secs(1));
    }

    #[test]
    fn any_free_port_is_shown_as_it_is() {
        let demo = prepare(&arguments(0)).ok().unwrap();
        assert_ne!(demo.head.listen[0].port(), 0);
        assert_ne!(demo.head.admin[0].port(), 0);
        assert_eq!(demo.origins.len(), 2);
    }

    #[test]
    fn a_port_that_somebody_has_is_not_used() {
        let taken = TcpListener::bind(local(0)).unwrap().local_addr().unwrap();
        let _holder = TcpListener::bind(taken).unwrap();
        assert_ne!(free(taken.port()).unwrap(), taken);
        let demo = prepare(&arguments(0)).ok().unwrap();
        assert_ne!(demo.head.admin, demo.head.listen);
    }
}
