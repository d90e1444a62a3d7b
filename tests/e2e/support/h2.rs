//! A client of HTTP/2 that keeps to the rules.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::soon;

/// One connection.
pub struct H2 {
    pub send: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// Status and `fairlead-error`.
    pub fn refusal(&self) -> (u16, &str) {
        (self.status, self.header("fairlead-error"))
    }

    pub async fn of(response: Response<RecvStream>) -> Result<Self, h2::Error> {
        let (head, mut stream) = response.into_parts();
        let mut body = Vec::new();
        while let Some(data) = stream.data().await {
            let data = data?;
            stream.flow_control().release_capacity(data.len())?;
            body.extend(data);
        }
        let trailers = stream.trailers().await?.unwrap_or_default();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, trailers })
    }
}

/// `GET`, `POST` … of this path.
pub fn h2_request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(format!("http://h2.test{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

impl H2 {
    /// By prior knowledge.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap()).await
    }

    /// On a connection that stands.
    pub async fn over(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (send, connection) = h2::client::handshake(io).await.unwrap();
        H2 { send, driver: tokio::spawn(connection) }
    }

    /// Begins a request; `end`: it has no body.
    pub async fn begin(&mut self, request: Request<()>, end: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let mut ready = soon("room for a request", self.send.clone().ready()).await.unwrap();
        ready.send_request(request, end).unwrap()
    }

    /// A request without body.
    pub async fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let (response, _) = self.begin(h2_request(method, path, headers), true).await;
        soon("an answer", async { Answer::of(response.await?).await }).await.unwrap()
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path, &[]).await
    }

    /// A request whose body comes in these pieces and ends with an empty one.
    pub async fn post(&mut self, path: &str, headers: &[(&str, &str)], pieces: &[&'static str]) -> Answer {
        let (response, mut body) = self.begin(h2_request("POST", path, headers), false).await;
        for piece in pieces {
            body.send_data(Bytes::from_static(piece.as_bytes()), false).unwrap();
            tokio::task::yield_now().await;
        }
        body.send_data(Bytes::new(), true).unwrap();
        soon("an answer", async { Answer::of(response.await?).await }).await.unwrap()
    }

    /// Waits until the connection is at its end.
    pub async fn closed(&mut self) -> Result<(), h2::Error> {
        soon("the end of the connection", &mut self.driver).await.unwrap()
    }
}

impl Drop for H2 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
