//! Responses that Fairlead makes itself. Each has one name, which stands in the header `fairlead-error`, in the
//! access log and in the metric's label.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use http::{Method, StatusCode, Version};
use nix::errno::Errno;
use pingora::http::ResponseHeader;
use pingora::protocols::http::HttpTask;
use pingora::proxy::Session;
use pingora::{Error, ErrorSource, ErrorType, Result};

use crate::config::ServerHeader;
use crate::filters::framing::Fault;
use crate::filters::{request_id, server_header};
use crate::proxy::{Context, grpc};
use crate::upstream::admission::Unavailable;
use crate::upstream::errno::os_error;
use crate::upstream::server::Outcome;

/// The header that names a refusal. Removed from what servers answer, so that it always speaks of Fairlead.
pub const HEADER: HeaderName = HeaderName::from_static("fairlead-error");

/// Why Fairlead answered itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request is not one that can be passed on.
    BadRequest,
    /// The request could not be read at all.
    Unparsed,
    /// Which route serves it depends on how its path is read.
    AmbiguousPath,
    /// No route matches.
    NoRoute,
    /// A method that the request may not have here.
    MethodNotAllowed,
    /// The target is longer than the listener's `uri_bytes`.
    UriTooLong,
    /// The header is larger than the listener's `header_bytes` or `headers`.
    HeadersTooLarge,
    /// The body is longer than the listener's `body`.
    BodyTooLarge,
    /// The request expects what nobody here can do.
    ExpectationFailed,
    /// The route does not serve this client.
    Denied,
    /// The listener, or the client's address on it, has as many connections as it may have.
    TooManyConnections,
    /// A peer that must begin with a header of the PROXY protocol did not; the connection was closed.
    BadProxyHeader,
    /// The client took too long to send a header; the connection was closed.
    SlowHeader,
    /// The client asked too often.
    RateLimited,
    /// The client cancelled most of its requests; the connection was closed.
    TooManyResets,
    /// The client took too long to send its body.
    SlowBody,
    /// The client took too long to take the response; nobody sees this one but the logs.
    SlowReader,
    /// The node has as many requests in flight as it may have.
    Overloaded,
    /// The node has no file descriptor left for a connection to a server.
    OutOfDescriptors,
    /// The node has no local port or memory left for a connection to a server.
    OutOfPorts,
    /// The node ends, and no server had room for the request until then.
    ShuttingDown,
    /// No server of the pool may be chosen.
    NoServer,
    /// No server of the pool works, and a few other requests find out whether one does again.
    CircuitOpen,
    /// All servers have as many requests in flight as they may, and as many wait as may.
    QueueFull,
    /// All servers had as many requests in flight as they may for as long as a request may wait.
    QueueTimeout,
    /// No connection to a server could be made.
    ConnectFailed,
    /// The server closed the connection before it answered.
    UpstreamReset,
    /// What the server answered is not HTTP.
    UpstreamInvalid,
    /// No response header within the route's `response`.
    ResponseTimeout,
    /// No response header within the route's `per_try`.
    PerTryTimeout,
    /// The server was silent for longer than the route's `idle`.
    IdleTimeout,
    /// The client left; nobody sees this one but the logs.
    ClientGone,
    /// A mistake of ours.
    Internal,
}

impl Refusal {
    /// The one name.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::BadRequest => "bad-request",
            Refusal::Unparsed => "unparsed",
            Refusal::AmbiguousPath => "ambiguous-path",
            Refusal::NoRoute => "no-route",
            Refusal::MethodNotAllowed => "method-not-allowed",
            Refusal::UriTooLong => "uri-too-long",
            Refusal::HeadersTooLarge => "headers-too-large",
            Refusal::BodyTooLarge => "body-too-large",
            Refusal::ExpectationFailed => "expectation-failed",
            Refusal::Denied => "denied",
            Refusal::TooManyConnections => "too-many-connections",
            Refusal::BadProxyHeader => "bad-proxy-header",
            Refusal::SlowHeader => "slow-header",
            Refusal::RateLimited => "rate-limited",
            Refusal::TooManyResets => "too-many-resets",
            Refusal::SlowBody => "slow-body",
            Refusal::SlowReader => "slow-reader",
            Refusal::Overloaded => "overloaded",
            Refusal::OutOfDescriptors => "out-of-descriptors",
            Refusal::OutOfPorts => "out-of-ports",
            Refusal::ShuttingDown => "shutting-down",
            Refusal::NoServer => "no-server",
            Refusal::CircuitOpen => "circuit-open",
            Refusal::QueueFull => "queue-full",
            Refusal::QueueTimeout => "queue-timeout",
            Refusal::ConnectFailed => "connect-failed",
            Refusal::UpstreamReset => "upstream-reset",
            Refusal::UpstreamInvalid => "upstream-invalid",
            Refusal::ResponseTimeout => "response-timeout",
            Refusal::PerTryTimeout => "per-try-timeout",
            Refusal::IdleTimeout => "idle-timeout",
            Refusal::ClientGone => "client-gone",
            Refusal::Internal => "internal",
        }
    }

    /// The status that the client sees; 499, by convention, when it is gone.
    pub fn status(self) -> StatusCode {
        let code = match self {
            Refusal::BadRequest | Refusal::Unparsed | Refusal::AmbiguousPath | Refusal::BadProxyHeader => 400,
            Refusal::NoRoute => 404,
            Refusal::MethodNotAllowed => 405,
            Refusal::BodyTooLarge => 413,
            Refusal::UriTooLong => 414,
            Refusal::ExpectationFailed => 417,
            Refusal::HeadersTooLarge => 431,
            Refusal::Denied => 403,
            Refusal::SlowHeader | Refusal::SlowBody => 408,
            Refusal::RateLimited => 429,
            Refusal::ClientGone | Refusal::SlowReader | Refusal::TooManyResets => 499,
            Refusal::Internal => 500,
            Refusal::ConnectFailed | Refusal::UpstreamReset | Refusal::UpstreamInvalid => 502,
            Refusal::TooManyConnections | Refusal::Overloaded => 503,
            Refusal::OutOfDescriptors | Refusal::OutOfPorts | Refusal::ShuttingDown => 503,
            Refusal::NoServer | Refusal::CircuitOpen | Refusal::QueueFull | Refusal::QueueTimeout => 503,
            Refusal::ResponseTimeout | Refusal::PerTryTimeout | Refusal::IdleTimeout => 504,
        };
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// What a failed request comes to, by who failed and how.
    pub fn of(error: &Error) -> Refusal {
        match (error.esource(), error.etype()) {
            (ErrorSource::Downstream, ErrorType::ReadTimedout) => Refusal::SlowBody,
            (ErrorSource::Downstream, ErrorType::WriteTimedout) => Refusal::SlowReader,
            // The system has waited for the client to take something.
            (ErrorSource::Downstream, _) if os_error(error) == Some(Errno::ETIMEDOUT) => Refusal::SlowReader,
            // Of HTTP/2: it has reset its stream.
            (
                ErrorSource::Downstream,
                ErrorType::ReadError | ErrorType::WriteError | ErrorType::ConnectionClosed | ErrorType::H2Error,
            ) => Refusal::ClientGone,
            (ErrorSource::Downstream, _) => Refusal::BadRequest,
            (ErrorSource::Upstream, kind) => match kind {
                ErrorType::ConnectTimedout
                | ErrorType::ConnectRefused
                | ErrorType::ConnectNoRoute
                | ErrorType::ConnectError
                | ErrorType::BindError
                | ErrorType::SocketError => Refusal::ConnectFailed,
                ErrorType::ReadTimedout | ErrorType::WriteTimedout => Refusal::IdleTimeout,
                ErrorType::H2Error | ErrorType::InvalidH2 if was_reset(error) => Refusal::UpstreamReset,
                ErrorType::InvalidHTTPHeader | ErrorType::H1Error | ErrorType::H2Error | ErrorType::InvalidH2 => {
                    Refusal::UpstreamInvalid
                }
                ErrorType::Custom("InvalidChunk" | "InvalidTrailerEnd") => Refusal::UpstreamInvalid,
                _ => Refusal::UpstreamReset,
            },
            (ErrorSource::Internal | ErrorSource::Unset, _) => Refusal::Internal,
        }
    }

    /// The client is gone, or is made to go: nothing can be told to it.
    pub fn ends_connection(self) -> bool {
        matches!(self, Refusal::ClientGone | Refusal::SlowReader)
    }

    /// Whether what follows on the connection may be no request at all.
    fn leaves_doubt(self) -> bool {
        matches!(self.status().as_u16(), 400 | 413 | 414 | 431)
    }

    /// What it says about the server that was tried.
    pub fn outcome(self) -> Outcome {
        match self {
            Refusal::ConnectFailed => Outcome::ConnectFailed,
            Refusal::UpstreamReset => Outcome::Reset,
            Refusal::UpstreamInvalid => Outcome::Invalid,
            Refusal::ResponseTimeout | Refusal::PerTryTimeout | Refusal::IdleTimeout => Outcome::Timeout,
            _ => Outcome::Cancelled,
        }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Malformed => Refusal::BadRequest,
            Fault::Expectation => Refusal::ExpectationFailed,
            Fault::UriTooLong => Refusal::UriTooLong,
            Fault::HeadersTooLarge => Refusal::HeadersTooLarge,
            Fault::BodyTooLarge => Refusal::BodyTooLarge,
        }
    }
}

impl From<Unavailable> for Refusal {
    fn from(why: Unavailable) -> Self {
        match why {
            Unavailable::NoServer => Refusal::NoServer,
            Unavailable::CircuitOpen => Refusal::CircuitOpen,
            Unavailable::QueueFull => Refusal::QueueFull,
            Unavailable::QueueTimeout => Refusal::QueueTimeout,
            Unavailable::ClientLeft => Refusal::ClientGone,
        }
    }
}

/// Whether the server, or the network, has ended a stream of HTTP/2.
fn was_reset(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<h2::Error>();
    cause.is_some_and(|cause| cause.is_io() || cause.is_remote())
}

/// Whether the server of HTTP/2 says that it did nothing with the request (RFC 9113 §8.7): it may go to another, whatever
/// its method. It refuses the stream, or says goodbye and counts the stream among those that it did not take; one that it
/// did take ends otherwise, should the connection close too early.
pub fn was_not_taken(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<h2::Error>().filter(|cause| cause.is_remote());
    cause.is_some_and(|cause| {
        cause.is_go_away() || cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM)
    })
}

/// What goes with every answer of ours.
#[derive(Clone, Copy, Debug)]
pub struct Letterhead<'a> {
    /// None where a request was refused before it had one.
    pub request_id: Option<&'a HeaderValue>,
    /// As the listener has it.
    pub server: &'a ServerHeader,
}

impl<'c> Letterhead<'c> {
    /// Of an answer to this request.
    pub fn of(session: &Session, ctx: &'c Context) -> Self {
        let local = session.server_addr().and_then(|address| address.as_inet()).copied();
        let listener = ctx.snapshot.listener(local);
        let server = listener.map_or(&ServerHeader::Pass, |listener| &listener.server_header);
        Letterhead { request_id: ctx.request_id.as_ref(), server }
    }
}

/// Methods that pass through here. Any does, but a client that asks must be told some.
pub const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE";

/// Answers a request. A connection whose request body was not read to its end is closed afterwards: what follows on
/// it is not a request. `more` headers are for this refusal alone.
///
/// # Errors
/// The client is gone.
pub async fn write(
    session: &mut Session,
    refusal: Refusal,
    letterhead: Letterhead<'_>,
    more: &[(HeaderName, HeaderValue)],
) -> Result<()> {
    let call = grpc::is_call(session.req_header());
    let (status, text) = match call {
        true => (StatusCode::OK, String::new()),
        false => (refusal.status(), format!("{} {}\n", refusal.status().as_u16(), refusal.name())),
    };
    let mut response = ResponseHeader::build(status, Some(7))?;
    if call {
        response.insert_header(grpc::STATUS, grpc::code(refusal))?;
        response.insert_header(grpc::MESSAGE, refusal.name())?;
    }
    response.insert_header(HEADER, refusal.name())?;
    for (name, value) in more {
        response.insert_header(name.clone(), value.clone())?;
    }
    if refusal == Refusal::MethodNotAllowed {
        response.insert_header(ALLOW, METHODS)?;
    }
    if refusal.leaves_doubt() {
        session.set_keepalive(None);
    }
    finish(session, response, text, letterhead).await
}

/// Sends a client elsewhere.
///
/// # Errors
/// The client is gone.
pub async fn redirect(
    session: &mut Session,
    status: StatusCode,
    location: HeaderValue,
    letterhead: Letterhead<'_>,
) -> Result<()> {
    let mut response = ResponseHeader::build(status, Some(5))?;
    response.insert_header(LOCATION, location)?;
    finish(session, response, format!("{}\n", status.as_u16()), letterhead).await
}

/// Answers an `OPTIONS` that may go no further.
///
/// # Errors
/// The client is gone.
pub async fn options(session: &mut Session, letterhead: Letterhead<'_>) -> Result<()> {
    let mut response = ResponseHeader::build(StatusCode::OK, Some(5))?;
    response.insert_header(ALLOW, METHODS)?;
    finish(session, response, String::new(), letterhead).await
}

async fn finish(
    session: &mut Session,
    mut response: ResponseHeader,
    text: String,
    letterhead: Letterhead<'_>,
) -> Result<()> {
    if response.headers.contains_key(grpc::STATUS) {
        response.insert_header(CONTENT_TYPE, "application/grpc")?;
    } else {
        response.insert_header(CONTENT_TYPE, "text/plain")?;
        response.insert_header(CONTENT_LENGTH, text.len())?;
    }
    server_header::apply(&mut response, letterhead.server)?;
    if let Some(id) = letterhead.request_id {
        response.insert_header(request_id::NAME, id.clone())?;
    }
    if !session.as_mut().is_body_done() {
        session.set_keepalive(None);
    }
    let has_body = session.req_header().method != Method::HEAD && !text.is_empty();
    if !has_body && session.req_header().version == Version::HTTP_2 {
        // Header and end in one frame, for which Pingora has no other way: clients of gRPC read a status only there.
        session.as_mut().response_duplex_vec(vec![HttpTask::Header(Box::new(response), true)]).await?;
        return Ok(());
    }
    session.write_response_header(Box::new(response), !has_body).await?;
    if has_body {
        session.write_response_body(Some(Bytes::from(text)), true).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_failed_and_how_decides() {
        let upstream = |kind| Error::new_up(kind);
        assert_eq!(Refusal::of(&upstream(ErrorType::ConnectRefused)), Refusal::ConnectFailed);
        assert_eq!(Refusal::of(&upstream(ErrorType::ReadTimedout)), Refusal::IdleTimeout);
        assert_eq!(Refusal::of(&upstream(ErrorType::ConnectionClosed)), Refusal::UpstreamReset);
        assert_eq!(Refusal::of(&upstream(ErrorType::InvalidHTTPHeader)), Refusal::UpstreamInvalid);
        assert_eq!(Refusal::of(&Error::new_down(ErrorType::WriteError)), Refusal::ClientGone);
        assert_eq!(Refusal::of(&Error::new_down(ErrorType::ReadTimedout)), Refusal::SlowBody);
        assert_eq!(Refusal::of(&Error::new_down(ErrorType::WriteTimedout)), Refusal::SlowReader);
        let stalled = Error::because(ErrorType::WriteError, "", std::io::Error::from(Errno::ETIMEDOUT));
        assert_eq!(Refusal::of(&stalled.into_down()), Refusal::SlowReader);
        assert_eq!(Refusal::of(&Error::new_in(ErrorType::InternalError)), Refusal::Internal);
    }
}
