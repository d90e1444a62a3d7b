//! What stands in Redis is what is in flight, whatever happens to requests and nodes.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::task::JoinSet;

use crate::accounting::misfortune;
use crate::support::{Client, Fleet, Load, hold, ms, until, within};

const SOON: Duration = Duration::from_secs(2);

async fn mixed_load(mode: &'static str) {
    let mut fleet = Fleet::start(mode, 3).await;
    // See `websocket`: an upgrade answered within microseconds is cut.
    fleet.origins.iter().for_each(|origin| origin.delay(2));
    let loads: Vec<_> = fleet.nodes.iter().map(|node| Load::start(node.address(), 6, "/delay/3")).collect();
    for round in 0..12 {
        let mut clients = JoinSet::new();
        for node in &fleet.nodes {
            for n in 0..8 {
                clients.spawn(misfortune(node.address(), n));
            }
        }
        clients.join_all().await;
        match round {
            4 => drop(fleet.origins[0].kill().await),
            8 => fleet.origins[0].listen(),
            _ => {}
        }
        let truth = fleet.redis.truth().await;
        assert!(truth.holds(3, 3), "{truth:#?}");
        assert!((0..=50).contains(&truth.sum()), "at most 42 clients at once: {truth:#?}");
    }
    for load in loads {
        let tally = load.stop().await;
        assert!(tally.ok > 100, "{:?}", tally.failures);
    }
    fleet.settles(SOON, 0).await;
    fleet.no_drift().await;
}

#[tokio::test]
async fn misfortunes_leave_nothing_behind_batched() {
    mixed_load("batched").await;
}

#[tokio::test]
async fn misfortunes_leave_nothing_behind_exact() {
    mixed_load("exact").await;
}

#[tokio::test]
async fn misfortunes_leave_nothing_behind_auto() {
    mixed_load("auto").await;
}

/// All nodes see what all nodes have in flight.
async fn one_truth(mode: &'static str) {
    let fleet = Fleet::start(mode, 3).await;
    let held = fleet.hold(4).await;
    fleet.settles(SOON, 12).await;
    // On a busy machine a pick may be given back and made again elsewhere meanwhile.
    until("each row has its own", async || {
        let truth = fleet.redis.truth().await;
        truth.rows.len() == 3 && truth.rows.values().all(|row| row.values().sum::<i64>() == 4)
    })
    .await;
    let truth = fleet.redis.truth().await;
    for node in &fleet.nodes {
        until("every node sees it", async || {
            let pool = node.pool("app").await;
            let servers = pool["servers"].as_array().unwrap();
            servers.iter().all(|s| s["in_flight"]["fleet"].as_i64() == Some(truth.load[s["name"].as_str().unwrap()]))
        })
        .await;
        assert_eq!(node.in_flight().await, 4);
        assert_eq!(node.metric("fairlead_in_flight", &[("scope", "fleet")]).await, 12.0);
    }
    drop(held);
    fleet.settles(SOON, 0).await;
    fleet.no_drift().await;
}

#[tokio::test]
async fn what_is_held_is_seen_by_all_batched() {
    one_truth("batched").await;
}

#[tokio::test]
async fn what_is_held_is_seen_by_all_exact() {
    one_truth("exact").await;
}

async fn tunnel(address: std::net::SocketAddr) -> Client {
    let mut client = Client::connect(address).await;
    client.send_get("/ws", "Connection: Upgrade\r\nUpgrade: websocket\r\n").await;
    assert_eq!(client.head().await.word(1), "101");
    client
}

#[tokio::test]
async fn a_websocket_counts_while_it_is_open() {
    for mode in ["batched", "exact"] {
        let fleet = Fleet::start(mode, 2).await;
        fleet.origins.iter().for_each(|origin| origin.delay(2));
        let mut open = Vec::new();
        for _ in 0..3 {
            for node in &fleet.nodes {
                open.push(tunnel(node.address()).await);
            }
        }
        fleet.settles(SOON, 6).await;
        open.truncate(4);
        fleet.settles(SOON, 4).await;
        drop(open);
        fleet.settles(SOON, 0).await;
        fleet.no_drift().await;
    }
}

async fn killed(mode: &'static str) {
    let mut fleet = Fleet::start(mode, 3).await;
    let held = fleet.hold(3).await;
    fleet.settles(SOON, 9).await;
    fleet.know_each_other(3).await;
    fleet.nodes[2].signal(Signal::SIGKILL);
    // Its clients' connections are gone too; the others' are not.
    let took = fleet.settles_with(ms(4200), 6, 2).await;
    assert!(took > ms(1500), "not before its lease ran out: {took:?}");
    drop(fleet.nodes.pop());
    fleet.know_each_other(2).await;
    let mut reaped = 0.0;
    for node in &fleet.nodes {
        assert_eq!(node.in_flight().await, 3);
        reaped += node.metric("fairlead_fleet_reaped_total", &[]).await;
    }
    assert_eq!(reaped, 1.0, "one node takes it back");
    drop(held);
    fleet.settles(SOON, 0).await;
    fleet.no_drift().await;
}

#[tokio::test]
async fn a_killed_nodes_share_is_taken_back_batched() {
    killed("batched").await;
}

#[tokio::test]
async fn a_killed_nodes_share_is_taken_back_exact() {
    killed("exact").await;
}

#[tokio::test]
async fn a_killed_nodes_share_is_taken_back_under_load() {
    let mut fleet = Fleet::start("auto", 3).await;
    let held = hold(&fleet.nodes[2], 5).await;
    let loads: Vec<_> = fleet.nodes[..2].iter().map(|node| Load::start(node.address(), 4, "/delay/3")).collect();
    until("they are counted", async || fleet.redis.truth().await.sum() >= 5).await;
    fleet.nodes[2].signal(Signal::SIGKILL);
    within(ms(4000), "two rows", async || fleet.redis.truth().await.rows.len() == 2).await;
    drop((held, fleet.nodes.pop()));
    for load in loads {
        assert_eq!(load.stop().await.failures, Default::default());
    }
    fleet.settles(SOON, 0).await;
    fleet.no_drift().await;
}

async fn frozen(mode: &'static str) {
    let fleet = Fleet::start(mode, 3).await;
    let held = fleet.hold(2).await;
    fleet.settles(SOON, 6).await;
    fleet.nodes[2].signal(Signal::SIGSTOP);
    fleet.settles_with(ms(4200), 4, 2).await;
    fleet.nodes[2].signal(Signal::SIGCONT);
    let took = fleet.settles(ms(2000), 6).await;
    assert!(took < ms(1200), "{took:?}");
    fleet.know_each_other(3).await;
    let load = Load::start(fleet.nodes[2].address(), 4, "/delay/3");
    until("it serves", async || load.tally().ok > 20).await;
    assert_eq!(load.stop().await.failures, Default::default());
    drop(held);
    fleet.settles(SOON, 0).await;
    fleet.no_drift().await;
}

#[tokio::test]
async fn a_node_frozen_past_its_lease_comes_back_batched() {
    frozen("batched").await;
}

#[tokio::test]
async fn a_node_frozen_past_its_lease_comes_back_exact() {
    frozen("exact").await;
}

/// Under a steady load what Redis says is what the nodes say, also while it changes all the time.
#[tokio::test]
async fn mid_load_redis_says_what_the_nodes_say() {
    for mode in ["batched", "exact", "auto"] {
        let fleet = Fleet::start(mode, 3).await;
        let loads: Vec<_> = fleet.nodes.iter().map(|node| Load::start(node.address(), 8, "/delay/40")).collect();
        for load in &loads {
            until("it runs", async || load.tally().ok > 8).await;
        }
        let (mut in_redis, mut in_nodes) = (0.0, 0.0);
        for _ in 0..40 {
            let truth = fleet.redis.truth().await;
            assert!(truth.holds(3, 3), "{truth:#?}");
            // A request that moves on while counts are read is seen twice, and a late pick until it is given back.
            assert!((0..=30).contains(&truth.sum()), "24 clients, and {}", truth.sum());
            in_redis += truth.sum() as f64 / 40.0;
            for node in &fleet.nodes {
                in_nodes += node.in_flight().await as f64 / 40.0;
            }
        }
        assert!((in_redis - in_nodes).abs() < 3.0, "mode {mode}: {in_redis} in Redis, {in_nodes} in the nodes");
        for load in loads {
            assert_eq!(load.stop().await.failures, Default::default());
        }
        fleet.settles(SOON, 0).await;
        fleet.no_drift().await;
    }
}
