//! Connections to servers for requests that ask to switch protocols.
//!
//! Pingora 0.9.1 (its issue 946) reads a server's answer and the end of the request's body in any order. When the 101 is
//! there before it has seen that the body is empty, it takes that end for the end of the tunnel, and closes it. A server
//! on the same machine can be so quick. So the connection of a handshake is wrapped: it shows nothing of what the server
//! says until Pingora has been told that the body is at its end, and has had a turn to act on it.
//!
//! Such a connection serves one request: a tunnel is not used again anyway, and after a refusal it is closed.

use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::protocols::l4::ext::set_tcp_keepalive;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, OkOrErr, OrErr, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::proxy::deadline::Socket;

/// Whatever the server says is read.
const OPEN: u8 = 0;
/// Nothing is read yet.
const SHUT: u8 = 1;
/// The body has ended: from the next turn on it is open.
const OPENING: u8 = 2;

/// The connection of one handshake.
#[derive(Clone, Debug, Default)]
pub struct Handshake(Arc<State>);

#[derive(Debug, Default)]
struct State {
    door: AtomicU8,
    /// Pingora knows no descriptor of a wrapped connection.
    socket: OnceLock<Socket>,
}

impl Handshake {
    /// Makes a peer connect by it.
    pub fn prepare(peer: &mut HttpPeer) -> Self {
        let handshake = Handshake::default();
        peer.options.custom_l4 = Some(Arc::new(handshake.clone()));
        peer.options.idle_timeout = Some(Duration::ZERO);
        // No other request may find it in the pool, nor this one take another's.
        peer.group_key = fastrand::u64(1..);
        handshake
    }

    /// The connection stands, and a handshake of TLS is over: nothing more is read until the body has ended.
    pub fn connected(&self) -> Option<Socket> {
        self.0.door.store(SHUT, Ordering::Release);
        self.0.socket.get().copied()
    }

    /// Pingora is being told that the request's body has ended.
    pub fn body_ended(&self) {
        self.0.door.compare_exchange(SHUT, OPENING, Ordering::AcqRel, Ordering::Acquire).ok();
    }
}

#[async_trait]
impl L4Connect for Handshake {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let peer = *address.as_inet().or_err(ErrorType::InternalError, "a server without an IP address")?;
        let stream = TcpStream::connect(peer).await.or_err(ErrorType::ConnectError, "for a handshake")?;
        let local = stream.local_addr().or_err(ErrorType::SocketError, "for a handshake")?;
        self.0.socket.set(Socket { fd: stream.as_raw_fd(), local, peer }).ok();
        let wrapped = Wrapped { stream, state: self.0.clone() };
        Ok(Stream::from(VirtualSocketStream::new(Box::new(wrapped))))
    }
}

/// A connection that shows what it has when it is time.
#[derive(Debug)]
struct Wrapped {
    stream: TcpStream,
    state: Arc<State>,
}

impl VirtualSocket for Wrapped {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match option {
            VirtualSockOpt::NoDelay => self.stream.set_nodelay(true),
            VirtualSockOpt::KeepAlive(keepalive) => {
                set_tcp_keepalive(&self.stream, &keepalive).map_err(|error: Box<Error>| io::Error::other(error))
            }
            _ => Ok(()),
        }
    }
}

impl AsyncRead for Wrapped {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.state.door.load(Ordering::Acquire) {
            OPEN => return Pin::new(&mut self.stream).poll_read(cx, buf),
            OPENING => self.state.door.store(OPEN, Ordering::Release),
            // Between the two lies no wait for anybody: the next turn comes at once.
            _ => {}
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncWrite for Wrapped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::Waker;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Whether one turn shows nothing.
    fn is_shut(stream: &mut Stream) -> bool {
        pin!(stream.read_u8()).poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    #[tokio::test]
    async fn nothing_is_seen_until_a_turn_after_the_body_ended() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = HttpPeer::new(listener.local_addr().unwrap(), false, String::new());
        let handshake = Handshake::prepare(&mut peer);
        let mut stream = handshake.connect(&peer._address).await.unwrap();
        let mut server = listener.accept().await.unwrap().0;
        server.write_all(b"ab").await.unwrap();
        // Before, as in a handshake of TLS, all is seen.
        assert_eq!(stream.read_u8().await.unwrap(), b'a');
        let socket = handshake.connected().unwrap();
        assert_eq!(socket.local, server.peer_addr().unwrap());
        for _ in 0..3 {
            assert!(is_shut(&mut stream));
        }
        handshake.body_ended();
        assert!(is_shut(&mut stream), "one turn later");
        assert_eq!(stream.read_u8().await.unwrap(), b'b');
    }
}
