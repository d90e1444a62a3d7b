//! The URL of a Redis. It may hold a password, so no message shows any of it.

use std::fmt;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::kind::Kind;
use super::pool::Address;
use super::problem::Findings;
use super::tree::Node;
use super::units::server_address;

const FORM: &str = "write it like `redis://127.0.0.1:6379`, `rediss://…` (TLS), `unix:///run/redis.sock`, `redis-cluster://HOST:PORT,HOST:PORT` or `redis-sentinel://HOST:PORT,HOST:PORT?sentinelServiceName=NAME`";

/// What serves Redis, and where.
#[derive(Clone, PartialEq, Eq)]
pub enum RedisServers {
    /// One server, or a proxy that looks like one.
    Single(Address),
    /// One server on this machine.
    Unix(PathBuf),
    /// Sentinels, which know the primary.
    Sentinel {
        /// The sentinels; never empty.
        hosts: Vec<Address>,
        /// What they call the primary.
        service: String,
        /// For the sentinels themselves.
        username: Option<String>,
        /// For the sentinels themselves.
        password: Option<String>,
    },
    /// Some nodes of a cluster, never none; the others are found through them.
    Cluster(Vec<Address>),
}

/// For logs: without credentials.
impl fmt::Display for RedisServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |hosts: &[Address]| hosts.iter().map(Address::to_string).collect::<Vec<_>>().join(",");
        match self {
            Self::Single(host) => write!(f, "redis://{host}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Sentinel { hosts, service, .. } => {
                write!(f, "redis-sentinel://{}?sentinelServiceName={service}", list(hosts))
            }
            Self::Cluster(hosts) => write!(f, "redis-cluster://{}", list(hosts)),
        }
    }
}

/// As shown: a derived one would tell the sentinels' password.
impl fmt::Debug for RedisServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A URL, taken apart.
#[derive(PartialEq)]
pub(super) struct Parts {
    pub(super) servers: RedisServers,
    pub(super) tls: bool,
    pub(super) database: u8,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
}

/// A URL; None where it is empty.
pub(super) struct RedisUrl;

impl Kind for RedisUrl {
    type Out = Option<Parts>;

    fn what(&self) -> String {
        "the URL of Redis, such as `redis://127.0.0.1:6379`".to_owned()
    }

    fn schema(&self) -> Value {
        json!({ "type": "string" })
    }

    fn read(&self, node: &Node, found: &mut Findings) -> Option<Option<Parts>> {
        let (Node::Text(text) | Node::Variable(text)) = node else {
            found.add(format!("must be {}", self.what()));
            return None;
        };
        if text.is_empty() {
            return Some(None);
        }
        match parse(text) {
            Ok(parts) => Some(Some(parts)),
            Err(problem) => {
                found.add(problem);
                None
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Shape {
    Single,
    Unix,
    Sentinel,
    Cluster,
}

fn parse(text: &str) -> Result<Parts, String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(format!("is not a URL: {FORM}"));
    };
    let (shape, tls) = scheme_of(scheme)?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    if path.contains('@') || query.contains('@') || text.contains('#') {
        return Err("has one of `@`, `/`, `?` and `#` where it means something else: in a user or a password write them as `%40`, `%2F`, `%3F`, `%23`, or use the keys `username` and `password`".to_owned());
    }
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (username, password) = credentials(user)?;
    let query = Query::parse(query, shape)?;
    let (servers, database) = match shape {
        Shape::Unix => {
            // A host has no meaning here, but a URL needs one to have a user.
            if path.len() < 2 || (!hosts.is_empty() && user.is_empty()) {
                return Err("names no socket: write the whole path after three slashes, like `unix:///run/redis.sock`"
                    .to_owned());
            }
            (RedisServers::Unix(decoded(path)?.into()), query.database.unwrap_or(0))
        }
        Shape::Single => {
            let mut hosts = addresses(hosts, &[], 6379)?;
            match (hosts.pop(), hosts.is_empty()) {
                (Some(host), true) => (RedisServers::Single(host), database(path)?),
                _ => {
                    return Err(
                        "names several servers: begin with `redis-cluster://` or `redis-sentinel://`, or name one"
                            .to_owned(),
                    );
                }
            }
        }
        Shape::Cluster => {
            if database(path)? != 0 {
                return Err("names a database, but a cluster has only one: end it after the port".to_owned());
            }
            (RedisServers::Cluster(addresses(hosts, &query.nodes, 6379)?), 0)
        }
        Shape::Sentinel => {
            let Some(service) = query.service.filter(|service| !service.is_empty()) else {
                return Err(
                    "does not say what the sentinels call the primary: add `?sentinelServiceName=NAME`".to_owned()
                );
            };
            let hosts = addresses(hosts, &query.nodes, 26379)?;
            let (username, password) = (query.username, query.password);
            (RedisServers::Sentinel { hosts, service, username, password }, database(path)?)
        }
    };
    Ok(Parts { servers, tls, database, username, password })
}

fn scheme_of(scheme: &str) -> Result<(Shape, bool), String> {
    let (base, shape) = match scheme.split_once(['-', '+']) {
        None if scheme == "unix" => return Ok((Shape::Unix, false)),
        None => (scheme, Shape::Single),
        Some((base, "cluster")) => (base, Shape::Cluster),
        Some((base, "sentinel")) => (base, Shape::Sentinel),
        Some((base @ ("redis" | "valkey"), "unix" | "socket")) => (base, Shape::Unix),
        Some(_) => return Err(format!("begins with no known scheme: {FORM}")),
    };
    match base {
        "redis" | "valkey" => Ok((shape, false)),
        "rediss" | "valkeys" => Ok((shape, true)),
        _ => Err(format!("begins with no known scheme: {FORM}")),
    }
}

fn decoded(text: &str) -> Result<String, String> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) if !text.contains('\0') => Ok(text.into_owned()),
        _ => Err("has a `%` that does not stand for a character: write a plain `%` as `%25`".to_owned()),
    }
}

fn credentials(user: &str) -> Result<(Option<String>, Option<String>), String> {
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let some = |text: &str| decoded(text).map(|text| Some(text).filter(|text| !text.is_empty()));
    Ok((some(name)?, some(password)?))
}

/// The hosts of a list with commas, and further ones.
fn addresses(list: &str, more: &[String], port: u16) -> Result<Vec<Address>, String> {
    let mut out = Vec::new();
    for host in list.split(',').chain(more.iter().map(String::as_str)) {
        let after_address = host.rsplit_once(']').map_or(host, |(_, after)| after);
        let whole = if after_address.contains(':') { host.to_owned() } else { format!("{host}:{port}") };
        let address = (server_address().parse)(&whole)
            .map_err(|_| format!("names no host, or a host or port that cannot be: {FORM}"))?;
        out.push(address);
    }
    Ok(out)
}

fn database(path: &str) -> Result<u8, String> {
    match path.trim_start_matches('/') {
        "" => Ok(0),
        number => number
            .parse()
            .map_err(|_| "has something other than the number of a database (0 to 255) after the port".to_owned()),
    }
}

#[derive(Default)]
struct Query {
    nodes: Vec<String>,
    service: Option<String>,
    username: Option<String>,
    password: Option<String>,
    database: Option<u8>,
}

impl Query {
    fn parse(text: &str, shape: Shape) -> Result<Self, String> {
        let mut query = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value)?;
            match (name, shape) {
                ("node", Shape::Cluster | Shape::Sentinel) => query.nodes.push(value),
                ("sentinelServiceName", Shape::Sentinel) => query.service = Some(value),
                ("sentinelUsername", Shape::Sentinel) => query.username = Some(value),
                ("sentinelPassword", Shape::Sentinel) => query.password = Some(value),
                ("db", Shape::Unix) => query.database = Some(database(&value)?),
                _ => {
                    let known = match shape {
                        Shape::Single => "there are none with this scheme",
                        Shape::Unix => "use `db`",
                        Shape::Cluster => "use `node`",
                        Shape::Sentinel => {
                            "use `sentinelServiceName`, `node`, `sentinelUsername` and `sentinelPassword`"
                        }
                    };
                    return Err(format!("has an unknown parameter after `?`: {known}"));
                }
            }
        }
        Ok(query)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match parse(text) {
            Ok(parts) => {
                let tls = if parts.tls { " tls" } else { "" };
                let user = parts.username.map(|user| format!(" user {user}")).unwrap_or_default();
                let password = parts.password.map(|word| format!(" password {word}")).unwrap_or_default();
                format!("{}/{}{tls}{user}{password}", parts.servers, parts.database)
            }
            Err(problem) => problem,
        }
    }

    #[test]
    fn urls_that_are_understood() {
        for (text, expected) in [
            ("redis://127.0.0.1", "redis://127.0.0.1:6379/0"),
            ("redis://Cache.Local:7000/3", "redis://cache.local:7000/3"),
            ("redis://[::1]/", "redis://[::1]:6379/0"),
            ("valkey://a:b%40c@h:1", "redis://h:1/0 user a password b@c"),
            ("rediss://:p:q@h", "redis://h:6379/0 tls password p:q"),
            ("unix:///run/a.sock", "unix:///run/a.sock/0"),
            ("unix:///run/a.sock?db=2", "unix:///run/a.sock/2"),
            ("redis+unix://u:p@x/run/a.sock", "unix:///run/a.sock/0 user u password p"),
            ("redis-cluster://a:1,b", "redis-cluster://a:1,b:6379/0"),
            ("rediss-cluster://a:1?node=b:2&node=c:3", "redis-cluster://a:1,b:2,c:3/0 tls"),
            (
                "redis-sentinel://:w@a,b:1/4?sentinelServiceName=main&node=c:2",
                "redis-sentinel://a:26379,b:1,c:2?sentinelServiceName=main/4 password w",
            ),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn the_sentinels_own_password_is_kept_and_not_shown() {
        let text = "redis-sentinel://a?sentinelServiceName=m&sentinelUsername=u&sentinelPassword=hush";
        let servers = parse(text).ok().unwrap().servers;
        assert!(!format!("{servers:?} {servers}").contains("hush"));
        let RedisServers::Sentinel { username, password, .. } = servers else { panic!() };
        assert_eq!((username.as_deref(), password.as_deref()), (Some("u"), Some("hush")));
    }

    #[test]
    fn urls_that_are_refused_and_never_shown() {
        for (text, why) in [
            ("hush:6379", "is not a URL"),
            ("http://hush", "no known scheme"),
            ("redis+x://hush", "no known scheme"),
            ("redis://", "names no host"),
            ("redis://:hush@", "names no host"),
            ("redis://:hu/sh@h", "`%2F`"),
            ("redis://:hu?sh@h", "`%3F`"),
            ("redis://:hu#sh@h", "`%23`"),
            ("redis://:%hush%ff@h", "`%25`"),
            ("redis://:hush@h:99999", "port that cannot be"),
            ("redis://:hush@h/x", "number of a database"),
            ("redis://:hush@h/256", "number of a database"),
            ("redis://:hush@a,b", "several servers"),
            ("redis://:hush@a?node=b", "unknown parameter"),
            ("redis-cluster://:hush@a/1", "only one"),
            ("redis-sentinel://:hush@a", "sentinelServiceName=NAME"),
            ("unix://hush.sock", "three slashes"),
            ("unix:///", "names no socket"),
        ] {
            let problem = parse(text).err().unwrap_or_default();
            assert!(problem.contains(why), "{text}: {problem:?}");
            assert!(!problem.contains("hush"), "{problem}");
        }
    }
}
