//! Configuration: read a file, expand variables, check everything, and report all problems at once.
//!
//! The types here are plain data and valid once loaded: whoever holds a [`Config`] need not check again.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use ipnet::IpNet;

use crate::balance::Policy;

/// A whole, valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect; never empty.
    pub listeners: Vec<Listener>,
    /// Peers whose `X-Forwarded-*` headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// In the file's order. Empty: every request goes to the only pool.
    pub routes: Vec<Route>,
    /// In the file's order; never empty.
    pub pools: Vec<Pool>,
    /// None: no admin listener.
    pub admin: Option<Admin>,
    /// The process's own log.
    pub log: Log,
    /// None: requests are not logged.
    pub access_log: Option<AccessLog>,
    /// How the process ends.
    pub shutdown: Shutdown,
    /// Worker threads of the proxy; 0 = one per core.
    pub threads: usize,
}

/// One address that clients connect to.
#[derive(Clone, Debug)]
pub struct Listener {
    /// For routes and logs; the address where the file gives none.
    pub name: String,
    /// Port 0 lets the system choose (the log tells which).
    pub address: SocketAddr,
    /// How long a client may take.
    pub timeouts: ClientTimeouts,
}

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct ClientTimeouts {
    /// Between two reads of a request body.
    pub body: Duration,
    /// Between two writes of a response.
    pub write: Duration,
    /// An idle connection between two requests.
    pub keepalive: Duration,
}

/// Which requests go where.
#[derive(Clone, Debug)]
pub struct Route {
    /// For logs and metrics.
    pub name: String,
    /// What a request must look like.
    pub matches: Match,
    /// The pools that serve it, with their shares; never empty, names known to exist.
    pub split: Vec<Share>,
    /// How long a request may take.
    pub timeouts: RouteTimeouts,
}

/// A pool's share of a route.
#[derive(Clone, Debug)]
pub struct Share {
    /// Name of the pool.
    pub pool: String,
    /// Relative to the other shares, 0-1000; not all 0.
    pub weight: u32,
}

/// What a request must look like. All parts must hold.
#[derive(Clone, Debug, Default)]
pub struct Match {
    /// Name of a listener; None: any.
    pub listener: Option<String>,
    /// Any of them; empty: any host.
    pub hosts: Vec<HostPattern>,
    /// Starts with `/`; matches on segment boundaries.
    pub path_prefix: String,
    /// Each header must have exactly this value.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Each cookie must have exactly this value.
    pub cookies: Vec<(String, String)>,
}

/// A host to match, in lower case, without port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `api.example.com`
    Exact(String),
    /// `*.example.com`, kept as `.example.com`: any name below, at any depth.
    Suffix(String),
}

/// How long a request may take on the server's side. None: no limit.
#[derive(Clone, Copy, Debug)]
pub struct RouteTimeouts {
    /// Until the final response header, all attempts included; the time in which the client still sends its body does not count.
    pub response: Option<Duration>,
    /// Between two bytes, either way.
    pub idle: Option<Duration>,
    /// The same for an upgraded connection.
    pub websocket_idle: Option<Duration>,
}

/// Servers that do the same work.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Unique.
    pub name: String,
    /// How a server is chosen.
    pub balance: Policy,
    /// What `balance: hash` hashes.
    pub hash: HashKey,
    /// Never empty; names unique.
    pub servers: Vec<Server>,
    /// How servers are checked.
    pub health: Health,
    /// How servers are reached.
    pub upstream: Upstream,
}

/// What identifies a client to `balance: hash`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HashKey {
    /// The client's address.
    #[default]
    ClientIp,
    /// A request header.
    Header(HeaderName),
    /// A cookie.
    Cookie(String),
}

/// One server.
#[derive(Clone, Debug)]
pub struct Server {
    /// Unique in its pool; HOST:PORT where the file gives none.
    pub name: String,
    /// Where it is.
    pub address: Address,
    /// 1-1000.
    pub weight: u32,
    /// 0 serves first; others only while nobody before them can.
    pub priority: u32,
}

/// HOST:PORT.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// An IP address (without brackets) or a name.
    pub host: String,
    /// Never 0.
    pub port: u16,
}

/// How servers are checked.
#[derive(Clone, Debug)]
pub struct Health {
    /// What a check does.
    pub check: Check,
    /// From the start of one pass to the next.
    pub interval: Duration,
    /// Of one whole check; less than or equal to the interval.
    pub timeout: Duration,
    /// Passed checks in a row that bring a server up.
    pub rise: u32,
    /// Failed checks in a row that take it down.
    pub fall: u32,
}

/// What a health check does.
#[derive(Clone, Debug)]
pub enum Check {
    /// Opens a connection.
    Tcp,
    /// `GET`s a page.
    Http {
        /// Starts with `/`.
        path: String,
        /// None: the server's own HOST:PORT.
        host: Option<String>,
        /// Inclusive ranges of status codes.
        status: Vec<(u16, u16)>,
        /// What the body must contain (its first 64 KiB are looked at).
        body: Option<String>,
    },
}

/// How servers are reached.
#[derive(Clone, Copy, Debug)]
pub struct Upstream {
    /// Until the connection stands.
    pub connect_timeout: Duration,
    /// An unused connection is closed after this; keep it below the servers' own.
    pub idle: Duration,
    /// Unused connections kept for the pool.
    pub idle_max: usize,
}

/// The admin listener.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Loopback unless there is a token.
    pub address: SocketAddr,
    /// None: no token needed.
    pub token: Option<String>,
    /// `/metrics` needs no token.
    pub metrics_open: bool,
    /// Names clients may use for this node, besides its address and `localhost`.
    pub hosts: Vec<String>,
}

/// The process's own log, on standard error.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    /// The least important that is shown.
    pub level: log::LevelFilter,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The log of requests.
#[derive(Clone, Debug)]
pub struct AccessLog {
    /// How a line looks.
    pub format: AccessFormat,
    /// None: standard output.
    pub path: Option<PathBuf>,
}

/// How a line of the access log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessFormat {
    /// One JSON object a line.
    Json,
    /// The combined format of web servers.
    Combined,
}

/// How the process ends.
#[derive(Clone, Copy, Debug)]
pub struct Shutdown {
    /// Unready, but still accepting.
    pub delay: Duration,
    /// How long running requests may take to finish.
    pub drain: Duration,
}
