//! As little HTTP/1.1 as the load needs: GET over a connection that stays open.

use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What ends a head.
pub const END_OF_HEAD: &[u8] = b"\r\n\r\n";
/// Nothing here answers with more.
const LONGEST_ANSWER: usize = 1 << 20;

/// Where `needle` starts.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// An open connection with no request on it.
pub struct Connection(TcpStream);

/// An answer, read to its end.
pub struct Answer {
    /// The status code.
    pub status: u16,
    head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }

    /// Whether the connection can take another request.
    pub fn keeps_alive(&self) -> bool {
        !self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection(stream))
    }

    /// Whether the other side still holds it, as far as is known here.
    pub fn is_open(&self) -> bool {
        matches!(self.0.try_read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// One request and its answer.
    pub async fn get(&mut self, path: &str) -> Result<Answer> {
        self.get_with(path, "").await
    }

    /// One request with these header lines, each with its line end, and its answer.
    pub async fn get_with(&mut self, path: &str, headers: &str) -> Result<Answer> {
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").as_bytes()).await?;
        let mut input = Vec::with_capacity(1024);
        let end = loop {
            match find(&input, END_OF_HEAD) {
                Some(at) => break at,
                None => self.more(&mut input).await?,
            }
        };
        let head = String::from_utf8_lossy(&input[..end]).into_owned();
        let status = head.get(9..12).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| Error::new(ErrorKind::InvalidData, "no status"))?;
        let mut answer = Answer { status, head, body: Vec::new() };
        let length = answer.header("content-length").and_then(|text| text.parse().ok());
        let length: usize = length.ok_or_else(|| Error::new(ErrorKind::InvalidData, "no content-length"))?;
        let start = end + END_OF_HEAD.len();
        while input.len() < start + length {
            self.more(&mut input).await?;
        }
        answer.body = input.split_off(start);
        Ok(answer)
    }

    async fn more(&mut self, input: &mut Vec<u8>) -> Result<()> {
        if input.len() > LONGEST_ANSWER {
            return Err(Error::new(ErrorKind::InvalidData, "answer too long"));
        }
        match self.0.read_buf(input).await? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}
