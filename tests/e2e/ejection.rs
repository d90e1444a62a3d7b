//! Servers that fail requests while their health checks pass.

use crate::support::{Fairlead, Fleet, Load, Origin, Redis, ms, one_pool, servers, until};

/// A pool whose checks only connect; `more` are further settings.
fn pool(origins: &[&Origin], more: &str) -> String {
    one_pool(&servers(origins), &format!("health: {{ type: tcp, interval: 60s, timeout: 1s }}, {more}"))
}

fn four() -> [Origin; 4] {
    let origins = ["a", "b", "c", "d"].map(Origin::start);
    origins.iter().for_each(|origin| origin.delay(20));
    origins
}

#[tokio::test]
async fn a_server_that_answers_500_at_once_gets_few_requests_and_comes_back_when_it_is_well() {
    let origins = four();
    let settings = "ejection: { base: 400ms }, slow_start: 2s";
    let fairlead = Fairlead::start(&pool(&origins.each_ref(), settings)).await;
    let load = Load::start(fairlead.address(), 16, "/");
    until("a steady load", async || load.tally().ok > 300).await;
    let bad = &origins[0];
    bad.fails(true);
    fairlead.wait_state(&bad.server(), "ejected").await;
    let failed = load.tally().failed;
    assert!((5..=20).contains(&failed), "{:?}", load.tally().failures);
    let labels = [("pool", "app"), ("server", &bad.server())];
    assert!(fairlead.metric("fairlead_ejections_total", &labels).await >= 1.0);
    assert_eq!(fairlead.metric("fairlead_server_up", &labels).await, 0.0);
    until("it is told", async || !fairlead.events("server_ejected").is_empty()).await;
    let told = fairlead.events("server_ejected").remove(0);
    assert_eq!((told["pool"].as_str(), told["server"].as_str()), (Some("app"), Some(bad.server().as_str())), "{told}");
    assert!(told["reason"].as_str().is_some_and(|why| why.ends_with("failures in a row: 5 status 5xx")), "{told}");
    assert_eq!(told["for_ms"], 400, "{told}");

    // Its first probe fails, so that it is out for twice as long.
    until("a second ejection", async || fairlead.events("server_ejected").len() == 2).await;
    assert_eq!(fairlead.events("server_ejected")[1]["for_ms"], 800);
    let shown = fairlead.server(&bad.server()).await;
    assert_eq!((&shown["health"], &shown["ejection"]), (&"up".into(), &"ejected".into()), "{shown}");
    assert_eq!(shown["reason"], "a probe failed: 1 status 5xx");
    assert!(load.tally().failed <= failed + 16 + 1, "one probe, and what was on its way: {:?}", load.tally().failures);
    bad.fails(false);
    fairlead.wait_state(&bad.server(), "starting").await;
    let before = load.tally().failed;
    let shown = fairlead.server(&bad.server()).await;
    let weight = shown["weight"]["effective"].as_f64().unwrap();
    assert!((0.1..1.0).contains(&weight) && shown["ejection"] == "none", "{shown}");
    until("it is told", async || fairlead.events("server_back").len() == 1).await;
    fairlead.wait_state(&bad.server(), "up").await;
    assert_eq!(fairlead.server(&bad.server()).await["weight"]["effective"], 1.0);
    let served = load.tally().by_body["a"];
    until("it serves", async || load.tally().by_body["a"] > served + 50).await;
    assert_eq!(load.stop().await.failed, before);
}

#[tokio::test]
async fn a_lone_server_is_never_ejected() {
    let origin = Origin::start("a");
    let fairlead = Fairlead::start(&pool(&[&origin], "")).await;
    origin.fails(true);
    let mut client = fairlead.client().await;
    for _ in 0..50 {
        assert_eq!(client.get("/").await.status, 500);
    }
    let shown = fairlead.server(&origin.server()).await;
    assert_eq!((&shown["state"], &shown["ejection"]), (&"up".into(), &"none".into()), "{shown}");
    assert!(shown["reason"].as_str().is_some_and(|why| why.contains("failures in a row")), "{shown}");
    assert_eq!(fairlead.metric("fairlead_ejections_total", &[]).await, 0.0);
    origin.fails(false);
    for _ in 0..60 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(fairlead.server(&origin.server()).await["reason"], "", "less than half of them failed");
}

#[tokio::test]
async fn no_more_than_max_ejected_are_out_and_who_stays_says_why() {
    let origins = four();
    let fairlead = Fairlead::start(&pool(&origins.each_ref(), "ejection: { base: 60s, max_ejected: 60% }")).await;
    origins[..3].iter().for_each(|origin| origin.fails(true));
    let load = Load::start(fairlead.address(), 8, "/");
    until("two are out and one should be", async || {
        fairlead.events("server_ejected").len() == 2 && fairlead.events("server_condemned").len() == 1
    })
    .await;
    let count = load.tally().ok;
    until("many more requests", async || load.tally().ok > count + 300).await;
    load.stop().await;
    let pool = fairlead.pool("app").await;
    let shown = pool["servers"].as_array().unwrap();
    let out = shown.iter().filter(|server| server["ejection"] == "ejected").count();
    assert_eq!(out, 2, "60 % of four, rounded down: {pool}");
    let condemned = shown.iter().find(|server| server["ejection"] == "none" && server["reason"] != "").unwrap();
    assert!(condemned["state"] == "up" && condemned["reason"].as_str().unwrap().contains("not ejected"), "{pool}");
    assert_eq!(fairlead.metric("fairlead_ejections_total", &[]).await, 2.0);
}

#[tokio::test]
async fn a_server_ten_times_slower_than_the_others_is_ejected() {
    let origins = four();
    let fairlead = Fairlead::start(&pool(&origins.each_ref(), "ejection: { base: 300ms }, slow_start: 0s")).await;
    let load = Load::start(fairlead.address(), 16, "/");
    until("a steady load", async || load.tally().ok > 300).await;
    // Step by step, so that it is never silent for much longer than answers take: that would be a reason of its own.
    for delay in [60, 150, 300] {
        origins[2].delay(delay);
        tokio::time::sleep(ms(2200)).await;
    }
    fairlead.wait_state(&origins[2].server(), "ejected").await;
    until("it is told", async || !fairlead.events("server_ejected").is_empty()).await;
    let told = fairlead.events("server_ejected").remove(0);
    assert!(told["reason"].as_str().is_some_and(|why| why.starts_with("half of its answers take")), "{told}");
    assert!(!fairlead.events("server_slow").is_empty());
    until("a probe was too slow", async || fairlead.events("server_ejected").len() > 1).await;
    origins[2].delay(20);
    fairlead.wait_state(&origins[2].server(), "up").await;
    assert_eq!(load.stop().await.failed, 0);
    assert_eq!(fairlead.server(&origins[2].server()).await["requests"].as_u64().map(|n| n > 20), Some(true));
}

#[tokio::test]
async fn servers_of_20_and_40_ms_are_alike_and_a_hot_key_is_no_reason() {
    let origins = four();
    origins[1].delay(40);
    let fairlead = Fairlead::start(&pool(&origins.each_ref(), "")).await;
    let load = Load::start(fairlead.address(), 16, "/");
    until("many requests", async || load.tally().ok > 1500).await;
    assert_eq!(load.stop().await.failed, 0);
    assert_eq!(fairlead.metric("fairlead_ejections_total", &[]).await, 0.0);
    assert!(fairlead.events("server_slow").is_empty());

    origins[1].delay(300);
    let fairlead = Fairlead::start(&pool(&origins.each_ref(), "balance: hash, hash: { on: { header: x-key } }")).await;
    for _ in 0..12 {
        let one = async |key: u32| fairlead.get_with("/", &format!("x-key: {key}\r\n")).await.status;
        let all = futures_util::future::join_all((0..16).map(one)).await;
        assert!(all.iter().all(|status| *status == 200));
    }
    assert!(fairlead.server(&origins[1].server()).await["requests"].as_u64() > Some(20), "the test shows nothing");
    assert_eq!(fairlead.metric("fairlead_ejections_total", &[]).await, 0.0);
}

#[tokio::test]
async fn where_redis_chooses_ejected_servers_are_left_out_and_probed_all_the_same() {
    let mut fleet = Fleet::without_nodes(Redis::start().await, "exact");
    let yaml = fleet.yaml(&fleet.redis.url(), "");
    let yaml = yaml.replace("ejection: none", "ejection: { base: 300ms }, slow_start: 0s");
    for _ in 0..2 {
        fleet.nodes.push(Fairlead::start(&yaml).await);
    }
    fleet.know_each_other(2).await;
    fleet.origins.iter().for_each(|origin| origin.delay(5));
    let loads: Vec<_> = fleet.nodes.iter().map(|node| Load::start(node.address(), 4, "/")).collect();
    until("exact", async || fleet.nodes[0].pool("app").await["mode"] == "exact").await;
    let bad = fleet.origins[0].server();
    fleet.origins[0].fails(true);
    for node in &fleet.nodes {
        node.wait_state(&bad, "ejected").await;
    }
    until("probes fail", async || fleet.nodes[0].events("server_ejected").len() >= 2).await;
    let count = fleet.origins[0].requests();
    assert!(count < 200, "{count} requests");
    fleet.origins[0].fails(false);
    for node in &fleet.nodes {
        node.wait_state(&bad, "up").await;
    }
    for load in loads {
        load.stop().await;
    }
    fleet.settles(ms(3000), 0).await;
    fleet.no_drift().await;
}
