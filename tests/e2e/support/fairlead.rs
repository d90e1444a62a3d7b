//! The process under test.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::client::{Client, Response, get};
use super::{PATIENCE, until, within};

/// What every configuration begins with: one listener, an admin listener, a log that tells their addresses.
const BASE: &str = r#"
version: 1
listeners: [{ name: public, address: "127.0.0.1:0" }]
admin: { address: "127.0.0.1:0" }
log: { format: json }
threads: 2
"#;

/// A configuration; keys of `rest` stand instead of ours.
pub fn config(rest: &str) -> String {
    let ours = BASE.lines().filter(|line| {
        let key = line.split(':').next().unwrap_or("");
        !rest.lines().any(|theirs| theirs.split(':').next() == Some(key))
    });
    ours.chain(rest.lines()).map(|line| format!("{line}\n")).collect()
}

/// A configuration with the pool `app`: `servers` as [`super::servers`] makes them, `settings` as in `balance: random, health: {…}`.
pub fn one_pool(servers: &str, settings: &str) -> String {
    config(&format!("pools:\n  app: {{ servers: [{servers}], {settings} }}\n"))
}

/// A running `fairlead`. Killed when dropped.
pub struct Fairlead {
    /// Its working directory; `{dir}` in a configuration means it.
    pub dir: TempDir,
    child: Child,
    err: Lines,
    out: Lines,
}

impl Fairlead {
    /// `fairlead run` with this configuration, ready to serve.
    pub async fn start(yaml: &str) -> Self {
        let mut fairlead = Self::spawn(yaml);
        fairlead.wait_ready().await;
        fairlead
    }

    /// `fairlead run` with this configuration, perhaps not listening yet.
    pub fn spawn(yaml: &str) -> Self {
        Self::spawn_in(TempDir::new().unwrap(), yaml, &["run", "-c", "fairlead.yaml"])
    }

    /// `fairlead` with these arguments and no configuration.
    pub fn spawn_with(args: &[&str]) -> Self {
        Self::spawn_in(TempDir::new().unwrap(), "", args)
    }

    /// `fairlead run` with this configuration by a shell: `before` is done in its working directory first; `after` are
    /// redirections.
    pub fn spawn_by_shell(yaml: &str, before: &str, after: &str) -> Self {
        let script = format!("{before}\nexec \"$0\" run -c fairlead.yaml {after}");
        let dir = TempDir::new().unwrap();
        let mut command = clean(Command::new("sh"), dir.path());
        command.args(["-c", &script, env!("CARGO_BIN_EXE_fairlead")]);
        Self::spawn_command(dir, yaml, command)
    }

    fn spawn_in(dir: TempDir, yaml: &str, args: &[&str]) -> Self {
        let command = command(dir.path(), args);
        Self::spawn_command(dir, yaml, command)
    }

    fn spawn_command(dir: TempDir, yaml: &str, mut command: Command) -> Self {
        let yaml = yaml.replace("{dir}", dir.path().to_str().unwrap());
        std::fs::write(dir.path().join("fairlead.yaml"), yaml).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let err = Lines::collect(child.stderr.take().unwrap());
        let out = Lines::collect(child.stdout.take().unwrap());
        Fairlead { dir, child, err, out }
    }

    /// Waits until it listens, and until `/readyz` says so where there is an admin listener.
    pub async fn wait_ready(&mut self) {
        let what = "fairlead listens";
        until(what, async || {
            assert_eq!(self.child.try_wait().unwrap(), None, "it ended:\n{}", self.log());
            !self.events("listening").is_empty()
        })
        .await;
        let config = std::fs::read_to_string(self.dir.path().join("fairlead.yaml")).unwrap();
        if config.contains("admin:") {
            until("admin listens", async || !self.events("admin_listening").is_empty()).await;
            until("/readyz is 200", async || self.admin_get("/readyz").await.status == 200).await;
        }
    }

    /// The only listener's address.
    pub fn address(&self) -> SocketAddr {
        address(&self.events("listening")[0])
    }

    /// A listener's address by its name.
    pub fn listener(&self, name: &str) -> SocketAddr {
        let events = self.events("listening");
        address(events.iter().find(|e| e["listener"] == name).expect("a listener of this name"))
    }

    /// The admin listener's address.
    pub fn admin(&self) -> SocketAddr {
        address(&self.events("admin_listening")[0])
    }

    /// A fresh connection to the only listener.
    pub async fn client(&self) -> Client {
        Client::connect(self.address()).await
    }

    /// `GET`s a page over a fresh connection.
    pub async fn get(&self, path: &str) -> Response {
        get(self.address(), path, "").await
    }

    /// `GET`s a page with extra header lines over a fresh connection.
    pub async fn get_with(&self, path: &str, headers: &str) -> Response {
        get(self.address(), path, headers).await
    }

    /// `GET`s an admin page.
    pub async fn admin_get(&self, path: &str) -> Response {
        get(self.admin(), path, &format!("Host: {}\r\n", self.admin())).await
    }

    /// A pool as the admin API shows it.
    pub async fn pool(&self, name: &str) -> Value {
        let response = self.admin_get(&format!("/api/v1/pools/{name}")).await;
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()
    }

    /// A server of the pool `app` as the admin API shows it.
    pub async fn server(&self, name: &str) -> Value {
        let pool = self.pool("app").await;
        let servers = pool["servers"].as_array().unwrap();
        servers.iter().find(|s| s["name"] == name).unwrap_or_else(|| panic!("no {name} in {pool}")).clone()
    }

    /// Requests in flight on all servers of the pool `app`; fails the test where a count is below zero.
    pub async fn in_flight(&self) -> u64 {
        let pool = self.pool("app").await;
        let servers = pool["servers"].as_array().unwrap();
        servers
            .iter()
            .map(|s| {
                let n = s["in_flight"]["local"].as_u64();
                n.filter(|n| *n < 1_000_000).unwrap_or_else(|| panic!("not a count: {s}"))
            })
            .sum()
    }

    /// Waits until no request is in flight.
    pub async fn idle(&self) {
        until("no request in flight", async || self.in_flight().await == 0).await;
    }

    /// Waits until a server of the pool `app` has this state.
    pub async fn wait_state(&self, server: &str, state: &str) -> Duration {
        within(PATIENCE, &format!("{server} is {state}"), async || self.server(server).await["state"] == state).await
    }

    /// The sum of a metric's series that have all of these labels.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let page = self.admin_get("/metrics").await.text();
        let wanted: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{v}\"")).collect();
        let series = page.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        series
            .filter(|line| wanted.iter().all(|w| line.contains(w)))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }

    /// Lines of its log with this `event`.
    pub fn events(&self, event: &str) -> Vec<Value> {
        self.log_lines().into_iter().filter(|line| line["event"] == event).collect()
    }

    /// Lines of its log that are JSON.
    pub fn log_lines(&self) -> Vec<Value> {
        self.err.get().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Standard error.
    pub fn log(&self) -> String {
        self.err.get().join("\n")
    }

    /// Standard output.
    pub fn output(&self) -> String {
        self.out.get().join("\n")
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Whether it handles a signal by now.
    pub fn catches(&self, signal: Signal) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << (signal as u32 - 1)) != 0
    }

    /// Has not ended.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end: its exit code (None: by a signal) and how long it took.
    pub async fn exit(&mut self, limit: Duration) -> (Option<i32>, Duration) {
        let took = within(limit, "the process ends", async || !self.runs()).await;
        until("all it wrote is read", async || self.err.ended() && self.out.ended()).await;
        (self.child.wait().unwrap().code(), took)
    }
}

impl Drop for Fairlead {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- fairlead wrote:\n{}\n{}", self.log(), self.output());
        }
    }
}

/// How a command ended.
pub struct Finished {
    /// Its exit code; None when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs `fairlead` with these arguments in `dir` to its end.
pub async fn run_to_end(dir: &Path, args: &[&str]) -> Finished {
    let mut child = command(dir, args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let out = Lines::collect(child.stdout.take().unwrap());
    let err = Lines::collect(child.stderr.take().unwrap());
    let mut ended = false;
    for _ in 0..1000 {
        ended = child.try_wait().unwrap().is_some();
        if ended {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if !ended {
        child.kill().unwrap();
    }
    let code = child.wait().unwrap().code();
    let finished = Finished { code, out: out.end(), err: err.end() };
    assert!(ended, "{args:?} does not end:\n{}\n{}", finished.out, finished.err);
    finished
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = clean(Command::new(env!("CARGO_BIN_EXE_fairlead")), dir);
    command.args(args);
    command
}

fn clean(mut command: Command, dir: &Path) -> Command {
    command.current_dir(dir).stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

fn address(event: &Value) -> SocketAddr {
    event["address"].as_str().unwrap().parse().unwrap()
}

/// Lines that a process has written until now.
struct Lines {
    lines: Arc<Mutex<Vec<String>>>,
    reader: std::thread::JoinHandle<()>,
}

impl Lines {
    fn collect(from: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let into = lines.clone();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                into.lock().unwrap().push(line);
            }
        });
        Lines { lines, reader }
    }

    fn get(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// The process will write no more.
    fn ended(&self) -> bool {
        self.reader.is_finished()
    }

    /// All of them, once the process has ended.
    fn end(self) -> String {
        self.reader.join().unwrap();
        self.lines.lock().unwrap().join("\n")
    }
}
