//! What nodes choose by what they see of each other.

use std::collections::BTreeMap;

use crate::support::{Fairlead, Fleet, Load, LongWay, Redis, hold, ms, until, within};

/// Nodes in different modes see one truth, and choose by it.
#[tokio::test]
async fn nodes_in_all_modes_share_one_truth() {
    let mut fleet = Fleet::start("exact", 1).await;
    for mode in ["batched", "auto"] {
        fleet.mode = mode;
        fleet.join().await;
    }
    fleet.know_each_other(3).await;
    let mut held = Vec::new();
    for round in 0..12 {
        let before = fleet.redis.truth().await.load;
        held.extend(hold(&fleet.nodes[round % 3], 1).await);
        fleet.settles(ms(2000), round as i64 + 1).await;
        let load = fleet.redis.truth().await.load;
        for node in &fleet.nodes {
            until("every node sees it", async || sees(node, &load).await).await;
        }
        if round % 3 == 0 {
            // The node in exact mode: the others may have looked a while ago.
            let chosen = load.iter().find(|(name, n)| **n > before[*name]).unwrap().0;
            assert_eq!(before[chosen], *before.values().min().unwrap(), "{before:?}, then {load:?}");
        }
    }
    drop(held);
    fleet.settles(ms(2000), 0).await;
    fleet.no_drift().await;
}

async fn sees(node: &Fairlead, load: &BTreeMap<String, i64>) -> bool {
    let pool = node.pool("app").await;
    let mut servers = pool["servers"].as_array().unwrap().iter();
    servers.all(|s| s["in_flight"]["fleet"].as_i64() == load.get(s["name"].as_str().unwrap()).copied())
}

/// Many requests at once on several nodes: in exact mode they are as even as one counter would make them.
#[tokio::test]
async fn exact_is_even_across_nodes() {
    let fleet = Fleet::start("exact", 3).await;
    fleet.know_each_other(3).await;
    let clients = tokio::join!(hold(&fleet.nodes[0], 10), hold(&fleet.nodes[1], 10), hold(&fleet.nodes[2], 10));
    fleet.settles(ms(2000), 30).await;
    let load = fleet.redis.truth().await.load;
    let (least, most) = (load.values().min().unwrap(), load.values().max().unwrap());
    // Who waited too long on a busy machine has chosen for himself.
    let mut alone = 0.0;
    for node in &fleet.nodes {
        alone += node.metric("fairlead_redis_waits_total", &[]).await;
    }
    assert!((most - least) as f64 <= 1.0 + alone, "{load:?}, {alone} chose alone");
    drop(clients);
}

#[tokio::test]
async fn weights_are_respected_by_all() {
    for mode in ["exact", "batched"] {
        let fleet = Fleet::weighted(mode, 2, [1, 2, 3]).await;
        fleet.know_each_other(2).await;
        let mut held = Vec::new();
        for n in 0..24 {
            held.extend(hold(&fleet.nodes[n % 2], 1).await);
            fleet.settles(ms(2000), n as i64 + 1).await;
            if mode == "batched" {
                let load = fleet.redis.truth().await.load;
                for node in &fleet.nodes {
                    until("every node sees it", async || sees(node, &load).await).await;
                }
            }
        }
        let load = fleet.redis.truth().await.load;
        let shares: Vec<_> = fleet.origins.iter().map(|origin| load[&origin.server()]).collect();
        // By a view that is a while old a choice is a guess.
        let off = if mode == "exact" { 0 } else { 2 };
        for (share, wanted) in shares.iter().zip([4i64, 8, 12]) {
            assert!((share - wanted).abs() <= off, "mode {mode}: {shares:?}");
        }
    }
}

#[tokio::test]
async fn a_node_alone_balances_as_least_connections() {
    for mode in ["exact", "batched", "auto"] {
        let fleet = Fleet::start(mode, 1).await;
        let mut held = Vec::new();
        for n in 1..=12 {
            held.extend(hold(&fleet.nodes[0], 1).await);
            until("it is there", async || fleet.nodes[0].in_flight().await == n).await;
        }
        let counts = || fleet.origins.iter().map(|origin| origin.in_flight()).collect::<Vec<_>>();
        until("they arrive", async || counts().iter().sum::<usize>() == 12).await;
        let counts = counts();
        assert_eq!(counts, [4, 4, 4], "mode {mode}");
    }
}

/// Nodes whose files differ do not fight over the table, and count the same.
#[tokio::test]
async fn nodes_with_different_weights_live_together() {
    let mut fleet = Fleet::without_nodes(Redis::start().await, "exact");
    for weights in [[1, 1, 1], [1, 2, 3]] {
        let node = Fairlead::start(&fleet.weighted_yaml(weights)).await;
        fleet.nodes.push(node);
    }
    fleet.know_each_other(2).await;
    let generation = async || fleet.redis.ask(&["HGET", "fairlead:{default/app}:servers", "#gen"]).await.text();
    let before = generation().await;
    let held = fleet.hold(6).await;
    fleet.settles(ms(2000), 12).await;
    let mut load = fleet.redis.truth().await.load;
    let shares: Vec<_> = fleet.origins.iter().map(|origin| load.remove(&origin.server()).unwrap()).collect();
    // Redis picks by the weights that were set last.
    assert_eq!(shares, [2, 4, 6]);
    drop(held);
    fleet.settles(ms(2000), 0).await;
    assert_eq!(generation().await, before, "the table has not changed");
    fleet.no_drift().await;
}

/// `auto` asks Redis where that is quick beside the time a request takes, and stops when it is not.
#[tokio::test]
async fn auto_asks_redis_where_it_pays() {
    let redis = Redis::start().await;
    let way = LongWay::to(redis.address).await;
    let fleet = Fleet::at(redis, &format!("redis://{}", way.address), "auto", 2).await;
    let loads: Vec<_> = fleet.nodes.iter().map(|node| Load::start(node.address(), 3, "/delay/40")).collect();
    let all = async |mode: &str| {
        for node in &fleet.nodes {
            within(ms(8000), mode, async || node.pool("app").await["mode"] == mode).await;
        }
    };
    all("exact").await;
    way.delay(ms(20));
    all("batched").await;
    way.delay(ms(0));
    all("exact").await;
    for load in loads {
        assert_eq!(load.stop().await.failures, Default::default());
    }
    fleet.settles(ms(2000), 0).await;
    fleet.no_drift().await;
}

/// Who is alone exchanges seldom; once there is a second node, both do as often as their view needs it.
#[tokio::test]
async fn a_node_alone_exchanges_seldom() {
    let mut fleet = Fleet::start("batched", 1).await;
    let load = Load::start(fleet.nodes[0].address(), 4, "/delay/2");
    until("the load runs", async || load.tally().ok > 20).await;
    let calls = async |node: &Fairlead| {
        let labels = [("call", "exchange"), ("result", "ok")];
        let before = node.metric("fairlead_redis_calls_total", &labels).await;
        let start = std::time::Instant::now();
        tokio::time::sleep(ms(1000)).await;
        (node.metric("fairlead_redis_calls_total", &labels).await - before) / start.elapsed().as_secs_f64()
    };
    let alone = calls(&fleet.nodes[0]).await;
    assert!((20.0..130.0).contains(&alone), "{alone} calls a second");
    fleet.join().await;
    fleet.know_each_other(2).await;
    // More than it may alone, as soon as the machine lets it.
    until("it exchanges more often", async || calls(&fleet.nodes[0]).await > 130.0).await;
    assert_eq!(load.stop().await.failures, Default::default());
}
