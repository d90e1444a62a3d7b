//! The commands. Exit codes: 0 fine, 1 refused or invalid, 2 usage.

mod check;
mod demo;
mod remote;
mod state;
mod status;

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::config::{self, Config};
use crate::observe::logging;
use crate::observe::metrics::Metrics;
use crate::server;

/// The configuration that `run` reads when it is given none.
const DEFAULT_FILE: &str = "conf/fairlead.yaml";

#[derive(Parser)]
#[command(
    name = "fairlead",
    version,
    about = "An HTTP edge load balancer that balances on the load of the whole fleet"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start the proxy
    Run {
        /// The configuration
        #[arg(short, long, default_value = DEFAULT_FILE)]
        config: PathBuf,
    },
    /// Start four small servers, the proxy and some traffic, and show who is busy
    Demo(demo::Arguments),
    /// One node of `demo --redis`; told what to do on standard input
    #[command(hide = true)]
    DemoNode,
    /// Start the proxy without a file: one listener, one pool
    Proxy {
        /// Where clients connect, e.g. 0.0.0.0:9090
        #[arg(long, value_parser = socket)]
        listen: SocketAddr,
        /// A server, HOST:PORT; once for each
        #[arg(long, required = true)]
        to: Vec<String>,
        /// Check servers by GET of this path instead of by connecting
        #[arg(long)]
        health: Option<String>,
        /// Share the load with the other nodes that use this Redis, e.g. redis://127.0.0.1:6379
        #[arg(long)]
        redis: Option<String>,
        /// The admin listener, e.g. 127.0.0.1:9900
        #[arg(long, value_parser = socket)]
        admin: Option<SocketAddr>,
    },
    /// Check a configuration and report all problems at once
    Check {
        /// The configuration
        file: PathBuf,
        /// Also check every server once
        #[arg(long)]
        probe: bool,
    },
    /// Ask a running node about its servers: state and why, requests in flight here and in the fleet, rate, latency
    Status(status::Arguments),
    /// Print the JSON Schema of the configuration, for editors
    Schema,
}

/// The longest that the last lines of the log may take.
const FLUSH: Duration = Duration::from_secs(1);

/// Reads the arguments, does what they say, and returns the exit code.
pub fn main() -> ExitCode {
    let code = dispatch(Arguments::parse().command);
    logging::flush(FLUSH);
    code
}

fn dispatch(command: Command) -> ExitCode {
    match command {
        Command::Run { config } => start(|| load(&config)),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::DemoNode => demo::run_node(),
        Command::Proxy { listen, to, health, redis, admin } => {
            start(|| quick(listen, &to, health.as_deref(), admin, redis.as_deref()))
        }
        Command::Check { file, probe } => check::run(&file, probe),
        Command::Status(arguments) => status::run(&arguments),
        Command::Schema => {
            // Whoever reads may have seen enough.
            writeln!(std::io::stdout(), "{:#}", config::schema()).ok();
            ExitCode::SUCCESS
        }
    }
}

/// Reads a configuration and all that it names, so that what is wrong has a line.
fn load(file: &Path) -> Result<Config, String> {
    let config = config::load(file).map_err(|problems| problems.to_string())?;
    let metrics = Metrics::new().map_err(|error| error.to_string())?;
    check::files(file, &config, &metrics).map_err(|problems| problems.to_string())?;
    Ok(config)
}

/// Starts a node; returns when it could not.
fn start(config: impl FnOnce() -> Result<Config, String>) -> ExitCode {
    if let Err(error) = server::survive_hang_up() {
        return refused(error);
    }
    let config = match config() {
        Ok(config) => config,
        Err(why) => return refused(why),
    };
    logging::init(config.log);
    server::raise_open_files();
    match server::prepare(config) {
        Ok(prepared) => {
            server::run(prepared);
            ExitCode::SUCCESS
        }
        Err(error) => refused(error),
    }
}

fn refused(why: impl std::fmt::Display) -> ExitCode {
    logging::tell(&why.to_string());
    ExitCode::from(1)
}

/// Text from elsewhere as part of a line on a terminal, which it must not steer.
fn printable(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

/// Tells more than that it is no address.
fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| match text.rsplit_once(':') {
        Some(("localhost", port)) => format!("write 127.0.0.1:{port}"),
        Some(("" | "*", port)) => format!("write 0.0.0.0:{port} for all addresses of this machine"),
        Some(_) => "write IP:PORT, for example 0.0.0.0:9090".to_owned(),
        None => format!("it has no address: write 0.0.0.0:{text}, or 127.0.0.1:{text} for this machine only"),
    })
}

fn quick(
    listen: SocketAddr,
    to: &[String],
    health: Option<&str>,
    admin: Option<SocketAddr>,
    redis: Option<&str>,
) -> Result<Config, String> {
    let mut servers = Vec::new();
    for server in to {
        let parts = server.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        let Some((host, port)) = parts.filter(|(host, port)| !host.is_empty() && *port != 0) else {
            return Err(format!("--to {server}: not HOST:PORT, for example 10.0.0.1:9000"));
        };
        servers.push((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port));
    }
    let mut config = Config::quick(listen, &servers, health, admin).map_err(|problems| problems.to_string())?;
    if let Some(url) = redis {
        config.redis = config::Redis::at(url, "--redis").map_err(|problems| problems.to_string())?;
    }
    Ok(config)
}
