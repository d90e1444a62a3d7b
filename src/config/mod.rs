//! Configuration: read a file, expand variables, check everything, and report all problems at once.
//!
//! The types here are plain data and valid once loaded: whoever holds a [`Config`] need not check again.
//!
//! The way of a file: text → tree of values (`yaml`) → variables filled in (`variables`) → sections read by their
//! definitions (`fields`, `kind`; one file per section beside its structs) → checks across sections (`check`) → a look at
//! the files that it names (`files`). A problem carries the path to its value; the line is looked up when the problem is
//! shown (`locate`).
//!
//! To add a key: one definition where its section is read, and one line in `conf/reference.yaml`.

use std::path::Path;

use ipnet::IpNet;

mod check;
mod ejection;
mod fields;
mod files;
mod health;
mod kind;
mod listener;
mod locate;
mod pool;
mod prefix;
mod problem;
mod process;
mod protocols;
mod quick;
mod rate_limit;
mod redis;
mod redis_url;
mod retry;
mod root;
mod route;
mod rules;
mod sizes;
mod suggest;
mod tls;
mod tree;
mod units;
mod variables;
mod yaml;

pub use ejection::{Ejection, Latency};
pub use files::certificates;
pub use health::{Check, Health};
pub use listener::{ClientLimits, ClientTimeouts, Listener, ServerHeader};
pub use pool::{Address, HashKey, Pool, Protocol, Queue, Server, Upstream};
pub use problem::{Problem, Problems};
pub use process::{AccessFormat, AccessLog, Admin, Log, LogFormat, Shutdown};
pub use protocols::Protocols;
pub use rate_limit::{Rate, RateKey, RateLimit};
pub use redis::{Mode, Redis, RedisTls};
pub use redis_url::RedisServers;
pub use retry::{Backoff, PerTry, Retry, RetryBudget, RetryOn};
pub use root::schema;
pub use route::{HostPattern, Match, Route, RouteTimeouts, Share};
pub use rules::{HeaderRules, Redirect, Rules};
pub use tls::{CertificateFiles, ClientCertificates, ListenerTls, TlsVersion, UpstreamTls};

pub(crate) use problem::{Findings, Step};
use tree::Node;

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
    /// None: counts live in this process.
    pub redis: Option<Redis>,
    /// None: no admin listener.
    pub admin: Option<Admin>,
    /// The process's own log.
    pub log: Log,
    /// None: requests are not logged.
    pub access_log: Option<AccessLog>,
    /// How the process ends.
    pub shutdown: Shutdown,
    /// Requests at once on this node. None: no limit.
    pub max_in_flight: Option<usize>,
    /// Worker threads of the proxy; 0 = one per core.
    pub threads: usize,
}

/// Reads the file at `path`, with variables from the environment, and looks at the files that it names.
///
/// # Errors
/// All that is wrong with the file, or the one reason why it cannot be read.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let file = path.display().to_string();
    let bytes = std::fs::read(path)
        .map_err(|error| Problems::one(&file, None, format!("cannot be read: {}", reason(&error))))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = 1 + count_lines(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
        Problems::one(&file, Some(line), "is not UTF-8 text: save the file as UTF-8".to_owned())
    })?;
    read(&text, &file, &|name| std::env::var(name).ok(), files::check)
}

/// What was found in the files that the configuration at `path` names, with the lines that name them.
pub(crate) fn in_file(path: &Path, found: Findings) -> Problems {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    found.into_problems(&path.display().to_string(), |path| locate::line_of(&text, path))
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file: check its path".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied: let this user read the file".to_owned(),
        std::io::ErrorKind::IsADirectory => "it is a directory: name a file".to_owned(),
        _ => error.to_string(),
    }
}

fn count_lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

/// Reads a configuration from `text`. `file` is what problems call it, `env` finds the value of a variable. Files that it
/// names are not looked at.
///
/// # Errors
/// All that is wrong with it.
pub fn parse(text: &str, file: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, Problems> {
    read(text, file, env, |_, _| {})
}

fn read(
    text: &str,
    file: &str,
    env: &dyn Fn(&str) -> Option<String>,
    more: impl FnOnce(&Config, &mut Findings),
) -> Result<Config, Problems> {
    let mut root = yaml::tree(text, file)?;
    let mut found = Findings::default();
    tree::expand(&mut root, env, &mut found);
    build(&root, found, file, more, |path| locate::line_of(text, path))
}

/// From a tree to a configuration. `more` checks what is not in the text; the configuration that it is given may have gaps
/// where problems were found.
fn build(
    root: &Node,
    mut found: Findings,
    file: &str,
    more: impl FnOnce(&Config, &mut Findings),
    line_of: impl Fn(&[Step]) -> Option<usize>,
) -> Result<Config, Problems> {
    let read = root::read(root, &mut found);
    if let Some(config) = &read {
        more(config, &mut found);
    }
    match read {
        Some(config) if found.is_empty() => Ok(config),
        read => {
            if read.is_none() && found.is_empty() {
                // Whoever returns None has noted why; should one forget, an operator still gets an answer.
                found.add("cannot be used, for a reason that Fairlead fails to tell: please report this file");
            }
            Err(found.into_problems(file, line_of))
        }
    }
}
