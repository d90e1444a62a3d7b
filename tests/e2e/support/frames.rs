//! HTTP/2, frame by frame: for clients that do what no library would let them do.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::soon;

/// What every connection begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames.
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Self {
        Frame { kind, flags, stream, payload: payload.as_ref().to_vec() }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = (self.payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    /// The error of a RST_STREAM or GOAWAY.
    pub fn error(&self) -> u32 {
        let at = if self.kind == kind::GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// A block of headers, as literals that no table remembers (RFC 7541 §6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127 + 128);
            if text.len() < 127 {
                block.push(text.len() as u8);
            } else {
                block.extend([127, (text.len() - 127) as u8]);
            }
            block.extend(text.as_bytes());
        }
    }
    block
}

/// The fields of a plain request.
pub const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "frames.test"), (":path", "/frames")];

/// A connection.
pub struct Frames {
    stream: TcpStream,
}

impl Frames {
    /// One that has said nothing.
    pub async fn silent(address: SocketAddr) -> Self {
        Frames { stream: TcpStream::connect(address).await.unwrap() }
    }

    /// One that has sent the preface and its settings, and taken the other side's.
    pub async fn connect(address: SocketAddr) -> Self {
        let mut frames = Self::silent(address).await;
        frames.write(PREFACE).await;
        frames.send(&Frame::new(kind::SETTINGS, 0, 0, [])).await;
        let first = frames.next().await.unwrap();
        assert_eq!((first.kind, first.flags), (kind::SETTINGS, 0));
        frames.send(&Frame::new(kind::SETTINGS, ACK, 0, [])).await;
        frames
    }

    /// The other end of one: the preface has been taken, and settings have been sent. None: it ended before that.
    pub async fn accepted(mut stream: TcpStream) -> Option<Self> {
        let mut preface = [0; PREFACE.len()];
        soon("the preface", stream.read_exact(&mut preface)).await.ok()?;
        assert_eq!(preface, PREFACE);
        let mut frames = Frames { stream };
        frames.send(&Frame::new(kind::SETTINGS, 0, 0, [])).await;
        frames.send(&Frame::new(kind::SETTINGS, ACK, 0, [])).await;
        Some(frames)
    }

    /// Sends what the other side may not want any more.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    pub async fn send(&mut self, frame: &Frame) -> bool {
        self.write(&frame.bytes()).await
    }

    /// A request of these fields on this stream, without a body.
    pub async fn request(&mut self, stream: u32, fields: &[(&str, &str)]) {
        self.send(&Frame::new(kind::HEADERS, END_HEADERS | END_STREAM, stream, block(fields))).await;
    }

    /// The next frame; none: the connection is at its end.
    pub async fn next(&mut self) -> Option<Frame> {
        let read = async {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            self.stream.read_exact(&mut payload).await.ok()?;
            let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
            Some(Frame { kind: head[3], flags: head[4], stream, payload })
        };
        soon("a frame, or the end", read).await
    }

    /// The next frame of one of these types; none: the connection has ended.
    pub async fn next_of(&mut self, kinds: &[u8]) -> Option<Frame> {
        while let Some(frame) = self.next().await {
            if kinds.contains(&frame.kind) {
                return Some(frame);
            }
        }
        None
    }
}
