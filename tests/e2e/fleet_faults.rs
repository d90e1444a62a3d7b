//! What Redis does to nodes when it is not well: nothing that a client could notice.
//!
//! In each case, and in each mode: two nodes hold requests and serve a load; Redis gets ill, and then well again. No
//! request fails, none waits longer than `redis.timeout` for it, the log and the metrics tell, and the counts are right
//! within a second of the return.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Client, Fairlead, Fleet, Load, LongWay, Redis, Reply, Reserved, ms, until, within};

/// Requests that hang, on each node.
const HELD: usize = 3;
/// How long Redis is ill.
const ILL: Duration = Duration::from_millis(1200);
/// Slower than any request is but for a busy machine.
const SLOW: Duration = Duration::from_millis(200);
/// From the cure to right counts: pauses between attempts to connect, and one second.
const WELL_AGAIN: Duration = Duration::from_millis(1500);

/// The longest that this process itself was held up: no request can be faster than the machine lets us look.
struct Stalls {
    longest: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
    watch: std::thread::JoinHandle<()>,
}

impl Stalls {
    fn watch() -> Self {
        let (longest, end) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (l, e) = (longest.clone(), end.clone());
        let watch = std::thread::spawn(move || {
            while !e.load(SeqCst) {
                let start = Instant::now();
                std::thread::sleep(ms(1));
                l.fetch_max(start.elapsed().as_millis() as u64, SeqCst);
            }
        });
        Stalls { longest, end, watch }
    }

    fn end(self) -> Duration {
        self.end.store(true, SeqCst);
        self.watch.join().unwrap();
        ms(self.longest.load(SeqCst))
    }
}

/// Nodes under load, and what is watched of them.
struct Trial {
    fleet: Fleet,
    held: Vec<Client>,
    loads: Vec<Load>,
    stalls: Stalls,
    begun: Instant,
}

/// What the log says of it.
#[derive(Clone, Copy, PartialEq)]
enum Told {
    /// Lost once, and back once.
    Lost,
    /// Nothing: it was only a moment.
    Nothing,
}

impl Trial {
    async fn begin(mode: &'static str) -> Self {
        Self::on(Fleet::start(mode, 2).await).await
    }

    async fn on(fleet: Fleet) -> Self {
        let held = fleet.hold(HELD).await;
        fleet.settles(ms(2000), 2 * HELD as i64).await;
        fleet.know_each_other(2).await;
        let stalls = Stalls::watch();
        let loads: Vec<_> = fleet.nodes.iter().map(|node| Load::start(node.address(), 6, "/delay/2")).collect();
        let begun = Instant::now();
        for load in &loads {
            until("the load runs", async || load.tally().ok > 30).await;
        }
        Trial { fleet, held, loads, stalls, begun }
    }

    /// Waits until every node has noticed.
    async fn noticed(&self) {
        for node in &self.fleet.nodes {
            within(ms(4000), "it is noticed", async || up(node).await == 0.0).await;
        }
    }

    /// Lets Redis be ill for a while, in which requests go on; views grow old.
    async fn ill(&self) {
        let before: Vec<_> = self.loads.iter().map(|load| load.tally().ok).collect();
        tokio::time::sleep(ILL).await;
        for (load, before) in self.loads.iter().zip(before) {
            let now = load.tally().ok;
            assert!(now > before + 50, "requests go on: {before}, {now}");
        }
        for node in &self.fleet.nodes {
            let age = node.metric("fairlead_view_age_seconds", &[("pool", "app")]).await;
            assert!(age > 1.0, "the view's age tells: {age}");
            assert_eq!(node.pool("app").await["mode"], "local");
        }
    }

    /// Redis is well: everything is right soon, and then the load ends, and then everything does.
    async fn ends(self, told: Told) {
        let cured = Instant::now();
        let Trial { fleet, held, loads, stalls, begun } = self;
        let mode = fleet.mode;
        within(WELL_AGAIN, "all of it agrees", async || {
            let truth = fleet.redis.truth().await;
            truth.holds(2, 3) && truth.rows.values().all(|row| row.values().sum::<i64>() >= HELD as i64)
        })
        .await;
        let right = cured.elapsed();
        for node in &fleet.nodes {
            until("in the fleet again", async || {
                up(node).await == 1.0 && node.pool("app").await["mode"] == mode && node.pool("app").await["nodes"] == 2
            })
            .await;
        }
        let mut took = Vec::new();
        for load in loads {
            let tally = load.stop().await;
            assert_eq!(tally.failures, Default::default(), "mode {mode}");
            took.extend(tally.took);
        }
        let stall = stalls.end();
        took.sort_by_key(|(_, took)| *took);
        let (median, (at, slowest)) = (took[took.len() / 2].1, took[took.len() - 1]);
        let at = at - begun;
        println!("{mode}: right after {right:?}; median {median:?}, slowest {slowest:?} at {at:?}; stall {stall:?}");
        assert!(slowest < SLOW + 4 * (stall + median), "mode {mode}: {slowest:?} at {at:?}, stalled for {stall:?}");
        assert!(median < ms(60) + stall, "mode {mode}: {median:?}");
        fleet.settles(ms(1000), 2 * HELD as i64).await;
        for node in &fleet.nodes {
            let lost = node.events("redis_lost").len();
            let back = node.events("redis_back");
            let expected = if told == Told::Lost { 1 } else { 0 };
            assert_eq!((lost, back.len()), (expected, expected), "mode {mode}: {}", node.log());
            assert!(node.events("redis_refuses").is_empty(), "mode {mode}: {}", node.log());
            assert!(back.iter().all(|line| line["away_ms"].as_u64().unwrap() >= 500), "{back:?}");
            for line in node.log_lines() {
                let ours = line["target"].as_str().is_some_and(|target| target.starts_with("fairlead"));
                assert!(!ours || line["level"] != "ERROR", "{line}");
            }
        }
        drop(held);
        fleet.settles(ms(2000), 0).await;
    }

    /// The load ends, and no request failed.
    async fn over(self) {
        for load in self.loads {
            assert_eq!(load.stop().await.failures, Default::default(), "mode {}", self.fleet.mode);
        }
        self.fleet.settles(ms(1000), 2 * HELD as i64).await;
        drop(self.held);
        self.fleet.settles(ms(2000), 0).await;
        self.stalls.end();
    }
}

async fn up(node: &Fairlead) -> f64 {
    node.metric("fairlead_redis_up", &[]).await
}

const MODES: [&str; 2] = ["batched", "exact"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn away_and_back_empty() {
    for mode in MODES {
        let mut trial = Trial::begin(mode).await;
        trial.fleet.redis.stop();
        trial.noticed().await;
        trial.ill().await;
        trial.fleet.redis.run().await;
        trial.ends(Told::Lost).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hung() {
    for mode in MODES {
        let trial = Trial::begin(mode).await;
        trial.fleet.redis.signal(Signal::SIGSTOP);
        trial.noticed().await;
        trial.ill().await;
        trial.fleet.redis.signal(Signal::SIGCONT);
        trial.ends(Told::Lost).await;
    }
}

/// For a shorter time than anybody would call it lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hung_for_a_moment() {
    for mode in MODES {
        let trial = Trial::begin(mode).await;
        trial.fleet.redis.signal(Signal::SIGSTOP);
        tokio::time::sleep(ms(400)).await;
        trial.fleet.redis.signal(Signal::SIGCONT);
        trial.ends(Told::Nothing).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow() {
    for mode in MODES {
        let redis = Redis::start().await;
        let way = LongWay::to(redis.address).await;
        let fleet = Fleet::at(redis, &format!("redis://{}", way.address), mode, 2).await;
        let trial = Trial::on(fleet).await;
        way.delay(ms(200));
        let before: Vec<_> = trial.loads.iter().map(|load| load.tally().ok).collect();
        tokio::time::sleep(2 * ILL).await;
        for (load, before) in trial.loads.iter().zip(before) {
            assert!(load.tally().ok > before + 100, "requests go on");
        }
        for node in &trial.fleet.nodes {
            let pool = node.pool("app").await;
            assert_eq!(pool["mode"], "batched", "nobody waits for it: {pool}");
            let age = node.metric("fairlead_view_age_seconds", &[("pool", "app")]).await;
            assert!((0.09..1.0).contains(&age), "{age}");
        }
        if mode == "exact" {
            let waits = trial.fleet.nodes[0].metric("fairlead_redis_waits_total", &[]).await;
            assert!((1.0..60.0).contains(&waits), "{waits} waited in vain");
        }
        way.delay(ms(0));
        trial.ends(Told::Nothing).await;
    }
}

/// Redis forgets or is told to do something, and goes on at once.
async fn told(commands: &[&[&str]]) {
    for mode in MODES {
        told_to(Fleet::start(mode, 2).await, commands).await;
    }
}

async fn told_to(fleet: Fleet, commands: &[&[&str]]) {
    let trial = Trial::on(fleet).await;
    for reply in trial.fleet.redis.ask_all(commands).await {
        assert!(!matches!(reply, Reply::Error(_)), "{reply:?}");
    }
    tokio::time::sleep(ms(30)).await;
    trial.ends(Told::Nothing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_deleted() {
    told(&[&["FLUSHALL"]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scripts_are_forgotten() {
    told(&[&["SCRIPT", "FLUSH"]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sorted_set_is_deleted() {
    told(&[&["DEL", "fairlead:{default/app}:load"]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_totals_are_deleted() {
    told(&[&["DEL", "fairlead:{default/app}:tot"]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_is_deleted() {
    told(&[&["DEL", "fairlead:{default/app}:servers"]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leases_are_deleted() {
    told(&[&["DEL", "fairlead:{default/app}:lease"]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_claims_are_deleted() {
    told(&[&["DEL", "fairlead:{default/app}:claims"]]).await;
}

/// It is there only where weights differ: what Redis picks by in exact mode.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_weighted_order_is_deleted() {
    const ORDER: &str = "fairlead:{default/app}:order";
    for mode in MODES {
        let fleet = Fleet::weighted(mode, 2, [1, 2, 4]).await;
        assert_eq!(fleet.redis.ask(&["ZCARD", ORDER]).await.text(), "3");
        told_to(fleet, &[&["DEL", ORDER]]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_is_deleted() {
    told(&[&["EVAL", "return redis.call('DEL', redis.call('KEYS', 'fairlead:{default/app}:row:*')[1])", "0"]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_cut() {
    for mode in MODES {
        let trial = Trial::begin(mode).await;
        trial.fleet.redis.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        let Trial { fleet, .. } = &trial;
        within(WELL_AGAIN, "connected again", async || {
            let back = fleet.nodes.iter().all(|node| !node.events("redis_back").is_empty());
            back && fleet.redis.truth().await.holds(2, 3)
        })
        .await;
        trial.over().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_replica() {
    for mode in MODES {
        let trial = Trial::begin(mode).await;
        let nobody = Reserved::new();
        let port = nobody.address.port().to_string();
        trial.fleet.redis.ask(&["REPLICAOF", "127.0.0.1", &port]).await;
        trial.noticed().await;
        trial.ill().await;
        trial.fleet.redis.ask(&["REPLICAOF", "NO", "ONE"]).await;
        trial.ends(Told::Lost).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_of_memory() {
    for mode in MODES {
        let trial = Trial::begin(mode).await;
        let set = trial
            .fleet
            .redis
            .ask_all(&[&["CONFIG", "SET", "maxmemory-policy", "noeviction"], &["CONFIG", "SET", "maxmemory", "1"]]);
        set.await;
        trial.noticed().await;
        trial.ill().await;
        trial.fleet.redis.ask(&["CONFIG", "SET", "maxmemory", "0"]).await;
        trial.ends(Told::Lost).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_password() {
    for mode in MODES {
        let trial = Trial::begin(mode).await;
        let set = trial.fleet.redis.ask_all(&[
            &["CONFIG", "SET", "requirepass", "secret"],
            &["AUTH", "secret"],
            &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"],
        ]);
        set.await;
        trial.noticed().await;
        trial.ill().await;
        trial.fleet.redis.ask_all(&[&["AUTH", "secret"], &["CONFIG", "SET", "requirepass", ""]]).await;
        trial.ends(Told::Lost).await;
    }
}

/// The keys of the pool, at one moment.
async fn keys(redis: &Redis) -> Vec<String> {
    let Reply::List(keys) = redis.ask(&["KEYS", "fairlead:{default/app}:*"]).await else { panic!("no list") };
    keys.iter().map(Reply::text).collect()
}

async fn cluster_node() -> (Redis, Reserved) {
    let bus = Reserved::new();
    let port = bus.address.port().to_string();
    let args = ["--cluster-enabled", "yes", "--cluster-port", &port, "--cluster-require-full-coverage", "no"];
    let mut redis = Redis::stopped(&args);
    redis.run().await;
    (redis, bus)
}

/// Two primaries; all slots are the first one's.
async fn cluster() -> [(Redis, Reserved); 2] {
    let nodes = [cluster_node().await, cluster_node().await];
    assert_eq!(nodes[0].0.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await.text(), "OK");
    let (port, bus) = (nodes[1].0.address.port().to_string(), nodes[1].1.address.port().to_string());
    assert_eq!(nodes[0].0.ask(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await.text(), "OK");
    for (node, _) in &nodes {
        until("a cluster", async || {
            let info = node.ask(&["CLUSTER", "INFO"]).await.text();
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:2")
        })
        .await;
    }
    nodes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clusters_slot_moves() {
    for mode in MODES {
        let [(first, _bus), (second, _other_bus)] = cluster().await;
        let url = format!("redis-cluster://{},{}", first.address, second.address);
        let mut trial = Trial::on(Fleet::at(first, &url, mode, 2).await).await;
        let first = &trial.fleet.redis;
        let slot = first.ask(&["CLUSTER", "KEYSLOT", "fairlead:{default/app}:load"]).await.text();
        let ids = [first.ask(&["CLUSTER", "MYID"]).await.text(), second.ask(&["CLUSTER", "MYID"]).await.text()];
        second.ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[0]]).await;
        first.ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[1]]).await;
        let (keys, port) = (keys(first).await, second.address.port().to_string());
        let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        migrate.extend(keys.iter().map(String::as_str));
        assert_eq!(first.ask(&migrate).await.text(), "OK");
        for node in [&second, first] {
            assert_eq!(node.ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &ids[1]]).await.text(), "OK");
        }
        let _first = std::mem::replace(&mut trial.fleet.redis, second);
        let well = within(ms(1000), "all of it agrees", async || trial.fleet.redis.truth().await.holds(2, 3)).await;
        println!("{mode}: right after {well:?}");
        let done: Vec<_> = trial.loads.iter().map(|load| load.tally().ok).collect();
        for (load, done) in trial.loads.iter().zip(done) {
            until("requests go on", async || load.tally().ok > done + 50).await;
        }
        trial.over().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinels_failover() {
    for mode in MODES {
        let primary = Redis::start().await;
        let port = primary.address.port().to_string();
        let mut replica = Redis::stopped(&["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"]);
        replica.run().await;
        let linked = async || replica.ask(&["INFO", "replication"]).await.text().contains("master_link_status:up");
        until("a replica", linked).await;
        let sentinel = Redis::sentinel(&primary).await;
        // A sentinel looks for replicas every 10 s only; the first look is soon after its start.
        let known = async || {
            let known = sentinel.ask(&["SENTINEL", "REPLICAS", "main"]).await.text();
            known.contains(&replica.address.port().to_string())
        };
        until("the sentinel knows the replica", known).await;
        let url = format!("redis-sentinel://{}?sentinelServiceName=main", sentinel.address);
        let mut trial = Trial::on(Fleet::at(primary, &url, mode, 2).await).await;
        trial.fleet.redis.stop();
        trial.noticed().await;
        let _dead = std::mem::replace(&mut trial.fleet.redis, replica);
        for node in &trial.fleet.nodes {
            until("it is back", async || !node.events("redis_back").is_empty()).await;
        }
        let well = within(ms(1000), "all of it agrees", async || trial.fleet.redis.truth().await.holds(2, 3)).await;
        println!("{mode}: right after {well:?}");
        for node in &trial.fleet.nodes {
            assert_eq!((node.events("redis_lost").len(), node.events("redis_back").len()), (1, 1), "{}", node.log());
        }
        trial.over().await;
    }
}
