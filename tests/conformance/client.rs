//! A client that sends what it is told and believes nothing: lines end with CRLF, lengths are exact.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::case::all;

/// Longest wait for anything that must come.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn all(&self, name: &str) -> Option<String> {
        all(&self.headers, name)
    }
}

pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Answers have no bodies.
    pub is_head: bool,
    ended: bool,
}

impl Client {
    pub async fn connect(address: SocketAddr, is_head: bool) -> Client {
        Client { stream: TcpStream::connect(address).await.unwrap(), buffer: Vec::new(), is_head, ended: false }
    }

    /// Sends; a proxy that has closed already is no mistake of the test's.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.ok();
    }

    pub async fn finish(&mut self) {
        self.stream.shutdown().await.ok();
    }

    /// The next answer, interim ones too.
    pub async fn answer(&mut self) -> Result<Answer, String> {
        match tokio::time::timeout(PATIENCE, self.read()).await {
            Ok(read) => read,
            Err(_) => Err(format!("silence after {:?}", String::from_utf8_lossy(&self.buffer))),
        }
    }

    /// Waits for the end of the connection; `Err` when anything else comes.
    pub async fn closed(&mut self) -> Result<(), String> {
        let end = async { while self.fill().await {} };
        if tokio::time::timeout(PATIENCE, end).await.is_err() {
            return Err("an open connection".to_string());
        }
        match self.buffer.is_empty() {
            true => Ok(()),
            false => Err(format!("{:?}", String::from_utf8_lossy(&self.buffer))),
        }
    }

    async fn read(&mut self) -> Result<Answer, String> {
        let start = self.line().await?;
        let mut words = start.splitn(3, ' ');
        if words.next() != Some("HTTP/1.1") {
            return Err(format!("not an answer in HTTP/1.1: {start}"));
        }
        let status: u16 = words.next().and_then(|word| word.parse().ok()).ok_or(format!("no status: {start}"))?;
        let headers = self.headers().await?;
        let mut answer = Answer { status, headers, body: Vec::new() };
        if self.is_head || status < 200 || status == 204 || status == 304 {
            return Ok(answer);
        }
        let length = answer.all("content-length");
        match (answer.all("transfer-encoding"), length) {
            (Some(_), Some(_)) => return Err(format!("two lengths: {answer:?}")),
            (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => answer.body = self.chunks().await?,
            (Some(coding), None) => return Err(format!("coded as {coding}")),
            (None, Some(length)) => {
                let length = length.parse().map_err(|_| format!("a length of {length}"))?;
                answer.body = self.bytes(length).await?;
            }
            (None, None) => {
                while self.fill().await {}
                answer.body = std::mem::take(&mut self.buffer);
            }
        }
        Ok(answer)
    }

    async fn headers(&mut self) -> Result<Vec<(String, String)>, String> {
        let mut headers = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(headers);
            }
            let (name, value) = line.split_once(':').ok_or(format!("not a header: {line:?}"))?;
            if name.is_empty() || name.contains([' ', '\t']) || value.contains('\r') {
                return Err(format!("not a header: {line:?}"));
            }
            headers.push((name.to_string(), value.trim_matches([' ', '\t']).to_string()));
        }
    }

    async fn chunks(&mut self) -> Result<Vec<u8>, String> {
        let mut body = Vec::new();
        loop {
            let line = self.line().await?;
            let size = usize::from_str_radix(&line, 16).map_err(|_| format!("not a chunk: {line:?}"))?;
            if size == 0 {
                self.headers().await?;
                return Ok(body);
            }
            body.extend(self.bytes(size).await?);
            match self.line().await?.as_str() {
                "" => {}
                more => return Err(format!("{more:?} in place of a chunk's end")),
            }
        }
    }

    async fn bytes(&mut self, n: usize) -> Result<Vec<u8>, String> {
        while self.buffer.len() < n {
            if !self.fill().await {
                return Err(format!("the end after {} of {n} bytes", self.buffer.len()));
            }
        }
        Ok(self.buffer.drain(..n).collect())
    }

    async fn line(&mut self) -> Result<String, String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let line = line.strip_suffix(b"\r\n").ok_or("a bare LF")?;
                return Ok(String::from_utf8_lossy(line).into_owned());
            }
            if !self.fill().await {
                return Err(format!("the end after {:?}", String::from_utf8_lossy(&self.buffer)));
            }
        }
    }

    /// Reads once; false at the end.
    async fn fill(&mut self) -> bool {
        self.ended = self.ended || !matches!(self.stream.read_buf(&mut self.buffer).await, Ok(n) if n > 0);
        !self.ended
    }
}
