//! More of everything than there may be: connections, requests, file descriptors.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{Client, Fairlead, Origin, config, ms, request, servers, soon, until};

const REFUSED: &str = "fairlead_refused_total";

fn yaml(origin: &Origin, limits: &str, rest: &str) -> String {
    let listeners = format!("listeners: [{{ name: public, address: \"127.0.0.1:0\", limits: {{ {limits} }} }}]\n");
    // No check comes in between: descriptors are counted here.
    let health = "health: { type: tcp, interval: 60s }";
    let pools = format!("pools: {{ app: {{ servers: [{}], {health} }} }}\n", servers(&[origin]));
    config(&(listeners + &pools + rest))
}

/// A connection from an address of this machine.
async fn from(source: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(source.parse::<IpAddr>().unwrap(), 0)).unwrap();
    socket.connect(to).await.unwrap()
}

/// Sends bytes, whatever becomes of them, and reads to the end of the connection.
async fn exchange(mut stream: TcpStream, bytes: &[u8]) -> String {
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    soon("the end of the connection", stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

fn assert_too_many(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("fairlead-error: too-many-connections\r\n"), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
}

const CLOSE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn a_full_listener_says_so_and_frees() {
    let origin = Origin::start("a");
    let fairlead = Fairlead::start(&yaml(&origin, "connections: 3", "")).await;
    let address = fairlead.address();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = fairlead.client().await;
        assert_eq!(client.get("/").await.status, 200);
        clients.push(client);
    }
    let refused = async || fairlead.metric(REFUSED, &[("reason", "too-many-connections")]).await;
    assert_eq!(refused().await, 0.0);
    // A client gets its answer whether it has said nothing yet, asks, or sends more than anybody reads.
    assert_too_many(&exchange(TcpStream::connect(address).await.unwrap(), b"").await);
    assert_too_many(&exchange(TcpStream::connect(address).await.unwrap(), CLOSE).await);
    let upload = request("POST", "/echo", "", &"x".repeat(20_000));
    assert_too_many(&exchange(TcpStream::connect(address).await.unwrap(), upload.as_bytes()).await);
    assert_eq!(refused().await, 3.0);
    assert_eq!(fairlead.metric("fairlead_connections", &[("listener", "public")]).await, 3.0);
    assert_eq!(fairlead.admin_get("/readyz").await.status, 200);
    assert_eq!(origin.requests(), 3);

    for client in &mut clients {
        assert_eq!(client.get("/").await.status, 200, "those who are in are served");
    }
    clients.pop();
    until("there is room again", async || {
        let mut client = fairlead.client().await;
        client.get("/").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn one_client_cannot_have_all_connections() {
    let origin = Origin::start("a");
    let yaml = yaml(&origin, "per_client: 2", "trusted_proxies: [127.0.0.3]\n");
    let fairlead = Fairlead::start(&yaml).await;
    let address = fairlead.address();
    let first = [from("127.0.0.1", address).await, from("127.0.0.1", address).await];
    let gauge = async || fairlead.metric("fairlead_connections", &[]).await;
    until("both are in", async || gauge().await == 2.0).await;
    assert_too_many(&exchange(from("127.0.0.1", address).await, CLOSE).await);
    assert!(exchange(from("127.0.0.2", address).await, CLOSE).await.starts_with("HTTP/1.1 200 "));

    let behind: Vec<_> = {
        let mut streams = Vec::new();
        for _ in 0..5 {
            streams.push(from("127.0.0.3", address).await);
        }
        streams
    };
    until("a trusted proxy has many", async || gauge().await == 7.0).await;
    assert_eq!(fairlead.metric(REFUSED, &[("reason", "too-many-connections")]).await, 1.0);
    drop((first, behind));
    until("they are forgotten", async || gauge().await == 0.0).await;
    assert!(exchange(from("127.0.0.1", address).await, CLOSE).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn more_requests_than_the_node_may_have() {
    let origin = Origin::start("a");
    let fairlead = Fairlead::start(&yaml(&origin, "", "max_in_flight: 2\n")).await;
    let mut clients = Vec::new();
    for n in 1..=2 {
        let mut client = fairlead.client().await;
        client.send_get("/hang", "").await;
        clients.push(client);
        until("it arrives", async || origin.in_flight() == n).await;
    }
    let mut third = fairlead.client().await;
    for _ in 0..2 {
        let response = third.get("/").await;
        assert_eq!(response.refusal(), (503, "overloaded"));
        assert!(response.header("x-request-id").is_some());
    }
    assert_eq!(fairlead.metric(REFUSED, &[("reason", "overloaded")]).await, 2.0);
    assert_eq!(origin.requests(), 2);
    clients.pop();
    until("one leaves", async || origin.in_flight() == 1).await;
    until("its place is free", async || third.get("/").await.status == 200).await;
    for _ in 0..5 {
        assert_eq!(third.get("/").await.status, 200, "who is served gives its place back");
    }
}

#[tokio::test]
async fn clients_are_let_in_only_as_far_as_descriptors_go() {
    let origin = Origin::start("a");
    let mut fairlead = Fairlead::spawn_by_shell(&yaml(&origin, "", ""), "ulimit -n 200", "");
    fairlead.wait_ready().await;
    let told = &fairlead.events("open_files_limit_connections")[0];
    assert_eq!((told["level"].as_str(), told["limit"].as_u64()), (Some("WARN"), Some(200)), "{told}");
    let most = told["connections"].as_u64().unwrap() as usize;
    assert!((20..=68).contains(&most), "each needs two of 200, and others need some: {told}");

    let mut clients = Vec::new();
    for _ in 0..150 {
        let mut client = fairlead.client().await;
        client.send_get("/hang", "").await;
        clients.push(client);
    }
    until("as many as there may be are served", async || origin.in_flight() == most).await;
    let refused = (150 - most) as f64;
    // Nearly all for this reason; one that came while a socket was still being closed may have found no descriptor.
    let of = async |labels: &[(&str, &str)]| fairlead.metric(REFUSED, labels).await;
    until("the others are refused", async || of(&[]).await == refused).await;
    assert!(of(&[("reason", "too-many-connections")]).await > refused * 0.8);
    assert_eq!(fairlead.admin_get("/readyz").await.status, 200);
    drop(clients);
    until("they are gone", async || fairlead.metric("fairlead_connections", &[]).await == 0.0).await;
    assert_eq!(fairlead.get("/").await.text(), "a");
}

/// The numbers of its descriptors.
fn descriptors(fairlead: &Fairlead) -> Vec<u64> {
    let entries = std::fs::read_dir(format!("/proc/{}/fd", fairlead.pid())).unwrap();
    entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).collect()
}

/// Leaves it room for so many more descriptors.
fn leave(fairlead: &Fairlead, room: usize) {
    let taken = descriptors(fairlead);
    let limit = (0u64..).filter(|n| !taken.contains(n)).nth(room).unwrap();
    limit_to(fairlead, limit);
}

fn limit_to(fairlead: &Fairlead, limit: u64) {
    let pid = fairlead.pid().to_string();
    let done = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={limit}:")]).status().unwrap();
    assert!(done.success());
}

/// Processor time it has used, in ticks of 10 ms.
fn ticks(fairlead: &Fairlead) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", fairlead.pid())).unwrap();
    let after: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    after[11].parse::<u64>().unwrap() + after[12].parse::<u64>().unwrap()
}

#[tokio::test]
async fn without_descriptors_it_waits_and_blames_nobody() {
    let origin = Origin::start("a");
    let fairlead = Fairlead::start(&yaml(&origin, "", "")).await;
    let server = origin.server();
    // Nothing opens or closes a descriptor by itself now.
    let settled = async || {
        let before = descriptors(&fairlead).len();
        tokio::time::sleep(ms(100)).await;
        descriptors(&fairlead).len() == before
    };
    until("all is quiet", settled).await;

    // Room for a client, none for the connection to the server.
    leave(&fairlead, 1);
    for _ in 0..3 {
        assert_eq!(fairlead.get("/").await.refusal(), (503, "out-of-descriptors"));
    }
    // No room even for a client: it waits, and the node does not run hot meanwhile.
    leave(&fairlead, 0);
    let mut waiting = Client::connect(fairlead.address()).await;
    waiting.send_get("/", "").await;
    until("it is noticed", async || fairlead.log().contains("Accept() failed")).await;
    let before = ticks(&fairlead);
    tokio::time::sleep(ms(1500)).await;
    assert!(ticks(&fairlead) - before < 30, "{} ticks in 1.5 s", ticks(&fairlead) - before);

    limit_to(&fairlead, 10_000);
    assert_eq!(waiting.response().await.unwrap().text(), "a");
    let state = fairlead.server(&server).await;
    assert_eq!((state["state"].as_str(), state["errors"].as_u64()), (Some("up"), Some(0)), "{state}");
    assert_eq!(fairlead.metric(REFUSED, &[("reason", "out-of-descriptors")]).await, 3.0);
    assert_eq!(fairlead.metric("fairlead_retries_total", &[]).await, 0.0);
    fairlead.idle().await;
}

#[tokio::test]
async fn a_check_that_cannot_be_made_changes_nothing() {
    let origin = Origin::start("a");
    let health = "health: { path: /heartbeat, interval: 100ms, timeout: 100ms, fall: 1 }";
    let yaml = config(&format!("pools: {{ app: {{ servers: [{}], {health} }} }}\n", servers(&[&origin])));
    let fairlead = Fairlead::start(&yaml).await;
    limit_to(&fairlead, 3);
    until("checks cannot be made", async || fairlead.events("cannot_check_server").len() > 5).await;
    limit_to(&fairlead, 10_000);
    assert_eq!(fairlead.get("/").await.text(), "a");
    assert!(fairlead.events("server_down").is_empty());
    assert_eq!(fairlead.server(&origin.server()).await["state"], "up");
}
