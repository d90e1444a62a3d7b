//! One server and nothing wrong.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use fairlead::load::redis::scripts::{AUDIT, EXCHANGE, REAP, REGISTER};
use fairlead::load::redis::{CallError, Client, Link, Value};
use futures_poll::poll_once;

use crate::support::{COUNT, FAIL, Redis, at, connected, count, is_lost, logged, until};

mod futures_poll {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::Poll;

    /// Polls once, as a caller does that makes several calls in order.
    pub async fn poll_once<F: Future + ?Sized>(mut future: Pin<&mut F>) -> Option<F::Output> {
        std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(out) => Poll::Ready(Some(out)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }
}

#[tokio::test]
async fn scripts_run_and_errors_are_told() {
    let redis = Redis::start(&[]);
    let client = connected(&at(&redis.url())).await;
    assert_eq!(client.link(), Link { epoch: 1, up: true });

    // Not known to Redis yet, then known.
    assert_eq!(count(&client, "a").await, Ok(1));
    assert_eq!(count(&client, "a").await, Ok(2));
    assert_eq!(redis.cli(&["SCRIPT", "EXISTS", &COUNT.sha1]), "1");
    redis.cli(&["SCRIPT", "FLUSH"]);
    assert_eq!(count(&client, "a").await, Ok(3));

    let fail = async |text: &'static str| client.call(&FAIL, &[Bytes::from_static(b"a")], vec![text.into()]).await;
    let gap = fail("GAP reset first").await;
    assert_eq!(gap, Err(CallError::Refused("GAP reset first".to_owned())));
    redis.cli(&["LPUSH", "list", "1"]);
    for _ in 0..3 {
        let wrong = count(&client, "list").await;
        assert!(matches!(&wrong, Err(CallError::Refused(text)) if text.contains("WRONGTYPE")), "{wrong:?}");
    }
    assert!(logged("WRONGTYPE").is_empty(), "whoever calls knows whether that is news");
    assert_eq!(client.link(), Link { epoch: 1, up: true });
    let up = logged(&redis.url());
    assert!(
        matches!(up.as_slice(), [line] if line.starts_with("INFO redis_up ") && line.contains(" version=")),
        "{up:?}"
    );
}

#[tokio::test]
async fn our_scripts_are_known_before_the_first_call() {
    let redis = Redis::start(&[]);
    let _client = connected(&at(&redis.url())).await;
    let known = redis.cli(&["SCRIPT", "EXISTS", &EXCHANGE.sha1, &REGISTER.sha1, &REAP.sha1, &AUDIT.sha1]);
    assert_eq!(known, "1\n1\n1\n1");
}

#[tokio::test]
async fn calls_go_out_in_the_order_of_their_first_polls() {
    let redis = Redis::start(&[]);
    let client = connected(&at(&redis.url())).await;
    assert_eq!(count(&client, "n").await, Ok(1));
    let mut calls = Vec::new();
    for _ in 0..200 {
        let mut call = Box::pin(client.call(&COUNT, &[Bytes::from_static(b"n")], vec!["x".into()]));
        assert!(poll_once(call.as_mut()).await.is_none());
        calls.push(call);
    }
    // Waiting for the last first changes nothing.
    for (i, call) in calls.into_iter().enumerate().rev() {
        let Ok(Value::Array(answer)) = call.await else { panic!() };
        assert_eq!(answer[2], Value::Int(i as i64 + 2));
    }
}

#[tokio::test]
async fn a_database_and_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("redis.sock");
    let redis = Redis::start(&["--unixsocket", socket.to_str().unwrap()]);
    let client = connected(&at(&format!("{}/3", redis.url()))).await;
    assert_eq!(count(&client, "third").await, Ok(1));
    assert_eq!(redis.cli(&["-n", "3", "GET", "third"]), "1");
    let client = connected(&at(&format!("unix://{}?db=3", socket.display()))).await;
    assert_eq!(count(&client, "third").await, Ok(2));
}

#[tokio::test]
async fn members_of_a_sorted_set() {
    let redis = Redis::start(&[]);
    let client = connected(&at(&redis.url())).await;
    let key = Bytes::from_static(b"lease");
    assert_eq!(client.zrange_members(&key).await, Ok(vec![]));
    redis.cli(&["ZADD", "lease", "2", "b", "1", "a"]);
    assert_eq!(client.zrange_members(&key).await, Ok(vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")]));
    redis.cli(&["SET", "text", "x"]);
    let wrong = client.zrange_members(&Bytes::from_static(b"text")).await;
    assert!(matches!(wrong, Err(CallError::Refused(_))), "{wrong:?}");
}

#[tokio::test]
async fn what_redis_does_when_its_memory_is_full() {
    let redis = Redis::start(&["--maxmemory-policy", "allkeys-lru"]);
    let client = connected(&at(&redis.url())).await;
    assert_eq!(client.max_memory_policy().await.as_deref(), Some("noeviction"), "there is no limit");
    redis.cli(&["CONFIG", "SET", "maxmemory", "100mb"]);
    assert_eq!(client.max_memory_policy().await.as_deref(), Some("allkeys-lru"));
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let full = count(&client, "a").await;
    assert!(matches!(&full, Err(CallError::Refused(text)) if text.contains("OOM")), "{full:?}");
    assert!(client.is_up());
}

#[tokio::test]
async fn a_closed_client_leaves_nothing_open() {
    let redis = Redis::start(&[]);
    let client = connected(&at(&redis.url())).await;
    let up = client.link();
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { client.changed(up).await })
    };
    assert_eq!(redis.info("connected_clients"), 2, "ours and redis-cli");
    client.close().await;
    assert_eq!(waiting.await.unwrap(), Link { epoch: 1, up: false });
    assert!(is_lost(&count(&client, "a").await));
    until("closed", async || redis.info("connected_clients") == 1).await;
    client.close().await;

    let dropped = connected(&at(&redis.url())).await;
    let mut outstanding = pin!(dropped.call(&COUNT, &[Bytes::from_static(b"a")], vec!["x".into()]));
    redis.process.signal("-STOP");
    assert!(poll_once(outstanding.as_mut()).await.is_none());
    drop(dropped);
    let lost = tokio::time::timeout(Duration::from_secs(2), outstanding).await.expect("ends with the connection");
    assert!(is_lost(&lost), "{lost:?}");
    redis.process.signal("-CONT");
    until("closed by the drop", async || redis.info("connected_clients") == 1).await;
}

#[test]
fn there_must_be_a_runtime() {
    assert!(Client::start(&at("redis://127.0.0.1:1")).is_err());
}
