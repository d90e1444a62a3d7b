//! Whether the client of a request that waits has left: who is gone must not keep a place in line.

use std::time::Duration;

use pingora::protocols::http::ServerSession;
use pingora::proxy::Session;

/// How often a connection is looked at whose client has sent more than was read.
const LOOK: Duration = Duration::from_millis(100);

/// The states of a TCP connection whose other end has closed or reset it.
const CLOSE: u8 = 7;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;

/// Resolves when it has. Reads nothing that belongs to the request; costs nothing until it is polled.
///
/// Where its body is not read yet, its leaving is seen only if all that it sent has arrived: what the system has no room
/// for holds back the end, too. A client that only closes its own half counts as gone, unless `serve_half_closed`.
pub(super) async fn client_left(session: &mut Session, serve_half_closed: bool) {
    let session = session.as_mut();
    if !session.is_body_done() && !session.is_http2() {
        return unread(session, serve_half_closed).await;
    }
    // Pipelined bytes are kept for the next request; after them there is silence.
    while let Ok(Some(_)) = session.read_body_or_idle(true).await {}
}

/// A read would take a part of the body away. But the system knows the end before it is read.
async fn unread(session: &ServerSession, serve_half_closed: bool) {
    let Some(socket) = session.digest().and_then(|digest| digest.socket_digest.clone()) else {
        return std::future::pending().await;
    };
    let is_closed = |state| match state {
        CLOSE_WAIT | LAST_ACK => !serve_half_closed,
        state => state == CLOSE,
    };
    while !socket.tcp_info().is_some_and(|info| is_closed(info.tcpi_state)) {
        tokio::time::sleep(LOOK).await;
    }
}
