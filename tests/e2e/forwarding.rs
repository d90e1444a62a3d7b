//! Requests and answers pass unchanged, as they come, over pooled connections.

use crate::support::{Client, Fairlead, Origin, one_pool, pattern, request, servers, until};

/// One origin behind the proxy.
async fn one() -> (Origin, Fairlead) {
    let origin = Origin::start("a");
    let fairlead = Fairlead::start(&one_pool(&servers(&[&origin]), "")).await;
    (origin, fairlead)
}

#[tokio::test]
async fn every_method_passes() {
    let (_origin, fairlead) = one().await;
    let mut client = fairlead.client().await;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"] {
        client.send(request(method, "/headers?q=a%20b&c=/d", "", "")).await;
        let seen = client.response().await.unwrap().json();
        assert_eq!((seen["method"].as_str(), seen["target"].as_str()), (Some(method), Some("/headers?q=a%20b&c=/d")));
    }
}

#[tokio::test]
async fn a_head_has_no_body() {
    let (_origin, fairlead) = one().await;
    let mut client = fairlead.client().await;
    client.send(request("HEAD", "/", "", "")).await;
    let response = client.response_to_head().await;
    assert_eq!((response.status, response.header("content-length")), (200, Some("1")));
    assert_eq!(client.get("/").await.text(), "a");
}

#[tokio::test]
async fn statuses_pass() {
    let (_origin, fairlead) = one().await;
    let mut client = fairlead.client().await;
    for status in [201, 204, 301, 304, 404, 418, 500, 502, 503, 504] {
        let response = client.get(&format!("/status/{status}")).await;
        assert_eq!(response.status, status);
        assert_eq!(response.header("fairlead-error"), None, "{status} is the server's own");
        assert!(response.header("x-request-id").is_some(), "{status}");
    }
}

#[tokio::test]
async fn a_body_of_known_length_passes() {
    let (_origin, fairlead) = one().await;
    let mut client = fairlead.client().await;
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        client.send(request(method, "/echo", "", "a body\r\n\r\nwith lines")).await;
        assert_eq!(client.response().await.unwrap().text(), "a body\r\n\r\nwith lines", "{method}");
    }
}

#[tokio::test]
async fn a_chunked_body_passes() {
    let (_origin, fairlead) = one().await;
    let mut client = fairlead.client().await;
    for _ in 0..2 {
        client.send(request("POST", "/echo", "Transfer-Encoding: chunked\r\n", "")).await;
        for part in ["one ", "two ", "three", ""] {
            client.send_chunk(part).await;
        }
        assert_eq!(client.response().await.unwrap().text(), "one two three");
    }
}

#[tokio::test]
async fn ten_megabytes_pass_both_ways() {
    const SIZE: usize = 10 << 20;
    let (_origin, fairlead) = one().await;
    let mut client = fairlead.client().await;
    client.send(request("POST", "/echo", &format!("Content-Length: {SIZE}\r\n"), "")).await;
    client.send(pattern(SIZE)).await;
    let response = client.response().await.unwrap();
    assert_eq!(response.status, 200);
    assert!(response.body == pattern(SIZE), "{} bytes came back, or others", response.body.len());
    let response = client.get(&format!("/bytes/{SIZE}")).await;
    assert!(response.body == pattern(SIZE), "{} bytes came, or others", response.body.len());
}

#[tokio::test]
async fn bodies_stream_both_ways_before_their_end() {
    let (_origin, fairlead) = one().await;
    let mut client = fairlead.client().await;
    client.send(request("POST", "/stream-echo", "Transfer-Encoding: chunked\r\n", "")).await;
    client.send_chunk("first").await;
    assert_eq!(client.head().await.word(1), "200");
    assert_eq!(client.chunk().await.unwrap().as_deref(), Some("first"));
    client.send_chunk("second").await;
    assert_eq!(client.chunk().await.unwrap().as_deref(), Some("second"));
    assert_eq!(fairlead.in_flight().await, 1);
    client.send_chunk("").await;
    assert_eq!(client.chunk().await.unwrap(), None);
    fairlead.idle().await;
}

#[tokio::test]
async fn a_client_may_wait_for_100_continue() {
    let (_origin, fairlead) = one().await;
    let mut client = fairlead.client().await;
    client.send(request("POST", "/echo", "Expect: 100-continue\r\nContent-Length: 4\r\n", "")).await;
    assert_eq!(client.head().await.word(1), "100");
    client.send("body").await;
    assert_eq!(client.response().await.unwrap().text(), "body");
}

#[tokio::test]
async fn connections_to_servers_are_reused() {
    let (origin, fairlead) = one().await;
    for _ in 0..20 {
        assert_eq!(fairlead.get("/").await.status, 200);
    }
    assert_eq!(origin.requests(), 20);
    assert!(origin.connections() <= 2, "{} connections for 20 requests in a row", origin.connections());
}

#[tokio::test]
async fn a_connection_that_the_server_closed_is_not_used() {
    let (origin, fairlead) = one().await;
    let mut client = fairlead.client().await;
    for _ in 0..10 {
        assert_eq!(client.get("/close").await.status, 200);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(origin.connections(), 10);
}

#[tokio::test]
async fn a_post_on_a_stale_connection_is_not_sent_twice() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let fairlead = Fairlead::start(&one_pool(&servers(&[&a, &b]), "balance: round-robin")).await;
    let mut client = fairlead.client().await;
    for _ in 0..8 {
        client.get("/").await;
    }
    a.hang_up_on_reuse();
    b.hang_up_on_reuse();
    client.send(request("POST", "/order", "", "one book")).await;
    let response = client.response().await.unwrap();
    assert_eq!(response.refusal(), (502, "upstream-reset"));
    fairlead.idle().await;
    let posts = [a.seen(), b.seen()].concat().iter().filter(|r| **r == "POST /order").count();
    assert_eq!(posts, 1);
}

/// Believed to be up from the first check on, whatever happens later.
const TRUSTED: &str = "health: { type: tcp, interval: 60s, timeout: 1s }, ejection: none";

#[tokio::test]
async fn a_refused_connection_goes_to_another_server() {
    let (mut dead, alive) = (Origin::start("dead"), Origin::start("alive"));
    let list = servers(&[&dead, &alive]);
    let fairlead = Fairlead::start(&one_pool(&list, &format!("balance: round-robin, {TRUSTED}"))).await;
    dead.kill().await;
    let mut client = fairlead.client().await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.text(), "alive");
        client.send(request("POST", "/echo", "", "a post, too")).await;
        assert_eq!(client.response().await.unwrap().text(), "a post, too");
    }
    fairlead.idle().await;
    assert!(fairlead.metric("fairlead_retries_total", &[("pool", "app")]).await >= 5.0);
    assert_eq!(fairlead.metric("fairlead_requests_total", &[("pool", "app"), ("class", "2xx")]).await, 20.0);
}

#[tokio::test]
async fn when_all_refuse_502() {
    let (mut a, mut b) = (Origin::start("a"), Origin::start("b"));
    let fairlead = Fairlead::start(&one_pool(&servers(&[&a, &b]), TRUSTED)).await;
    a.kill().await;
    b.kill().await;
    for _ in 0..4 {
        let response = fairlead.get("/").await;
        assert_eq!(response.refusal(), (502, "connect-failed"));
        assert!(response.header("x-request-id").is_some());
    }
    fairlead.idle().await;
}

/// The answer to a request that the only server spoils, and that may not be repeated.
async fn spoilt(path: &str) -> (u16, String) {
    let (origin, fairlead) = one().await;
    let mut client = fairlead.client().await;
    client.send(request("POST", path, "", "one book")).await;
    let response = client.response().await.unwrap();
    assert_eq!(origin.requests(), 1, "sent more than once");
    fairlead.idle().await;
    let (status, name) = response.refusal();
    (status, name.to_string())
}

#[tokio::test]
async fn a_reset_before_the_answer_is_502() {
    assert_eq!(spoilt("/reset").await, (502, "upstream-reset".into()));
}

#[tokio::test]
async fn a_reset_within_the_header_is_502() {
    assert_eq!(spoilt("/reset-header").await, (502, "upstream-reset".into()));
}

#[tokio::test]
async fn garbage_is_502() {
    assert_eq!(spoilt("/garbage").await, (502, "upstream-invalid".into()));
}

#[tokio::test]
async fn a_body_cut_short_is_not_passed_as_whole() {
    let (_origin, fairlead) = one().await;
    let mut client = fairlead.client().await;
    client.send_get("/reset-body", "").await;
    assert!(client.response().await.is_err());
    fairlead.idle().await;
    assert_eq!(fairlead.get("/").await.text(), "a");
}

/// Sends a request, waits for it at the origin, leaves, and expects the origin to notice.
async fn leaves(bytes: &str, leave: impl AsyncFnOnce(Client)) {
    let (origin, fairlead) = one().await;
    let mut client = fairlead.client().await;
    client.send(bytes).await;
    until("the request arrives", async || origin.in_flight() == 1).await;
    assert_eq!(fairlead.in_flight().await, 1);
    leave(client).await;
    until("the origin's request is cancelled", async || origin.cancelled() == 1).await;
    fairlead.idle().await;
    assert_eq!(fairlead.get("/").await.text(), "a");
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_request() {
    leaves(&request("GET", "/hang", "", ""), async |client| drop(client)).await;
}

#[tokio::test]
async fn a_client_that_resets_cancels_its_request() {
    leaves(&request("GET", "/hang", "", ""), async |client| client.reset()).await;
}

#[tokio::test]
async fn a_client_that_leaves_during_the_answer_cancels_it() {
    leaves(&request("GET", "/events", "", ""), async |mut client| {
        client.head().await;
        client.chunk().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_within_its_body_cancels_its_request() {
    leaves(&request("POST", "/echo", "Content-Length: 1000\r\n", ""), async |mut client| {
        client.send("half").await;
        drop(client);
    })
    .await;
}
