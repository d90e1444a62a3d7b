//! Balancers in front that say by the PROXY protocol who the client is.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::support::{
    Fairlead, Origin, Pair, Response, Wish, config, handshake, ms, request, servers, soon, trusting, until,
};

const REFUSED: &str = "fairlead_refused_total";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

/// A node that expects headers from 127.0.0.1, with these further keys of its listener and of the file.
async fn start(listener: &str, rest: &str) -> (Origin, Fairlead) {
    let origin = Origin::start("a");
    let yaml = config(&format!(
        "listeners: [{{ name: public, address: \"127.0.0.1:0\", proxy_protocol: {{ from: [127.0.0.1] }}, {listener} }}]\n\
         pools: {{ app: {{ servers: [{}] }} }}\n\
         access_log: {{ format: json, path: \"{{dir}}/access.log\" }}\n{rest}",
        servers(&[&origin])
    ));
    (origin, Fairlead::start(&yaml).await)
}

fn v1(client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().unwrap();
    let (family, to) = if client.is_ipv4() { ("TCP4", "198.51.100.1") } else { ("TCP6", "2001:db8::ffff") };
    format!("PROXY {family} {} {to} {} 443\r\n", client.ip(), client.port()).into_bytes()
}

fn v2(client: &str, more: &[u8]) -> Vec<u8> {
    let client: SocketAddr = client.parse().unwrap();
    let (family, mut rest) = match client.ip() {
        IpAddr::V4(ip) => (0x11, [&ip.octets()[..], &[198, 51, 100, 1]].concat()),
        IpAddr::V6(ip) => (0x21, [&ip.octets()[..], &[0; 16]].concat()),
    };
    rest.extend_from_slice(&client.port().to_be_bytes());
    rest.extend_from_slice(&443u16.to_be_bytes());
    rest.extend_from_slice(more);
    binary(PROXY, family, &rest)
}

fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, rest].concat()
}

fn get(path: &str) -> Vec<u8> {
    request("GET", path, "", "").into_bytes()
}

/// A header that the server saw.
fn seen(response: &Response, name: &str) -> String {
    assert_eq!(response.status, 200, "{}", response.text());
    let seen = response.json();
    let mut pairs = seen["headers"].as_array().unwrap().iter();
    let pair = pairs.find(|pair| pair[0].as_str().unwrap().eq_ignore_ascii_case(name));
    pair.unwrap_or_else(|| panic!("no {name}: {seen}"))[1].as_str().unwrap().to_owned()
}

/// A request whose connection begins with this header, in one piece.
async fn asked(fairlead: &Fairlead, header: &[u8], path: &str) -> Response {
    let mut client = fairlead.client().await;
    client.send([header, &get(path)].concat()).await;
    client.response().await.unwrap()
}

/// All that comes back for these bytes until the connection ends.
async fn answer(mut stream: TcpStream, bytes: &[u8]) -> String {
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // It may end with a reset: not all was read.
    soon("the end of the connection", stream.read_to_end(&mut answer)).await.ok();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn from(ip: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(ip.parse().unwrap(), 0)).unwrap();
    socket.connect(to).await.unwrap()
}

async fn refused(fairlead: &Fairlead, reason: &str) -> f64 {
    fairlead.metric(REFUSED, &[("reason", reason)]).await
}

async fn connections(fairlead: &Fairlead) -> f64 {
    fairlead.metric("fairlead_connections", &[]).await
}

#[tokio::test]
async fn the_client_is_whom_the_header_names() {
    let (_origin, fairlead) = start("", "").await;
    let fields = b"\x01\0\x02h2\xea\0\x04vpce";
    let cases = [
        (v1("192.0.2.1:1000"), "192.0.2.1"),
        (v1("[2001:db8::1]:1000"), "2001:db8::1"),
        (v1("[::ffff:192.0.2.9]:1000"), "192.0.2.9"),
        (v2("192.0.2.2:0", b""), "192.0.2.2"),
        (v2("[2001:db8::2]:65535", b""), "2001:db8::2"),
        (v2("192.0.2.3:1000", fields), "192.0.2.3"),
        (v2("192.0.2.4:1000", &[0; 4096 - 28]), "192.0.2.4"),
        // The balancer speaks for itself, or does not know an address.
        (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), "127.0.0.1"),
        (binary(LOCAL, 0, b""), "127.0.0.1"),
        (binary(LOCAL, 0x11, &[9; 12]), "127.0.0.1"),
        (binary(PROXY, 0x00, fields), "127.0.0.1"),
        (binary(PROXY, 0x31, &[b'/'; 216]), "127.0.0.1"),
    ];
    let names: Vec<_> = cases.iter().map(|(_, name)| *name).collect();
    for (header, name) in &cases {
        assert_eq!(seen(&asked(&fairlead, header, "/headers").await, "x-forwarded-for"), *name, "{header:?}");
    }
    let path = fairlead.dir.path().join("access.log");
    until("the access log says so too", async || {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut logged: Vec<_> = lines.map(|line| line["client"].as_str().unwrap().to_owned()).collect();
        let mut names = names.clone();
        logged.sort();
        names.sort_unstable();
        logged == names
    })
    .await;
    assert_eq!(fairlead.metric(REFUSED, &[]).await, 0.0);
}

#[tokio::test]
async fn for_all_requests_of_the_connection() {
    let (origin, fairlead) = start("", "").await;
    let mut client = fairlead.client().await;
    // Two requests come with the header, one later, and then there is no second header.
    client.send([v2("192.0.2.1:1000", b""), get("/headers"), get("/headers")].concat()).await;
    for _ in 0..2 {
        assert_eq!(seen(&client.response().await.unwrap(), "x-forwarded-for"), "192.0.2.1");
    }
    assert_eq!(seen(&client.get("/headers").await, "x-forwarded-for"), "192.0.2.1");
    assert_eq!(origin.requests(), 3);
    client.send([v1("192.0.2.2:1000"), get("/headers")].concat()).await;
    assert_eq!(client.response().await.unwrap().status, 400);
    client.closed().await;
    assert_eq!(origin.requests(), 3);
}

#[tokio::test]
async fn however_it_is_cut() {
    let (_origin, fairlead) = start("", "").await;
    for header in [v1("192.0.2.1:1000"), v2("[2001:db8::1]:1000", b"\x04\0\x01x")] {
        let whole = [header.clone(), get("/headers")].concat();
        let mut bytewise = fairlead.client().await;
        for byte in &whole {
            bytewise.send([*byte]).await;
        }
        let expected = if header[0] == b'P' { "192.0.2.1" } else { "2001:db8::1" };
        assert_eq!(seen(&bytewise.response().await.unwrap(), "x-forwarded-for"), expected);
        // Its end and the request's begin in one piece, and a body as large as any buffer after it.
        let body = "x".repeat(100_000);
        let mut client = fairlead.client().await;
        let (first, second) = header.split_at(header.len() - 3);
        client.send(first).await;
        tokio::task::yield_now().await;
        client.send([second, request("POST", "/echo", "", &body).as_bytes()].concat()).await;
        let response = client.response().await.unwrap();
        assert_eq!(response.status, 200);
        assert!(response.text().contains(&body), "{} bytes", response.body.len());
    }
}

#[tokio::test]
async fn a_listed_peer_without_header_is_closed_without_a_word() {
    let (origin, fairlead) = start("", "").await;
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92)).into_bytes();
    let bad = [
        get("/"),
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec(),
        [long, get("/")].concat(),
        [b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2\n".to_vec(), get("/")].concat(),
        [b"PROXY TCP4 192.0.2.256 198.51.100.1 1 2\r\n".to_vec(), get("/")].concat(),
        [b"\r\n".to_vec(), v1("192.0.2.1:1"), get("/")].concat(),
        [v2("192.0.2.1:1", &[0; 4097 - 28]), get("/")].concat(),
        [binary(PROXY, 0x21, &[9; 12]), get("/")].concat(),
        [binary(0x11, 0x11, &[9; 12]), get("/")].concat(),
    ];
    for (n, bytes) in bad.iter().enumerate() {
        let stream = TcpStream::connect(fairlead.address()).await.unwrap();
        assert_eq!(answer(stream, bytes).await, "", "{bytes:?}");
        until("it is counted", async || refused(&fairlead, "bad-proxy-header").await == (n + 1) as f64).await;
    }
    // One that ends within its header.
    let mut cut = fairlead.client().await;
    cut.send(&v2("192.0.2.1:1", b"")[..20]).await;
    cut.finish().await;
    cut.closed().await;
    until("it is counted", async || refused(&fairlead, "bad-proxy-header").await == (bad.len() + 1) as f64).await;
    assert_eq!(origin.requests(), 0);
    until("all are gone", async || connections(&fairlead).await == 0.0).await;
}

#[tokio::test]
async fn who_is_not_listed_is_the_client_itself() {
    let (origin, fairlead) = start("", "").await;
    let close = request("GET", "/headers", "Connection: close\r\n", "");
    let plain = answer(from("127.0.0.2", fairlead.address()).await, close.as_bytes()).await;
    assert!(plain.starts_with("HTTP/1.1 200 ") && plain.contains("127.0.0.2"), "{plain}");
    assert_eq!(origin.requests(), 1);
    for header in [v1("192.0.2.1:1000"), v2("192.0.2.1:1000", b"")] {
        let bytes = [header, close.clone().into_bytes()].concat();
        let answer = answer(from("127.0.0.2", fairlead.address()).await, &bytes).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    assert_eq!(origin.requests(), 1, "a header is no part of HTTP");
    assert_eq!(refused(&fairlead, "bad-proxy-header").await, 0.0);
}

#[tokio::test]
async fn who_connects_and_leaves_is_no_error() {
    let (_origin, fairlead) = start("", "").await;
    for _ in 0..5 {
        let mut client = fairlead.client().await;
        client.finish().await;
        client.closed().await;
    }
    fairlead.client().await.reset();
    assert_eq!(asked(&fairlead, &binary(LOCAL, 0, b""), "/").await.status, 200);
    until("all are gone", async || connections(&fairlead).await == 0.0).await;
    assert_eq!(fairlead.metric(REFUSED, &[]).await, 0.0);
}

#[tokio::test]
async fn a_slow_header_ends_at_its_deadline() {
    let (origin, fairlead) = start("timeouts: { header: 1s }", "").await;
    for (n, slow) in [b"PROXY UNKNOWN a b c d e f".as_slice(), b""].into_iter().enumerate() {
        let begin = Instant::now();
        let mut stream = TcpStream::connect(fairlead.address()).await.unwrap();
        let mut bytes = slow.iter();
        let mut answer = [0; 16];
        let end = loop {
            tokio::select! {
                read = stream.read(&mut answer) => break read,
                () = tokio::time::sleep(ms(100)) => if let Some(byte) = bytes.next() {
                    stream.write_all(&[*byte]).await.ok();
                },
            }
            assert!(begin.elapsed() < ms(9000), "still open");
        };
        assert!(end.is_err() || end.is_ok_and(|n| n == 0), "{answer:?}");
        assert!(begin.elapsed() >= ms(900), "{:?}", begin.elapsed());
        until("it is counted", async || refused(&fairlead, "slow-header").await == (n + 1) as f64).await;
    }
    assert_eq!(origin.requests(), 0);
}

#[tokio::test]
async fn limits_are_the_clients_own() {
    let (_origin, fairlead) = start("limits: { per_client: 1, connections: 20 }", "").await;
    let mut first = fairlead.client().await;
    first.send([v1("192.0.2.1:1000"), get("/")].concat()).await;
    assert_eq!(first.response().await.unwrap().status, 200);
    let second = asked(&fairlead, &v2("192.0.2.1:1001", b""), "/").await;
    assert_eq!(second.refusal(), (503, "too-many-connections"));
    assert_eq!(asked(&fairlead, &v1("192.0.2.2:1000"), "/").await.status, 200);
    // Nobody knows whose these are.
    let mut unknown = Vec::new();
    for _ in 0..3 {
        let mut client = fairlead.client().await;
        client.send([b"PROXY UNKNOWN\r\n".to_vec(), get("/")].concat()).await;
        assert_eq!(client.response().await.unwrap().status, 200);
        unknown.push(client);
    }
    drop((first, unknown));
    until("the client is forgotten", async || connections(&fairlead).await == 0.0).await;
    assert_eq!(asked(&fairlead, &v1("192.0.2.1:1002"), "/").await.status, 200);
    // Those that have not said yet whose they are count for the listener.
    until("it is gone too", async || connections(&fairlead).await == 0.0).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(fairlead.client().await);
    }
    until("all are in", async || connections(&fairlead).await == 20.0).await;
    let mut more = fairlead.client().await;
    assert_eq!(more.response().await.unwrap().refusal(), (503, "too-many-connections"));
}

#[tokio::test]
async fn rules_and_rates_are_for_the_client() {
    let routes = "routes:\n\
        - { name: closed, match: { path_prefix: /closed }, pool: app, deny: [192.0.2.0/24] }\n\
        - { name: rare, match: { path_prefix: /rare }, pool: app, rate_limit: { rate: 1/h, burst: 1 } }\n\
        - { name: rest, pool: app }\n\
        trusted_proxies: [10.0.0.0/8]\n";
    let (_origin, fairlead) = start("", routes).await;
    assert_eq!(asked(&fairlead, &v1("192.0.2.1:1"), "/closed").await.refusal(), (403, "denied"));
    assert_eq!(asked(&fairlead, &v1("198.51.100.1:1"), "/closed").await.status, 200);
    for client in ["192.0.2.1:1", "192.0.2.2:1"] {
        assert_eq!(asked(&fairlead, &v2(client, b""), "/rare").await.status, 200);
        assert_eq!(asked(&fairlead, &v2(client, b""), "/rare").await.refusal(), (429, "rate-limited"));
    }
    // Another proxy, whose own word is believed.
    let mut client = fairlead.client().await;
    client.send(v1("10.1.2.3:1")).await;
    client.send_get("/headers", "X-Forwarded-For: 203.0.113.9\r\n").await;
    let trusted = client.response().await.unwrap();
    assert_eq!(seen(&trusted, "x-forwarded-for"), "203.0.113.9, 10.1.2.3");
    let mut client = fairlead.client().await;
    client.send(v1("192.0.2.1:1")).await;
    client.send_get("/headers", "X-Forwarded-For: 203.0.113.9\r\n").await;
    assert_eq!(seen(&client.response().await.unwrap(), "x-forwarded-for"), "192.0.2.1");
}

/// A balancer that begins each connection with this header and what the client says first, in one piece.
async fn balancer(header: Vec<u8>, to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let header = header.clone();
            tokio::spawn(async move {
                let mut first = vec![0; 4096];
                let n = client.read(&mut first).await.unwrap();
                let mut server = TcpStream::connect(to).await.unwrap();
                server.write_all(&[&header, &first[..n]].concat()).await.unwrap();
                copy_bidirectional(&mut client, &mut server).await.ok();
            });
        }
    });
    address
}

#[tokio::test]
async fn before_tls_too() {
    let authority = Pair::authority("Authority");
    let files = TempDir::new().unwrap();
    authority.issue(Wish::names(&["a.test"])).write(files.path(), "a");
    let dir = files.path().display();
    let tls =
        format!("tls: {{ certificates: [{{ cert: {dir}/a.pem, key: {dir}/a.key }}] }}, limits: {{ per_client: 1 }}");
    let (origin, fairlead) = start(&tls, "").await;
    let connector = trusting(&authority).build();
    for (header, name) in [
        (v1("192.0.2.1:1000"), "192.0.2.1"),
        (v2("[2001:db8::1]:1000", b"\x04\0\x01x"), "2001:db8::1"),
        (binary(LOCAL, 0, b""), "127.0.0.1"),
    ] {
        let front = balancer(header, fairlead.address()).await;
        let mut secured = handshake(front, &connector, "a.test").await.unwrap();
        for _ in 0..2 {
            let response = secured.client.get("/headers").await;
            assert_eq!(seen(&response, "x-forwarded-for"), name);
            assert_eq!(seen(&response, "x-forwarded-proto"), "https");
        }
        if name != "127.0.0.1" {
            assert!(handshake(front, &connector, "a.test").await.is_err(), "a second of this client is one too many");
        }
    }
    assert_eq!(refused(&fairlead, "too-many-connections").await, 2.0);
    // Without a header, though TLS, and with one, but within TLS.
    assert!(handshake(fairlead.address(), &connector, "a.test").await.is_err());
    until("it is counted", async || refused(&fairlead, "bad-proxy-header").await == 1.0).await;
    let front = balancer(v1("192.0.2.7:1000"), fairlead.address()).await;
    let mut secured = handshake(front, &connector, "a.test").await.unwrap();
    let before = origin.requests();
    secured.client.send([v1("192.0.2.1:1000"), get("/")].concat()).await;
    assert_eq!(secured.client.response().await.unwrap().status, 400);
    assert_eq!(origin.requests(), before);
}
