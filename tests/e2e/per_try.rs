//! How long one attempt may take: by a fixed limit, or until its server is known to hang.

use std::time::{Duration, Instant};

use crate::support::{Fairlead, Load, Origin, config, ms, one_pool, request, servers, soon, until};

const TRUSTED: &str = "health: { type: tcp, interval: 60s, timeout: 1s }, ejection: none";

/// Two servers and a fixed limit; the first hangs.
async fn fixed(limit: &str) -> (Origin, Origin, Fairlead) {
    let (bad, good) = (Origin::start("bad"), Origin::start("good"));
    let route = format!("{{ name: all, pool: app, timeouts: {{ per_try: {limit} }} }}");
    let pool = format!("{{ servers: [{}], balance: round-robin, {TRUSTED} }}", servers(&[&bad, &good]));
    let fairlead = Fairlead::start(&config(&format!("routes: [{route}]\npools: {{ app: {pool} }}\n"))).await;
    (bad, good, fairlead)
}

#[tokio::test]
async fn a_fixed_limit_sends_a_get_to_another_server() {
    let (bad, _good, fairlead) = fixed("300ms").await;
    bad.answer_as(Some("/hang"));
    for _ in 0..4 {
        let start = Instant::now();
        assert_eq!(fairlead.get("/").await.text(), "good");
        assert!(start.elapsed() < ms(1500), "{:?}", start.elapsed());
    }
    assert!(bad.requests() >= 1);
    let timeouts = fairlead.metric("fairlead_retries_total", &[("reason", "timeout")]).await;
    assert_eq!(timeouts, bad.requests() as f64);
    let labels = [("server", bad.server()), ("result", "timeout".into())];
    let labels = labels.each_ref().map(|(k, v)| (*k, v.as_str()));
    assert_eq!(fairlead.metric("fairlead_attempts_total", &labels).await, bad.requests() as f64);
    fairlead.idle().await;
}

#[tokio::test]
async fn a_fixed_limit_ends_what_cannot_be_sent_again() {
    let (bad, good, fairlead) = fixed("300ms").await;
    bad.answer_as(Some("/hang"));
    good.answer_as(Some("/hang"));
    let start = Instant::now();
    assert_eq!(fairlead.get("/").await.refusal(), (504, "per-try-timeout"));
    assert!(start.elapsed() >= ms(900) && start.elapsed() < ms(3000), "three attempts in {:?}", start.elapsed());
    let mut client = fairlead.client().await;
    client.send(request("POST", "/", "", "one book")).await;
    assert_eq!(client.response().await.unwrap().refusal(), (504, "per-try-timeout"));
    assert_eq!(bad.requests() + good.requests(), 4);
    fairlead.idle().await;
}

#[tokio::test]
async fn a_body_that_pauses_is_not_cut() {
    let (_a, _b, fairlead) = fixed("200ms").await;
    assert_eq!(fairlead.get("/pauses/2/2000").await.text(), "part 0\npart 1");
    let mut client = fairlead.client().await;
    client.send_get("/ws", "Connection: Upgrade\r\nUpgrade: websocket\r\n").await;
    client.head().await;
    tokio::time::sleep(ms(600)).await;
    client.send("hello").await;
    assert_eq!(client.bytes(5).await, b"hello");
}

#[tokio::test]
async fn the_time_of_an_upload_does_not_count() {
    let (_a, _b, fairlead) = fixed("300ms").await;
    let mut client = fairlead.client().await;
    client.send(request("PUT", "/echo", "Transfer-Encoding: chunked\r\n", "")).await;
    for part in ["one ", "two ", "three"] {
        tokio::time::sleep(ms(250)).await;
        client.send_chunk(part).await;
    }
    client.send_chunk("").await;
    assert_eq!(client.response().await.unwrap().text(), "one two three");
}

/// Three servers that take 5 ms, our defaults, and clients that have been at it for long enough to be judged by.
async fn under_load() -> ([Origin; 3], Fairlead, Load) {
    let origins = ["a", "b", "c"].map(Origin::start);
    for origin in &origins {
        origin.delay(5);
    }
    let fairlead = Fairlead::start(&one_pool(&servers(&origins.each_ref()), TRUSTED)).await;
    let load = Load::start(fairlead.address(), 12, "/");
    until("a steady load", async || load.tally().ok > 500).await;
    tokio::time::sleep(ms(2200)).await;
    (origins, fairlead, load)
}

#[tokio::test]
async fn a_server_that_hangs_costs_a_fraction_of_a_second() {
    let (origins, fairlead, load) = under_load().await;
    let hung = Instant::now();
    origins[0].answer_as(Some("/hang"));
    tokio::time::sleep(ms(2500)).await;
    assert!(fairlead.metric("fairlead_retries_total", &[("reason", "timeout")]).await >= 1.0);
    let tally = soon("all are answered", load.stop()).await;
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    let slowest = tally.took.iter().filter(|(began, _)| *began > hung - ms(50)).map(|(_, took)| *took).max().unwrap();
    assert!(slowest < ms(1500), "{slowest:?}");
    fairlead.idle().await;
}

#[tokio::test]
async fn a_slow_request_at_a_server_that_works_is_sent_once() {
    let (origins, fairlead, load) = under_load().await;
    let mut clients = Vec::new();
    for n in 0..10 {
        let mut client = fairlead.client().await;
        client.send_get(&format!("/delay/3000?{n}"), "").await;
        clients.push(client);
    }
    for client in &mut clients {
        assert_eq!(client.response().await.unwrap().status, 200);
    }
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    for n in 0..10 {
        let request = format!("GET /delay/3000?{n}");
        let sent: usize = origins.iter().map(|o| o.seen().iter().filter(|seen| **seen == request).count()).sum();
        assert_eq!(sent, 1, "{request}");
    }
}

#[tokio::test]
async fn when_all_servers_are_slow_their_load_does_not_grow() {
    let (origins, fairlead, load) = under_load().await;
    let attempts = |origins: &[Origin; 3]| origins.iter().map(|origin| origin.requests()).sum::<usize>();
    let before = (attempts(&origins), load.tally().took.len());
    for origin in &origins {
        origin.delay(100);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    let (attempts, requests) = (attempts(&origins) - before.0, tally.took.len() - before.1);
    assert!(requests > 300, "{requests}");
    // Those in flight at the change are on one side only.
    assert!(attempts <= requests * 21 / 20 + 12, "{attempts} attempts for {requests} requests");
    fairlead.idle().await;
}
