//! The command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Share of the servers' capacity that is asked for.
const LOAD: f64 = 0.85;
/// The same when Redis has a fault: room enough that nothing but the fault makes anybody wait.
const LOAD_WITH_FAULT: f64 = 0.5;

/// Tail latency of a fleet of proxies over the same servers, for several policies.
#[derive(Debug, Parser)]
#[command(name = "fleet", version = None)]
pub struct Options {
    /// Copies of each proxy.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub nodes: u32,
    /// Requests per second to the whole fleet [default: 0.85 of what the servers can do, 0.5 with a fault].
    #[arg(long)]
    rate: Option<f64>,
    /// How long to measure.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Seconds before that, under the same load.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(0..=600))]
    warm_up: u64,
    /// The servers: MEAN_MS:WORKERS, by commas.
    #[arg(long, value_delimiter = ',', default_value = "20:1,20:1,20:1,20:1,40:1,40:1,40:1,40:1")]
    pub servers: Vec<Server>,
    /// How the time of a request at a server is spread.
    #[arg(long, value_enum, default_value = "exponential")]
    pub service: Service,
    /// Whom to measure [default: all, with a fault exact and batched].
    #[arg(long, value_enum, value_delimiter = ',')]
    policies: Vec<Policy>,
    /// How often; the table shows medians, with a fault the worst.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub rounds: u64,
    /// What happens to Redis for five seconds in the middle; each policy also runs without.
    #[arg(long, value_enum, default_value = "none")]
    pub redis_fault: Fault,
    /// `redis.timeout` of the nodes, in milliseconds.
    #[arg(long, default_value_t = 5)]
    pub redis_timeout: u64,
    /// The binary [default: the one that cargo has built for this program].
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_fairlead"), hide_default_value = true)]
    pub fairlead: PathBuf,
    /// Shows what the first node of each fleet has logged.
    #[arg(long)]
    pub logs: bool,
    /// What the requests are drawn from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// What `cargo bench` says to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// Requests per second to the whole fleet.
    pub fn rate(&self) -> f64 {
        let load = if self.redis_fault == Fault::None { LOAD } else { LOAD_WITH_FAULT };
        self.rate.unwrap_or_else(|| load * self.capacity()).clamp(0.1, 100_000.0)
    }

    /// Requests per second that all servers together can serve.
    pub fn capacity(&self) -> f64 {
        self.servers.iter().map(|server| server.workers as f64 / server.mean.as_secs_f64()).sum()
    }

    /// How long to measure: with a fault long enough to see before, during and after.
    pub fn seconds(&self) -> Duration {
        let least = if self.redis_fault == Fault::None { 0 } else { 9 };
        Duration::from_secs(self.seconds.max(least))
    }

    /// How long the load runs before.
    pub fn warm_up(&self) -> Duration {
        Duration::from_secs(self.warm_up)
    }

    /// Whom to measure.
    pub fn policies(&self) -> Vec<Policy> {
        match (self.policies.is_empty(), self.redis_fault) {
            (false, _) => self.policies.clone(),
            (true, Fault::None) => Policy::value_variants().to_vec(),
            (true, _) => vec![Policy::Exact, Policy::Batched],
        }
    }
}

/// One server.
#[derive(Clone, Debug)]
pub struct Server {
    /// Mean time of a request, without waiting.
    pub mean: Duration,
    /// Requests that it works on at a time.
    pub workers: usize,
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mean, workers) = text.split_once(':').ok_or("a server is MEAN_MS:WORKERS, such as 20:1")?;
        let mean =
            mean.parse().ok().filter(|ms: &f64| (0.01..=60_000.0).contains(ms)).ok_or("MEAN_MS is 0.01 to 60000")?;
        let workers = workers.parse().ok().filter(|n| (1..=10_000).contains(n)).ok_or("WORKERS is 1 to 10000")?;
        Ok(Server { mean: Duration::from_secs_f64(mean / 1e3), workers })
    }
}

/// How the time of a request at a server is spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Service {
    /// Much like real work: most requests are short, some are long.
    Exponential,
    /// Always the mean.
    Fixed,
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Policy {
    /// Fairlead, `redis.mode: auto`.
    Auto,
    /// Fairlead, `redis.mode: batched`.
    Batched,
    /// Fairlead, `redis.mode: exact`.
    Exact,
    /// Fairlead without Redis.
    Local,
    /// HAProxy, `leastconn`.
    Haproxy,
    /// nginx, `least_conn`.
    Nginx,
    /// One HAProxy that sees every request: what a fleet could reach.
    HaproxySingle,
}

impl Policy {
    /// `redis.mode`, of those that use Redis.
    pub fn mode(self) -> Option<&'static str> {
        match self {
            Policy::Auto => Some("auto"),
            Policy::Batched => Some("batched"),
            Policy::Exact => Some("exact"),
            Policy::Local | Policy::Haproxy | Policy::Nginx | Policy::HaproxySingle => None,
        }
    }

    /// The word in the tables.
    pub fn label(self) -> &'static str {
        match self {
            Policy::Auto => "Fairlead auto",
            Policy::Batched => "Fairlead batched",
            Policy::Exact => "Fairlead exact",
            Policy::Local => "Fairlead local",
            Policy::Haproxy => "HAProxy leastconn",
            Policy::Nginx => "nginx least_conn",
            Policy::HaproxySingle => "one HAProxy",
        }
    }
}

/// What happens to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Fault {
    /// Nothing.
    None,
    /// It is killed, and comes back empty.
    Stop,
    /// SIGSTOP: connections stand, and nobody answers; then SIGCONT.
    Sigstop,
    /// Every answer comes 200 ms late.
    Slow200,
}

impl Fault {
    /// The word in the tables.
    pub fn label(self) -> &'static str {
        match self {
            Fault::None => "well",
            Fault::Stop => "killed",
            Fault::Sigstop => "stopped (SIGSTOP)",
            Fault::Slow200 => "200 ms slow",
        }
    }
}
