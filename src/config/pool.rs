//! Servers that do the same work.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use http::HeaderName;

use super::ejection::{Ejection, ejection_or_none};
use super::fields::Fields;
use super::health::{Health, health};
use super::kind::{List, Parsed, Section, ShortOr, Word, count, whole};
use super::route::{cookie_name, header_name, placed};
use super::tls::{self, UpstreamTls};
use super::units::{name, percent, server_address, span, span_from};
use crate::balance::Policy;

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
    /// When a server is left out for what becomes of requests; None: never.
    pub ejection: Option<Ejection>,
    /// While fewer servers than this may be chosen, in percent, all are used, whatever is known of them. 0: never.
    pub panic_below: u32,
    /// How long a server that came back gets less than its share; 0: it gets all of it at once.
    pub slow_start: Duration,
    /// Requests that wait while all servers have `max_in_flight`.
    pub queue: Queue,
}

/// Requests that wait while all servers have as many in flight as they may.
#[derive(Clone, Copy, Debug)]
pub struct Queue {
    /// More are refused at once; 0: nobody waits.
    pub max: usize,
    /// Who has waited for so long is refused.
    pub timeout: Duration,
}

impl Default for Queue {
    fn default() -> Self {
        Queue { max: 500, timeout: Duration::from_secs(2) }
    }
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
    /// The most requests that the whole fleet may have in flight on it; None: no limit.
    pub max_in_flight: Option<u32>,
}

/// HOST:PORT; shown with brackets around an IPv6 address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// An IP address (without brackets) or a name.
    pub host: String,
    /// Never 0.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// What a server is spoken to in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1
    H1,
    /// HTTP/2: agreed on in the handshake with TLS, without it by prior knowledge.
    H2,
}

/// How servers are reached.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Until the connection stands.
    pub connect_timeout: Duration,
    /// An unused connection is closed after this; keep it below the servers' own.
    pub idle: Duration,
    /// Unused connections kept for the pool.
    pub idle_max: usize,
    /// What they are spoken to in.
    pub protocol: Protocol,
    /// None: without TLS.
    pub tls: Option<UpstreamTls>,
}

/// A pool, and for each of its servers the place in the file's list.
pub(super) struct PoolDraft {
    pub(super) pool: Pool,
    pub(super) places: Vec<usize>,
}

pub(super) fn pool(f: &mut Fields<'_>) -> Option<PoolDraft> {
    let balance = f.default("balance", "How a server is chosen.", Word(POLICIES), "least-load");
    let hash = f.section("hash", "For `balance: hash`.", hash);
    let servers = f.required(
        "servers",
        "HOST:PORT each, or the long form.",
        List {
            item: ShortOr {
                short: Parsed {
                    parse: |text| (server_address().parse)(text).map(Server::at),
                    what: server_address().what,
                    pattern: server_address().pattern,
                },
                long: Section(server),
                what: "HOST:PORT of a server, or a mapping with its `address`",
            },
            of: "servers",
            empty: false,
        },
    );
    let health = f.section("health", "How servers are checked. Left out: a connection is opened.", health);
    let upstream = f.section("upstream", "How servers are reached.", upstream);
    let ejection = f.optional(
        "ejection",
        "When a server is left out for what becomes of requests, whatever its checks say; `none`: never.",
        ejection_or_none(),
    );
    let panic_below = f.default(
        "panic_below",
        "While fewer servers than this may be chosen, all are used, whatever is known of them. 0%: never.",
        percent(0),
        "0%",
    );
    let queue = f.section("queue", "Requests that wait while all servers have `max_in_flight`.", queue);
    let slow_start = f.default(
        "slow_start",
        "How long a server that came back or moved gets less than its share, from a tenth on; 0s: it gets all of it at once.",
        span_from(Duration::ZERO),
        "30s",
    );
    f.later(&["sticky", "discovery"]);
    let (places, servers) = placed(servers?);
    check_servers(f, &servers, &places);
    if let Some(tls) = upstream.as_ref().and_then(|upstream| upstream.tls.as_ref()) {
        tls::check_names(f, tls, &servers);
    }
    Some(PoolDraft {
        pool: Pool {
            name: f.own_name(),
            balance: balance?,
            hash: hash?,
            servers,
            health: health?,
            upstream: upstream?,
            ejection: ejection.unwrap_or_else(|| Some(Ejection::default())),
            panic_below: panic_below?,
            slow_start: slow_start?,
            queue: queue?,
        },
        places,
    })
}

const POLICIES: &[(&str, Policy)] = &[
    ("least-load", Policy::LeastLoad),
    ("least-connections", Policy::LeastConnections),
    ("power-of-two", Policy::PowerOfTwo),
    ("round-robin", Policy::RoundRobin),
    ("random", Policy::Random),
    ("hash", Policy::Hash),
];

/// Two servers of one name would share one count; two of one address would get twice the load.
fn check_servers(f: &mut Fields<'_>, servers: &[Server], places: &[usize]) {
    let mut names: HashMap<&str, usize> = HashMap::new();
    let mut addresses: HashMap<&Address, usize> = HashMap::new();
    for (server, place) in servers.iter().zip(places) {
        let at = ["servers".into(), (*place).into()];
        if let Some(first) = addresses.get(&server.address) {
            f.problem(
                &at,
                format!(
                    "`{}` is the address of servers[{first}] too: remove one (a greater `weight` gives a server more requests)",
                    server.address
                ),
            );
        } else if let Some(first) = names.get(server.name.as_str()) {
            f.problem(&at, format!("`{}` is the name of servers[{first}] too: give each its own", server.name));
        }
        addresses.entry(&server.address).or_insert(*place);
        names.entry(&server.name).or_insert(*place);
    }
}

impl Server {
    fn at(address: Address) -> Self {
        Self { name: address.to_string(), address, weight: 1, priority: 0, max_in_flight: None }
    }
}

fn server(f: &mut Fields<'_>) -> Option<Server> {
    let name = f.optional("name", "Unique in the pool. Default: HOST:PORT.", name());
    let address = f.required("address", "HOST:PORT; a name is resolved again every 30 s.", server_address());
    let weight = f.default(
        "weight",
        "A server of weight 2 has twice the requests in flight of one of weight 1; in turn, it gets twice as many.",
        whole(1, 1000),
        1,
    );
    let priority = f.default("priority", "0 serves first; others only while nobody before them can.", whole(0, 100), 0);
    let max_in_flight = f.optional(
        "max_in_flight",
        "The most requests that the whole fleet may have in flight on it; others wait in the pool's queue. Default: no limit.",
        whole(1, 1_000_000),
    );
    let plain = Server::at(address?);
    Some(Server {
        name: name.unwrap_or(plain.name),
        address: plain.address,
        weight: weight?,
        priority: priority?,
        max_in_flight,
    })
}

fn queue(f: &mut Fields<'_>) -> Option<Queue> {
    let max = f.default("max", "More are refused at once; 0: nobody waits.", count(0, 1_000_000), 500);
    let timeout = f.default("timeout", "Who has waited for so long is refused.", span(), "2s");
    Some(Queue { max: max?, timeout: timeout? })
}

fn hash(f: &mut Fields<'_>) -> Option<HashKey> {
    f.default(
        "on",
        "What identifies a client: `client_ip`, `{ header: NAME }` or `{ cookie: NAME }`.",
        ShortOr {
            short: Parsed {
                what: "`client_ip`",
                pattern: "^client_ip$",
                parse: |text| match text {
                    "client_ip" => Ok(HashKey::ClientIp),
                    _ => Err("is none of `client_ip`, `{ header: NAME }` and `{ cookie: NAME }`: write one of these"
                        .to_owned()),
                },
            },
            long: Section(hash_on),
            what: "`client_ip`, `{ header: NAME }` or `{ cookie: NAME }`",
        },
        "client_ip",
    )
}

fn hash_on(f: &mut Fields<'_>) -> Option<HashKey> {
    let header = f.optional(
        "header",
        "Name of a request header.",
        Parsed { what: "the name of a header", pattern: "", parse: header_name },
    );
    let cookie = f.optional(
        "cookie",
        "Name of a cookie.",
        Parsed { what: "the name of a cookie", pattern: "", parse: cookie_name },
    );
    if f.given("header") == f.given("cookie") {
        f.problem(&[], "needs one of `header` and `cookie`");
    }
    header.map(HashKey::Header).or_else(|| cookie.map(HashKey::Cookie))
}

fn upstream(f: &mut Fields<'_>) -> Option<Upstream> {
    let connect_timeout = f.default("connect_timeout", "Until the connection stands.", span(), "1s");
    let idle = f.default(
        "idle",
        "An unused connection is closed after this; keep it below the servers' own keepalive.",
        span(),
        "30s",
    );
    let idle_max = f.default("idle_max", "Unused connections kept for the pool.", count(0, 65_536), 1024);
    let protocol = f.default(
        "protocol",
        "What servers are spoken to in: `h1`, or `h2` (by ALPN with `tls`, else by prior knowledge), as gRPC needs it.",
        Word(&[("h1", Protocol::H1), ("h2", Protocol::H2)]),
        "h1",
    );
    let tls = tls::upstream(f);
    Some(Upstream {
        connect_timeout: connect_timeout?,
        idle: idle?,
        idle_max: idle_max?,
        protocol: protocol?,
        tls: tls?,
    })
}
