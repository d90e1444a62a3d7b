//! HTTP/1.1 by hand: small enough to send and to notice what no library would.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A request's or response's head.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The first line, without its line end.
    pub start: String,
    /// In order, names as they came.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All headers of this name.
    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Word `n` of the first line.
    pub fn word(&self, n: usize) -> &str {
        self.start.split(' ').nth(n).unwrap_or("")
    }

    /// How the body is delimited; `otherwise` where the head does not say.
    pub fn framing(&self, otherwise: Framing) -> Framing {
        if self.all("transfer-encoding").any(|v| v.eq_ignore_ascii_case("chunked")) {
            Framing::Chunked
        } else if let Some(length) = self.header("content-length") {
            Framing::Length(length.parse().unwrap())
        } else {
            otherwise
        }
    }
}

/// How a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Framing {
    /// This many bytes are still to come.
    Length(usize),
    /// In chunks.
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

/// A connection with a read buffer.
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    /// Takes over a fresh connection.
    pub fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Wire { stream, buffer: Vec::new() }
    }

    /// Writes all bytes.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// The next head; None when the connection ended before it.
    pub async fn head(&mut self) -> io::Result<Option<Head>> {
        let mut start = None;
        let mut headers = Vec::new();
        loop {
            let Some(line) = self.line().await? else {
                return if start.is_none() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            };
            match (&start, line.split_once(':')) {
                (None, _) => start = Some(line),
                (Some(start), _) if line.is_empty() => {
                    return Ok(Some(Head { start: start.clone(), headers }));
                }
                (_, Some((name, value))) => headers.push((name.to_string(), value.trim().to_string())),
                _ => return Err(io::Error::other(format!("not a header: {line}"))),
            }
        }
    }

    /// The next piece of a body (a whole chunk where it comes in chunks); None at its end.
    pub async fn part(&mut self, framing: &mut Framing) -> io::Result<Option<Vec<u8>>> {
        match framing {
            Framing::Length(0) => Ok(None),
            Framing::Length(left) => {
                if self.buffer.is_empty() && !self.fill().await? {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let n = self.buffer.len().min(*left);
                *left -= n;
                Ok(Some(self.buffer.drain(..n).collect()))
            }
            Framing::Chunked => {
                let line = self.line().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
                let digits = line.split(';').next().unwrap_or("").trim();
                let size =
                    usize::from_str_radix(digits, 16).map_err(|_| io::Error::other(format!("not a chunk: {line}")))?;
                if size == 0 {
                    while !self.line().await?.ok_or(io::ErrorKind::UnexpectedEof)?.is_empty() {}
                    *framing = Framing::Length(0);
                    return Ok(None);
                }
                while self.buffer.len() < size + 2 {
                    if !self.fill().await? {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                let chunk = self.buffer.drain(..size).collect();
                self.buffer.drain(..2);
                Ok(Some(chunk))
            }
            Framing::UntilClose => {
                if self.buffer.is_empty() && !self.fill().await? {
                    return Ok(None);
                }
                Ok(Some(std::mem::take(&mut self.buffer)))
            }
        }
    }

    /// A whole body.
    pub async fn body(&mut self, mut framing: Framing) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(part) = self.part(&mut framing).await? {
            body.extend(part);
        }
        Ok(body)
    }

    /// Waits for the end of the connection, whatever its way; keeps what comes before it.
    pub async fn closed(&mut self) {
        while let Ok(true) = self.fill().await {}
    }

    /// Some bytes have come that nobody has read.
    pub fn has_bytes(&self) -> bool {
        !self.buffer.is_empty() || self.stream.try_read(&mut [0]).is_ok_and(|n| n > 0)
    }

    /// The connection ends with a reset instead of in good order.
    pub fn reset(&self) {
        // Linger 0 does not block.
        let _ = self.stream.set_zero_linger();
    }

    /// Half-closes: no more bytes will be sent.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    async fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_string()));
            }
            if !self.fill().await? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// Reads once; false at the end.
    async fn fill(&mut self) -> io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }
}

/// One chunk of a chunked body.
pub fn chunk(data: impl AsRef<[u8]>) -> Vec<u8> {
    let data = data.as_ref();
    let mut chunk = format!("{:x}\r\n", data.len()).into_bytes();
    chunk.extend_from_slice(data);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

/// Milliseconds.
pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
