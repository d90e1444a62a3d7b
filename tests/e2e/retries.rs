//! Requests that fail at one server are sent to another, as far as that is safe and the budget allows.

use std::time::Instant;

use serde_json::Value;

use crate::support::{Fairlead, Load, Origin, config, ms, one_pool, request, servers, until};

/// Up from the first check on, whatever happens later.
const TRUSTED: &str = "health: { type: tcp, interval: 60s, timeout: 1s }, ejection: none";

/// One route with these settings of `retry` and `timeouts`; `balance: round-robin`, so that every server has its turn, whatever
/// it did before.
async fn start(origins: &[&Origin], retry: &str, timeouts: &str) -> Fairlead {
    let route = format!("{{ name: all, pool: app, retry: {{ {retry} }}, timeouts: {{ {timeouts} }} }}");
    let pool = format!("{{ servers: [{}], balance: round-robin, {TRUSTED} }}", servers(origins));
    let log = "access_log: { format: json, path: \"{dir}/access.log\" }";
    Fairlead::start(&config(&format!("routes: [{route}]\npools: {{ app: {pool} }}\n{log}\n"))).await
}

fn requests(origins: &[&Origin]) -> usize {
    origins.iter().map(|origin| origin.requests()).sum()
}

/// The first `n` lines of the access log.
async fn log(fairlead: &Fairlead, n: usize) -> Vec<Value> {
    let mut lines = Vec::new();
    until("lines in the access log", async || {
        let text = std::fs::read_to_string(fairlead.dir.path().join("access.log")).unwrap_or_default();
        lines = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        lines.len() >= n
    })
    .await;
    lines
}

async fn retries(fairlead: &Fairlead, reason: &str) -> f64 {
    fairlead.metric("fairlead_retries_total", &[("pool", "app"), ("reason", reason)]).await
}

#[tokio::test]
async fn a_get_that_fails_is_answered_by_another_server() {
    for (fault, reason) in [("/reset", "reset"), ("/reset-header", "reset"), ("/status/500", "status")] {
        let (bad, b, c) = (Origin::start("bad"), Origin::start("b"), Origin::start("c"));
        bad.answer_as(Some(fault));
        let fairlead = start(&[&bad, &b, &c], "on: [connect, reset, timeout, 500]", "").await;
        for _ in 0..9 {
            assert_eq!(fairlead.get("/").await.status, 200, "{fault}");
        }
        assert!(bad.requests() > 0, "the test shows nothing");
        assert_eq!(retries(&fairlead, reason).await, bad.requests() as f64);
        fairlead.idle().await;
        let lines = log(&fairlead, 9).await;
        let twice = lines.iter().filter(|line| line["attempts"].as_array().unwrap().len() == 2).count();
        assert_eq!(twice, bad.requests(), "{lines:#?}");
    }
}

#[tokio::test]
async fn a_status_that_is_not_listed_is_an_answer() {
    let origin = Origin::start("a");
    let fairlead = start(&[&origin], "on: [reset, 502-504]", "").await;
    assert_eq!(fairlead.get("/status/500").await.refusal(), (500, ""));
    assert_eq!(origin.requests(), 1);
    assert_eq!(fairlead.get("/status/503").await.refusal(), (503, ""), "what the last attempt got");
    assert_eq!(origin.requests(), 4);
}

#[tokio::test]
async fn a_post_is_not_sent_twice() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let fairlead = start(&[&a, &b], "on: [connect, reset, timeout, 500-599]", "per_try: 300ms").await;
    for (n, (path, answer)) in [
        ("/reset", (502, "upstream-reset")),
        ("/reset-header", (502, "upstream-reset")),
        ("/status/500", (500, "")),
        ("/hang", (504, "per-try-timeout")),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = fairlead.client().await;
        client.send(request("POST", path, "", "one book")).await;
        assert_eq!(client.response().await.unwrap().refusal(), answer, "{path}");
        assert_eq!(requests(&[&a, &b]), n + 1, "{path}");
    }
    fairlead.idle().await;
}

#[tokio::test]
async fn a_body_is_sent_again_while_it_is_remembered() {
    let (bad, good) = (Origin::start("bad"), Origin::start("good"));
    bad.answer_as(Some("/reset"));
    let fairlead = start(&[&bad, &good], "methods: [PUT]", "").await;
    for _ in 0..2 {
        let mut client = fairlead.client().await;
        client.send(request("PUT", "/echo", "", "a short body")).await;
        assert_eq!(client.response().await.unwrap().text(), "a short body");
    }
    assert!(bad.requests() > 0, "the test shows nothing");
    let (before, long) = (bad.requests(), "x".repeat(200_000));
    let mut refused = 0;
    for _ in 0..2 {
        let mut client = fairlead.client().await;
        client.send(request("PUT", "/echo", "", &long)).await;
        match client.response().await.unwrap().refusal() {
            (200, _) => {}
            refusal => {
                assert_eq!(refusal, (502, "upstream-reset"));
                refused += 1;
            }
        }
    }
    assert_eq!(refused, bad.requests() - before, "a body of which part is forgotten is not sent again");
}

#[tokio::test]
async fn a_stale_pooled_connection_counts_as_reset() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let fairlead = start(&[&a, &b], "", "").await;
    let mut client = fairlead.client().await;
    for _ in 0..8 {
        client.get("/").await;
    }
    a.hang_up_on_reuse();
    b.hang_up_on_reuse();
    assert_eq!(client.get("/").await.status, 200);
    assert!(retries(&fairlead, "reset").await >= 1.0);
}

#[tokio::test]
async fn a_server_is_tried_again_only_when_no_other_is_left() {
    let origins = ["a", "b", "c"].map(Origin::start);
    let all = origins.each_ref();
    let fairlead = start(&all, "attempts: 3", "").await;
    for round in 1..=5 {
        assert_eq!(fairlead.get("/reset").await.refusal(), (502, "upstream-reset"));
        assert_eq!(all.map(|origin| origin.requests()), [round; 3], "each was asked once");
    }
    let lone = Origin::start("lone");
    let fairlead = start(&[&lone], "attempts: 3", "").await;
    assert_eq!(fairlead.get("/reset").await.refusal(), (502, "upstream-reset"));
    assert_eq!(lone.requests(), 3);
}

#[tokio::test]
async fn when_all_fail_the_budget_bounds_the_attempts() {
    let origins = ["a", "b", "c"].map(Origin::start);
    let all = origins.each_ref();
    for origin in all {
        origin.delay(20);
    }
    let fairlead = start(&all, "", "").await;
    let load = Load::start(fairlead.address(), 32, "/reset");
    until("many have failed", async || load.tally().failed > 1500).await;
    let tally = load.stop().await;
    assert_eq!(tally.ok, 0);
    let (attempts, most) = (requests(&all), tally.failed + tally.failed / 5 + 5);
    assert!(attempts <= most, "{attempts} attempts for {} requests", tally.failed);
    assert!(attempts > tally.failed + tally.failed / 50, "{attempts} attempts: no retries for {:?}", tally.failures);
    assert!(fairlead.metric("fairlead_retries_refused_total", &[("pool", "app")]).await > 100.0);
    fairlead.idle().await;
}

#[tokio::test]
async fn the_budget_holds_however_fast_requests_fail() {
    let origins = ["a", "b", "c"].map(Origin::start);
    let all = origins.each_ref();
    let fairlead = start(&all, "backoff: { base: 0s }", "").await;
    let load = Load::start(fairlead.address(), 2, "/reset");
    until("many have failed", async || load.tally().failed > 1000).await;
    let failed = load.stop().await.failed;
    assert!(requests(&all) <= failed + failed / 5 + 5, "{} attempts for {failed} requests", requests(&all));
}

#[tokio::test]
async fn without_a_budget_nothing_is_repeated() {
    let origin = Origin::start("a");
    let fairlead = start(&[&origin], "budget: { share: 0%, min: 0 }", "").await;
    for n in 1..=3 {
        assert_eq!(fairlead.get("/reset").await.status, 502);
        assert_eq!(origin.requests(), n);
    }
}

#[tokio::test]
async fn the_pause_before_a_retry_is_random_within_its_bound() {
    let origin = Origin::start("a");
    let fairlead = start(&[&origin], "attempts: 2, backoff: { base: 200ms, max: 200ms }", "").await;
    let mut took = Vec::new();
    for _ in 0..12 {
        let start = Instant::now();
        assert_eq!(fairlead.get("/reset").await.status, 502);
        took.push(start.elapsed());
    }
    took.sort();
    // Twelve pauses all in the same half of their range: once in two thousand runs.
    assert!(took[0] < ms(110) && took[11] > ms(90), "{took:?}");
    assert!(took[11] < ms(1000), "{took:?}");
}

#[tokio::test]
async fn retries_end_with_the_time_for_the_response() {
    let origin = Origin::start("a");
    let fairlead =
        start(&[&origin], "attempts: 10, backoff: { base: 10s, max: 10s }, budget: { min: 100 }", "response: 400ms")
            .await;
    let start = Instant::now();
    let response = fairlead.get("/reset").await;
    assert!(matches!(response.refusal(), (502, "upstream-reset") | (504, "response-timeout")), "{response:?}");
    assert!(start.elapsed() < ms(1500), "{:?}", start.elapsed());
    fairlead.idle().await;
}

#[tokio::test]
async fn what_a_server_asks_for_is_respected() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let fairlead = start(&[&a, &b], "on: [503], attempts: 2", "").await;
    let start = Instant::now();
    assert_eq!(fairlead.get("/busy/1").await.status, 503);
    assert!(start.elapsed() >= ms(1000), "{:?}", start.elapsed());
    assert_eq!(requests(&[&a, &b]), 2);
    let response = fairlead.get("/busy/60").await;
    assert_eq!((response.status, response.header("retry-after")), (503, Some("60")), "the client knows better");
    assert_eq!(requests(&[&a, &b]), 3);
}

#[tokio::test]
async fn a_client_that_leaves_during_the_pause_is_noticed() {
    let origin = Origin::start("a");
    let fairlead = start(&[&origin], "backoff: { base: 1h, max: 1h }", "response: none").await;
    let mut client = fairlead.client().await;
    client.send_get("/reset", "").await;
    until("the first attempt has failed", async || retries(&fairlead, "reset").await == 1.0).await;
    drop(client);
    let line = &log(&fairlead, 1).await[0];
    assert_eq!((&line["status"], &line["error"]), (&Value::from(499), &Value::from("client-gone")));
    assert_eq!(origin.requests(), 1);
    fairlead.idle().await;
}

#[tokio::test]
async fn a_server_that_resets_everything_costs_no_request() {
    let origins = ["a", "b", "c", "d"].map(Origin::start);
    for origin in &origins {
        origin.delay(10);
    }
    let fairlead = Fairlead::start(&one_pool(&servers(&origins.each_ref()), TRUSTED)).await;
    let load = Load::start(fairlead.address(), 16, "/");
    until("a steady load", async || load.tally().ok > 500).await;
    // Long enough for the requests of a second to have earned their share.
    tokio::time::sleep(ms(1100)).await;
    origins[0].delay(0);
    origins[0].answer_as(Some("/reset"));
    until("it was asked a few times, and perhaps ejected", async || retries(&fairlead, "reset").await >= 3.0).await;
    tokio::time::sleep(ms(500)).await;
    origins[0].answer_as(None);
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
}
