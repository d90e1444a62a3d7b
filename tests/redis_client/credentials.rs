//! Who may come in.

use std::time::{Duration, Instant};

use fairlead::load::redis::{CallError, Client};

use crate::support::{Redis, at, connected, count, logged, until};

#[tokio::test]
async fn a_password_and_a_user_with_few_rights() {
    let redis = Redis::with_cli(&["--requirepass", "top"], &["-a", "top", "--no-auth-warning"]);
    let client = connected(&at(&format!("redis://:top@127.0.0.1:{}", redis.port))).await;
    assert_eq!(count(&client, "fairlead:a").await, Ok(1));

    let rights = ["on", ">hu:sh@", "~fairlead:*", "+eval", "+evalsha", "+script|load", "+incr", "+zrange"];
    redis.cli(&[&["ACL", "SETUSER", "lb"][..], &rights].concat());
    let mut config = at(&redis.url());
    config.username = Some("lb".to_owned());
    config.password = Some("hu:sh@".to_owned());
    let client = connected(&config).await;
    assert_eq!(count(&client, "fairlead:a").await, Ok(2));
    let other = count(&client, "other").await;
    assert!(
        matches!(&other, Err(CallError::Refused(text)) if text.contains("NOPERM") || text.contains("ermission")),
        "{other:?}"
    );
    assert_eq!(client.max_memory_policy().await, None, "may not ask");
    assert!(client.is_up());
}

/// The address in the log is this server's alone.
fn lines(redis: &Redis) -> Vec<String> {
    logged(&format!("{} ", redis.url()))
}

#[tokio::test]
async fn a_wrong_password_is_told_once_and_not_tried_without_pause() {
    let redis = Redis::with_cli(&["--requirepass", "right"], &["-a", "right", "--no-auth-warning"]);
    let mut config = at(&redis.url());
    config.password = Some("wrong-one".to_owned());
    // From before the first attempt: redis-cli has connections of its own.
    let start = Instant::now();
    let errors = || {
        let stats = redis.cli(&["INFO", "errorstats"]);
        let count =
            stats.lines().find_map(|line| line.trim().strip_prefix("errorstat_WRONGPASS:count=")?.parse::<u32>().ok());
        count.unwrap_or(0)
    };
    let client = Client::start(&config).unwrap();
    until("five attempts", async || errors() >= 5).await;
    assert!(start.elapsed() >= Duration::from_millis(140), "five attempts in {:?}", start.elapsed());
    assert!(!client.is_up());
    let told = lines(&redis);
    assert!(
        matches!(told.as_slice(), [line] if line.starts_with("WARN redis_lost ") && line.contains("WRONGPASS")),
        "{told:?}"
    );
    assert!(!told[0].contains("wrong-one"));

    redis.cli(&["ACL", "SETUSER", "default", ">wrong-one"]);
    until("let in", async || client.is_up()).await;
    assert_eq!(count(&client, "a").await, Ok(1));
    let told = lines(&redis);
    assert!(told.len() == 2 && told[1].starts_with("INFO redis_back ") && told[1].contains(" away_ms="), "{told:?}");
}

#[tokio::test]
async fn a_missing_password_is_told() {
    let redis = Redis::with_cli(&["--requirepass", "right"], &["-a", "right", "--no-auth-warning"]);
    let _client = Client::start(&at(&redis.url())).unwrap();
    until("told", async || lines(&redis).iter().any(|line| line.contains("NOAUTH"))).await;
}
