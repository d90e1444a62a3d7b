//! A server that goes away, hangs, or takes no more writes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use fairlead::load::redis::{CallError, Client, Link};

use crate::support::{COUNT, Redis, at, connected, count, free_port, is_lost, logged, until};

fn lines(redis: &Redis) -> Vec<String> {
    logged(&format!("{} ", redis.url()))
}

#[tokio::test]
async fn a_restart_is_two_lines_in_the_log() {
    let mut redis = Redis::start(&[]);
    let client = connected(&at(&redis.url())).await;
    assert_eq!(count(&client, "a").await, Ok(1));

    // A call that is outstanding when the server dies is lost with it, not in `command_timeout`.
    redis.process.signal("-STOP");
    let call = client.call(&COUNT, &[Bytes::from_static(b"a")], vec!["x".into()]);
    let call = tokio::spawn(call);
    let start = Instant::now();
    redis.stop();
    assert!(is_lost(&call.await.unwrap()));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let down = client.changed(Link { epoch: 1, up: true }).await;
    assert_eq!(down, Link { epoch: 1, up: false });

    let start = Instant::now();
    assert!(is_lost(&count(&client, "a").await));
    assert!(start.elapsed() < Duration::from_millis(100), "fails at once");

    // Some attempts that fail meanwhile are no news.
    let away = Instant::now();
    until("some attempts", async || away.elapsed() > Duration::from_millis(300)).await;
    redis.restart();
    let restarted = Instant::now();
    let up = tokio::time::timeout(Duration::from_secs(10), client.changed(down)).await.unwrap();
    assert_eq!(up, Link { epoch: 2, up: true });
    assert!(restarted.elapsed() < Duration::from_millis(1500), "{:?}", restarted.elapsed());
    assert_eq!(count(&client, "a").await, Ok(1), "it is another, empty one");

    until("told", async || lines(&redis).len() == 3).await;
    let told = lines(&redis);
    assert!(told[0].starts_with("INFO redis_up "), "{told:?}");
    assert!(told[1].starts_with("WARN redis_lost ") && told[1].contains(" error="), "{told:?}");
    let away_ms = told[2].split(" away_ms=").nth(1).unwrap().parse::<u64>().unwrap();
    assert!(told[2].starts_with("INFO redis_back ") && (300..10_000).contains(&away_ms), "{told:?}");
}

#[tokio::test]
async fn a_server_that_comes_late_is_found() {
    let port = free_port();
    let client = Client::start(&at(&format!("redis://127.0.0.1:{port}"))).unwrap();
    until("told", async || !logged(&format!(":{port} ")).is_empty()).await;
    let told = logged(&format!(":{port} "));
    assert!(told[0].starts_with("WARN redis_lost ") && told[0].ends_with("error=Connection refused"), "{told:?}");
    assert_eq!(client.link(), Link { epoch: 0, up: false });
    assert_eq!(client.max_memory_policy().await, None);
}

#[tokio::test]
async fn a_hung_server_is_noticed() {
    let redis = Redis::start(&[]);
    let mut config = at(&redis.url());
    config.command_timeout = Duration::from_millis(150);
    config.connect_timeout = Duration::from_millis(500);
    let client = connected(&config).await;
    assert_eq!(count(&client, "a").await, Ok(1));

    redis.process.signal("-STOP");
    let start = Instant::now();
    let hung = count(&client, "a").await;
    assert_eq!(hung, Err(CallError::Lost("no answer within 150 ms".to_owned())));
    assert!(start.elapsed() < Duration::from_millis(600), "{:?}", start.elapsed());
    assert!(client.is_up(), "it may be slow only");
    client.changed(Link { epoch: 1, up: true }).await;
    assert!(start.elapsed() < Duration::from_millis(2500), "{:?}", start.elapsed());
    assert!(start.elapsed() > Duration::from_millis(900), "{:?}", start.elapsed());

    // Attempts to connect hang too.
    until("some attempts", async || start.elapsed() > Duration::from_millis(2000)).await;
    assert!(!client.is_up());
    redis.process.signal("-CONT");
    until("back", async || client.is_up()).await;
    // The call that nobody waited for had arrived: that is why nothing is sent twice.
    assert_eq!(count(&client, "a").await, Ok(3));
    until("told", async || lines(&redis).len() == 3).await;
    assert!(lines(&redis)[1].contains("redis_lost"));
}

#[tokio::test]
async fn a_late_answer_closes_the_connection_at_once_when_the_limit_is_long() {
    let redis = Redis::start(&[]);
    let mut config = at(&redis.url());
    config.command_timeout = Duration::from_secs(1);
    let client = connected(&config).await;
    redis.process.signal("-STOP");
    let start = Instant::now();
    assert!(is_lost(&count(&client, "a").await));
    client.changed(Link { epoch: 1, up: true }).await;
    assert!(start.elapsed() < Duration::from_millis(1800), "{:?}", start.elapsed());
    redis.process.signal("-CONT");
    until("back", async || client.is_up()).await;
}

#[tokio::test]
async fn a_slow_server_is_not_given_up() {
    let redis = Redis::start(&[]);
    let mut config = at(&redis.url());
    config.command_timeout = Duration::from_millis(50);
    let client = connected(&config).await;
    redis.cli(&["CLIENT", "PAUSE", "300", "ALL"]);
    assert!(is_lost(&count(&client, "a").await));
    until("answers again", async || count(&client, "b").await.is_ok()).await;
    assert_eq!(client.link(), Link { epoch: 1, up: true });
}

#[tokio::test]
async fn a_primary_that_becomes_a_replica_is_left() {
    let redis = Redis::start(&[]);
    let client = connected(&at(&redis.url())).await;
    assert_eq!(count(&client, "a").await, Ok(1));
    redis.cli(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]);
    let refused = count(&client, "a").await;
    assert!(matches!(&refused, Err(CallError::Lost(text)) if text.contains("READONLY")), "{refused:?}");
    until("left", async || !client.is_up()).await;
    // It lets us in, but would do for nothing: no going up and down.
    let connections = redis.info("total_connections_received");
    until("more attempts", async || redis.info("total_connections_received") > connections + 20).await;
    assert_eq!(client.link(), Link { epoch: 1, up: false });
    redis.cli(&["REPLICAOF", "NO", "ONE"]);
    until("back", async || client.is_up()).await;
    assert_eq!(count(&client, "a").await, Ok(2));
    let told = lines(&redis);
    assert!(
        told.iter().filter(|line| line.contains("redis_lost") || line.contains("redis_back")).count() == 2,
        "{told:?}"
    );
}
