//! A failover.

use fairlead::load::redis::{Client, Link};

use crate::support::{Redis, at, connected, count, free_port, logged, sentinel, until};

#[tokio::test]
async fn the_new_primary_is_found_after_a_failover() {
    let mut primary = Redis::start(&[]);
    let replica =
        Redis::start(&["--replicaof", "127.0.0.1", &primary.port.to_string(), "--repl-diskless-sync-delay", "0"]);
    until("a replica", async || replica.cli(&["INFO", "replication"]).contains("master_link_status:up")).await;
    let port = free_port();
    let config = format!(
        "sentinel monitor main 127.0.0.1 {} 1\nsentinel down-after-milliseconds main 300\nsentinel failover-timeout main 3000\n",
        primary.port
    );
    let _sentinel = sentinel(port, &config, replica.dir());
    // A sentinel looks for replicas every 10 s only; the first look is soon after its start.
    let known = || {
        std::process::Command::new("redis-cli").args(["-p", &port.to_string(), "SENTINEL", "REPLICAS", "main"]).output()
    };
    until("the sentinel knows the replica", async || {
        String::from_utf8_lossy(&known().unwrap().stdout).contains(&replica.port.to_string())
    })
    .await;
    // The first of the sentinels is away.
    let url = format!("redis-sentinel://127.0.0.1:{},127.0.0.1:{port}?sentinelServiceName=main", free_port());
    let client: Client = connected(&at(&url)).await;
    assert_eq!(count(&client, "a").await, Ok(1));
    assert_eq!(primary.cli(&["GET", "a"]), "1");
    until("replicated", async || replica.cli(&["GET", "a"]) == "1").await;

    primary.stop();
    until("lost", async || !client.is_up()).await;
    until("the new primary", async || client.is_up()).await;
    assert_eq!(client.link(), Link { epoch: 2, up: true });
    assert_eq!(count(&client, "a").await, Ok(2));
    assert_eq!(replica.cli(&["GET", "a"]), "2");
    let told = logged(&format!(":{port}?"));
    assert!(told.iter().filter(|line| line.contains("redis_lost")).count() == 1, "{told:?}");
}
