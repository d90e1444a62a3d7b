//! Programs that we start, and so end.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Outcome;
use super::http::Connection;

/// How long a program may take to end when asked.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long a program may take until it serves.
const READY_WITHIN: Duration = Duration::from_secs(15);
/// Ticks per second in /proc, on every Linux there is.
const TICKS: f64 = 100.0;

/// Where a program is: in PATH, or where Debian keeps daemons.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// A running program; dropped, it ends.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it; what it says is appended to `log`.
    pub fn start(program: &Path, arguments: &[String], log: PathBuf) -> Outcome<Self> {
        let out = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().map_err(|error| format!("{}: {error}", program.display()))?;
        Ok(Process { child, log })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// What it has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it answers `/heartbeat` with 200 at `address`.
    pub async fn serves(&mut self, address: SocketAddr) -> Outcome<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if let Ok(mut connection) = Connection::open(address).await
                && let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_secs(2), connection.get("/heartbeat")).await
                && answer.status == 200
            {
                return Ok(());
            }
            if Instant::now() > deadline || self.has_ended() {
                return Err(format!("a proxy does not serve:\n{}", self.log()).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        // Until it has been waited for, the id is its own.
        kill(Pid::from_raw(self.id() as i32), signal).ok();
    }

    /// Ends it without asking.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Memory that it holds, in bytes.
    pub fn memory(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default() * 1024
    }

    /// Processor time that it has used, user and system.
    pub fn cpu(&self) -> Duration {
        let folder = PathBuf::from(format!("/proc/{}", self.id()));
        by_threads(&folder).or_else(|| by_ticks(&folder)).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.has_ended() {
            return;
        }
        self.signal(Signal::SIGTERM);
        self.signal(Signal::SIGCONT);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if self.has_ended() {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.kill();
    }
}

/// In nanoseconds: ticks of 10 ms are coarse for a node that sees 16 requests a second.
fn by_threads(folder: &Path) -> Option<Duration> {
    let mut sum = 0;
    for thread in std::fs::read_dir(folder.join("task")).ok()? {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        sum += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    (sum > 0).then(|| Duration::from_nanos(sum))
}

/// In ticks, for kernels that do not tell more.
fn by_ticks(folder: &Path) -> Option<Duration> {
    let text = std::fs::read_to_string(folder.join("stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_secs_f64(ticks as f64 / TICKS))
}
