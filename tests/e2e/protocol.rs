//! Clients that speak HTTP/1 in unusual ways.

use crate::support::{Fairlead, Origin, one_pool, request, servers, until};

async fn one() -> (Origin, Fairlead) {
    let origin = Origin::start("a");
    let fairlead = Fairlead::start(&one_pool(&servers(&[&origin]), "")).await;
    (origin, fairlead)
}

#[tokio::test]
async fn http_1_1_without_a_host_is_400() {
    let (origin, fairlead) = one().await;
    let mut client = fairlead.client().await;
    client.send("GET / HTTP/1.1\r\n\r\n").await;
    let response = client.response().await.unwrap();
    assert_eq!(response.refusal(), (400, "bad-request"));
    assert!(response.header("x-request-id").is_some());
    assert_eq!(origin.requests(), 0);
}

#[tokio::test]
async fn two_hosts_are_400() {
    let (origin, fairlead) = one().await;
    let mut client = fairlead.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n").await;
    assert_eq!(client.response().await.unwrap().status, 400);
    assert_eq!(origin.requests(), 0);
}

#[tokio::test]
async fn a_body_of_doubtful_length_is_refused() {
    let (origin, fairlead) = one().await;
    for headers in
        ["Content-Length: 4\r\nContent-Length: 5\r\n", "Content-Length: +4\r\n", "Transfer-Encoding: xchunked\r\n"]
    {
        let mut client = fairlead.client().await;
        client.send(format!("{}body", request("POST", "/echo", headers, ""))).await;
        let status = client.response().await.map(|r| r.status);
        assert!(matches!(status, Ok(400) | Err(_)), "{headers:?}: {status:?}");
    }
    assert_eq!(origin.requests(), 0);
}

#[tokio::test]
async fn not_http_is_400() {
    let (origin, fairlead) = one().await;
    let mut client = fairlead.client().await;
    client.send("\x16\x03\x01 hello\r\n\r\n").await;
    let status = client.response().await.map(|r| r.status);
    assert!(matches!(status, Ok(400) | Err(_)), "{status:?}");
    assert_eq!(origin.requests(), 0);
    assert_eq!(fairlead.get("/").await.status, 200);
}

#[tokio::test]
async fn http_1_0_gets_no_chunks() {
    let (_origin, fairlead) = one().await;
    let mut client = fairlead.client().await;
    client.send("GET /pauses/3/10 HTTP/1.0\r\n\r\n").await;
    let response = client.response().await.unwrap();
    assert_eq!((response.status, response.header("transfer-encoding")), (200, None));
    assert_eq!(response.text(), "part 0\npart 1\npart 2");
}

#[tokio::test]
async fn http_1_0_needs_no_host() {
    let (_origin, fairlead) = one().await;
    let mut client = fairlead.client().await;
    client.send("GET /headers HTTP/1.0\r\n\r\n").await;
    let response = client.response().await.unwrap();
    assert_eq!(response.status, 200);
    assert!(response.text().to_lowercase().contains("[\"host\","), "servers get HTTP/1.1: {}", response.text());
    client.closed().await;
}

#[tokio::test]
async fn connection_close_is_obeyed() {
    let (_origin, fairlead) = one().await;
    let mut client = fairlead.client().await;
    client.send_get("/", "Connection: close\r\n").await;
    assert_eq!(client.response().await.unwrap().text(), "a");
    client.closed().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (_origin, fairlead) = one().await;
    let mut client = fairlead.client().await;
    let first = request("GET", "/delay/100", "", "");
    let second = request("POST", "/echo", "", "second");
    let third = request("GET", "/", "", "");
    client.send(first + &second + &third).await;
    for expected in ["a", "second", "a"] {
        assert_eq!(client.response().await.unwrap().text(), expected);
    }
}

#[tokio::test]
async fn many_requests_share_a_connection() {
    let (origin, fairlead) = one().await;
    let mut client = fairlead.client().await;
    for _ in 0..200 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(origin.requests(), 200);
}

#[tokio::test]
async fn a_client_that_ends_its_half_after_asking() {
    let (origin, fairlead) = one().await;
    let mut client = fairlead.client().await;
    client.send(request("GET", "/", "", "")).await;
    until("it arrives", async || origin.requests() == 1).await;
    client.finish().await;
    // Its answer, or a closed connection: never a stuck count.
    let _ = client.response().await;
    fairlead.idle().await;
}
