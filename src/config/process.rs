//! The process itself: admin listener, logs, end.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use super::fields::Fields;
use super::kind::{List, Parsed, Secret, Word};
use super::units::{host_name, socket, span_from};

/// The admin listener.
#[derive(Clone)]
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

/// Without the token, which must not get into a log.
impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("address", &self.address)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("metrics_open", &self.metrics_open)
            .field("hosts", &self.hosts)
            .finish()
    }
}

/// The process's own log, on standard error.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    /// The least important that is shown.
    pub level: LevelFilter,
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

pub(super) fn admin(f: &mut Fields<'_>) -> Option<Admin> {
    let address = f.default(
        "address",
        "IP:PORT to listen on; a loopback address unless there is a token.",
        socket(),
        "127.0.0.1:9900",
    );
    let token = f.optional("token", "What clients must send as `Authorization: Bearer`; empty: no token.", Secret);
    let metrics_open = f.default(
        "metrics",
        "Whether `/metrics` needs the token, where there is one: `open` or `token`.",
        Word(&[("open", true), ("token", false)]),
        "open",
    );
    let hosts = f.default(
        "hosts",
        "Names clients may use for this node, besides its address and `localhost`.",
        List {
            item: Parsed {
                what: "a host without port",
                pattern: "^[A-Za-z0-9_.-]+$",
                parse: |text| match text.split_once(':') {
                    Some(_) => Err("has a `:`: write the host alone, without a port".to_owned()),
                    None => host_name(text),
                },
            },
            of: "hosts",
            empty: true,
        },
        serde_json::json!([]),
    );

    let address = address?;
    let unreadable = f.given("token") && token.is_none();
    let token = token.filter(|token| !token.is_empty());
    if let Some(token) = &token {
        if !token.bytes().all(|b| b.is_ascii_graphic()) {
            f.problem(
                &["token".into()],
                "has spaces, line breaks or letters outside ASCII, which no client can send: use printable ASCII",
            );
        }
    } else if !address.ip().to_canonical().is_loopback() && !unreadable {
        f.problem(
            &["address".into()],
            format!(
                "`{address}` can be reached from other machines: set `token`, or listen on `127.0.0.1:{}`",
                address.port()
            ),
        );
    }
    Some(Admin { address, token, metrics_open: metrics_open?, hosts: hosts?.into_iter().flatten().collect() })
}

pub(super) fn log(f: &mut Fields<'_>) -> Option<Log> {
    let level = f.default(
        "level",
        "The least important that is shown.",
        Word(&[
            ("off", LevelFilter::Off),
            ("error", LevelFilter::Error),
            ("warn", LevelFilter::Warn),
            ("info", LevelFilter::Info),
            ("debug", LevelFilter::Debug),
            ("trace", LevelFilter::Trace),
        ]),
        "info",
    );
    let format = f.default(
        "format",
        "`text` for people, `json` for machines.",
        Word(&[("text", LogFormat::Text), ("json", LogFormat::Json)]),
        "text",
    );
    Some(Log { level: level?, format: format? })
}

pub(super) fn access_log(f: &mut Fields<'_>) -> Option<AccessLog> {
    let format = f.default(
        "format",
        "`json`, or the `combined` format of web servers.",
        Word(&[("json", AccessFormat::Json), ("combined", AccessFormat::Combined)]),
        "json",
    );
    let path = f.default(
        "path",
        "A file to append to; `-` is standard output.",
        Parsed {
            what: "the path of a file, or `-`",
            pattern: "",
            parse: |text| match text {
                "" => Err("is no path: name a file, or `-` for standard output".to_owned()),
                "-" => Ok(None),
                path if path.contains('\0') => Err("has a null character".to_owned()),
                path => Ok(Some(PathBuf::from(path))),
            },
        },
        "-",
    );
    Some(AccessLog { format: format?, path: path? })
}

pub(super) fn shutdown(f: &mut Fields<'_>) -> Option<Shutdown> {
    let delay = f.default(
        "delay",
        "Unready, but still accepting: for balancers in front to notice.",
        span_from(Duration::ZERO),
        "0s",
    );
    let drain = f.default(
        "drain",
        "How long running requests may take to finish; the process ends as soon as they have.",
        span_from(Duration::ZERO),
        "30s",
    );
    f.later(&["upgrade_drain"]);
    Some(Shutdown { delay: delay?, drain: drain? })
}
