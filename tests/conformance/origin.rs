//! A server that notes what it is sent and answers what it is told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::case::all;

/// How it answers.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// None: 200 and `ok`, after a 100 where that is asked for.
    pub reply: Option<Vec<u8>>,
    /// Closes after it.
    pub hang_up: bool,
    /// Before it reads a body.
    pub early: bool,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub start: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn all(&self, name: &str) -> Option<String> {
        all(&self.headers, name)
    }
}

#[derive(Default)]
struct State {
    script: Script,
    seen: Vec<Seen>,
}

pub struct Origin {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Origin {
    pub fn start() -> Origin {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<Mutex<State>>::default();
        tokio::spawn(accept(TcpListener::from_std(listener).unwrap(), state.clone()));
        Origin { address, state }
    }

    /// How it answers from now on.
    pub fn prepare(&self, script: Script) {
        self.state.lock().unwrap().script = script;
    }

    /// What came since the last call.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.lock().unwrap().seen)
    }
}

async fn accept(listener: TcpListener, state: Arc<Mutex<State>>) {
    loop {
        let stream = listener.accept().await.unwrap().0;
        stream.set_nodelay(true).unwrap();
        let state = state.clone();
        tokio::spawn(async move {
            let mut wire = Wire { stream, buffer: Vec::new() };
            while serve(&mut wire, &state).await == Some(true) {}
        });
    }
}

/// Serves one request; None or false: the connection ends.
async fn serve(wire: &mut Wire, state: &Mutex<State>) -> Option<bool> {
    let start = wire.line().await?;
    let mut headers = Vec::new();
    loop {
        let line = wire.line().await?;
        if line.is_empty() {
            break;
        }
        match line.split_once(':') {
            Some((name, value)) => headers.push((name.to_string(), value.trim().to_string())),
            None => headers.push(("not a header".to_string(), line)),
        }
    }
    let script = state.lock().unwrap().script.clone();
    let mut seen = Seen { start, headers, body: Vec::new() };
    if script.early {
        wire.stream.write_all(script.reply.as_ref().unwrap()).await.ok()?;
    }
    if seen.all("expect").is_some() && script.reply.is_none() {
        wire.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
    }
    let (coding, length) = (seen.all("transfer-encoding"), seen.all("content-length"));
    let whole = match (coding, length) {
        (Some(coding), None) if coding == "chunked" => wire.chunks(&mut seen.body).await,
        (None, Some(length)) => {
            let wanted = length.parse().expect("a length");
            wire.bytes(wanted, &mut seen.body).await
        }
        (None, None) => Some(()),
        other => panic!("no sound framing: {other:?}"),
    };
    if whole.is_none() {
        seen.headers.push(("cut off".to_string(), "1".to_string()));
    }
    state.lock().unwrap().seen.push(seen);
    whole?;
    if script.early {
        return Some(true);
    }
    let reply = script.reply.unwrap_or_else(|| b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec());
    wire.stream.write_all(&reply).await.ok()?;
    Some(!script.hang_up)
}

struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    async fn chunks(&mut self, body: &mut Vec<u8>) -> Option<()> {
        loop {
            let size = usize::from_str_radix(&self.line().await?, 16).expect("a chunk's size");
            self.bytes(size, body).await?;
            assert_eq!(self.line().await?, "", "a chunk's end");
            if size == 0 {
                return Some(());
            }
        }
    }

    async fn bytes(&mut self, n: usize, into: &mut Vec<u8>) -> Option<()> {
        while self.buffer.len() < n {
            self.fill().await?;
        }
        into.extend(self.buffer.drain(..n));
        Some(())
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Option<()> {
        let n = self.stream.read_buf(&mut self.buffer).await.ok()?;
        (n > 0).then_some(())
    }
}
