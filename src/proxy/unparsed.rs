//! Requests that Pingora cannot read, and answers before any hook of ours is called: with a bare 400, or 405 to
//! `CONNECT`, that names Pingora. Their clients get an answer of ours instead, and metrics and log tell of it.
//!
//! On connections of HTTP/2, what breaks the rules is reset before Pingora sees it, and `CONNECT` is all that is left:
//! [`refuse_connect`] answers before Pingora does.
//!
//! What Pingora writes while a request header is still waited for can only be such an answer: so a write costs one look at
//! that, and only then its bytes are looked at too.

use std::fmt;
use std::io::{self, IoSlice, Write};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE};
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::config::ServerHeader;
use crate::filters::{request_id, server_header};
use crate::node::Node;
use crate::observe::access_log::Entry;
use crate::observe::metrics::Class;
use crate::proxy::refusal::{HEADER, METHODS};
use crate::proxy::{Refusal, slow};

/// A connection of HTTP/1, on which bare answers are replaced.
pub struct Replaced {
    stream: Stream,
    node: Arc<Node>,
    /// What goes out instead, and how much of it has.
    ours: Option<(Vec<u8>, usize)>,
    /// The most bytes that a request header may have.
    most: u64,
    /// Bytes of a header that is not whole yet, and whether its first line is.
    head: (u64, bool),
}

impl Replaced {
    /// On this connection. Must run within [`slow::header_deadline`].
    /// `most`: bytes that a request header may have. Pingora itself would take in a megabyte before it refuses one.
    pub fn new(stream: Stream, node: Arc<Node>, most: u64) -> Self {
        Replaced { stream, node, ours: None, most, head: (0, false) }
    }

    /// Sends our answer to its end.
    fn poll_ours(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some((ours, sent)) = &mut self.ours else { return Poll::Ready(Ok(())) };
        while let Some(rest) = ours.get(*sent..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => *sent += n,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Our answer; counts and logs it.
    fn answer(&self, refusal: Refusal) -> Vec<u8> {
        let digest = self.stream.get_socket_digest();
        let digest = digest.as_deref();
        let local = digest.and_then(|digest| digest.local_addr()?.as_inet().copied());
        let client = digest.and_then(|digest| digest.peer_addr()?.as_inet().map(|peer| peer.ip()));
        let id = request_id::of(&HeaderMap::new(), false);
        let id = id.to_str().unwrap_or_default();
        let snapshot = self.node.snapshot.load();
        let server = snapshot.listener(local).map_or(&ServerHeader::Pass, |listener| &listener.server_header);
        let answer = written(refusal, id, server);
        tell(&self.node, refusal, Asked::default(), id, client, 0);
        answer
    }
}

/// What is known of a request that was not read.
#[derive(Clone, Copy, Default)]
struct Asked<'a> {
    method: &'a str,
    host: &'a str,
}

/// Counts and logs an answer with a body of this length.
fn tell(node: &Node, refusal: Refusal, asked: Asked<'_>, request_id: &str, client: Option<IpAddr>, bytes_out: usize) {
    let status = refusal.status().as_u16();
    node.metrics.refused.with_label_values(&[refusal.name()]).inc();
    node.metrics.requests.with_label_values(&["", "", Class::of(status).as_str()]).inc();
    let Some(log) = &node.access_log else { return };
    log.log(&Entry {
        time: SystemTime::now(),
        request_id,
        client,
        method: asked.method,
        host: asked.host,
        path: "",
        status,
        error: refusal.name(),
        route: "",
        pool: "",
        server: "",
        attempts: &[],
        duration_ms: 0.0,
        upstream_ms: None,
        bytes_in: 0,
        bytes_out,
        user_agent: "",
        referer: "",
    });
}

/// Answers a `CONNECT` of HTTP/2, which Pingora would do without asking us.
///
/// # Errors
/// The client is gone.
pub async fn refuse_connect(mut session: ServerSession, node: &Node) -> Result<()> {
    let refusal = Refusal::MethodNotAllowed;
    let inet = |address: Option<&SocketAddr>| address.and_then(|address| address.as_inet()).copied();
    let local = inet(session.server_addr());
    let client = inet(session.client_addr()).map(|peer| peer.ip());
    let id = request_id::of(&HeaderMap::new(), false);
    let body = format!("{} {}\n", refusal.status().as_u16(), refusal.name());
    let host = session.req_header().uri.authority().map_or("", |authority| authority.as_str());
    tell(node, refusal, Asked { method: "CONNECT", host }, id.to_str().unwrap_or_default(), client, body.len());
    let mut response = ResponseHeader::build(refusal.status(), Some(6))?;
    response.insert_header(HEADER, refusal.name())?;
    response.insert_header(ALLOW, METHODS)?;
    response.insert_header(CONTENT_TYPE, "text/plain")?;
    response.insert_header(CONTENT_LENGTH, body.len())?;
    response.insert_header(request_id::NAME, id)?;
    let snapshot = node.snapshot.load_full();
    if let Some(listener) = snapshot.listener(local) {
        server_header::apply(&mut response, &listener.server_header)?;
    }
    session.write_response_header(Box::new(response)).await?;
    session.write_response_body(Bytes::from(body), true).await?;
    session.shutdown().await;
    Ok(())
}

/// The whole answer. Without a body: it may have been a `HEAD`.
fn written(refusal: Refusal, id: &str, server: &ServerHeader) -> Vec<u8> {
    let status = refusal.status();
    let date = httpdate::fmt_http_date(SystemTime::now());
    let mut answer = Vec::with_capacity(384);
    // Writing to memory does not fail.
    let head = write!(
        answer,
        "HTTP/1.1 {} {}\r\nfairlead-error: {}\r\ncontent-length: 0\r\n\
         x-request-id: {id}\r\ndate: {date}\r\nconnection: close\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default(),
        refusal.name(),
    );
    if refusal == Refusal::MethodNotAllowed {
        head.and_then(|()| write!(answer, "allow: {METHODS}\r\n")).ok();
    }
    if let ServerHeader::Set(name) = server {
        answer.extend_from_slice(b"server: ");
        answer.extend_from_slice(name.as_bytes());
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(b"\r\n");
    answer
}

/// What stands in for this answer of Pingora's; None: it is none.
fn instead_of(answer: &[u8]) -> Option<Refusal> {
    let status = answer.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    answer.windows(7).find(|word| word.eq_ignore_ascii_case(b"Pingora"))?;
    match status {
        b"400" => Some(Refusal::Unparsed),
        b"405" => Some(Refusal::MethodNotAllowed),
        _ => None,
    }
}

impl AsyncWrite for Replaced {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.ours.is_none()
            && slow::waits_for_header()
            && let Some(refusal) = instead_of(bytes)
        {
            this.ours = Some((this.answer(refusal), 0));
        }
        if this.ours.is_none() {
            // The next header is another one.
            this.head = (0, false);
            return Pin::new(&mut this.stream).poll_write(cx, bytes);
        }
        ready!(this.poll_ours(cx))?;
        this.ours = None;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // Pingora's own answers are of one piece.
        let this = self.get_mut();
        this.head = (0, false);
        Pin::new(&mut this.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl AsyncRead for Replaced {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let (head, line) = this.head;
        if head > this.most && slow::waits_for_header() {
            // More of it is asked for, so it is not whole.
            if this.ours.is_none() {
                let refusal = if line { Refusal::HeadersTooLarge } else { Refusal::UriTooLong };
                this.ours = Some((this.answer(refusal), 0));
            }
            ready!(this.poll_ours(cx))?;
            ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            // What the client still sends is thrown away, or it would not get to read the answer: until it closes, too, or the
            // time for a header is over. Then, for Pingora, it has left.
            let mut waste = [0; 4096];
            loop {
                let mut waste = ReadBuf::new(&mut waste);
                ready!(Pin::new(&mut this.stream).poll_read(cx, &mut waste))?;
                if waste.filled().is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
        }
        let before = room.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, room))?;
        let new = room.filled().get(before..).unwrap_or_default();
        this.head = (head.saturating_add(new.len() as u64), line || new.contains(&b'\n'));
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for Replaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stream.fmt(f)
    }
}

#[async_trait]
impl Shutdown for Replaced {
    async fn shutdown(&mut self) {
        self.stream.shutdown().await;
    }
}

impl UniqueID for Replaced {
    fn id(&self) -> UniqueIDType {
        self.stream.id()
    }
}

impl Ssl for Replaced {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.stream.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.stream.selected_alpn_proto()
    }
}

#[async_trait]
impl Peek for Replaced {
    async fn try_peek(&mut self, bytes: &mut [u8]) -> io::Result<bool> {
        self.stream.try_peek(bytes).await
    }
}

impl GetTimingDigest for Replaced {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.stream.get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.stream.get_write_pending_time()
    }
}

impl GetProxyDigest for Replaced {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.get_proxy_digest()
    }

    fn set_proxy_digest(&mut self, digest: ProxyDigest) {
        self.stream.set_proxy_digest(digest);
    }
}

impl GetSocketDigest for Replaced {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.get_socket_digest()
    }

    fn set_socket_digest(&mut self, digest: SocketDigest) {
        self.stream.set_socket_digest(digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bare_answers_are_replaced() {
        let of = |text: &str| instead_of(text.as_bytes());
        assert_eq!(of("HTTP/1.1 400 Bad Request\r\nServer: Pingora\r\n\r\n"), Some(Refusal::Unparsed));
        assert_eq!(of("HTTP/1.1 405 Method Not Allowed\r\nserver: pingora\r\n\r\n"), Some(Refusal::MethodNotAllowed));
        for other in ["", "HTTP/1.1 400", "0\r\n\r\n", "HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n", "Pingora"] {
            assert_eq!(of(other), None, "{other:?}");
        }
    }
}
