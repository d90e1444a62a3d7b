//! Upgraded connections.

use crate::support::{Client, Fairlead, Origin, config, ms, one_pool, servers, until, within};

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Asks for the upgrade and checks the answer.
async fn open(fairlead: &Fairlead) -> Client {
    let mut client = fairlead.client().await;
    client.send_get("/ws", UPGRADE).await;
    let head = client.head().await;
    assert_eq!(head.word(1), "101", "{head:?}");
    assert_eq!(head.header("upgrade").map(str::to_lowercase).as_deref(), Some("websocket"));
    assert!(head.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("upgrade")), "{head:?}");
    assert!(head.header("sec-websocket-accept").is_some());
    client
}

async fn echo(client: &mut Client, text: &str) {
    client.send(text).await;
    assert_eq!(client.bytes(text.len()).await, text.as_bytes());
}

#[tokio::test]
async fn bytes_pass_both_ways() {
    let origin = Origin::start("a");
    let fairlead = Fairlead::start(&one_pool(&servers(&[&origin]), "")).await;
    let mut client = open(&fairlead).await;
    echo(&mut client, "\u{81}\u{5}hello").await;
    echo(&mut client, &"x".repeat(100_000)).await;
    assert_eq!(fairlead.in_flight().await, 1);
    drop(client);
    fairlead.idle().await;
    until("the server's side ended", async || origin.in_flight() == 0).await;
}

#[tokio::test]
async fn many_tunnels_one_after_another() {
    let origin = Origin::start("a");
    let fairlead = Fairlead::start(&one_pool(&servers(&[&origin]), "")).await;
    for n in 0..100 {
        let mut client = open(&fairlead).await;
        echo(&mut client, &format!("message {n}")).await;
    }
    fairlead.idle().await;
}

#[tokio::test]
async fn the_server_may_end_it() {
    let mut origin = Origin::start("a");
    let fairlead = Fairlead::start(&one_pool(&servers(&[&origin]), "")).await;
    let mut client = open(&fairlead).await;
    echo(&mut client, "hello").await;
    origin.kill().await;
    client.closed().await;
    fairlead.idle().await;
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer() {
    let origin = Origin::start("a");
    let fairlead = Fairlead::start(&one_pool(&servers(&[&origin]), "")).await;
    let mut client = fairlead.client().await;
    client.send_get("/status/403", UPGRADE).await;
    assert_eq!(client.response().await.unwrap().status, 403);
    fairlead.idle().await;
}

/// With these timeouts on the only route.
async fn with_timeouts(timeouts: &str) -> (Origin, Fairlead) {
    let origin = Origin::start("a");
    let yaml = format!(
        "routes: [{{ name: all, match: {{}}, pool: app, timeouts: {{ {timeouts} }} }}]\npools: {{ app: {{ servers: [{}] }} }}\n",
        servers(&[&origin])
    );
    let fairlead = Fairlead::start(&config(&yaml)).await;
    (origin, fairlead)
}

#[tokio::test]
async fn silence_may_be_longer_than_for_requests() {
    let (_origin, fairlead) = with_timeouts("response: 300ms, idle: 300ms, websocket_idle: 30s").await;
    let mut client = open(&fairlead).await;
    tokio::time::sleep(ms(1000)).await;
    echo(&mut client, "still here").await;
}

#[tokio::test]
async fn silence_has_a_limit() {
    let (_origin, fairlead) = with_timeouts("response: 5s, idle: 30s, websocket_idle: 500ms").await;
    let mut client = open(&fairlead).await;
    echo(&mut client, "hello").await;
    client.closed().await;
    let took = within(ms(3000), "released", async || fairlead.in_flight().await == 0).await;
    assert!(took < ms(1000), "{took:?}");
}
