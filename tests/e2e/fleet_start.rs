//! How a node joins the fleet and leaves it.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{Fairlead, Fleet, Redis, config, ms, run_to_end, until, within};

const EXIT: Duration = Duration::from_secs(5);

fn place(node: &Fairlead, event: &str) -> usize {
    let lines = node.log_lines();
    lines.iter().position(|line| line["event"] == event).unwrap_or_else(|| panic!("no {event} in {}", node.log()))
}

#[tokio::test]
async fn a_node_joins_before_it_listens() {
    let fleet = Fleet::start("auto", 2).await;
    for node in &fleet.nodes {
        assert!(place(node, "joined_the_fleet") < place(node, "listening"), "{}", node.log());
        assert_eq!(node.metric("fairlead_redis_up", &[]).await, 1.0);
    }
    fleet.settles(ms(1000), 0).await;
    fleet.know_each_other(2).await;
}

#[tokio::test]
async fn the_admin_api_and_the_metrics_tell_of_the_fleet() {
    for mode in ["batched", "exact"] {
        let fleet = Fleet::start(mode, 2).await;
        fleet.know_each_other(2).await;
        let node = &fleet.nodes[0];
        for _ in 0..5 {
            assert_eq!(node.get("/").await.status, 200);
        }
        // Unless a wait has just run out, on a busy machine.
        until("the mode is told", async || node.pool("app").await["mode"] == mode).await;
        let pool = node.pool("app").await;
        assert_eq!(pool["nodes"], 2, "{pool}");
        assert!(pool["view_age_ms"].as_u64().unwrap() < 1100, "{pool}");
        assert!(pool["servers"][0]["in_flight"]["fleet"].is_u64(), "{pool}");
        assert!(node.metric("fairlead_redis_calls_total", &[("call", "exchange"), ("result", "ok")]).await >= 1.0);
        let age = node.metric("fairlead_view_age_seconds", &[("pool", "app")]).await;
        assert!((0.0..1.1).contains(&age), "{age}");
        let page = node.admin_get("/metrics").await.text();
        for name in ["fairlead_redis_up 1", "fairlead_fleet_drift_total{pool=\"app\"} 0"] {
            assert!(page.contains(name), "{name} in {page}");
        }
        assert!(page.contains("fairlead_redis_round_trip_seconds_bucket"));
    }
}

#[tokio::test]
async fn without_redis_a_node_serves_and_joins_later() {
    for mode in ["batched", "exact"] {
        let mut fleet = Fleet::without_nodes(Redis::stopped(&[]), mode);
        let yaml = fleet.yaml(&fleet.redis.url(), ", start_wait: 300ms");
        fleet.nodes.push(Fairlead::start(&yaml).await);
        let node = &fleet.nodes[0];
        assert!(place(node, "started_without_the_fleet") < place(node, "listening"));
        for _ in 0..10 {
            assert_eq!(node.get("/").await.status, 200);
        }
        assert_eq!(node.metric("fairlead_redis_up", &[]).await, 0.0);
        assert_eq!(node.metric("fairlead_view_age_seconds", &[]).await, -1.0);
        let pool = node.pool("app").await;
        assert_eq!((&pool["mode"], &pool["nodes"]), (&"local".into(), &1.into()), "{pool}");
        let held = fleet.hold(2).await;
        fleet.redis.run().await;
        fleet.settles(ms(1500), 2).await;
        until("it is in the fleet", async || fleet.nodes[0].pool("app").await["mode"] == mode).await;
        assert_eq!(fleet.nodes[0].metric("fairlead_redis_up", &[]).await, 1.0);
        drop(held);
        fleet.settles(ms(2000), 0).await;
    }
}

#[tokio::test]
async fn a_node_that_ends_leaves_nothing_behind() {
    for mode in ["batched", "exact"] {
        let mut fleet = Fleet::start(mode, 2).await;
        for node in &fleet.nodes {
            assert_eq!(node.get("/").await.status, 200);
        }
        let mut node = fleet.nodes.pop().unwrap();
        node.signal(Signal::SIGTERM);
        let (code, _) = node.exit(EXIT).await;
        assert_eq!(code, Some(0));
        let truth = fleet.redis.truth().await;
        assert_eq!((truth.rows.len(), truth.leases.len()), (1, 1), "{truth:#?}\n{}", node.log());
        fleet.know_each_other(1).await;
        fleet.settles(ms(1000), 0).await;
        fleet.no_drift().await;
    }
}

#[tokio::test]
async fn a_node_that_ends_with_requests_in_flight_takes_them_along() {
    let mut fleet = Fleet::start("exact", 2).await;
    let held = fleet.hold(2).await;
    fleet.settles(ms(1000), 4).await;
    let mut node = fleet.nodes.pop().unwrap();
    node.signal(Signal::SIGTERM);
    until("it drains", async || !node.events("draining").is_empty()).await;
    // While it drains its requests count.
    fleet.settles_with(ms(1000), 4, 2).await;
    drop(held);
    let (code, _) = node.exit(EXIT).await;
    assert_eq!(code, Some(0));
    let truth = fleet.redis.truth().await;
    assert_eq!((truth.rows.len(), truth.leases.len()), (1, 1), "{truth:#?}\n{}", node.log());
}

#[tokio::test]
async fn a_node_ends_in_time_when_redis_hangs() {
    let mut fleet = Fleet::start("exact", 1).await;
    assert_eq!(fleet.nodes[0].get("/").await.status, 200);
    fleet.redis.signal(Signal::SIGSTOP);
    fleet.nodes[0].signal(Signal::SIGTERM);
    let (code, took) = fleet.nodes[0].exit(EXIT).await;
    assert_eq!(code, Some(0));
    assert!(took < ms(4000), "{took:?}");
    fleet.redis.signal(Signal::SIGCONT);
}

/// Processor time that a process has used, in milliseconds.
fn cpu_ms(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // In ticks of 10 ms.
    (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10
}

/// An idle node costs nothing: no busy loop, with Redis and without, and whether or not a connection is held open.
#[tokio::test]
async fn an_idle_node_rests() {
    for mode in ["batched", "exact"] {
        let mut fleet = Fleet::start(mode, 1).await;
        let _held = fleet.hold(1).await;
        fleet.settles(ms(1000), 1).await;
        let pid = fleet.nodes[0].pid();
        let rest = |what: &'static str| async move {
            tokio::time::sleep(ms(500)).await;
            let before = cpu_ms(pid);
            tokio::time::sleep(ms(2000)).await;
            let used = cpu_ms(pid) - before;
            assert!(used <= 100, "{used} ms of 2000 in mode {mode}, {what}");
        };
        let calls = async || {
            let stats = fleet.redis.ask(&["INFO", "commandstats"]).await.text();
            let line = stats.lines().find(|line| line.starts_with("cmdstat_evalsha:"));
            line.map_or(0, |line| line.split(['=', ',']).nth(1).unwrap().parse::<u64>().unwrap())
        };
        tokio::time::sleep(ms(500)).await;
        let before = calls().await;
        rest("with Redis").await;
        let calls = calls().await - before;
        assert!((2..40).contains(&calls), "{calls} calls in 2.5 s of rest in mode {mode}");
        fleet.redis.signal(Signal::SIGSTOP);
        rest("Redis hangs").await;
        fleet.redis.signal(Signal::SIGCONT);
        fleet.redis.stop();
        rest("Redis is away").await;
    }
}

#[tokio::test]
async fn two_namespaces_do_not_meet() {
    let mut fleet = Fleet::start("batched", 1).await;
    let other = Fairlead::start(&fleet.yaml(&fleet.redis.url(), ", namespace: other")).await;
    fleet.nodes.push(other);
    let _held = fleet.hold(1).await;
    fleet.settles_with(ms(1000), 1, 1).await;
    within(ms(2000), "alone", async || fleet.nodes[1].pool("app").await["nodes"] == 1).await;
}

#[tokio::test]
async fn a_redis_that_may_evict_is_told_once() {
    let mut fleet = Fleet::without_nodes(Redis::start().await, "batched");
    let limits: &[&[&str]] =
        &[&["CONFIG", "SET", "maxmemory", "100mb"], &["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]];
    fleet.redis.ask_all(limits).await;
    fleet.join().await;
    let node = &fleet.nodes[0];
    until("it is told", async || node.events("redis_may_evict").len() == 1).await;
    assert_eq!(node.events("redis_may_evict")[0]["policy"], "allkeys-lru");
    fleet.redis.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    until("it is back", async || node.events("redis_back").len() == 1).await;
    fleet.settles(ms(1000), 0).await;
    assert_eq!(node.events("redis_may_evict").len(), 1);
}

#[tokio::test]
async fn certificates_that_cannot_be_used_are_problems_of_the_file() {
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("no.pem"), "no certificate").unwrap();
    for (ca, why) in [
        ("missing.pem", "`missing.pem` cannot be read: there is no such file"),
        ("no.pem", "`no.pem` holds no certificate in PEM form"),
    ] {
        let redis = format!("redis:\n  url: rediss://127.0.0.1:1\n  tls:\n    ca: {ca}\n");
        let yaml = config(&format!("pools: {{ app: {{ servers: [\"127.0.0.1:1\"] }} }}\n{redis}"));
        std::fs::write(dir.path().join("f.yaml"), &yaml).unwrap();
        let line = 1 + yaml.lines().position(|line| line.contains("ca:")).unwrap();
        let expected = format!("f.yaml:{line}: redis.tls.ca: {why}");
        for args in [&["check", "f.yaml"][..], &["run", "-c", "f.yaml"]] {
            let finished = run_to_end(dir.path(), args).await;
            assert_eq!(finished.code, Some(1), "{args:?}: {}", finished.err);
            assert!(finished.err.starts_with(&expected), "{args:?}: {}", finished.err);
            assert!(!finished.err.contains("listening"), "{}", finished.err);
        }
    }
}
