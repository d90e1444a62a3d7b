//! Servers that switch protocols at once, before they could have read what they are asked.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Fairlead, one_pool};

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

/// Answers as soon as it is connected to, with `greeting`, and then echoes what follows the request.
async fn hasty(greeting: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let stream = listener.accept().await.unwrap().0;
            tokio::spawn(serve(stream, greeting));
        }
    });
    address
}

async fn serve(mut stream: TcpStream, greeting: &str) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(greeting.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await?;
    Ok(())
}

const ASK: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[tokio::test]
async fn a_tunnel_outlives_a_switch_that_came_before_the_request() {
    let server = hasty(Box::leak(format!("{SWITCH}hello").into_boxed_str())).await;
    let fairlead = Fairlead::start(&one_pool(&server.to_string(), "")).await;
    for n in 0..200 {
        let mut client = fairlead.client().await;
        client.send_get("/ws", ASK).await;
        assert_eq!(client.head().await.word(1), "101", "tunnel {n}");
        assert_eq!(client.bytes(5).await, b"hello", "tunnel {n}");
        client.send("how are you").await;
        assert_eq!(client.bytes(11).await, b"how are you", "tunnel {n}");
    }
    fairlead.idle().await;
}

#[tokio::test]
async fn a_hasty_refusal_is_an_ordinary_answer() {
    let server = hasty("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
    let fairlead = Fairlead::start(&one_pool(&server.to_string(), "")).await;
    let mut client = fairlead.client().await;
    for _ in 0..20 {
        client.send_get("/ws", ASK).await;
        let response = client.response().await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (403, "no"));
    }
    fairlead.idle().await;
}

#[tokio::test]
async fn a_switch_that_does_not_come_has_its_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let yaml = one_pool(&listener.local_addr().unwrap().to_string(), "")
        + "routes: [{ name: all, match: {}, pool: app, timeouts: { response: 300ms } }]\n";
    let fairlead = Fairlead::start(&yaml).await;
    let mut client = fairlead.client().await;
    client.send_get("/ws", ASK).await;
    assert_eq!(client.response().await.unwrap().refusal(), (504, "response-timeout"));
    drop(listener);
    fairlead.idle().await;
}
