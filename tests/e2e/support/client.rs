//! A raw client: what it sends is what the test says, byte for byte.

use std::io;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::net::TcpStream;

use super::soon;
use super::wire::{Framing, Head, Wire, chunk};

/// A response.
#[derive(Debug)]
pub struct Response {
    /// Of its first line.
    pub status: u16,
    /// First line and headers.
    pub head: Head,
    /// Without its framing.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim_end().to_string()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// Status and the name of the refusal.
    pub fn refusal(&self) -> (u16, &str) {
        (self.status, self.header("fairlead-error").unwrap_or(""))
    }
}

/// One connection.
pub struct Client {
    wire: Wire,
}

impl Client {
    /// Connects; fails the test if it cannot.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).await.unwrap()
    }

    /// Connects.
    pub async fn try_connect(address: SocketAddr) -> io::Result<Self> {
        Ok(Client { wire: Wire::new(TcpStream::connect(address).await?) })
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.unwrap();
    }

    /// Sends bytes as they are, if it still can.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.write(bytes).await
    }

    /// Sends a `GET` with these extra header lines (each with its line end).
    pub async fn send_get(&mut self, path: &str, headers: &str) {
        self.send(request("GET", path, headers, "")).await;
    }

    /// Sends one chunk of a chunked body; an empty one ends it.
    pub async fn send_chunk(&mut self, data: &str) {
        self.send(chunk(data)).await;
    }

    /// The next head.
    pub async fn head(&mut self) -> Head {
        soon("a response's head", self.wire.head()).await.unwrap().expect("a response, not the end of the connection")
    }

    /// The next piece of a chunked body; None at its end.
    pub async fn chunk(&mut self) -> io::Result<Option<String>> {
        let part = soon("a chunk", self.wire.part(&mut Framing::Chunked)).await?;
        Ok(part.map(|p| String::from_utf8_lossy(&p).trim_end().to_string()))
    }

    /// Exactly `n` bytes as they are.
    pub async fn bytes(&mut self, n: usize) -> Vec<u8> {
        soon("bytes", self.wire.body(Framing::Length(n))).await.unwrap()
    }

    /// The next response, to a `GET` and the like.
    pub async fn response(&mut self) -> io::Result<Response> {
        soon("a whole response", self.read(false)).await
    }

    /// The next response, to a `HEAD`.
    pub async fn response_to_head(&mut self) -> Response {
        soon("a whole response", self.read(true)).await.unwrap()
    }

    /// `GET`s a page.
    pub async fn get(&mut self, path: &str) -> Response {
        self.send_get(path, "").await;
        self.response().await.unwrap()
    }

    /// Waits until the other side has ended the connection.
    pub async fn closed(&mut self) {
        soon("the end of the connection", self.wire.closed()).await;
    }

    /// The connection will end with a reset when dropped.
    pub fn reset(self) {
        self.wire.reset();
    }

    /// Sends no more.
    pub async fn finish(&mut self) {
        self.wire.finish().await.unwrap();
    }

    /// Without a deadline of its own.
    pub async fn read(&mut self, bodiless: bool) -> io::Result<Response> {
        let head = self.wire.head().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = head.word(1).parse().map_err(|_| io::Error::other(format!("not a response: {}", head.start)))?;
        let none = bodiless || matches!(status, 100..200 | 204 | 304);
        let framing = if none { Framing::Length(0) } else { head.framing(Framing::UntilClose) };
        let body = self.wire.body(framing).await?;
        Ok(Response { status, head, body })
    }
}

/// A request for host `test`; `headers` are extra lines, each with its line end. A `Host:` among them replaces ours.
pub fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let host = if headers.lines().any(|line| line.starts_with("Host:")) { "" } else { "Host: test\r\n" };
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("{method} {path} HTTP/1.1\r\n{host}{headers}{length}\r\n{body}")
}

/// `GET`s a page over a connection of its own.
pub async fn get(address: SocketAddr, path: &str, headers: &str) -> Response {
    let mut client = Client::connect(address).await;
    client.send_get(path, headers).await;
    client.response().await.unwrap()
}
