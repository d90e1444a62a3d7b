//! The connection to the client: how Pingora is to treat it during a request, and what has come of it.

use http::{StatusCode, Version};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use crate::filters::framing;
use crate::snapshot::Listener;

/// Gives a request the timeouts of its listener. `open`: the connection may be kept for another request.
pub fn prepare(session: &mut Session, listener: Option<&Listener>, open: bool) {
    if let Some(listener) = listener {
        let timeouts = listener.timeouts;
        session.set_read_timeout(Some(timeouts.body));
        session.set_write_timeout(Some(timeouts.write));
        session.set_total_drain_timeout(Some(timeouts.body));
        // Pingora forgets the keepalive timeout after a connection's first request.
        if open && session.get_keepalive().is_some() {
            session.set_keepalive(Some(timeouts.keepalive.as_secs().max(1)));
        }
    }
    session.set_pipelining_enabled(true);
    if framing::says_close(&session.req_header().headers) {
        session.set_keepalive(None);
    }
    if session.req_header().version == Version::HTTP_10 {
        // Such a client knows no interim responses.
        session.set_ignore_info_resp(true);
    }
}

/// Whether no other header follows.
pub fn is_final(status: StatusCode) -> bool {
    !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS
}

/// What the client got, beyond interim responses.
pub fn final_response(session: &Session) -> Option<&ResponseHeader> {
    session.response_written().filter(|response| is_final(response.status))
}

/// Resolves when the client of a request that waits has left. While there is a body to be read it cannot be told.
pub async fn client_left(session: &mut Session) {
    let session = session.as_mut();
    if !session.is_body_done() {
        return std::future::pending().await;
    }
    // Pipelined bytes are kept for the next request; after them there is silence.
    while let Ok(Some(_)) = session.read_body_or_idle(true).await {}
}
