//! A fleet of one kind of proxy.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::common::http::Connection;
use crate::common::port::Port;
use crate::common::process::{Process, find};
use crate::common::{Outcome, peers};
use crate::options::{Options, Policy};

/// One node: its program and its addresses.
struct Node {
    process: Process,
    listener: Port,
    admin: Port,
}

/// Nodes of one policy.
pub struct Fleet {
    nodes: Vec<Node>,
}

/// What the nodes say of themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// How many nodes choose how, as text: "16 exact".
    pub modes: String,
    /// Requests that some node believes to be in flight.
    pub in_flight: u64,
}

/// Whether there is such a proxy on this machine; says so if not.
pub fn installed(policy: &Policy) -> bool {
    let program = match policy {
        Policy::Haproxy | Policy::HaproxySingle => "haproxy",
        Policy::Nginx => "nginx",
        Policy::Auto | Policy::Batched | Policy::Exact | Policy::Local => return true,
    };
    let found = find(program).is_some();
    if !found {
        eprintln!("{} is left out: {program} is not installed", policy.label());
    }
    found
}

impl Fleet {
    /// Starts all nodes and waits until they serve.
    pub async fn start(
        policy: Policy,
        options: &Options,
        servers: &[SocketAddr],
        redis: Option<SocketAddr>,
        folder: &Path,
    ) -> Outcome<Self> {
        let count = if policy == Policy::HaproxySingle { 1 } else { options.nodes };
        let mut fleet = Fleet { nodes: Vec::new() };
        for number in 0..count {
            let (listener, admin) = (Port::new()?, Port::new()?);
            let folder = folder.join(format!("{policy:?}-{number}").to_lowercase());
            std::fs::create_dir_all(&folder)?;
            let file = folder.join("configuration");
            let file_name = file.display().to_string();
            let address = listener.address;
            let (program, text, arguments) = match policy {
                Policy::Haproxy | Policy::HaproxySingle => {
                    (find("haproxy"), haproxy(address, servers)?, vec!["-db".into(), "-f".into(), file_name])
                }
                Policy::Nginx => {
                    let prefix = folder.display().to_string();
                    (
                        find("nginx"),
                        nginx(address, servers, &prefix)?,
                        vec!["-p".into(), prefix, "-c".into(), file_name],
                    )
                }
                Policy::Auto | Policy::Batched | Policy::Exact | Policy::Local => {
                    let text = fairlead(policy, options, address, admin.address, servers, redis);
                    (Some(options.fairlead.clone()), text, vec!["run".into(), "-c".into(), file_name])
                }
            };
            std::fs::write(&file, text)?;
            let program = program.ok_or("a proxy has vanished")?;
            let process = Process::start(&program, &arguments, folder.join("log"))?;
            fleet.nodes.push(Node { process, listener, admin });
        }
        for node in &mut fleet.nodes {
            node.process.serves(node.listener.address).await?;
        }
        Ok(fleet)
    }

    /// Where requests go.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.listener.address).collect()
    }

    /// Where Fairlead's nodes tell their state.
    pub fn admins(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.admin.address).collect()
    }

    /// Processor time that all nodes have used.
    pub fn cpu(&self) -> Duration {
        self.nodes.iter().map(|node| node.process.cpu()).sum()
    }

    /// What the first node has logged.
    pub fn log(&self) -> String {
        self.nodes.first().map(|node| node.process.log()).unwrap_or_default()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // All at once, then each is waited for.
        for node in self.nodes.iter_mut().filter_map(|node| (!node.process.has_ended()).then_some(node)) {
            node.process.signal(Signal::SIGTERM);
        }
    }
}

/// Asks all nodes of Fairlead for their state.
pub async fn ask(admins: &[SocketAddr]) -> Told {
    let mut modes = std::collections::BTreeMap::<String, usize>::new();
    let mut in_flight = 0;
    for admin in admins {
        let state = tokio::time::timeout(Duration::from_secs(2), state(*admin)).await.ok().and_then(Result::ok);
        let pool = state.unwrap_or_default();
        *modes.entry(pool["mode"].as_str().unwrap_or("silent").to_owned()).or_default() += 1;
        let servers = pool["servers"].as_array().into_iter().flatten();
        in_flight += servers.filter_map(|server| server["in_flight"]["fleet"].as_u64()).sum::<u64>();
    }
    let modes: Vec<String> = modes.into_iter().map(|(mode, count)| format!("{count} {mode}")).collect();
    Told { modes: modes.join(", "), in_flight }
}

async fn state(admin: SocketAddr) -> Outcome<Value> {
    let answer = Connection::open(admin).await?.get("/api/v1/pools/app").await?;
    Ok(serde_json::from_slice(&answer.body)?)
}

fn fairlead(
    policy: Policy,
    options: &Options,
    address: SocketAddr,
    admin: SocketAddr,
    servers: &[SocketAddr],
    redis: Option<SocketAddr>,
) -> String {
    let servers: Vec<String> = servers.iter().map(|server| format!("\"{server}\"")).collect();
    let redis = policy.mode().zip(redis).map_or_else(String::new, |(mode, redis)| {
        format!("redis: {{ url: \"redis://{redis}\", mode: {mode}, timeout: {}ms }}\n", options.redis_timeout)
    });
    format!(
        "version: 1\n\
         listeners: [{{ address: \"{address}\" }}]\n\
         pools:\n  app:\n    servers: [{}]\n    health: {{ path: /heartbeat }}\n\
         admin: {{ address: \"{admin}\" }}\n\
         {redis}\
         shutdown: {{ drain: 1s }}\n\
         threads: 1\n",
        servers.join(", ")
    )
}

fn haproxy(address: SocketAddr, servers: &[SocketAddr]) -> Result<String, std::fmt::Error> {
    let more = peers::Haproxy {
        timeouts: ["1s", "60s"],
        frontend: &["option forwardfor"],
        backend: &["option httpchk GET /heartbeat"],
        server: "check inter 5s",
    };
    peers::haproxy(address, servers, &more)
}

fn nginx(address: SocketAddr, servers: &[SocketAddr], prefix: &str) -> Result<String, std::fmt::Error> {
    peers::nginx(address, servers, prefix, "proxy_set_header X-Forwarded-For $remote_addr;")
}
