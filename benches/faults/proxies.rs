//! One proxy of one thread.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::common::port::Port;
use crate::common::process::{Process, find};
use crate::common::{Outcome, peers};
use crate::options::Who;

/// A route for everything with this `retry`.
pub const RETRIES_500: &str =
    "routes: [{ name: all, match: {}, pool: app, retry: { on: [connect, reset, timeout, 500] } }]\n";

/// Settings of Fairlead other than its defaults.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Of the pool, such as `balance: hash`; each ends with a comma.
    pub pool: String,
    /// Top level keys, each with its line end.
    pub more: String,
}

/// A running proxy.
pub struct Proxy {
    process: Process,
    /// Where requests go.
    pub address: SocketAddr,
    /// Where Fairlead tells its state.
    pub admin: Option<SocketAddr>,
    _ports: [Port; 2],
}

/// Its program; none if it is not installed.
fn program(who: Who, fairlead: &Path) -> Option<PathBuf> {
    match who {
        Who::Fairlead | Who::FairleadRetries500 => Some(fairlead.to_owned()),
        Who::Haproxy | Who::HaproxyTuned => find("haproxy"),
        Who::Nginx | Who::NginxTuned => find("nginx"),
    }
}

/// Whether there is such a proxy on this machine; says so if not.
pub fn installed(who: Who) -> bool {
    let found = program(who, Path::new("")).is_some();
    if !found {
        eprintln!("{} is left out: it is not installed", who.label());
    }
    found
}

impl Proxy {
    /// Starts it and waits until it serves; its files go to `folder`.
    pub async fn start(
        who: Who,
        fairlead: &Path,
        settings: &Settings,
        servers: &[SocketAddr],
        folder: &Path,
    ) -> Outcome<Self> {
        let ports = [Port::new()?, Port::new()?];
        let (address, admin) = (ports[0].address, ports[1].address);
        let prefix = folder.display().to_string();
        let file = folder.join("configuration");
        let file_name = file.display().to_string();
        let mut settings = settings.clone();
        if who == Who::FairleadRetries500 {
            settings.more.push_str(RETRIES_500);
        }
        let (text, arguments) = match who {
            Who::Fairlead | Who::FairleadRetries500 => {
                (configuration(&settings, address, admin, servers), vec!["run".into(), "-c".into(), file_name])
            }
            Who::Haproxy | Who::HaproxyTuned => {
                let more = if who == Who::HaproxyTuned { HAPROXY_TUNED } else { HAPROXY };
                (peers::haproxy(address, servers, &more)?, vec!["-db".into(), "-f".into(), file_name])
            }
            Who::Nginx | Who::NginxTuned => {
                let more = if who == Who::NginxTuned { NGINX_TUNED } else { "" };
                let arguments = vec!["-p".into(), prefix.clone(), "-c".into(), file_name];
                (peers::nginx(address, servers, &prefix, more)?, arguments)
            }
        };
        std::fs::write(&file, text)?;
        let program = program(who, fairlead).ok_or("a proxy has vanished")?;
        let mut process = Process::start(&program, &arguments, folder.join("log"))?;
        process.serves(address).await?;
        let admin = matches!(who, Who::Fairlead | Who::FairleadRetries500).then_some(admin);
        Ok(Proxy { process, address, admin, _ports: ports })
    }

    /// Memory that it holds, in bytes.
    pub fn memory(&self) -> u64 {
        self.process.memory()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

fn configuration(settings: &Settings, address: SocketAddr, admin: SocketAddr, servers: &[SocketAddr]) -> String {
    let servers: Vec<String> = servers.iter().map(|server| format!("\"{server}\"")).collect();
    format!(
        "version: 1\n\
         listeners: [{{ address: \"{address}\" }}]\n\
         {}\
         pools:\n  app: {{ {} servers: [{}], health: {{ path: /heartbeat }} }}\n\
         admin: {{ address: \"{admin}\" }}\n\
         shutdown: {{ drain: 1s }}\n\
         threads: 1\n",
        settings.more,
        settings.pool,
        servers.join(", ")
    )
}

const HAPROXY: peers::Haproxy = peers::Haproxy { timeouts: ["5s", "60s"], frontend: &[], backend: &[], server: "" };

const HAPROXY_TUNED: peers::Haproxy = peers::Haproxy {
    timeouts: ["1s", "2s"],
    frontend: &[],
    backend: &[
        "option httpchk GET /heartbeat",
        "default-server inter 1s fall 2 rise 2",
        "retries 3",
        "option redispatch 1",
        "retry-on conn-failure empty-response response-timeout 500 502 503",
    ],
    server: "check observe layer7 error-limit 10 on-error mark-down",
};

const NGINX_TUNED: &str = "proxy_connect_timeout 1s; proxy_read_timeout 2s; \
                           proxy_next_upstream error timeout http_500 http_502 http_503; proxy_next_upstream_tries 3;";
