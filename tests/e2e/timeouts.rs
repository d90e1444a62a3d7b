//! Deadlines of routes and of listeners.

use std::time::Instant;

use crate::support::{Fairlead, Origin, config, ms, request, servers, soon};

/// One pool, one route for everything with these timeouts.
async fn start(timeouts: &str) -> (Origin, Fairlead) {
    let origin = Origin::start("a");
    let route = format!("routes: [{{ name: all, match: {{}}, pool: app, timeouts: {{ {timeouts} }} }}]\n");
    let pools = format!("pools: {{ app: {{ servers: [{}] }} }}\n", servers(&[&origin]));
    let fairlead = Fairlead::start(&config(&(route + &pools))).await;
    (origin, fairlead)
}

#[tokio::test]
async fn who_closes_its_own_half_is_gone_or_served() {
    let origin = Origin::start("a");
    for serve in [true, false] {
        let listener = format!("listeners: [{{ address: \"127.0.0.1:0\", serve_half_closed: {serve} }}]\n");
        let pool = format!("pools: {{ app: {{ servers: [{}] }} }}\n", servers(&[&origin]));
        let fairlead = Fairlead::start(&config(&(listener + &pool))).await;
        let mut client = fairlead.client().await;
        client.send_get("/delay/300", "").await;
        client.finish().await;
        let answer = soon("an answer or the end", client.read(false)).await;
        assert_eq!(answer.ok().map(|answer| answer.status), serve.then_some(200));
        fairlead.idle().await;
    }
}

#[tokio::test]
async fn no_answer_in_time_is_504() {
    let (origin, fairlead) = start("response: 300ms, idle: 20s").await;
    let start = Instant::now();
    let response = fairlead.get("/hang").await;
    assert_eq!(response.refusal(), (504, "response-timeout"));
    assert!(start.elapsed() >= ms(300) && start.elapsed() < ms(2000), "{:?}", start.elapsed());
    assert!(response.header("x-request-id").is_some());
    fairlead.idle().await;
    assert_eq!(origin.requests(), 1, "a request that may have had its effect is not repeated");
    assert_eq!(fairlead.get("/delay/50").await.status, 200);
}

#[tokio::test]
async fn a_failure_after_an_interim_response_is_still_told() {
    let (_origin, fairlead) = start("response: 300ms, idle: 20s").await;
    for (path, status, refusal) in
        [("/early-hang", "504", "response-timeout"), ("/early-reset", "502", "upstream-reset")]
    {
        let mut client = fairlead.client().await;
        client.send(request("POST", path, "", "x")).await;
        assert_eq!(client.head().await.word(1), "103");
        let head = client.head().await;
        assert_eq!((head.word(1), head.header("fairlead-error")), (status, Some(refusal)));
    }
    fairlead.idle().await;
}

#[tokio::test]
async fn a_client_that_pauses_its_upload_is_not_the_servers_fault() {
    let (_origin, fairlead) = start("response: 300ms, idle: 20s").await;
    let mut client = fairlead.client().await;
    client.send(request("POST", "/echo", "Content-Length: 6\r\n", "")).await;
    client.send("abc").await;
    tokio::time::sleep(ms(900)).await;
    client.send("def").await;
    assert_eq!(client.response().await.unwrap().text(), "abcdef");
}

#[tokio::test]
async fn silence_before_the_answer_is_504() {
    let (_origin, fairlead) = start("response: 20s, idle: 300ms").await;
    assert_eq!(fairlead.get("/hang").await.refusal(), (504, "idle-timeout"));
    fairlead.idle().await;
}

#[tokio::test]
async fn a_body_may_take_longer_than_the_response_timeout() {
    let (_origin, fairlead) = start("response: 300ms, idle: 5s").await;
    let response = fairlead.get("/pauses/3/700").await;
    assert_eq!(response.text(), "part 0\npart 1\npart 2");
}

#[tokio::test]
async fn an_event_stream_goes_on() {
    let (origin, fairlead) = start("response: 200ms, idle: 1s").await;
    let mut client = fairlead.client().await;
    client.send_get("/events", "").await;
    assert_eq!(client.head().await.header("content-type"), Some("text/event-stream"));
    for _ in 0..60 {
        assert_eq!(client.chunk().await.unwrap().as_deref(), Some("data: tick"));
    }
    assert_eq!(origin.in_flight(), 1);
}

#[tokio::test]
async fn silence_within_a_body_ends_it() {
    let (_origin, fairlead) = start("response: 5s, idle: 300ms").await;
    let mut client = fairlead.client().await;
    client.send_get("/pauses/2/20000", "").await;
    client.head().await;
    assert_eq!(client.chunk().await.unwrap().as_deref(), Some("part 0"));
    assert!(client.chunk().await.is_err(), "cut, not ended in good order");
    fairlead.idle().await;
}

#[tokio::test]
async fn a_slow_upload_is_not_a_slow_response() {
    let (_origin, fairlead) = start("response: 400ms, idle: 5s").await;
    let mut client = fairlead.client().await;
    client.send(request("POST", "/echo", "Transfer-Encoding: chunked\r\n", "")).await;
    for part in ["one ", "two ", "three"] {
        tokio::time::sleep(ms(300)).await;
        client.send_chunk(part).await;
    }
    client.send_chunk("").await;
    assert_eq!(client.response().await.unwrap().text(), "one two three");
}

fn listeners(timeouts: &str) -> String {
    format!("listeners: [{{ name: public, address: \"127.0.0.1:0\", timeouts: {{ {timeouts} }} }}]\n")
}

#[tokio::test]
async fn an_idle_client_is_dropped() {
    let origin = Origin::start("a");
    let pools = format!("pools: {{ app: {{ servers: [{}] }} }}\n", servers(&[&origin]));
    let fairlead = Fairlead::start(&config(&(listeners("keepalive: 1s") + &pools))).await;
    let mut client = fairlead.client().await;
    // Also after the second request: a keepalive without limit must not return.
    for _ in 0..2 {
        let response = client.get("/").await;
        assert_eq!(response.text(), "a");
    }
    let start = Instant::now();
    client.closed().await;
    assert!(start.elapsed() >= ms(500) && start.elapsed() < ms(4000), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_client_that_stops_sending_its_body_is_dropped() {
    let origin = Origin::start("a");
    let pools = format!("pools: {{ app: {{ servers: [{}] }} }}\n", servers(&[&origin]));
    let fairlead = Fairlead::start(&config(&(listeners("body: 500ms") + &pools))).await;
    let mut client = fairlead.client().await;
    client.send(request("POST", "/echo", "Content-Length: 100\r\n", "")).await;
    client.send("half").await;
    client.closed().await;
    fairlead.idle().await;
    assert_eq!(origin.in_flight(), 0);
}

#[tokio::test]
async fn a_client_that_stops_reading_is_dropped() {
    let origin = Origin::start("a");
    let pools = format!("pools: {{ app: {{ servers: [{}] }} }}\n", servers(&[&origin]));
    let fairlead = Fairlead::start(&config(&(listeners("write: 500ms") + &pools))).await;
    let mut client = fairlead.client().await;
    client.send_get("/bytes/50000000", "").await;
    client.head().await;
    fairlead.idle().await;
}
