//! The life of a request, one short method a phase. Pingora calls them in this order:
//!
//! ```text
//! request_filter            who is the client, which route and pool        → or a refusal
//! ┌ upstream_peer           the pause before a retry; the choice; the lease is taken   (once per attempt)
//! │ connected_to_upstream   from here the wait for the response header is watched
//! │ upstream_request_filter what the server is told about the client
//! │ request_body_filter     …
//! │ upstream_response_filter the header is there                             → or another attempt
//! └ response_filter         what the client is told
//! logging                   the lease goes back; metrics and access log
//! ```
//!
//! A failure goes to `fail_to_connect` or `error_while_proxy`, which decide whether there is another attempt (by
//! [`retry`], within the route's budget), and from there to `fail_to_proxy`, which answers.

mod again;
pub mod app;
mod checks;
mod context;
pub mod deadline;
pub mod grpc;
pub mod handshake;
pub mod http2;
mod patience;
pub mod per_try;
mod proxied;
mod record;
mod redirect;
mod refusal;
pub mod retry;
mod session;
mod slow;
mod turn_away;
mod unparsed;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{EXPECT, HOST, TRANSFER_ENCODING};
use http::{StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::Digest;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};

use self::checks::{Verdict, asks_for_upgrade, host_of};
pub use self::context::Context;
use self::refusal::Letterhead;
pub use self::refusal::Refusal;
use self::refusal::was_not_taken;

use crate::balance::{Policy, hash_key};
use crate::config::{HashKey, Protocol};
use crate::filters::stream::is_stream;
use crate::filters::{certificate, client, hop_by_hop, request_id, response, rules, server_header};
use crate::node::Node;
use crate::proxy::again::{is_repeatable, prefer_untried};
use crate::proxy::deadline::{Socket, TICK};
use crate::proxy::handshake::Handshake;
use crate::proxy::patience::{Kind, Patience};
use crate::proxy::retry::Fault;
use crate::proxy::session::{client_left, final_response, is_final};
use crate::routing;
use crate::upstream::errno::out_of_descriptors;
use crate::upstream::{Pool, refused};

/// The proxy of one node.
pub struct Proxy {
    node: Arc<Node>,
}

impl Proxy {
    /// The proxy of `node`.
    pub fn new(node: Arc<Node>) -> Self {
        Proxy { node }
    }

    /// Answers a request that cannot be passed on.
    async fn refuse(&self, session: &mut Session, ctx: &mut Context, refusal: Refusal) -> Result<bool> {
        self.answer(session, ctx, refusal).await?;
        Ok(true)
    }

    async fn answer(&self, session: &mut Session, ctx: &mut Context, refusal: Refusal) -> Result<()> {
        ctx.failure = Some(refusal);
        self.node.metrics.refused.with_label_values(&[refusal.name()]).inc();
        refusal::write(session, refusal, Letterhead::of(session, ctx), &ctx.refusal_headers).await
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
        let peer = session.client_addr().and_then(|address| address.as_inet()).copied();
        let local = session.server_addr().and_then(|address| address.as_inet()).copied();
        let snapshot = ctx.snapshot.clone();
        let listener = snapshot.listener(local);
        session::prepare(session, listener, !self.node.lifecycle.is_closed());
        ctx.body_timeout = listener.map(|listener| listener.timeouts.body);
        let request = session.req_header();
        ctx.kind = match request.version {
            Version::HTTP_2 if grpc::is_call(request) => {
                Kind::Call(grpc::timeout(&request.headers).map(|limit| ctx.started + limit))
            }
            Version::HTTP_2 => Kind::Http2,
            _ => Kind::Http1,
        };
        let unknown = || std::net::SocketAddr::from(([0, 0, 0, 0], 0));
        let client = client::identify(peer.unwrap_or_else(unknown), &request.headers, &snapshot);
        ctx.request_id = Some(request_id::of(&request.headers, client.trusted));
        ctx.client = Some(client);
        ctx.upgrade = asks_for_upgrade(request);
        if let Some(listener) = listener {
            ctx.pace = slow::Pace::of(&listener.limits, &listener.timeouts, request, ctx.upgrade);
        }
        ctx.comparable = !ctx.upgrade && !is_stream(&request.headers);
        if !ctx.enter() {
            return self.refuse(session, ctx, Refusal::Overloaded).await;
        }

        match checks::check(session, listener) {
            Verdict::Fine => {}
            Verdict::Options => {
                refusal::options(session, Letterhead::of(session, ctx)).await?;
                return Ok(true);
            }
            Verdict::Refused(refusal) => return self.refuse(session, ctx, refusal).await,
        }
        if let Some(port) = listener.and_then(|listener| listener.redirect_to_https) {
            return self.to_https(session, ctx, port).await;
        }
        ctx.body_limit = listener.and_then(|listener| listener.limits.body);
        let route = match checks::route(&snapshot, listener, session.req_header()) {
            Ok(route) => route,
            Err(refusal) => return self.refuse(session, ctx, refusal).await,
        };
        let request = session.req_header();
        ctx.route = Some(route.visit());
        if !rules::serves(&route.rules, client.address) {
            return self.refuse(session, ctx, Refusal::Denied).await;
        }
        if let Some(guard) = &route.limit
            && let Some(wait) = guard.check(client.address, &request.headers)
        {
            ctx.refusal_headers = guard.headers(wait);
            ctx.target = route.draw().cloned();
            return self.refuse(session, ctx, Refusal::RateLimited).await;
        }
        if let Some(redirect) = &route.rules.redirect {
            return self.redirect(session, ctx, redirect, &route.path_prefix).await;
        }
        let Some(target) = route.draw() else { return self.refuse(session, ctx, Refusal::NoRoute).await };
        ctx.key = hash_of(&target.pool, request, client.address);
        // HTTP/2 switches to no other protocol.
        ctx.upgrade &= target.pool.config.upstream.protocol == Protocol::H1;
        if ctx.upgrade {
            session.set_read_timeout(route.timeouts.websocket_idle);
        }
        let timeouts = route.timeouts;
        let sends_body = !session.as_mut().is_body_done();
        ctx.wait(Patience::new(timeouts.response, timeouts.idle, listener.map(|l| &l.timeouts), ctx.kind), sends_body);
        ctx.target = Some(target.clone());
        Ok(false)
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        ctx.end_attempt(None);
        if let Some(at) = ctx.again.take() {
            tokio::select! {
                () = tokio::time::sleep_until(at.into()) => {}
                () = client_left(session) => return fail(ctx, Refusal::ClientGone),
            }
            prefer_untried(ctx);
        }
        let (Some(route), Some(target)) = (&ctx.route, &ctx.target) else {
            return fail(ctx, Refusal::Internal);
        };
        let timeouts = route.timeouts;
        let left = ctx.left().unwrap_or(Duration::MAX);
        let seat = target.pool.acquire(&ctx.tried, ctx.key, left, client_left(session)).await;
        let seat = match seat {
            Ok(seat) => seat,
            // Where an attempt has failed already, that is what the client should hear of.
            Err(why) => return fail(ctx, ctx.failure.unwrap_or(why.into())),
        };
        let Some(mut peer) = seat.lease.holder().peer() else { return fail(ctx, Refusal::NoServer) };
        let idle = if ctx.upgrade { timeouts.websocket_idle } else { timeouts.idle };
        peer.options.read_timeout = idle;
        peer.options.write_timeout = idle;
        if let Some(left) = ctx.left() {
            for limit in [&mut peer.options.connection_timeout, &mut peer.options.total_connection_timeout] {
                *limit = limit.map(|limit| limit.min(left.max(TICK)));
            }
        }
        ctx.handshake = ctx.upgrade.then(|| Handshake::prepare(&mut peer));
        ctx.failure = None;
        ctx.begin_attempt(seat);
        Ok(peer)
    }

    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        _reused: bool,
        peer: &HttpPeer,
        fd: std::os::unix::io::RawFd,
        digest: Option<&Digest>,
        ctx: &mut Context,
    ) -> Result<()> {
        let socket = match &ctx.handshake {
            Some(handshake) => handshake.connected(),
            None => {
                let local = digest.and_then(|d| d.socket_digest.as_ref()?.local_addr()?.as_inet().copied());
                local.zip(peer._address.as_inet()).map(|(local, &peer)| Socket { fd, local, peer })
            }
        };
        if let Some(socket) = socket {
            let repeatable = is_repeatable(session, ctx);
            ctx.watch(socket, repeatable);
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        checks::name_host(request)?;
        if let Some(client) = &ctx.client {
            let tls = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
            client::forward(request, client, tls)?;
            certificate::forward(request, session.digest())?;
        }
        if let Some(id) = &ctx.request_id {
            request.insert_header(request_id::NAME, id.clone())?;
        }
        checks::adapt(request, session.req_header(), ctx.upgrade)?;
        if request.version == Version::HTTP_2 && request.headers.contains_key(EXPECT) {
            // Pingora does not see a server's 100 there.
            request.remove_header(&EXPECT);
            session.as_mut().write_continue_response().await?;
        }
        if let Some(route) = &ctx.route {
            rules::change_request(&route.rules.request, request)?;
            if let Some(to) = &route.rules.rewrite
                && !rules::rewrite(request, &route.path_prefix, to)
            {
                return fail(ctx, Refusal::BadRequest);
            }
        }
        if !request.headers.contains_key(HOST)
            && let Some(server) = ctx.server()
        {
            // From an HTTP/1.0 client; the server is spoken to in HTTP/1.1, which asks for one.
            request.insert_header(HOST, server.address.to_string())?;
        }
        Ok(())
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Context,
    ) -> Result<()> {
        // A request without body began at once; one that is sent again is here already.
        if ctx.uploading {
            let repeatable = is_repeatable(session, ctx);
            ctx.uploaded(end_of_stream, repeatable);
            ctx.conversation_goes_on();
        }
        if slow::sends_too_slowly(&mut ctx.pace, session, body.as_ref(), end_of_stream) {
            return fail(ctx, Refusal::SlowBody);
        }
        if let Some(limit) = ctx.body_limit
            && session.body_bytes_read() as u64 > limit
            && !session.was_upgraded()
        {
            return fail(ctx, Refusal::BodyTooLarge);
        }
        if end_of_stream && let Some(handshake) = &ctx.handshake {
            handshake.body_ended();
        }
        if end_of_stream && body.as_ref().is_some_and(Bytes::is_empty) {
            // From HTTP/2 Pingora would write it as a chunk of its own, which ends the body, and then end it once more.
            *body = None;
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        let status = response.status;
        if !is_final(status) {
            ctx.sign_of_life();
        } else if let Err(late) = {
            ctx.comparable &= !is_stream(&response.headers);
            ctx.header_arrived(status.as_u16())
        } {
            return fail(ctx, late);
        }
        if status == StatusCode::SWITCHING_PROTOCOLS && !ctx.upgrade || !response::mend(response) {
            return fail(ctx, Refusal::UpstreamInvalid);
        }
        if status.as_u16() >= 400 && ctx.route.as_ref().is_some_and(|route| route.retry.on.status(status.as_u16())) {
            let retry_after = retry::retry_after(&response.headers, SystemTime::now());
            if self.try_again(session, ctx, Fault::Status(status.as_u16()), retry_after) {
                return Error::e_explain(ErrorType::HTTPStatus(status.as_u16()), "is tried again");
            }
        }
        if ctx.upgrade && is_final(status) && status != StatusCode::SWITCHING_PROTOCOLS {
            session.set_read_timeout(ctx.route.as_ref().and_then(|route| route.timeouts.idle));
        }
        if response.headers.contains_key(refusal::HEADER) {
            response.remove_header(&refusal::HEADER);
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        hop_by_hop::strip(response);
        // Pingora takes an interim response, too, for one that comes before its time, and closes.
        session.set_close_on_response_before_downstream_finish(is_final(response.status));
        if response.version == Version::HTTP_10 {
            // The version is ours, not the server's (RFC 9110 §6.2).
            response.set_version(Version::HTTP_11);
        }
        if session.req_header().version == Version::HTTP_10 {
            // Such a client knows no chunks: its body ends with the connection.
            response.remove_header(&TRANSFER_ENCODING);
            session.set_keepalive(None);
        }
        if self.node.lifecycle.is_closed() && response.status != StatusCode::SWITCHING_PROTOCOLS {
            session.set_keepalive(None);
        }
        if is_final(response.status) {
            ctx.conversation_begins();
        }
        let letterhead = Letterhead::of(session, ctx);
        server_header::apply(response, letterhead.server)?;
        if let Some(route) = &ctx.route {
            rules::change_response(&route.rules.response, response)?;
        }
        if let Some(id) = letterhead.request_id {
            response.insert_header(request_id::NAME, id.clone())?;
        }
        Ok(())
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        _end_of_stream: bool,
        ctx: &mut Context,
    ) -> Result<Option<Duration>> {
        slow::give_time(&mut ctx.pace, session, body.as_ref());
        ctx.conversation_goes_on();
        Ok(None)
    }

    /// Nothing was sent: any request may go to another server.
    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if out_of_descriptors(&error) {
            // Our own trouble, which another server would not end.
            ctx.end_attempt(Some(Refusal::OutOfDescriptors));
            ctx.failure = Some(Refusal::OutOfDescriptors);
            error.set_retry(false);
            return error;
        }
        ctx.end_attempt(Some(Refusal::ConnectFailed));
        let in_time = ctx.left().is_none_or(|left| !left.is_zero());
        ctx.failure = Some(if in_time { Refusal::ConnectFailed } else { Refusal::ResponseTimeout });
        if let (Some(target), Some(server)) = (&ctx.target, ctx.server()) {
            refused::tell(&target.pool, server, &error);
        }
        let again = self.try_again(session, ctx, Fault::Connect, None);
        error.set_retry(again);
        error
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
        let mut error = error.more_context(format!("Peer: {peer}"));
        if ctx.again.is_some() {
            // Decided already: the server answered, with a status to try again after.
            ctx.end_attempt(None);
            error.set_retry(true);
            return error;
        }
        let failure = ctx.disarm().or(ctx.failure).unwrap_or(Refusal::of(&error));
        ctx.end_attempt(Some(failure));
        ctx.failure = Some(failure);
        let fault = if was_not_taken(&error) { Some(Fault::Connect) } else { Fault::of(failure) };
        let again = fault.is_some_and(|fault| self.try_again(session, ctx, fault, None));
        // Whatever Pingora would do: some of its errors must be decided on here.
        error.set_retry(again);
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Context) -> FailToProxy {
        let refusal = *ctx.failure.get_or_insert(Refusal::of(error));
        let has_begun = final_response(session).is_some();
        if has_begun && matches!(ctx.kind, Kind::Call(_)) && !refusal.ends_connection() {
            session.as_mut().write_response_trailers(grpc::trailers(refusal)).await.ok();
        }
        if has_begun || refusal.ends_connection() {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        // Pingora ends the connection after a failed attempt, whatever we say: the client must know, or its next request is lost.
        session.set_keepalive(None);
        self.answer(session, ctx, refusal).await.ok();
        FailToProxy { error_code: refusal.status().as_u16(), can_reuse_downstream: false }
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

/// Ends a request with a refusal that `fail_to_proxy` will write.
fn fail<T>(ctx: &mut Context, refusal: Refusal) -> Result<T> {
    ctx.failure = Some(refusal);
    Error::e_explain(ErrorType::HTTPStatus(refusal.status().as_u16()), refusal.name())
}

/// What `balance: hash` hashes; a request without the header or cookie counts by its client.
fn hash_of(pool: &Pool, request: &RequestHeader, client: std::net::IpAddr) -> u64 {
    if pool.config.balance != Policy::Hash {
        return 0;
    }
    let found = match &pool.config.hash {
        HashKey::ClientIp => None,
        HashKey::Header(name) => request.headers.get(name).map(|value| value.as_bytes()),
        HashKey::Cookie(name) => routing::cookie(&request.headers, name).map(str::as_bytes),
    };
    match (found, client) {
        (Some(bytes), _) => hash_key(bytes),
        (None, std::net::IpAddr::V4(v4)) => hash_key(&v4.octets()),
        (None, std::net::IpAddr::V6(v6)) => hash_key(&v6.octets()),
    }
}
