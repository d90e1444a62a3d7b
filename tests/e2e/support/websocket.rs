//! WebSockets by a real library: a server that echoes messages, and clients.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use openssl::ssl::SslConnector;
use pingora::tls::tokio_ssl::SslStream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async, client_async};

/// One WebSocket.
pub type Socket<S = TcpStream> = WebSocketStream<S>;

/// Echoes messages of text and bytes, and chooses the first protocol that a client offers. The text `close CODE` makes it
/// close with this code and the reason `as asked`.
pub struct EchoServer {
    /// Where it is.
    pub address: SocketAddr,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    open: AtomicUsize,
    handshakes: Mutex<Vec<Request>>,
    ends: Mutex<Vec<String>>,
}

impl EchoServer {
    /// One that listens.
    pub async fn start() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1024).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let task = tokio::spawn(accept(listener, seen.clone()));
        EchoServer { address, seen, task }
    }

    /// WebSockets that are open.
    pub fn open(&self) -> usize {
        self.seen.open.load(SeqCst)
    }

    /// Requests that opened one.
    pub fn handshakes(&self) -> Vec<Request> {
        self.seen.handshakes.lock().unwrap().clone()
    }

    /// How each that is over has ended, in words of [`end_of`].
    pub fn ends(&self) -> Vec<String> {
        self.seen.ends.lock().unwrap().clone()
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, seen: Arc<Seen>) {
    loop {
        let (connection, _) = listener.accept().await.unwrap();
        tokio::spawn(echo(connection, seen.clone()));
    }
}

async fn echo(connection: TcpStream, seen: Arc<Seen>) {
    connection.set_nodelay(true).unwrap();
    #[allow(clippy::result_large_err)]
    let answer = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        if let Some(offered) = request.headers().get("sec-websocket-protocol") {
            let first = offered.to_str().unwrap().split(',').next().unwrap();
            response.headers_mut().insert("sec-websocket-protocol", first.parse().unwrap());
        }
        seen.handshakes.lock().unwrap().push(request.clone());
        Ok(response)
    };
    // A check of health sends nothing.
    let Ok(mut socket) = accept_hdr_async(connection, answer).await else { return };
    seen.open.fetch_add(1, SeqCst);
    let end = serve(&mut socket).await;
    seen.ends.lock().unwrap().push(end);
    seen.open.fetch_sub(1, SeqCst);
}

async fn serve(socket: &mut Socket) -> String {
    loop {
        let message = match socket.next().await {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => message,
            Some(Ok(Message::Close(frame))) => return finish(socket, frame).await,
            Some(Ok(_)) => continue,
            Some(Err(error)) => return broken(error),
            None => return "nothing".to_string(),
        };
        let code = message.to_text().ok().and_then(|text| text.strip_prefix("close ")).map(|code| code.parse::<u16>());
        let sent = match code {
            Some(code) => {
                let frame = CloseFrame { code: code.unwrap().into(), reason: "as asked".into() };
                socket.close(Some(frame)).await
            }
            None => socket.send(message).await,
        };
        if let Err(error) = sent {
            return broken(error);
        }
    }
}

/// A client over a connection to `address`, once its handshake is done.
pub async fn websocket(address: SocketAddr, path: &str) -> Socket {
    let connection = TcpStream::connect(address).await.unwrap();
    connection.set_nodelay(true).unwrap();
    client_async(format!("ws://a.test{path}"), connection).await.unwrap_or_else(|error| panic!("{error}")).0
}

/// The same by TLS, with the name `a.test`, which is verified.
pub async fn secure_websocket(
    address: SocketAddr,
    connector: &SslConnector,
    path: &str,
) -> Socket<SslStream<TcpStream>> {
    let ssl = connector.configure().unwrap().into_ssl("a.test").unwrap();
    let mut stream = SslStream::new(ssl, TcpStream::connect(address).await.unwrap()).unwrap();
    Pin::new(&mut stream).connect().await.unwrap();
    client_async(format!("wss://a.test{path}"), stream).await.unwrap_or_else(|error| panic!("{error}")).0
}

/// Sends a message and fails the test unless the same comes back.
pub async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut Socket<S>, message: Message) {
    socket.send(message.clone()).await.unwrap();
    let answer = socket.next().await.expect("an answer, not the end").unwrap();
    assert!(answer == message, "{} bytes, not the {} sent", answer.len(), message.len());
}

/// Waits for the end of a WebSocket: the code and the reason of the other side's close frame, as in `4001 bye`, or
/// `broken` without one.
pub async fn end_of<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut Socket<S>) -> String {
    loop {
        match socket.next().await {
            Some(Ok(Message::Close(frame))) => return finish(socket, frame).await,
            Some(Ok(_)) => {}
            Some(Err(error)) => return broken(error),
            None => return "nothing".to_string(),
        }
    }
}

/// A close frame has come: answers it and waits for the end of the connection, as the library does in `next`.
async fn finish<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut Socket<S>, frame: Option<CloseFrame>) -> String {
    match socket.next().await {
        None => {}
        Some(after) => return format!("{after:?} after the close"),
    }
    frame.map_or("no code".to_string(), |frame| format!("{} {}", u16::from(frame.code), frame.reason))
}

fn broken(error: Error) -> String {
    println!("a WebSocket ended so: {error}");
    "broken".to_string()
}
