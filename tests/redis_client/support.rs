//! Servers, scripts, deadlines, and what was logged.

use std::future::Future;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex, Once};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fairlead::config;
use fairlead::load::redis::scripts::Script;
use fairlead::load::redis::{CallError, Client, Value};
use tempfile::TempDir;

/// Longer than anything here takes.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Counts its key up: `{key, argument, count}`.
pub static COUNT: LazyLock<Script> =
    LazyLock::new(|| script("count", "return {KEYS[1], ARGV[1], redis.call('incr', KEYS[1])}"));
/// Answers its argument as an error, as our scripts do.
pub static FAIL: LazyLock<Script> = LazyLock::new(|| script("fail", "return redis.error_reply(ARGV[1])"));

fn script(name: &'static str, source: &'static str) -> Script {
    Script { name, source, sha1: fred::util::sha1_hash(source) }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A process that is killed in the end.
pub struct Process(Child);

impl Process {
    pub fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    fn end(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// A Redis of one test.
pub struct Redis {
    pub port: u16,
    pub process: Process,
    args: Vec<String>,
    cli: Vec<String>,
    dir: TempDir,
}

impl Redis {
    pub fn start(args: &[&str]) -> Self {
        Self::with_cli(args, &[])
    }

    /// `cli`: what `redis-cli` needs to be let in.
    pub fn with_cli(args: &[&str], cli: &[&str]) -> Self {
        let mut dir = tempfile::tempdir().unwrap();
        let owned = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        for _ in 0..5 {
            let port = free_port();
            let args = owned(args);
            let process = Process(spawn(port, &args, dir.path()));
            let mut redis = Self { port, process, args, cli: owned(cli), dir };
            if redis.wait_until_ready() {
                return redis;
            }
            // Somebody else took the port.
            dir = redis.into_dir();
        }
        panic!("redis-server does not start");
    }

    fn into_dir(self) -> TempDir {
        self.dir
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn stop(&mut self) {
        self.process.end();
    }

    /// On the same port, empty.
    pub fn restart(&mut self) {
        self.stop();
        self.process = Process(spawn(self.port, &self.args, self.dir.path()));
        assert!(self.wait_until_ready(), "redis-server does not start again");
    }

    fn wait_until_ready(&mut self) -> bool {
        let start = Instant::now();
        while start.elapsed() < DEADLINE {
            if self.cli(&["PING"]).contains("PONG") {
                return true;
            }
            if self.process.0.try_wait().unwrap().is_some() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("redis-server does not answer: {}", self.cli(&["PING"]));
    }

    /// What `redis-cli` answers.
    pub fn cli(&self, words: &[&str]) -> String {
        let port = self.port.to_string();
        let out = Command::new("redis-cli").args(["-p", &port]).args(&self.cli).args(words).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)).trim().to_owned()
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A value of `INFO`.
    pub fn info(&self, name: &str) -> u64 {
        let info = self.cli(&["INFO"]);
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_else(|| panic!("no {name} in {info}")).trim().parse().unwrap()
    }
}

fn spawn(port: u16, args: &[String], dir: &Path) -> Child {
    let tls = args.iter().any(|arg| arg == "--tls-port");
    let mut command = Command::new(redis_server());
    if !tls {
        command.args(["--port", &port.to_string()]);
    }
    let args = args.iter().map(|arg| arg.replace("PORT", &port.to_string()));
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]).arg(dir).args(args);
    let log = std::fs::File::create(dir.join("log")).unwrap();
    command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
    command.spawn().expect("redis-server is not installed: apt-get install redis-server")
}

/// Another version, or Valkey, where the environment names it.
fn redis_server() -> String {
    std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned())
}

/// A sentinel: the server in another mode. Where `config` gives it a port for TLS, it has no other.
pub fn sentinel(port: u16, config: &str, dir: &Path) -> Process {
    let file = dir.join("sentinel.conf");
    let port = if config.contains("tls-port") { 0 } else { port };
    std::fs::write(&file, format!("port {port}\nbind 127.0.0.1\n{config}")).unwrap();
    let mut command = Command::new(redis_server());
    command.arg(&file).arg("--sentinel").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Process(command.spawn().unwrap())
}

/// The configuration for a URL, with timeouts fit for tests.
pub fn at(url: &str) -> config::Redis {
    record_logs();
    let mut redis = config::Redis::at(url, "test").unwrap().unwrap();
    redis.command_timeout = Duration::from_secs(5);
    redis
}

/// A client that is connected.
pub async fn connected(config: &config::Redis) -> Client {
    let client = Client::start(config).unwrap();
    until("connected", async || client.is_up()).await;
    client
}

/// Waits for a condition.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < DEADLINE, "not in time: {what}\nlogged:\n{}", logged("").join("\n"));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Counts up a key.
pub async fn count(client: &Client, key: &str) -> Result<i64, CallError> {
    let key = Bytes::copy_from_slice(key.as_bytes());
    match client.call(&COUNT, &[key], vec!["x".into()]).await? {
        Value::Array(list) => match list.as_slice() {
            [Value::Bytes(_), Value::Bytes(argument), Value::Int(count)] if argument == "x" => Ok(*count),
            _ => panic!("unexpected {list:?}"),
        },
        other => panic!("unexpected {other:?}"),
    }
}

pub fn is_lost<T>(result: &Result<T, CallError>) -> bool {
    matches!(result, Err(CallError::Lost(_)))
}

/// The log lines of this process that hold `part`: all tests run in one process, so look for a port.
pub fn logged(part: &str) -> Vec<String> {
    LINES.lock().unwrap().iter().filter(|line| line.contains(part)).cloned().collect()
}

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn record_logs() {
    struct Recorder;
    struct Pairs<'a>(&'a mut String);
    impl<'kvs> log::kv::VisitSource<'kvs> for Pairs<'_> {
        fn visit_pair(&mut self, key: log::kv::Key<'kvs>, value: log::kv::Value<'kvs>) -> Result<(), log::kv::Error> {
            self.0.push_str(&format!(" {key}={value}"));
            Ok(())
        }
    }
    impl log::Log for Recorder {
        fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
            metadata.target().starts_with("fairlead")
        }

        fn log(&self, record: &log::Record<'_>) {
            if self.enabled(record.metadata()) {
                let mut line = format!("{} {}", record.level(), record.args());
                record.key_values().visit(&mut Pairs(&mut line)).unwrap();
                LINES.lock().unwrap().push(line);
            }
        }

        fn flush(&self) {}
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_boxed_logger(Box::new(Recorder)).unwrap();
        log::set_max_level(log::LevelFilter::Info);
    });
}
