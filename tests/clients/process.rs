//! Programs that run to their end, in a directory of their own.

use std::fs::{File, read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::support::within;

/// The longest that a client may take; most need a second.
const LIMIT: Duration = Duration::from_secs(90);

/// How a program ended.
pub struct Ended {
    /// Its exit code; None when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ended {
    /// Fails the test unless all went well.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.out, self.err);
        self
    }
}

/// Runs a program to its end; `dir` is its working directory and its home.
pub async fn run(dir: &Path, program: &str, args: &[&str]) -> Ended {
    let (out, err) = (dir.join(".stdout"), dir.join(".stderr"));
    let mut command = Command::new(program);
    command.args(args).current_dir(dir).env("HOME", dir).env("TMPDIR", dir);
    command.env_remove("XDG_CONFIG_HOME").env_remove("XDG_CACHE_HOME");
    command.stdin(Stdio::null()).stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
    // A group of its own, so that its children end with it.
    let child = command.process_group(0).spawn();
    let child = child.unwrap_or_else(|e| panic!("{program}: {e}: `make test-clients` installs it"));
    let mut running = Running { child, err: err.clone() };
    within(LIMIT, &format!("{program} ends"), async || running.child.try_wait().unwrap().is_some()).await;
    let code = running.child.wait().unwrap().code();
    Ended { code, out: text(&out), err: text(&err) }
}

fn text(file: &Path) -> String {
    String::from_utf8_lossy(&read(file).unwrap()).into_owned()
}

struct Running {
    child: Child,
    err: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL).ok();
            self.child.wait().ok();
            eprintln!("--- it wrote:\n{}", text(&self.err));
        }
    }
}
