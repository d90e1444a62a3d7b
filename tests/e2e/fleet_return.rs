//! What nodes say and do of a Redis that was away or refuses: two lines in the log, and nobody is taken for dead.

use nix::sys::signal::Signal;

use crate::support::{Fairlead, Fleet, Redis, ms, until, within};

/// The lines that tell of a trouble: how often it was lost, and how often back.
fn told(node: &Fairlead) -> (usize, usize) {
    (node.events("redis_lost").len(), node.events("redis_back").len())
}

async fn up(node: &Fairlead) -> bool {
    node.metric("fairlead_redis_up", &[]).await == 1.0
}

/// Leases run out while Redis hangs. Whoever is back first does not bury those that need a moment longer.
#[tokio::test]
async fn after_an_outage_the_living_are_not_taken_for_dead() {
    for mode in ["batched", "exact"] {
        let fleet = Fleet::start(mode, 2).await;
        fleet.know_each_other(2).await;
        let held = fleet.hold(2).await;
        fleet.settles(ms(2000), 4).await;
        fleet.redis.signal(Signal::SIGSTOP);
        tokio::time::sleep(ms(4000)).await;
        fleet.nodes[1].signal(Signal::SIGSTOP);
        fleet.redis.signal(Signal::SIGCONT);
        within(ms(2000), "the first is back", async || up(&fleet.nodes[0]).await).await;
        tokio::time::sleep(ms(700)).await;
        fleet.nodes[1].signal(Signal::SIGCONT);
        until("the second is back", async || up(&fleet.nodes[1]).await).await;
        fleet.settles(ms(2000), 4).await;
        fleet.know_each_other(2).await;
        tokio::time::sleep(ms(2500)).await;
        for node in &fleet.nodes {
            assert!(node.events("dead_node_reaped").is_empty(), "mode {mode}: {}", node.log());
        }
        // Who really dies afterwards does not stay.
        fleet.nodes[1].signal(Signal::SIGKILL);
        fleet.settles_with(ms(4200), 2, 1).await;
        drop(held);
        fleet.settles_with(ms(2000), 0, 1).await;
    }
}

/// One trouble turns into another, and is one trouble.
#[tokio::test]
async fn out_of_memory_and_then_started_anew() {
    let mut fleet = Fleet::start("batched", 1).await;
    let limits: &[&[&str]] =
        &[&["CONFIG", "SET", "maxmemory-policy", "noeviction"], &["CONFIG", "SET", "maxmemory", "1"]];
    fleet.redis.ask_all(limits).await;
    let _held = fleet.hold(1).await;
    until("it is noticed", async || !up(&fleet.nodes[0]).await).await;
    fleet.redis.stop();
    tokio::time::sleep(ms(300)).await;
    assert_eq!(told(&fleet.nodes[0]), (1, 0), "{}", fleet.nodes[0].log());
    fleet.redis.run().await;
    until("it is back", async || up(&fleet.nodes[0]).await).await;
    fleet.settles(ms(2000), 1).await;
    let node = &fleet.nodes[0];
    until("it is told", async || told(node) == (1, 1)).await;
    assert!(node.events("redis_lost")[0]["error"].as_str().unwrap().contains("OOM"), "{}", node.log());
    assert!(node.events("redis_back")[0]["away_ms"].as_u64().unwrap() >= 300);
    assert!(node.events("redis_refuses").is_empty(), "{}", node.log());
}

/// The one line tells what an operator must act on, not that a connection was closed.
#[tokio::test]
async fn the_log_says_that_the_password_is_wrong() {
    let fleet = Fleet::start("batched", 1).await;
    let node = &fleet.nodes[0];
    let set = fleet.redis.ask_all(&[
        &["CONFIG", "SET", "requirepass", "secret"],
        &["AUTH", "secret"],
        &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"],
    ]);
    set.await;
    until("it is told", async || told(node) == (1, 0)).await;
    assert!(node.events("redis_lost")[0]["error"].as_str().unwrap().contains("NOAUTH"), "{}", node.log());
    tokio::time::sleep(ms(2500)).await;
    fleet.redis.ask_all(&[&["AUTH", "secret"], &["CONFIG", "SET", "requirepass", ""]]).await;
    let took = within(ms(3000), "it is back", async || up(node).await).await;
    assert!(took < ms(1000), "{took:?}");
    fleet.settles(ms(1000), 0).await;
    until("it is told", async || told(node) == (1, 1)).await;
    assert!(node.events("redis_refuses").is_empty(), "{}", node.log());
}

/// What is refused besides the exchange is told once, and is no loss.
#[tokio::test]
async fn a_right_that_is_missing_only_to_reap_is_told() {
    let redis = Redis::start().await;
    redis.ask(&["ACL", "SETUSER", "lb", "on", ">hush", "~*", "&*", "+@all"]).await;
    let url = format!("redis://lb:hush@{}", redis.address);
    let mut fleet = Fleet::at(redis, &url, "batched", 2).await;
    fleet.know_each_other(2).await;
    // Only to reap, and to begin anew.
    fleet.redis.ask(&["ACL", "SETUSER", "lb", "-zscore"]).await;
    fleet.nodes[1].signal(Signal::SIGKILL);
    drop(fleet.nodes.pop());
    let node = &fleet.nodes[0];
    until("it is told", async || !node.events("redis_refuses").is_empty()).await;
    tokio::time::sleep(ms(500)).await;
    let events = node.events("redis_refuses");
    assert!(events.len() == 1 && events[0]["call"] == "reap", "{}", node.log());
    assert_eq!(told(node), (0, 0), "{}", node.log());
    assert!(up(node).await);
    fleet.redis.ask(&["ACL", "SETUSER", "lb", "+zscore"]).await;
    fleet.settles(ms(3000), 0).await;
}
