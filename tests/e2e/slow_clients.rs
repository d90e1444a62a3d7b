//! Clients that take their time, by intention or not.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::support::{Client, Fairlead, Load, Origin, config, ms, request, servers, until, within};

const REFUSED: &str = "fairlead_refused_total";

async fn start(listener: &str) -> (Origin, Fairlead) {
    let origin = Origin::start("a");
    let listeners = format!("listeners: [{{ name: public, address: \"127.0.0.1:0\", {listener} }}]\n");
    let pools = format!("pools: {{ app: {{ servers: [{}] }} }}\n", servers(&[&origin]));
    let log = "access_log: { format: json }\n";
    let fairlead = Fairlead::start(&config(&(listeners + &pools + log))).await;
    (origin, fairlead)
}

/// Sends one byte of `bytes` after the other, round and round, until the other side ends the connection. Returns what
/// it said and how long that took.
async fn drip(mut stream: TcpStream, bytes: &[u8], every: Duration) -> (String, Duration) {
    let start = Instant::now();
    let (mut answer, mut buffer) = (Vec::new(), [0; 1024]);
    for byte in bytes.iter().cycle() {
        tokio::select! {
            read = stream.read(&mut buffer) => match read {
                Ok(n) if n > 0 => {
                    answer.extend_from_slice(&buffer[..n]);
                    continue;
                }
                _ => break,
            },
            () = tokio::time::sleep(every) => {}
        }
        if stream.write_all(&[*byte]).await.is_err() {
            break;
        }
    }
    (String::from_utf8_lossy(&answer).into_owned(), start.elapsed())
}

const HEADER: &[u8] =
    b"GET / HTTP/1.1\r\nHost: a\r\nX: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

#[tokio::test]
async fn a_header_in_drops_ends_at_its_deadline() {
    let (origin, fairlead) = start("timeouts: { header: 1s }").await;
    let stream = TcpStream::connect(fairlead.address()).await.unwrap();
    let (answer, took) = drip(stream, HEADER, ms(100)).await;
    assert_eq!(answer, "");
    assert!(took >= ms(900) && took < ms(3000), "{took:?}");
    until("it is counted", async || fairlead.metric(REFUSED, &[("reason", "slow-header")]).await == 1.0).await;
    until("it is gone", async || fairlead.metric("fairlead_connections", &[]).await == 0.0).await;
    assert_eq!(origin.requests(), 0);
}

#[tokio::test]
async fn on_a_connection_that_is_kept_alive_too() {
    let (_origin, fairlead) = start("timeouts: { header: 500ms, keepalive: 1s }").await;
    let mut stream = TcpStream::connect(fairlead.address()).await.unwrap();
    for _ in 0..2 {
        stream.write_all(request("GET", "/", "", "").as_bytes()).await.unwrap();
        let mut answer = [0; 4096];
        assert!(stream.read(&mut answer).await.unwrap() > 0);
    }
    // A byte every 100 ms: each comes within `keepalive`.
    let (_, took) = drip(stream, HEADER, ms(100)).await;
    assert!(took >= ms(1400) && took < ms(4000), "{took:?}");
    until("it is counted", async || fairlead.metric(REFUSED, &[("reason", "slow-header")]).await == 1.0).await;
}

#[tokio::test]
async fn silence_between_requests_is_no_refusal() {
    let (_origin, fairlead) = start("timeouts: { header: 2s, keepalive: 1s }").await;
    let mut client = fairlead.client().await;
    assert_eq!(client.get("/").await.status, 200);
    let start = Instant::now();
    client.closed().await;
    assert!(start.elapsed() < ms(2500), "{:?}", start.elapsed());
    assert_eq!(fairlead.metric(REFUSED, &[("reason", "slow-header")]).await, 0.0);
}

#[tokio::test]
async fn what_is_long_after_its_header_goes_on() {
    let (_origin, fairlead) = start("timeouts: { header: 500ms, keepalive: 1s }").await;
    let mut client = fairlead.client().await;
    for _ in 0..2 {
        assert_eq!(client.get("/delay/2000").await.status, 200);
    }
    let mut socket = fairlead.client().await;
    socket.send_get("/ws", "Connection: Upgrade\r\nUpgrade: websocket\r\n").await;
    assert_eq!(socket.head().await.word(1), "101");
    tokio::time::sleep(ms(2500)).await;
    socket.send("hello").await;
    assert_eq!(socket.bytes(5).await, b"hello");
    assert_eq!(fairlead.metric(REFUSED, &[]).await, 0.0);
}

#[tokio::test]
async fn a_body_in_drops_is_refused_and_no_server_is_blamed() {
    let (origin, fairlead) = start("").await;
    let mut stream = TcpStream::connect(fairlead.address()).await.unwrap();
    stream.write_all(request("POST", "/echo", "Content-Length: 100000\r\n", "").as_bytes()).await.unwrap();
    let (answer, took) = drip(stream, b"x", ms(100)).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("fairlead-error: slow-body\r\n"), "{answer}");
    assert!(took >= ms(4500) && took < ms(9000), "{took:?}");
    fairlead.idle().await;
    until("the server is left alone", async || origin.in_flight() == 0).await;
    assert_eq!(fairlead.metric(REFUSED, &[("reason", "slow-body")]).await, 1.0);
    assert_eq!(fairlead.server(&origin.server()).await["errors"], 0);
    assert_eq!(origin.requests(), 1, "not sent again");
}

#[tokio::test]
async fn without_a_minimum_rate_a_body_may_come_in_drops() {
    let (_origin, fairlead) = start("limits: { min_rate: none }").await;
    let mut client = fairlead.client().await;
    client.send(request("POST", "/echo", "Content-Length: 80\r\n", "")).await;
    for _ in 0..80 {
        client.send("x").await;
        tokio::time::sleep(ms(100)).await;
    }
    assert_eq!(client.response().await.unwrap().text(), "x".repeat(80));
}

/// A client that has room for little, and asks for much.
async fn small_reader(address: SocketAddr, bytes: usize) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    stream.write_all(request("GET", &format!("/bytes/{bytes}"), "", "").as_bytes()).await.unwrap();
    stream
}

/// Reads a byte now and then, to the end of the connection.
async fn sip(mut stream: TcpStream, every: Duration) {
    while let Ok(1..) = stream.read(&mut [0]).await {
        tokio::time::sleep(every).await;
    }
}

#[tokio::test]
async fn a_response_taken_in_sips_ends() {
    let (origin, fairlead) = start("timeouts: { write: 1s }").await;
    let stream = small_reader(fairlead.address(), 50_000_000).await;
    let reader = tokio::spawn(sip(stream, ms(100)));
    until("it runs", async || fairlead.in_flight().await == 1).await;
    fairlead.idle().await;
    until("the server is left alone", async || origin.in_flight() == 0).await;
    until("it is counted", async || fairlead.metric(REFUSED, &[("reason", "slow-reader")]).await == 1.0).await;
    until("it is logged", async || fairlead.output().contains("\"error\":\"slow-reader\"")).await;
    assert_eq!(fairlead.server(&origin.server()).await["errors"], 0);
    reader.abort();
}

/// Small answers over one connection that nobody reads: no body is ever waited for, only what is left in buffers.
#[tokio::test]
async fn answers_that_nobody_takes_end() {
    let (_origin, fairlead) = start("timeouts: { write: 1s }").await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(fairlead.address()).await.unwrap();
    let requests = request("GET", "/", "", "").repeat(1000);
    let sent = async { while stream.write_all(requests.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(ms(20_000), sent).await.expect("the connection ends");
    fairlead.idle().await;
    until("it is gone", async || fairlead.metric("fairlead_connections", &[]).await == 0.0).await;
}

#[tokio::test]
async fn a_response_taken_slowly_but_steadily_goes_on() {
    // What is written at once, up to 320 KiB, takes this client longer than `write`; its window opens every 2 s.
    let (_origin, fairlead) = start("timeouts: { write: 5s }, limits: { min_rate: 1KiB/s }").await;
    let mut stream = TcpStream::connect(fairlead.address()).await.unwrap();
    stream.write_all(request("GET", "/bytes/50000000", "", "").as_bytes()).await.unwrap();
    until("it runs", async || fairlead.in_flight().await == 1).await;
    for _ in 0..100 {
        stream.read_exact(&mut [0; 6000]).await.unwrap();
        tokio::time::sleep(ms(100)).await;
    }
    assert_eq!(fairlead.in_flight().await, 1);
    assert_eq!(fairlead.metric(REFUSED, &[]).await, 0.0);
}

/// What a crowd of slow clients does to the others.
struct Siege {
    failures: BTreeMap<String, usize>,
    memory: (u64, u64),
}

/// Resident memory in KiB.
fn memory(fairlead: &Fairlead) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", fairlead.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Of `slow` clients most send a header in drops, half of them after a first request; some a body; a few sip at a
/// response.
async fn siege(slow: usize, calm: Duration, limit: Duration) -> Siege {
    let (_origin, fairlead) =
        start("timeouts: { header: 6s, keepalive: 4s, body: 4s, write: 6s }, limits: { min_rate: 1KiB/s }").await;
    let address = fairlead.address();
    let load = Load::start(address, 8, "/delay/5");
    tokio::time::sleep(calm).await;
    let memory_before = memory(&fairlead);

    let mut clients = JoinSet::new();
    for n in 0..slow {
        clients.spawn(async move {
            tokio::time::sleep(ms(n as u64)).await;
            match n % 20 {
                0 => sip(small_reader(address, 8_000_000).await, ms(1000)).await,
                1..=5 => {
                    let mut stream = TcpStream::connect(address).await.unwrap();
                    let head = request("POST", "/echo", "Content-Length: 100000\r\n", "");
                    stream.write_all(head.as_bytes()).await.unwrap();
                    drip(stream, b"x", ms(1000)).await;
                }
                6..=12 => {
                    let mut client = Client::connect(address).await;
                    client.get("/").await;
                    for byte in HEADER.iter().cycle() {
                        let ended = tokio::time::timeout(ms(1000), client.closed()).await;
                        if ended.is_ok() {
                            break;
                        }
                        if client.try_send(&[*byte]).await.is_err() {
                            break;
                        }
                    }
                }
                _ => drop(drip(TcpStream::connect(address).await.unwrap(), HEADER, ms(1000)).await),
            }
        });
    }
    let connections = async || fairlead.metric("fairlead_connections", &[]).await as usize;
    let all = slow * 9 / 10;
    within(limit, "they come", async || connections().await >= all).await;
    let memory_during = memory(&fairlead);
    within(limit, "they are gone", async || connections().await <= 8).await;
    let tally = load.stop().await;
    fairlead.idle().await;
    let ended = fairlead.metric(REFUSED, &[]).await as usize;
    assert!(ended >= slow * 8 / 10, "{ended} of {slow} slow ones were counted");
    Siege { failures: tally.failures, memory: (memory_before, memory_during) }
}

#[tokio::test]
async fn a_crowd_of_slow_clients_does_not_hurt_the_others() {
    let seen = siege(300, ms(1000), ms(20_000)).await;
    assert!(seen.failures.is_empty(), "{:?}", seen.failures);
    let grown = seen.memory.1.saturating_sub(seen.memory.0);
    assert!(grown < 300 * 150, "{grown} KiB for 300 connections");
}
