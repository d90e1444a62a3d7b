//! One node of the demo's fleet, in a process of its own: `fairlead demo-node`.
//!
//! The demo writes an [`Order`] to its standard input and keeps that open; the node answers with its [`Place`] on
//! standard output, and begins. When its input closes, because the demo ends it or
//! has itself been killed, the node ends as by SIGTERM: no node outlives its demo, however that died.

use std::io::{BufRead, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use log::LevelFilter;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::{Places, balance, config, explain, free};
use crate::config::{Config, Log, LogFormat, Redis};
use crate::observe::logging;
use crate::server::{self, Prepared, StartError};

/// In Redis' keys: apart from those of nodes that serve in earnest.
const NAMESPACE: &str = "demo";
/// The demo has stopped its traffic before; only somebody else's request may still run.
const DRAIN: Duration = Duration::from_millis(300);
/// Eight nodes with a thread for each core would only get into each other's way.
const THREADS: usize = 2;

/// Others may take a free port before we do, but not for ever.
const TRIES: usize = 20;

/// What a node is told. Over a pipe and not as arguments, because a URL may hold a password.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// Where to listen; port 0 = any.
    pub listen: SocketAddr,
    /// Which port the admin listener should have; where it is taken, and with 0, any.
    pub admin_port: u16,
    /// The servers.
    pub origins: Places,
    /// The URL of Redis.
    pub redis: String,
    /// Log nothing: the demo is drawing on this terminal.
    pub quiet: bool,
}

/// Where a node is.
#[derive(Debug, Serialize, Deserialize)]
pub struct Place {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where its admin listener is.
    pub admin: SocketAddr,
    /// How it chooses a server.
    pub balance: String,
}

impl Order {
    /// The configuration of the node.
    ///
    /// # Errors
    /// The URL is none.
    fn config(&self, admin: SocketAddr) -> Result<Config, String> {
        let mut config = config(self.listen, &self.origins, admin)?;
        config.redis = Some(redis(&self.redis)?);
        config.shutdown.delay = Duration::ZERO;
        config.shutdown.drain = DRAIN;
        config.threads = THREADS;
        Ok(config)
    }

    fn log_level(&self) -> LevelFilter {
        if self.quiet { LevelFilter::Off } else { LevelFilter::Warn }
    }

    /// Everything bound.
    fn prepare(&self) -> Result<(Prepared, Place), String> {
        let mut tried = 0;
        loop {
            tried += 1;
            let admin = free(self.admin_port).map_err(|error| format!("no port is free on this machine: {error}"))?;
            let config = self.config(admin)?;
            let balance = balance(&config).to_owned();
            match server::prepare(config) {
                Ok(prepared) => {
                    let bound = prepared.node().snapshot.load().listener(None).map(|listener| listener.bound);
                    return Ok((prepared, Place { listen: bound.unwrap_or(self.listen), admin, balance }));
                }
                Err(StartError::Bind { address, .. }) if address == admin && tried < TRIES => {}
                Err(error) => return Err(explain(&error, self.listen.port())),
            }
        }
    }
}

/// The Redis at `url`, for a demo.
///
/// # Errors
/// The URL is none.
pub fn redis(url: &str) -> Result<Redis, String> {
    let redis = Redis::at(url, "--redis").map_err(|problems| problems.to_string())?;
    let redis = redis.ok_or("--redis: is empty: write it like redis://127.0.0.1:6379, or leave it out")?;
    Ok(Redis { namespace: NAMESPACE.to_owned(), ..redis })
}

/// Runs until standard input closes.
pub fn run() -> Result<(), String> {
    let mut input = std::io::stdin().lock();
    let mut line = String::new();
    input.read_line(&mut line).map_err(|error| format!("cannot read standard input: {error}"))?;
    let order: Order = serde_json::from_str(&line)
        .map_err(|_| "demo-node is for the demo's own use: run `fairlead demo --redis URL --nodes 3`".to_owned())?;
    drop(input);
    let (prepared, place) = order.prepare()?;
    logging::init(Log { level: order.log_level(), format: LogFormat::Text });
    let place = serde_json::to_string(&place).map_err(|error| error.to_string())?;
    writeln!(std::io::stdout(), "{place}").map_err(|error| format!("the demo is gone: {error}"))?;
    let watch = || {
        // Nothing more comes; this returns when the other end is closed.
        std::io::copy(&mut std::io::stdin().lock().by_ref(), &mut std::io::sink()).ok();
        if kill(Pid::this(), Signal::SIGTERM).is_err() {
            std::process::exit(1);
        }
    };
    let thread = std::thread::Builder::new().name("demo-watch".into());
    thread.spawn(watch).map_err(|error| format!("cannot start a thread: {error}"))?;
    server::run(prepared);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn order(port: u16, admin_port: u16) -> Order {
        Order {
            listen: super::super::local(port),
            admin_port,
            origins: vec![("s1".into(), "127.0.0.1:1".parse().unwrap())],
            redis: "redis://:hush@127.0.0.1:1".into(),
            quiet: true,
        }
    }

    #[test]
    fn an_order_makes_a_configuration() {
        let order: Order = serde_json::from_str(&serde_json::to_string(&order(9091, 0)).unwrap()).unwrap();
        let config = order.config("127.0.0.1:9901".parse().unwrap()).unwrap();
        let redis = config.redis.unwrap();
        assert_eq!((redis.namespace.as_str(), redis.password.as_deref()), ("demo", Some("hush")));
        assert_eq!((config.listeners[0].address, config.admin.unwrap().address.port()), (order.listen, 9901));
        assert_eq!(config.pools[0].servers[0].name, "s1");
    }

    #[test]
    fn a_taken_port_is_told_and_a_taken_admin_port_avoided() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let message = order(port, 0).prepare().err().unwrap();
        assert!(message.contains("in use by another program") && message.contains("--port"), "{message}");
        let (_prepared, place) = order(0, port).prepare().ok().unwrap();
        assert!(place.listen.port() != 0 && place.admin.port() != 0 && place.admin.port() != port, "{place:?}");
        assert_eq!(place.balance, "least-load");
    }

    #[test]
    fn a_url_that_is_none_is_refused() {
        for bad in ["", "127.0.0.1:6379"] {
            assert!(redis(bad).unwrap_err().starts_with("--redis: "), "{bad}");
        }
    }
}
