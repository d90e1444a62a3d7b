//! `max_in_flight`, and the queue of those who wait for room.

use crate::support::{Client, Fairlead, Fleet, H2, Load, Origin, Redis, config, h2_request, ms, request, soon, until};

fn limited(origins: &[&Origin], limit: u32, more: &str) -> String {
    let server = |origin: &&Origin| format!("{{ address: \"{}\", max_in_flight: {limit} }}", origin.address);
    let servers: Vec<_> = origins.iter().map(server).collect();
    config(&format!(
        "routes: [{{ match: {{}}, pool: app, timeouts: {{ response: 20s }} }}]\n\
         pools: {{ app: {{ servers: [{}], health: {{ type: tcp, interval: 60s }}{more} }} }}\n",
        servers.join(", ")
    ))
}

async fn queued(node: &Fairlead) -> u64 {
    node.pool("app").await["queued"].as_u64().unwrap()
}

#[tokio::test]
async fn a_node_alone_keeps_the_limit_and_serves_everybody_in_turn() {
    let [a, b] = ["a", "b"].map(Origin::start);
    let node = Fairlead::start(&limited(&[&a, &b], 2, "")).await;
    let load = Load::start(node.address(), 20, "/delay/20");
    until("much was served", async || load.tally().ok > 200).await;
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    for origin in [&a, &b] {
        assert_eq!(origin.most_in_flight(), 2, "neither more nor less");
    }
    assert_eq!(queued(&node).await, 0);
}

#[tokio::test]
async fn a_full_queue_and_a_long_wait_are_told_and_counted() {
    let a = Origin::start("a");
    let node = Fairlead::start(&limited(&[&a], 1, ", queue: { max: 1, timeout: 300ms }")).await;
    let mut busy = node.client().await;
    busy.send_get("/hang", "").await;
    until("it is in flight", async || a.in_flight() == 1).await;
    let mut waits = node.client().await;
    waits.send_get("/x", "").await;
    until("it waits", async || queued(&node).await == 1).await;
    assert_eq!(node.pool("app").await["circuit"], "open");
    assert_eq!(node.get("/y").await.refusal(), (503, "queue-full"));
    let late = soon("it waits no longer", waits.read(false)).await.unwrap();
    assert_eq!(late.refusal(), (503, "queue-timeout"));
    assert_eq!(node.pool("app").await["circuit"], "closed");
    for reason in ["queue-full", "queue-timeout"] {
        assert_eq!(node.metric("fairlead_refused_total", &[("reason", reason)]).await, 1.0);
    }
    drop(busy);
    until("there is room", async || node.get("/z").await.status == 200).await;
}

#[tokio::test]
async fn a_client_that_leaves_leaves_the_queue() {
    let a = Origin::start("a");
    let node = Fairlead::start(&limited(&[&a], 1, ", queue: { max: 2, timeout: 20s }")).await;
    let mut busy = node.client().await;
    busy.send_get("/hang", "").await;
    until("it is in flight", async || a.in_flight() == 1).await;
    let mut waits = node.client().await;
    waits.send_get("/never", "").await;
    until("it waits", async || queued(&node).await == 1).await;
    drop(waits);
    until("it waits no longer", async || queued(&node).await == 0).await;
    drop(busy);
    until("there is room", async || node.get("/z").await.status == 200).await;
    assert!(!a.seen().iter().any(|seen| seen.contains("/never")), "{:?}", a.seen());
}

/// Of HTTP/1, whose bodies wait in the system until a server takes them, and of HTTP/2.
#[tokio::test]
async fn a_client_that_leaves_with_its_body_unread_leaves_the_queue() {
    let a = Origin::start("a");
    let server = format!("{{ address: \"{}\", max_in_flight: 1 }}", a.address);
    let listener = "{ name: public, address: \"127.0.0.1:0\", protocols: [h1, h2c] }";
    let pool = format!("{{ servers: [{server}], health: {{ type: tcp }}, queue: {{ max: 10, timeout: 20s }} }}");
    let node = Fairlead::start(&config(&format!("listeners: [{listener}]\npools: {{ app: {pool} }}\n"))).await;
    let mut busy = node.client().await;
    busy.send_get("/hang", "").await;
    until("it is in flight", async || a.in_flight() == 1).await;
    let mut closes = node.client().await;
    closes.send(request("POST", "/never", "", "all of it")).await;
    let mut half_sent = node.client().await;
    half_sent.send("POST /never HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\na part").await;
    let mut resets = node.client().await;
    resets.send("POST /never HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut h2 = H2::connect(node.address()).await;
    let (answer, mut upload) = h2.begin(h2_request("POST", "/never", &[]), false).await;
    let mut stays = node.client().await;
    stays.send(request("POST", "/echo", "", "all of it")).await;
    until("they wait", async || queued(&node).await == 5).await;
    drop(closes);
    until("it waits no longer", async || queued(&node).await == 4).await;
    drop(half_sent);
    until("it waits no longer", async || queued(&node).await == 3).await;
    resets.reset();
    until("it waits no longer", async || queued(&node).await == 2).await;
    upload.send_reset(h2::Reason::CANCEL);
    drop(answer);
    until("it waits no longer", async || queued(&node).await == 1).await;
    drop(busy);
    assert_eq!(stays.response().await.unwrap().text(), "all of it");
    assert!(!a.seen().iter().any(|seen| seen.contains("/never")), "{:?}", a.seen());
}

async fn three_nodes(mode: &'static str) -> Fleet {
    let mut fleet = Fleet::without_nodes(Redis::start().await, mode);
    let origins: Vec<_> = fleet.origins.iter().collect();
    let redis = format!("redis: {{ url: \"{}\", mode: {mode}, timeout: 500ms }}\n", fleet.redis.url());
    let yaml = limited(&origins, 2, "") + &redis;
    for _ in 0..3 {
        fleet.nodes.push(Fairlead::start(&yaml).await);
    }
    fleet.know_each_other(3).await;
    fleet
}

/// Each node alone could fill the servers; together they keep the limit, and all servers are full.
#[tokio::test]
async fn the_fleet_keeps_the_limit_as_one() {
    for mode in ["exact", "auto"] {
        let fleet = three_nodes(mode).await;
        let loads: Vec<_> = fleet.nodes.iter().map(|node| Load::start(node.address(), 8, "/delay/20")).collect();
        until("much was served", async || loads.iter().map(|load| load.tally().ok).sum::<usize>() > 300).await;
        for load in loads {
            let tally = load.stop().await;
            assert_eq!(tally.failed, 0, "{mode}: {:?}", tally.failures);
            assert!(tally.ok > 5, "{mode}: no node starves, but one had {}", tally.ok);
        }
        for origin in &fleet.origins {
            assert_eq!(origin.most_in_flight(), 2, "{mode}: neither more nor less");
        }
        fleet.settles(ms(2000), 0).await;
        fleet.no_drift().await;
    }
}

/// Room on another node's server is noticed by who waits here.
#[tokio::test]
async fn room_that_another_node_makes_wakes_who_waits() {
    let fleet = three_nodes("exact").await;
    let held = crate::support::hold(&fleet.nodes[0], 6).await;
    fleet.settles(ms(2000), 6).await;
    let mut waits: Client = fleet.nodes[1].client().await;
    waits.send_get("/x", "").await;
    until("it waits", async || queued(&fleet.nodes[1]).await == 1).await;
    drop(held);
    let answer = soon("it is served", waits.read(false)).await.unwrap();
    assert_eq!(answer.status, 200);
}

/// Without Redis a node may use its share: 2 ÷ 3, at least 1.
#[tokio::test]
async fn without_redis_each_node_keeps_to_its_share() {
    let mut fleet = three_nodes("exact").await;
    fleet.redis.stop();
    for node in &fleet.nodes {
        until("it is noticed", async || node.pool("app").await["mode"] == "local").await;
    }
    let loads: Vec<_> = fleet.nodes.iter().map(|node| Load::start(node.address(), 8, "/delay/20")).collect();
    until("much was served", async || loads.iter().map(|load| load.tally().ok).sum::<usize>() > 200).await;
    for load in loads {
        let tally = load.stop().await;
        assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    }
    for origin in &fleet.origins {
        assert!(origin.most_in_flight() <= 3, "one for each node, but {}", origin.most_in_flight());
    }
}
