//! Three primaries, and a slot that moves.

use fairlead::load::redis::{Client, Link, scripts::EXCHANGE};

use crate::support::{Redis, at, connected, count, free_port, until};

fn node(args: &[&str], cli: &[&str]) -> Redis {
    let of_a_cluster = ["--cluster-enabled", "yes", "--cluster-node-timeout", "5000"];
    let bus = free_port().to_string();
    Redis::with_cli(&[&of_a_cluster[..], &["--cluster-port", &bus], args].concat(), cli)
}

async fn cluster() -> [Redis; 3] {
    cluster_with(&[], &[]).await
}

/// Three primaries with more arguments; `cli`: what `redis-cli` needs to be let in.
pub async fn cluster_with(args: &[&str], cli: &[&str]) -> [Redis; 3] {
    let nodes = [node(args, cli), node(args, cli), node(args, cli)];
    for (node, (first, last)) in nodes.iter().zip([("0", "5000"), ("5001", "10000"), ("10001", "16383")]) {
        assert_eq!(node.cli(&["CLUSTER", "ADDSLOTSRANGE", first, last]), "OK");
    }
    for node in &nodes[1..] {
        let bus = node.cli(&["CONFIG", "GET", "cluster-port"]).lines().nth(1).unwrap().to_owned();
        assert_eq!(nodes[0].cli(&["CLUSTER", "MEET", "127.0.0.1", &node.port.to_string(), &bus]), "OK");
    }
    for node in &nodes {
        until("a cluster", async || {
            let info = node.cli(&["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
        })
        .await;
    }
    nodes
}

/// A key of each node: slots as of `CLUSTER KEYSLOT`.
pub fn keys() -> [String; 3] {
    let of = |range: std::ops::RangeInclusive<u16>| {
        let mut names = (0..).map(|i| format!("fairlead:{{default/p{i}}}:n"));
        names.find(|name| range.contains(&fred::util::redis_keyslot(name.as_bytes()))).unwrap()
    };
    [of(0..=5000), of(5001..=10000), of(10001..=16383)]
}

#[tokio::test]
async fn scripts_find_their_slots_also_when_these_move() {
    let nodes = cluster().await;
    let url = format!("redis-cluster://127.0.0.1:{},127.0.0.1:{}", nodes[0].port, nodes[1].port);
    let client: Client = connected(&at(&url)).await;
    let keys = keys();
    for (key, node) in keys.iter().zip(&nodes) {
        assert_eq!(node.cli(&["SCRIPT", "EXISTS", &EXCHANGE.sha1]), "1", "loaded everywhere");
        assert_eq!(count(&client, key).await, Ok(1));
        assert_eq!(node.cli(&["GET", key]), "1", "{key}");
    }
    assert_eq!(client.max_memory_policy().await.as_deref(), Some("noeviction"));

    // The first node's slot goes to the second, whose scripts do not know the call.
    let slot = fred::util::redis_keyslot(keys[0].as_bytes()).to_string();
    let id = nodes[1].cli(&["CLUSTER", "MYID"]);
    nodes[0].cli(&["DEL", &keys[0]]);
    for node in [&nodes[1], &nodes[0], &nodes[2]] {
        assert_eq!(node.cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &id]), "OK");
    }
    nodes[1].cli(&["SCRIPT", "FLUSH"]);
    assert_eq!(count(&client, &keys[0]).await, Ok(1));
    assert_eq!(count(&client, &keys[0]).await, Ok(2));
    assert_eq!(nodes[1].cli(&["GET", &keys[0]]), "2");
    assert_eq!(client.link(), Link { epoch: 1, up: true }, "nothing was lost");
}

#[tokio::test]
async fn a_slot_on_its_way_is_refused_and_loses_nothing() {
    let nodes = cluster().await;
    let client = connected(&at(&format!("redis-cluster://127.0.0.1:{}", nodes[2].port))).await;
    let key = &keys()[0];
    let slot = fred::util::redis_keyslot(key.as_bytes()).to_string();
    let ids = [nodes[0].cli(&["CLUSTER", "MYID"]), nodes[1].cli(&["CLUSTER", "MYID"])];
    nodes[1].cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[0]]);
    nodes[0].cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[1]]);
    let refused = count(&client, key).await;
    assert!(
        matches!(&refused, Err(fairlead::load::redis::CallError::Refused(text)) if text.starts_with("TRYAGAIN")),
        "{refused:?}"
    );
    for node in [&nodes[1], &nodes[0], &nodes[2]] {
        node.cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &ids[1]]);
    }
    until("arrived", async || count(&client, key).await.is_ok()).await;
    assert_eq!(client.link(), Link { epoch: 1, up: true });
}

#[tokio::test]
async fn a_node_that_is_in_no_cluster_is_told() {
    let single = Redis::start(&[]);
    let url = format!("redis-cluster://127.0.0.1:{}", single.port);
    let _client = Client::start(&at(&url)).unwrap();
    let told = || crate::support::logged(&format!("{url} "));
    until("told", async || told().iter().any(|line| line.contains("cluster support disabled"))).await;
    assert!(told()[0].contains("redis_lost"));
}
