//! The life of a request, one short method a phase. Pingora calls them in this order; the second column is the
//! module where what happens then is written:
//!
//! ```text
//! request_filter             arrival  who is the client, which route and pool      → or a refusal
//! ┌ upstream_peer            attempt  the pause before a retry; the choice; the lease is taken   (once per attempt)
//! │ connected_to_upstream    attempt  from here the wait for the response header is watched
//! │ upstream_request_filter  passing  what the server is told about the client
//! │ request_body_filter      passing  …
//! │ upstream_response_filter passing  the header is there                           → or another attempt
//! └ response_filter          passing  what the client is told
//! logging                    record   the lease goes back; metrics and access log
//! ```
//!
//! A failure goes to `fail_to_connect` or `error_while_proxy`, which decide whether there is another attempt (by
//! [`retry`], within the route's budget), and from there to `fail_to_proxy`, which answers
//! (`answer`). What Pingora cannot even read never comes here: see `unparsed`.

mod again;
mod answer;
pub mod app;
mod arrival;
mod attempt;
mod checks;
mod client_left;
mod context;
pub mod deadline;
pub mod grpc;
pub mod handshake;
pub mod http2;
mod passing;
mod patience;
pub mod per_try;
mod proxied;
mod record;
mod redirect;
mod refusal;
pub mod retry;
mod slow;
mod turn_away;
mod unparsed;

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::Digest;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, Result};

use self::answer::fail;
use self::attempt::connected;
pub use self::context::Context;
use self::passing::{pass_request, pass_request_body};
pub use self::refusal::Refusal;

use crate::node::Node;

/// The proxy of one node.
pub struct Proxy {
    node: Arc<Node>,
}

impl Proxy {
    /// The proxy of `node`.
    pub fn new(node: Arc<Node>) -> Self {
        Proxy { node }
    }
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        slow::header_arrived();
        Context::new(&self.node)
    }

    /// None: Pingora's default allocates a compression module for each request.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        self.arrives(session, ctx).await
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        self.begin_attempt(session, ctx).await
    }

    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        _reused: bool,
        peer: &HttpPeer,
        fd: RawFd,
        digest: Option<&Digest>,
        ctx: &mut Context,
    ) -> Result<()> {
        connected(session, peer, fd, digest, ctx);
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        pass_request(session, request, ctx).await
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Context,
    ) -> Result<()> {
        pass_request_body(session, body, end_of_stream, ctx)
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        self.take_response(session, response, ctx)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        self.pass_response(session, response, ctx)
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Context,
    ) -> Result<Option<Duration>> {
        slow::give_time(&mut ctx.pace, session, body.as_ref());
        ctx.conversation_goes_on();
        if end_of_stream {
            ctx.conversation_ends();
        }
        Ok(None)
    }

    /// Nothing was sent: any request may go to another server.
    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Context,
        error: Box<Error>,
    ) -> Box<Error> {
        self.not_connected(session, ctx, error)
    }

    /// Something was sent: only a request that may be repeated goes out again.
    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Context,
        _reused: bool,
    ) -> Box<Error> {
        self.broken(session, ctx, error.more_context(format!("Peer: {peer}")))
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Context) -> FailToProxy {
        self.tell_failure(session, error, ctx).await
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Context) {
        self.record(session, error, ctx);
    }

    /// The access log and the metrics tell it.
    fn suppress_error_log(&self, _session: &Session, _ctx: &Context, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Context, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }
}

/// Whether another header may follow.
fn is_final(status: StatusCode) -> bool {
    !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS
}

/// What the client got, beyond interim responses.
fn final_response(session: &Session) -> Option<&ResponseHeader> {
    session.response_written().filter(|response| is_final(response.status))
}
