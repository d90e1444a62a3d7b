//! The Redis that nodes share their counts through.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::Problems;
use super::fields::{Fields, read_section};
use super::kind::{Parsed, Secret, Section, Word};
use super::problem::Findings;
use super::redis_url::{RedisServers, RedisUrl};
use super::tree::Node;
use super::units::{rate, show, span, span_from};

/// The Redis that nodes share their counts through.
#[derive(Clone, PartialEq)]
pub struct Redis {
    /// Where it is.
    pub servers: RedisServers,
    /// Number of the database; 0 in a cluster.
    pub database: u8,
    /// None: the default user.
    pub username: Option<String>,
    /// None: no password.
    pub password: Option<String>,
    /// None: without TLS.
    pub tls: Option<RedisTls>,
    /// What stands in the names of keys, so that several fleets can share one Redis.
    pub namespace: String,
    /// How counts are shared.
    pub mode: Mode,
    /// The longest that a request ever waits for Redis.
    pub timeout: Duration,
    /// Until a connection stands.
    pub connect_timeout: Duration,
    /// The longest that a call in the background may take.
    pub command_timeout: Duration,
    /// How long a start waits for the fleet's view.
    pub start_wait: Duration,
    /// Calls a second of the whole fleet, in mode `batched`.
    pub max_calls: u32,
}

/// TLS to Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// A PEM file of certificates, which alone are trusted. None: those of the system.
    pub ca: Option<PathBuf>,
}

/// How nodes share their counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Exact where it pays, else batched: measured for each pool.
    Auto,
    /// Counts are exchanged in the background.
    Batched,
    /// Redis picks the server of each request.
    Exact,
}

/// Without the password, which must not get into a log.
impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("servers", &self.servers)
            .field("database", &self.database)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .field("tls", &self.tls)
            .field("namespace", &self.namespace)
            .field("mode", &self.mode)
            .field("timeout", &self.timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("command_timeout", &self.command_timeout)
            .field("start_wait", &self.start_wait)
            .field("max_calls", &self.max_calls)
            .finish()
    }
}

impl Redis {
    /// The Redis at `url`, with the default of every other key. None: the URL is empty.
    ///
    /// # Errors
    /// What is wrong with the URL; `source` is what the message calls the place it comes from.
    pub fn at(url: &str, source: &str) -> Result<Option<Self>, Problems> {
        let keys = [("url".to_owned(), Node::Text(url.to_owned()))];
        let mut found = Findings::default();
        let read = read_section(redis, &keys, &mut found);
        if found.is_empty() { Ok(read.flatten()) } else { Err(found.into_problems(source, |_| None)) }
    }
}

/// Some(None): there is no Redis.
pub(super) fn redis(f: &mut Fields<'_>) -> Option<Option<Redis>> {
    let url = f.required_or_empty(
        "url",
        "Where Redis is: `redis://`, `rediss://` (TLS), `unix://`, `redis-cluster://` or `redis-sentinel://`. Empty: there is none.",
        RedisUrl,
    );
    let username = f.optional("username", "User of Redis' access control lists. Default: the one of the URL.", Secret);
    let password = f.optional("password", "Default: the one of the URL.", Secret);
    let tls = f.optional(
        "tls",
        "TLS, which `rediss://` also turns on.",
        Section(|f| {
            let ca = f.optional(
                "ca",
                "A PEM file of certificates, which alone are trusted. Default: those of the system.",
                super::tls::file(),
            );
            Some(RedisTls { ca })
        }),
    );
    let namespace = f.default(
        "namespace",
        "In the names of keys, so that several fleets can share one Redis.",
        Parsed { what: "a name", pattern: "^[A-Za-z0-9._-]{1,100}$", parse: namespace },
        "default",
    );
    let mode = f.default(
        "mode",
        "`batched`: counts are exchanged in the background; `exact`: Redis picks the server of each request; `auto`: exact where it pays.",
        Word(&[("auto", Mode::Auto), ("batched", Mode::Batched), ("exact", Mode::Exact)]),
        "auto",
    );
    let timeout = f.default("timeout", "The longest that a request ever waits for Redis.", span(), "5ms");
    let connect_timeout = f.default("connect_timeout", "Until a connection stands.", span(), "2s");
    let command_timeout =
        f.default("command_timeout", "The longest that a call in the background may take.", span(), "1s");
    let start_wait = f.default(
        "start_wait",
        "How long a start waits for the fleet's view before it is ready.",
        span_from(Duration::ZERO),
        "1s",
    );
    let max_calls = f.default("max_calls", "Of the whole fleet, in mode `batched`.", rate(), "10000/s");

    let (timeout, command_timeout) = (timeout?, command_timeout?);
    if timeout > command_timeout {
        f.problem(
            &["timeout".into()],
            format!("is longer than `command_timeout` ({}): give at most that", show(command_timeout)),
        );
    }
    let Some(url) = url?.flatten() else { return Some(None) };
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let mut once = |key: &'static str, text: Option<String>, in_url: Option<String>| {
        if text.is_some() && in_url.is_some() {
            f.problem(&[key.into()], "stands in `url` too: give it once");
        }
        text.or(in_url)
    };
    let username = once("username", given(username), url.username);
    let password = once("password", given(password), url.password);
    if username.is_some() && password.is_none() && !f.given("password") {
        f.problem(&["password".into()], "is missing: a user needs one");
    }
    if tls.is_some() && matches!(url.servers, RedisServers::Unix(_)) {
        f.problem(&["tls".into()], "has no meaning with a socket of this machine: remove it");
    }
    Some(Some(Redis {
        servers: url.servers,
        database: url.database,
        username,
        password,
        tls: tls.or_else(|| url.tls.then(RedisTls::default)),
        namespace: namespace?,
        mode: mode?,
        timeout,
        connect_timeout: connect_timeout?,
        command_timeout,
        start_wait: start_wait?,
        max_calls: max_calls?,
    }))
}

fn namespace(text: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if text.is_empty() || text.len() > 100 || !text.chars().all(fine) {
        return Err(
            "is not fit for the names of keys: use up to 100 letters, digits and any of `.`, `_`, `-`".to_owned()
        );
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_an_empty_url() {
        let redis = Redis::at("redis://u:hush@127.0.0.1", "--redis").unwrap().unwrap();
        assert_eq!((redis.namespace.as_str(), redis.mode, redis.max_calls), ("default", Mode::Auto, 10_000));
        assert_eq!(redis.timeout, Duration::from_millis(5));
        assert_eq!((redis.username.as_deref(), redis.password.as_deref()), (Some("u"), Some("hush")));
        assert!(!format!("{redis:?}").contains("hush"), "passwords stay out of logs");
        assert_eq!(Redis::at("", "--redis").unwrap(), None);
        assert!(Redis::at("rediss://h", "--redis").unwrap().unwrap().tls.is_some());
        let problems = Redis::at("127.0.0.1:6379", "--redis").unwrap_err().to_string();
        assert!(problems.starts_with("--redis: url: is not a URL: write it like"), "{problems}");
    }

    #[test]
    fn the_schema_wants_a_url() {
        let schema = super::super::fields::describe_section(redis);
        assert_eq!(schema["required"], serde_json::json!(["url"]));
    }
}
