//! Limits of servers and their queue, while clients leave and Redis goes away.

use std::time::Duration;

use crate::faults::BLIND;
use crate::support::{Fairlead, Load, Origin, Redis, config, hold, until, within};

/// Servers with this limit.
fn limited(origins: &[Origin], limit: usize) -> String {
    let servers: Vec<String> = origins
        .iter()
        .map(|origin| format!("{{ address: \"{}\", max_in_flight: {limit} }}", origin.server()))
        .collect();
    servers.join(", ")
}

/// One origin that takes one request at a time, and this queue.
async fn one_at_a_time(queue: &str) -> (Vec<Origin>, Fairlead) {
    let origins = vec![Origin::start("a")];
    let yaml =
        config(&format!("pools:\n  app: {{ servers: [{}], {BLIND}, queue: {{ {queue} }} }}\n", limited(&origins, 1)));
    let fairlead = Fairlead::start(&yaml).await;
    (origins, fairlead)
}

/// Waits until so many requests wait.
async fn waiting(fairlead: &Fairlead, requests: u64) {
    until("requests in the queue", async || fairlead.pool("app").await["queued"] == requests).await;
}

#[tokio::test]
async fn first_come_first_served() {
    let (origins, fairlead) = one_at_a_time("max: 100, timeout: 9s").await;
    let first = hold(&fairlead, 1).await;
    until("it arrives", async || origins[0].in_flight() == 1).await;
    let mut clients = Vec::new();
    for n in 0..20 {
        let mut client = fairlead.client().await;
        client.send_get(&format!("/delay/2?{n}"), "").await;
        clients.push(client);
        waiting(&fairlead, n + 1).await;
    }
    drop(first);
    for client in &mut clients {
        assert_eq!(client.response().await.unwrap().status, 200);
    }
    let order: Vec<String> = (0..20).map(|n| format!("GET /delay/2?{n}")).collect();
    assert_eq!(origins[0].seen()[1..], order);
    assert_eq!(origins[0].most_in_flight(), 1);
    fairlead.idle().await;
}

#[tokio::test]
async fn who_leaves_is_waited_for_no_more() {
    let (origins, fairlead) = one_at_a_time("max: 1, timeout: 9s").await;
    let held = hold(&fairlead, 1).await;
    until("it arrives", async || origins[0].in_flight() == 1).await;
    for reset in [false, true] {
        let mut client = fairlead.client().await;
        client.send_get("/left", "").await;
        waiting(&fairlead, 1).await;
        if reset {
            client.reset();
        } else {
            drop(client);
        }
        waiting(&fairlead, 0).await;
    }
    let mut client = fairlead.client().await;
    client.send_get("/stayed", "").await;
    waiting(&fairlead, 1).await;
    drop(held);
    assert_eq!(client.response().await.unwrap().status, 200);
    assert_eq!(origins[0].seen(), ["GET /hang", "GET /stayed"]);
    fairlead.idle().await;
}

/// Three nodes that share a Redis, over origins with this limit.
async fn fleet(origins: &[Origin], limit: usize, redis: &Redis) -> Vec<Fairlead> {
    let yaml = config(&format!(
        "pools:\n  app: {{ servers: [{}], {BLIND}, queue: {{ max: 500, timeout: 20s }} }}\n\
         redis: {{ url: \"{}\", mode: exact, timeout: 500ms }}\n",
        limited(origins, limit),
        redis.url()
    ));
    let mut nodes: Vec<Fairlead> = (0..3).map(|_| Fairlead::spawn(&yaml)).collect();
    for node in &mut nodes {
        node.wait_ready().await;
    }
    for node in &nodes {
        until("they know each other", async || node.pool("app").await["nodes"] == 3).await;
    }
    nodes
}

#[tokio::test]
async fn the_fleet_together_keeps_the_limit() {
    let mut redis = Redis::start().await;
    let origins = vec![Origin::start("a"), Origin::start("b"), Origin::start("c")];
    let nodes = fleet(&origins, 2, &redis).await;
    let loads: Vec<Load> = nodes.iter().map(|node| Load::start(node.address(), 8, "/delay/20")).collect();
    let served = || loads.iter().map(|load| load.tally().ok).sum::<usize>();
    until("much traffic", async || served() > 500).await;
    for origin in &origins {
        assert_eq!(origin.most_in_flight(), 2, "with Redis");
    }
    redis.stop();
    for node in &nodes {
        until("it is noticed", async || node.pool("app").await["mode"] == "local").await;
    }
    // What was admitted by the fleet's limit comes to its end.
    let before = served();
    until("some traffic without Redis", async || served() > before + 50).await;
    origins.iter().for_each(Origin::forget_most);
    // Each node may use its share, rounded down, but one at least.
    let before = served();
    within(Duration::from_secs(10), "traffic without Redis", async || served() > before + 300).await;
    for origin in &origins {
        assert!(origin.most_in_flight() <= 3, "{} at once without Redis", origin.most_in_flight());
    }
    for load in loads {
        let tally = load.stop().await;
        assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    }
    for node in &nodes {
        node.idle().await;
    }
}
