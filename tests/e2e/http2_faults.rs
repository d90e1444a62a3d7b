//! Clients of HTTP/2 that are slow, silent or gone: nothing of theirs is held for ever.

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::http2::start;
use crate::support::frames::{END_HEADERS, Frame, Frames, GET, PREFACE, block, kind};
use crate::support::{Answer, Fairlead, H2, Origin, config, h2_request, ms, soon, until};

#[tokio::test]
async fn a_silent_client_is_let_go() {
    let origin = Origin::start("a");
    let fairlead = start(&origin, "timeouts: { header: 300ms, keepalive: 400ms }").await;
    let mut nothing = Frames::silent(fairlead.address()).await;
    assert!(nothing.next().await.is_none());
    let mut half = Frames::silent(fairlead.address()).await;
    half.write(&PREFACE[..20]).await;
    assert!(half.next().await.is_none());
    let mut no_request = Frames::connect(fairlead.address()).await;
    while no_request.next().await.is_some() {}
    let mut no_end = Frames::connect(fairlead.address()).await;
    no_end.send(&Frame::new(kind::HEADERS, 0, 1, block(&GET))).await;
    while no_end.next().await.is_some() {}
    let mut idle = H2::connect(fairlead.address()).await;
    assert_eq!(idle.get("/").await.status, 200);
    assert_eq!(idle.get("/delay/900").await.status, 200, "one that waits is not idle");
    idle.closed().await.ok();
    let slow = fairlead.metric("fairlead_refused_total", &[("reason", "slow-header")]).await;
    assert!(slow >= 4.0, "{slow}");
}

/// The server has answered all; a byte now and then does not hold its place.
#[tokio::test]
async fn who_trickles_on_after_the_answer_is_cut() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut header = [0; 4096];
            if stream.read(&mut header).await.is_ok_and(|n| n > 0) {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.ok();
                open.push(stream);
            }
        }
    });
    let yaml = format!(
        "listeners: [{{ name: public, address: \"127.0.0.1:0\", protocols: [h2c] }}]\n\
         pools: {{ app: {{ servers: [\"{address}\"] }} }}\n"
    );
    let fairlead = Fairlead::start(&config(&yaml)).await;
    let mut client = Frames::connect(fairlead.address()).await;
    let fields = [(":method", "POST"), (":scheme", "http"), (":authority", "x.test"), (":path", "/")];
    client.send(&Frame::new(kind::HEADERS, END_HEADERS, 1, block(&fields))).await;
    client.send(&Frame::new(kind::DATA, 0, 1, b"x")).await;
    let answer = client.next_of(&[kind::HEADERS, kind::RST_STREAM]).await.unwrap();
    assert_eq!(answer.kind, kind::HEADERS);
    until("its place is free", async || {
        client.send(&Frame::new(kind::DATA, 0, 1, b"x")).await;
        fairlead.metric("fairlead_in_flight", &[("pool", "app"), ("scope", "local")]).await == 0.0
    })
    .await;
    server.abort();
}

#[tokio::test]
async fn a_stalled_upload_is_ended() {
    let origin = Origin::start("a");
    let fairlead = start(&origin, "timeouts: { body: 300ms }").await;
    let mut client = H2::connect(fairlead.address()).await;
    let (response, mut body) = client.begin(h2_request("POST", "/echo", &[]), false).await;
    body.send_data(Bytes::from_static(b"some"), false).unwrap();
    until("it is counted", async || fairlead.in_flight().await == 1).await;
    let answer = soon("an answer", async { Answer::of(response.await?).await }).await.unwrap();
    assert_eq!(answer.refusal(), (408, "slow-body"));
    fairlead.idle().await;
    assert_eq!(client.get("/").await.status, 200, "the connection goes on");
}

#[tokio::test]
async fn a_client_that_takes_nothing_loses_its_request() {
    let origin = Origin::start("a");
    let fairlead = start(&origin, "timeouts: { write: 400ms }, limits: { min_rate: none }").await;
    let mut client = H2::connect(fairlead.address()).await;
    let (response, _) = client.begin(h2_request("GET", "/bytes/10000000", &[]), true).await;
    let mut stuck = soon("a header", response).await.unwrap().into_body();
    fairlead.idle().await;
    // Others on the connection are served, as far as it still has room.
    assert_eq!(client.ask("HEAD", "/", &[]).await.status, 200);
    let ended = soon("its end", async {
        loop {
            match stuck.data().await {
                Some(Ok(data)) => drop(stuck.flow_control().release_capacity(data.len())),
                other => return other.is_some(),
            }
        }
    });
    assert!(ended.await, "reset, not ended well");
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_server() {
    let origin = Origin::start("a");
    let fairlead = start(&origin, "").await;
    let mut client = H2::connect(fairlead.address()).await;
    let (response, mut body) = client.begin(h2_request("GET", "/hang", &[]), true).await;
    until("it arrives", async || origin.in_flight() == 1).await;
    body.send_reset(h2::Reason::CANCEL);
    drop(response);
    until("it is cancelled", async || origin.in_flight() == 0).await;
    fairlead.idle().await;
    let (_response, _body) = client.begin(h2_request("GET", "/hang", &[]), true).await;
    until("another arrives", async || origin.in_flight() == 1).await;
    drop(client);
    until("it is cancelled too", async || origin.in_flight() == 0).await;
    fairlead.idle().await;
}

#[tokio::test]
async fn who_only_cancels_is_shown_out() {
    let origin = Origin::start("a");
    let fairlead = start(&origin, "").await;
    let mut frames = Frames::connect(fairlead.address()).await;
    let mut asked = 0;
    let closed = async {
        loop {
            let stream = asked * 2 + 1;
            frames
                .request(stream, &[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/hang")])
                .await;
            tokio::time::sleep(ms(2)).await;
            if !frames.send(&Frame::new(kind::RST_STREAM, 0, stream, 8u32.to_be_bytes())).await {
                return;
            }
            asked += 1;
            assert!(asked < 2000, "still welcome");
        }
    };
    tokio::time::timeout(ms(20_000), closed).await.unwrap();
    fairlead.idle().await;
    until("no server is kept busy", async || origin.in_flight() == 0).await;
    assert!(origin.requests() < 1000, "{}", origin.requests());
    // Who lets requests finish may cancel as many.
    let mut client = H2::connect(fairlead.address()).await;
    for _ in 0..150 {
        assert_eq!(client.get("/").await.status, 200);
        let (response, mut body) = client.begin(h2_request("GET", "/hang", &[]), true).await;
        body.send_reset(h2::Reason::CANCEL);
        drop(response);
    }
    fairlead.idle().await;
}

#[tokio::test]
async fn a_response_may_end_before_the_request() {
    let origin = Origin::start("a");
    let fairlead = start(&origin, "limits: { body: 10B }").await;
    let mut client = H2::connect(fairlead.address()).await;
    // Refused, while the client goes on sending.
    let (response, mut body) = client.begin(h2_request("POST", "/echo", &[("content-length", "1000")]), false).await;
    body.send_data(Bytes::from_static(b"0123456789"), false).unwrap();
    let answer = soon("an answer", async { Answer::of(response.await?).await }).await.unwrap();
    assert_eq!(answer.refusal(), (413, "body-too-large"));
    let reason = soon("a reset", std::future::poll_fn(|cx| body.poll_reset(cx))).await.unwrap();
    assert_eq!(reason, h2::Reason::NO_ERROR, "asked to stop, without an error (RFC 9113 §8.1)");
    fairlead.idle().await;
    assert_eq!(client.get("/").await.status, 200);
}
