//! HTTP/2 towards clients: what is asked and answered. What goes wrong is in `http2_faults` and `http2_frames`.

use std::pin::Pin;

use bytes::Bytes;
use nix::sys::signal::Signal;
use openssl::ssl::SslMethod;
use pingora::tls::tokio_ssl::SslStream;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::support::{
    Answer, Client, Fairlead, H2, Origin, Pair, Wish, config, get, h2_request, ms, pattern, servers, soon, trusting,
    until,
};

/// A node whose listener speaks HTTP/2 by prior knowledge, and HTTP/1.
pub async fn start(origin: &Origin, more: &str) -> Fairlead {
    let yaml = format!(
        "listeners: [{{ name: public, address: \"127.0.0.1:0\", protocols: [h1, h2c], {more} }}]\n\
         pools: {{ app: {{ servers: [{}] }} }}\n",
        servers(&[origin])
    );
    Fairlead::start(&config(&yaml)).await
}

fn seen<'a>(answer: &'a Value, name: &str) -> Vec<&'a str> {
    let headers = answer["headers"].as_array().unwrap();
    let named = headers.iter().filter(|pair| pair[0].as_str().unwrap().eq_ignore_ascii_case(name));
    named.map(|pair| pair[1].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_server_of_http1_sees_a_request_of_its_own_kind() {
    let origin = Origin::start("a");
    let fairlead = start(&origin, "").await;
    let mut client = H2::connect(fairlead.address()).await;
    let cookies = [("cookie", "a=1"), ("cookie", "b=2"), ("x-forwarded-for", "10.1.1.1"), ("te", "trailers")];
    let answer = client.ask("GET", "/headers?x=1", &cookies).await;
    assert_eq!(answer.status, 200);
    assert!(!answer.header("x-request-id").is_empty());
    let head: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(head["target"], "/headers?x=1");
    assert_eq!(seen(&head, "host"), ["h2.test"]);
    assert_eq!(seen(&head, "cookie"), ["a=1; b=2"]);
    assert_eq!(seen(&head, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen(&head, "x-forwarded-host"), ["h2.test"]);
    assert_eq!(seen(&head, "x-forwarded-proto"), ["http"]);
    assert_eq!(seen(&head, "x-request-id"), [answer.header("x-request-id")]);
    assert!(seen(&head, ":authority").is_empty());
    let head = client.ask("HEAD", "/", &[]).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(client.ask("OPTIONS", "/", &[("max-forwards", "0")]).await.status, 200);
}

#[tokio::test]
async fn headers_of_the_connection_stay_out_of_answers() {
    let origin = Origin::start("a");
    let fairlead = start(&origin, "").await;
    let mut client = H2::connect(fairlead.address()).await;
    let answer = client.get("/hop").await;
    assert_eq!((answer.text().as_str(), answer.header("x-public")), ("a", "1"));
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "x-internal", "fairlead-error"] {
        assert!(!answer.headers.contains_key(name), "{name}: {answer:?}");
    }
    let answer = client.get("/pauses/3/10").await;
    assert_eq!(answer.text(), "part 0\npart 1\npart 2\n");
    assert!(!answer.headers.contains_key("transfer-encoding"));
    // The client would take it for a broken connection.
    assert_eq!(client.get("/").await.text(), "a");
}

#[tokio::test]
async fn an_empty_last_frame_leaves_the_servers_connection_sound() {
    let origin = Origin::start("a");
    let fairlead = start(&origin, "").await;
    let mut client = H2::connect(fairlead.address()).await;
    for _ in 0..5 {
        assert_eq!(client.post("/echo", &[], &["one ", "two"]).await.text(), "one two");
        assert_eq!(client.post("/echo", &[], &[]).await.text(), "");
        assert_eq!(client.post("/echo", &[("content-length", "3")], &["abc"]).await.text(), "abc");
        assert_eq!(client.get("/").await.text(), "a");
    }
    assert_eq!(origin.connections(), 1, "the server closed what it could not read");
    assert_eq!(origin.requests(), 20);
}

#[tokio::test]
async fn many_at_once_on_one_connection() {
    let origin = Origin::start("a");
    let fairlead = start(&origin, "").await;
    let mut client = H2::connect(fairlead.address()).await;
    // By now it knows how many it may have at once.
    client.get("/").await;
    let mut all = tokio::task::JoinSet::new();
    for n in 0..300usize {
        let mut send = client.send.clone();
        all.spawn(async move {
            send = soon("room", send.ready()).await.unwrap();
            let response = send.send_request(h2_request("GET", &format!("/bytes/{}", n * 300), &[]), true).unwrap().0;
            let answer = soon("an answer", async { Answer::of(response.await?).await }).await.unwrap();
            assert_eq!(answer.body, pattern(n * 300));
        });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    assert!(origin.most_in_flight() <= 100, "more than a client may have at once");
    fairlead.idle().await;
}

#[tokio::test]
async fn both_ways_at_once() {
    let origin = Origin::start("a");
    let fairlead = start(&origin, "").await;
    let mut client = H2::connect(fairlead.address()).await;
    let (response, mut body) = client.begin(h2_request("POST", "/stream-echo", &[]), false).await;
    body.send_data(Bytes::from_static(b"first"), false).unwrap();
    let mut answer = soon("a header", response).await.unwrap().into_body();
    for text in ["first", "second", "third"] {
        if text != "first" {
            body.send_data(Bytes::from_static(text.as_bytes()), false).unwrap();
        }
        assert_eq!(soon("an echo", answer.data()).await.unwrap().unwrap(), text);
    }
    body.send_data(Bytes::new(), true).unwrap();
    while let Some(last) = soon("the end", answer.data()).await {
        assert_eq!(last.unwrap(), "");
    }
    fairlead.idle().await;
}

#[tokio::test]
async fn refusals_have_their_names() {
    let origin = Origin::start("a");
    let limits = "limits: { uri_bytes: 1000B, headers: 20, body: 100B, header_bytes: 8KiB }";
    let fairlead = start(&origin, limits).await;
    let mut client = H2::connect(fairlead.address()).await;
    let answer = client.get(&format!("/{}", "x".repeat(1000))).await;
    assert_eq!(answer.refusal(), (414, "uri-too-long"));
    assert_eq!(answer.text(), "414 uri-too-long\n");
    assert!(!answer.header("x-request-id").is_empty());
    let head = client.ask("HEAD", &format!("/{}", "x".repeat(1000)), &[]).await;
    assert_eq!((head.refusal(), head.body.len()), ((414, "uri-too-long"), 0));
    let many: Vec<(String, String)> = (0..21).map(|n| (format!("x-{n}"), n.to_string())).collect();
    let many: Vec<_> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(client.ask("GET", "/", &many).await.refusal(), (431, "headers-too-large"));
    assert_eq!(client.ask("GET", "/", &[("x-large", &"x".repeat(9000))]).await.status, 431, "by Pingora");
    assert_eq!(client.ask("GET", "/", &[("expect", "tea")]).await.refusal(), (417, "expectation-failed"));
    assert_eq!(client.post("/echo", &[("content-length", "101")], &["x"]).await.refusal().0, 413);
    let pieces = ["twenty-five bytes, really"; 5];
    assert_eq!(client.post("/echo", &[], &pieces).await.refusal(), (413, "body-too-large"));
    assert_eq!(client.ask("GET", "/", &[("host", "other.test")]).await.status, 400);
    assert_eq!(client.ask("GET", "/", &[("host", "h2.test")]).await.text(), "a");
    assert_eq!(client.ask("GET", "/status/503", &[]).await.refusal(), (503, ""));
    fairlead.idle().await;
}

#[tokio::test]
async fn only_what_is_configured_is_spoken() {
    let origin = Origin::start("a");
    let yaml = config(&format!(
        "listeners: [{{ name: one, address: \"127.0.0.1:0\" }}, {{ name: two, address: \"127.0.0.1:0\", protocols: [h2c] }}, \
         {{ name: both, address: \"127.0.0.1:0\", protocols: [h1, h2c] }}]\n\
         pools: {{ app: {{ servers: [{}] }} }}\n",
        servers(&[&origin])
    ));
    let fairlead = Fairlead::start(&yaml).await;
    assert_eq!(H2::connect(fairlead.listener("two")).await.get("/").await.text(), "a");
    assert_eq!(H2::connect(fairlead.listener("both")).await.get("/").await.text(), "a");
    assert_eq!(get(fairlead.listener("both"), "/", "").await.text(), "a");
    // Shorter than what HTTP/2 begins with, and beginning as it does.
    for short in ["GET / HTTP/1.0\r\n\r\n", "PRI / HTTP/1.0\r\n\r\n", "P / HTTP/1.0\r\n\r\n"] {
        let mut client = Client::connect(fairlead.listener("both")).await;
        client.send(short).await;
        assert_eq!(client.response().await.unwrap().text(), "a", "{short:?}");
    }
    let mut client = Client::connect(fairlead.listener("two")).await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    client.closed().await;
    let mut client = Client::connect(fairlead.listener("one")).await;
    client.send(crate::support::frames::PREFACE).await;
    assert_eq!(client.response().await.map_or(400, |response| response.status), 400);
}

/// What the two agree on in a handshake, and a connection where it is HTTP/2.
async fn agreed(fairlead: &Fairlead, authority: &Pair, offered: &[u8]) -> (Option<Vec<u8>>, SslStream<TcpStream>) {
    let mut connector = trusting(authority);
    if !offered.is_empty() {
        connector.set_alpn_protos(offered).unwrap();
    }
    let ssl = connector.build().configure().unwrap().into_ssl("a.test").unwrap();
    let stream = TcpStream::connect(fairlead.address()).await.unwrap();
    let mut stream = SslStream::new(ssl, stream).unwrap();
    soon("a handshake", Pin::new(&mut stream).connect()).await.unwrap();
    (stream.ssl().selected_alpn_protocol().map(<[u8]>::to_vec), stream)
}

async fn secured(protocols: &str) -> (Origin, Fairlead, Pair, TempDir) {
    let authority = Pair::authority("Authority");
    let files = TempDir::new().unwrap();
    authority.issue(Wish::names(&["a.test"])).write(files.path(), "a");
    let origin = Origin::start("a");
    let dir = files.path().to_str().unwrap();
    let yaml = config(&format!(
        "listeners: [{{ name: public, address: \"127.0.0.1:0\", {protocols} tls: {{ certificates: [{{ cert: \"{dir}/a.pem\", key: \"{dir}/a.key\" }}] }} }}]\n\
         pools: {{ app: {{ servers: [{}] }} }}\n",
        servers(&[&origin])
    ));
    (origin, Fairlead::start(&yaml).await, authority, files)
}

#[tokio::test]
async fn tls_agrees_on_the_best() {
    let _ = SslMethod::tls();
    let (_origin, fairlead, authority, _files) = secured("").await;
    let (protocol, stream) = agreed(&fairlead, &authority, b"\x08http/1.1\x02h2").await;
    assert_eq!(protocol.as_deref(), Some(&b"h2"[..]));
    let mut client = H2::over(stream).await;
    let answer = client.get("/headers").await;
    let head: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(seen(&head, "x-forwarded-proto"), ["https"]);
    assert_eq!(client.post("/echo", &[], &["a", "b"]).await.text(), "ab");
    let (protocol, _stream) = agreed(&fairlead, &authority, b"\x08http/1.1").await;
    assert_eq!(protocol.as_deref(), Some(&b"http/1.1"[..]));
    assert_eq!(agreed(&fairlead, &authority, b"").await.0, None);
}

#[tokio::test]
async fn tls_offers_only_what_is_configured() {
    let (_origin, fairlead, authority, _files) = secured("protocols: [h1],").await;
    let (protocol, _stream) = agreed(&fairlead, &authority, b"\x02h2\x08http/1.1").await;
    assert_eq!(protocol.as_deref(), Some(&b"http/1.1"[..]));
    let (_origin, fairlead, authority, _files) = secured("protocols: [h2],").await;
    let (protocol, stream) = agreed(&fairlead, &authority, b"\x02h2\x08http/1.1").await;
    assert_eq!(protocol.as_deref(), Some(&b"h2"[..]));
    assert_eq!(H2::over(stream).await.get("/").await.text(), "a");
}

#[tokio::test]
async fn at_the_end_of_a_node_requests_finish_and_connections_are_told() {
    let origin = Origin::start("a");
    let mut fairlead = start(&origin, "").await;
    let mut client = H2::connect(fairlead.address()).await;
    let mut idle = H2::connect(fairlead.address()).await;
    assert_eq!(idle.get("/").await.text(), "a");
    let (response, _) = client.begin(h2_request("GET", "/delay/1500", &[]), true).await;
    until("the request arrives", async || origin.in_flight() == 1).await;
    fairlead.signal(Signal::SIGTERM);
    // GOAWAY without an error: both ends of the library take it for a good end.
    idle.closed().await.unwrap();
    assert_eq!(soon("the answer", async { Answer::of(response.await?).await }).await.unwrap().text(), "a");
    client.closed().await.unwrap();
    let (code, took) = fairlead.exit(ms(10_000)).await;
    assert_eq!(code, Some(0));
    assert!(took < ms(6000), "{took:?}");
}

/// A request of HTTP/2 to a server of HTTP/2.
#[tokio::test]
async fn from_end_to_end() {
    let origin = Origin::start("a");
    let inner = start(&origin, "").await;
    let yaml = config(&format!(
        "listeners: [{{ name: public, address: \"127.0.0.1:0\", protocols: [h1, h2c] }}]\n\
         pools: {{ app: {{ servers: [\"{}\"], health: {{ path: /heartbeat }}, upstream: {{ protocol: h2 }} }} }}\n",
        inner.address()
    ));
    let outer = Fairlead::start(&yaml).await;
    assert!(!origin.checks().is_empty(), "checked by HTTP/2");
    let mut client = H2::connect(outer.address()).await;
    for _ in 0..3 {
        assert_eq!(client.post("/echo", &[], &["one ", "two"]).await.text(), "one two");
        assert_eq!(outer.get("/bytes/200000").await.body, pattern(200_000));
    }
    let head: Value = serde_json::from_slice(&outer.get("/headers").await.body).unwrap();
    assert_eq!(seen(&head, "x-forwarded-proto"), ["http"]);
    // A client of HTTP/1 that waits for a 100.
    let mut waits = outer.client().await;
    waits.send("POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").await;
    assert_eq!(waits.head().await.word(1), "100");
    waits.send("ok").await;
    assert_eq!(waits.response().await.unwrap().text(), "ok");
    // HTTP/2 switches to nothing: the server sees a plain request.
    let mut upgrade = outer.client().await;
    upgrade.send_get("/headers", "Connection: Upgrade\r\nUpgrade: websocket\r\n").await;
    let head = upgrade.response().await.unwrap().json();
    assert!(seen(&head, "upgrade").is_empty() && seen(&head, "connection").is_empty());
    assert_eq!(client.get("/status/404").await.status, 404);
    outer.idle().await;
}

#[tokio::test]
async fn servers_agree_on_it_by_tls() {
    let (_origin, inner, authority, files) = secured("protocols: [h2],").await;
    std::fs::write(files.path().join("ca.pem"), authority.pem()).unwrap();
    let yaml = config(&format!(
        "pools: {{ app: {{ servers: [\"{}\"], health: {{ path: /heartbeat }}, \
         upstream: {{ protocol: h2, tls: {{ sni: a.test, ca: \"{}/ca.pem\" }} }} }} }}\n",
        inner.address(),
        files.path().to_str().unwrap()
    ));
    let outer = Fairlead::start(&yaml).await;
    for _ in 0..3 {
        assert_eq!(outer.get("/").await.text(), "a");
    }
    let mut client = outer.client().await;
    client.send(crate::support::request("POST", "/echo", "", "some")).await;
    assert_eq!(client.response().await.unwrap().text(), "some");
    outer.idle().await;
}
