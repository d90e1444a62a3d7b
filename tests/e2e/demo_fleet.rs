//! `fairlead demo --redis`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal::{SIGINT, SIGKILL};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::support::{Fairlead, Reserved, get, ms, run_to_end, until, within};

/// A `redis-server` on a socket of its own.
struct Redis {
    child: Child,
    socket: PathBuf,
    _dir: TempDir,
}

impl Redis {
    async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let socket = dir.path().join("redis.sock");
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--dir"]).arg(dir.path()).arg("--unixsocket").arg(&socket);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.expect("redis-server is not installed: apt-get install redis-server");
        let redis = Redis { child, socket, _dir: dir };
        until("redis-server answers", async || redis.ask(&["PING"]) == "PONG").await;
        redis
    }

    fn ask(&self, words: &[&str]) -> String {
        let output = Command::new("redis-cli").arg("-s").arg(&self.socket).args(words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn rows(&self) -> usize {
        self.ask(&["KEYS", "fairlead:{demo/app}:row:*"]).lines().filter(|line| !line.is_empty()).count()
    }

    fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The child processes of a process.
fn children(of: u32) -> BTreeSet<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{of}/task")).unwrap();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect()
}

fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).is_some_and(|state| state != "Z")
}

/// Numbers of requests in flight in the lines of servers: each node's, and the fleet's.
fn counts(demo: &Fairlead, nodes: usize) -> Vec<Vec<Option<u32>>> {
    let output = demo.output();
    let words = output.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let lines = words.filter(|words| words.len() == nodes + 7 && words[1].starts_with('s') && words[1].len() == 2);
    lines.map(|words| words[3..4 + nodes].iter().map(|word| word.parse().ok()).collect()).collect()
}

#[tokio::test]
async fn three_nodes_share_one_load_and_leave_nothing_behind() {
    let redis = Redis::start().await;
    let mut demo = Fairlead::spawn_with(&["demo", "--port", "0", "--redis", &redis.url(), "--nodes", "3"]);
    until("three nodes work, and the fleet counts more than each", async || {
        assert!(demo.runs(), "it ended");
        let seen = counts(&demo, 3);
        let worked: BTreeSet<usize> =
            seen.iter().flat_map(|line| (0..3).filter(|&node| line[node].is_some_and(|count| count > 0))).collect();
        let more = |line: &Vec<Option<u32>>| line[3] > line[..3].iter().copied().max().flatten();
        worked.len() == 3 && seen.iter().any(more)
    })
    .await;
    let output = demo.output();
    assert!(output.contains("mode: ") && !output.contains("Redis is away"), "{output}");
    assert_eq!(redis.rows(), 3);
    let load = redis.ask(&["ZRANGE", "fairlead:{demo/app}:load", "0", "-1"]);
    assert_eq!(load.lines().collect::<BTreeSet<_>>(), ["s1", "s2", "s3", "s4"].into());

    // Each node answers.
    let ports = output.split("127.0.0.1:").nth(1).unwrap().split("   ").next().unwrap();
    let ports: Vec<u16> = ports.split(", ").map(|port| port.parse().unwrap()).collect();
    assert_eq!(ports.len(), 3);
    for port in ports {
        assert_eq!(get(([127, 0, 0, 1], port).into(), "/gethandler", "").await.status, 200);
    }

    let nodes = children(demo.pid());
    assert_eq!(nodes.len(), 3);
    demo.signal(SIGINT);
    let (code, took) = demo.exit(ms(10_000)).await;
    assert_eq!(code, Some(0), "{}", demo.log());
    assert!(took < ms(1_500), "Ctrl-C took {took:?}");
    assert_eq!(nodes.into_iter().filter(|&pid| alive(pid)).count(), 0);
    assert_eq!(redis.rows(), 0, "{}", redis.ask(&["KEYS", "*"]));
    assert!(!demo.log().contains("panicked"), "{}", demo.log());
}

#[tokio::test]
async fn a_killed_demo_takes_its_nodes_along_and_a_killed_node_is_shown() {
    let redis = Redis::start().await;
    let mut demo = Fairlead::spawn_with(&["demo", "--port", "0", "--redis", &redis.url(), "--nodes", "2"]);
    until("both nodes are shown", async || {
        assert!(demo.runs(), "it ended");
        counts(&demo, 2).iter().any(|line| line[0].is_some() && line[1].is_some())
    })
    .await;
    let nodes = children(demo.pid());
    assert_eq!(nodes.len(), 2);
    kill(Pid::from_raw(*nodes.first().unwrap()), SIGKILL).unwrap();
    until("a node is missing", async || counts(&demo, 2).last().is_some_and(|line| line[..2].contains(&None))).await;

    demo.signal(SIGKILL);
    within(Duration::from_secs(5), "the other node ends", async || !nodes.iter().any(|&pid| alive(pid))).await;
    assert!(redis.rows() <= 1, "what the killed node left goes with its lease, the other leaves nothing");
}

#[tokio::test]
async fn without_redis_the_nodes_start_and_say_so() {
    let nobody = Reserved::new();
    let url = format!("redis://:hush@{}", nobody.address);
    let mut demo = Fairlead::spawn_with(&["demo", "--port", "0", "--redis", &url, "--nodes", "2"]);
    until("lines without a count of the fleet", async || {
        assert!(demo.runs(), "it ended");
        counts(&demo, 2).iter().any(|line| line[0].is_some() && line[1].is_some() && line[2].is_none())
    })
    .await;
    let output = demo.output();
    assert!(output.contains("Redis is away") && output.contains("mode: local"), "{output}");
    assert!(!output.contains("hush") && !demo.log().contains("hush"), "a password is shown");
    let arguments = children(demo.pid()).into_iter().map(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap());
    assert!(arguments.into_iter().all(|line| !String::from_utf8_lossy(&line).contains("hush")));
    let start = Instant::now();
    demo.signal(SIGINT);
    assert_eq!(demo.exit(ms(10_000)).await.0, Some(0));
    assert!(start.elapsed() < ms(1_500), "Ctrl-C took {:?}", start.elapsed());
}

#[tokio::test]
async fn a_taken_port_ends_it_with_the_way_out() {
    let (redis, taken) = (Reserved::new(), Reserved::new());
    let _listener = taken.listen();
    let (url, port) = (format!("redis://{}", redis.address), taken.address.port());
    let first = (port - 1).to_string();
    let mut demo = Fairlead::spawn_with(&["demo", "--port", &first, "--redis", &url, "--nodes", "2"]);
    assert_eq!(demo.exit(ms(10_000)).await.0, Some(1));
    // Somebody may have the port before it as well.
    let said = demo.log();
    let named = said.contains(&format!("port {port} is in use")) || said.contains(&format!("port {first} is in use"));
    assert!(named && said.contains("--port") && said.contains("did not start"), "{said}");
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    for (args, words) in [
        (&["--nodes", "2"][..], ["--nodes 2", "--redis"]),
        (&["--nodes", "2", "--redis", "nonsense"], ["--redis", "is not a URL"]),
        (&["--redis", ""], ["--redis", "empty"]),
    ] {
        let finished = run_to_end(Path::new("."), &[&["demo"], args].concat()).await;
        assert_eq!(finished.code, Some(1), "{args:?}: {}", finished.err);
        assert!(words.iter().all(|word| finished.err.contains(word)), "{args:?}: {}", finished.err);
    }
    for args in [&["demo", "--nodes", "0"][..], &["demo", "--nodes", "9", "--redis", "redis://h"]] {
        assert_eq!(run_to_end(Path::new("."), args).await.code, Some(2), "{args:?}");
    }
    let finished = run_to_end(Path::new("."), &["demo-node"]).await;
    assert_eq!(finished.code, Some(1));
    assert!(finished.err.contains("fairlead demo --redis"), "{}", finished.err);
}
