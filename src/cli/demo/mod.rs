//! `fairlead demo`: servers, the proxy, traffic and a table, in one process.
//!
//! The main thread runs the proxy exactly as `run` does, signals and drain included; everything else here only looks
//! at it, or talks to it over TCP.

mod origin;
mod sample;
mod screen;
mod table;
mod traffic;

use std::io::IsTerminal;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::LevelFilter;
use tokio::runtime::Runtime;

use self::origin::Origin;
use self::sample::Sampler;
use self::screen::Screen;
use self::table::Head;
use self::traffic::Traffic;
use crate::config::Config;
use crate::node::Node;
use crate::observe::logging;
use crate::server::{self, Prepared, StartError};

/// Where the admin listener is, unless somebody else is there.
const ADMIN_PORT: u16 = 9900;
/// More servers than this would not fit on a screen.
const MAX_SERVERS: usize = 16;
/// How often the table is drawn on a terminal, and lines are written elsewhere.
const FRAME: Duration = Duration::from_millis(250);
const LINE: Duration = Duration::from_secs(1);
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
    #[arg(long, value_delimiter = ',', default_value = "20,40,80,160", value_parser = clap::value_parser!(u64).range(..=10_000))]
    delays: Vec<u64>,
    /// Requests a second that the demo makes itself; 0 = none
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(..=10_000))]
    rate: u32,
}

/// Runs until Ctrl-C.
pub fn run(arguments: &Arguments) -> ExitCode {
    match prepare(arguments).and_then(start) {
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

fn prepare(arguments: &Arguments) -> Result<Demo, String> {
    if arguments.delays.len() > MAX_SERVERS {
        return Err(format!("--delays: at most {MAX_SERVERS} servers"));
    }
    let named = arguments.delays.iter().enumerate().map(|(i, &delay)| (format!("s{}", i + 1), delay));
    let origins = named.map(|(name, delay)| Origin::bind(name, Duration::from_millis(delay)));
    let origins = origins.collect::<Result<Vec<_>, _>>().map_err(|error| format!("cannot start a server: {error}"))?;

    let admin = free_admin(arguments.port).map_err(|error| format!("no port is free on this machine: {error}"))?;
    let config = config(arguments.port, &origins, admin)?;
    logging::init(config.log);
    let balance = config.pools.first().map_or("", |pool| pool.balance.as_str());
    let prepared = server::prepare(config).map_err(|error| explain(&error, arguments.port))?;
    let bound = prepared.node().snapshot.load().listener(None).map(|listener| listener.bound);
    let listen = bound.unwrap_or_else(|| local(arguments.port));
    Ok(Demo { origins, prepared, head: Head { listen, admin, balance }, rate: arguments.rate })
}

/// Blocks until the proxy has ended, which ends the process.
fn start(demo: Demo) -> Result<(), String> {
    let Demo { origins, prepared, head, rate } = demo;
    // A list: the table and the traffic work for any number of nodes.
    let nodes = vec![prepared.node().clone()];
    let traffic = Traffic::new(vec![head.listen], rate);
    let sent = traffic.counts();

    let threads = "cannot start a thread";
    let runtime = Runtime::new().map_err(|error| format!("{threads}: {error}"))?;
    for origin in origins {
        runtime.spawn(origin.serve());
    }
    let watched = nodes.clone();
    runtime.spawn(async move {
        while !all_ready(&watched) {
            tokio::time::sleep(GLANCE).await;
        }
        // Dropping the traffic closes its connections, so that the drain finds none of them.
        tokio::select! {
            () = traffic.run() => {}
            () = async { while !any_draining(&watched) { tokio::time::sleep(GLANCE).await } } => {}
        }
    });
    let show = move || {
        if show(&nodes, &head, &sent).is_err() {
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
fn show(nodes: &[Arc<Node>], head: &Head, sent: &traffic::Counts) -> std::io::Result<()> {
    // Until all are ready a start may still fail; its message should meet an ordinary terminal.
    while !all_ready(nodes) {
        if any_draining(nodes) {
            return Ok(());
        }
        std::thread::sleep(GLANCE);
    }
    let mut sampler = Sampler::new(nodes.to_vec());
    let terminal = std::io::stdout().is_terminal();
    let mut screen = Screen::new(std::io::stdout(), terminal);
    let began = Instant::now();
    if !terminal {
        screen.show(&table::head_of_lines(head, nodes.len()))?;
    }
    let mut due = began;
    while !any_draining(nodes) {
        let now = Instant::now();
        if now >= due {
            due = now + if terminal { FRAME } else { LINE };
            let rows = sampler.rows(now);
            screen.show(&match terminal {
                true => table::table(head, &rows, &sent.read()),
                false => table::lines(now - began, &rows),
            })?;
        }
        std::thread::sleep(GLANCE);
    }
    screen.restore()
}

fn all_ready(nodes: &[Arc<Node>]) -> bool {
    nodes.iter().all(|node| node.lifecycle.unready().is_none())
}

fn any_draining(nodes: &[Arc<Node>]) -> bool {
    nodes.iter().any(|node| node.lifecycle.is_draining())
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// The usual port if nobody has it, else any.
fn free_admin(taken: u16) -> std::io::Result<SocketAddr> {
    let usual = if taken == ADMIN_PORT { None } else { TcpListener::bind(local(ADMIN_PORT)).ok() };
    let found = usual.map_or_else(|| TcpListener::bind(local(0)), Ok)?;
    found.local_addr()
}

fn config(port: u16, origins: &[Origin], admin: SocketAddr) -> Result<Config, String> {
    let servers: Vec<_> =
        origins.iter().map(|origin| (origin.address.ip().to_string(), origin.address.port())).collect();
    let mut config = Config::quick(local(port), &servers, Some("/heartbeat"), Some(admin))
        .map_err(|problems| problems.to_string())?;
    for pool in &mut config.pools {
        pool.health.interval = Duration::from_secs(1);
        for (server, origin) in pool.servers.iter_mut().zip(origins) {
            server.name.clone_from(&origin.name);
        }
    }
    config.shutdown.delay = DELAY;
    config.shutdown.drain = DRAIN;
    // A line in the middle of the table would tear it, and the table shows what a warning would tell.
    let on_screen = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
    config.log.level = if on_screen { LevelFilter::Error } else { LevelFilter::Warn };
    Ok(config)
}

fn explain(error: &StartError, port: u16) -> String {
    match error {
        StartError::Bind { address, error, .. }
            if address.port() == port && error.kind() == std::io::ErrorKind::AddrInUse =>
        {
            let other = if port == u16::MAX { port - 1 } else { port + 1 };
            format!(
                "port {port} is in use by another program: stop it, or choose another port: fairlead demo --port {other}"
            )
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(port: u16) -> Arguments {
        Arguments { port, delays: vec![1, 2], rate: 10 }
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
        let origins = [Origin::bind("s1".into(), Duration::ZERO).unwrap()];
        let config = config(0, &origins, local(1)).unwrap();
        assert_eq!(config.pools[0].servers[0].name, "s1");
        assert!(config.shutdown.delay + config.shutdown.drain < Duration::from_secs(1));
    }

    #[test]
    fn any_free_port_is_shown_as_it_is() {
        let demo = prepare(&arguments(0)).ok().unwrap();
        assert_ne!(demo.head.listen.port(), 0);
        assert_ne!(demo.head.admin.port(), 0);
        assert_eq!(demo.origins.len(), 2);
    }

    #[test]
    fn the_admin_listener_makes_way_for_the_proxy() {
        assert_ne!(free_admin(ADMIN_PORT).unwrap().port(), ADMIN_PORT);
    }
}
