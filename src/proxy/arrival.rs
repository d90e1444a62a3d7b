//! A request comes in: whose it is, what it may do, and which route and pool it belongs to.

use http::Version;
use pingora::Result;
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession as HttpSession;
use pingora::proxy::Session;

use crate::balance::{Policy, hash_key};
use crate::config::{HashKey, Protocol};
use crate::filters::stream::is_stream;
use crate::filters::{client, framing, request_id, rules};
use crate::proxy::checks::{self, Verdict, asks_for_upgrade};
use crate::proxy::patience::{Kind, Patience};
use crate::proxy::refusal::{self, Letterhead};
use crate::proxy::{Context, Proxy, Refusal, grpc, slow};
use crate::routing;
use crate::upstream::Pool;

impl Proxy {
    /// Finds the route and the pool. True: the request has been answered.
    pub(super) async fn arrives(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        let peer = session.client_addr().and_then(|address| address.as_inet()).copied();
        let local = session.server_addr().and_then(|address| address.as_inet()).copied();
        let snapshot = ctx.snapshot.clone();
        let listener = snapshot.listener(local);
        if let Some(listener) = listener {
            let timeouts = listener.timeouts;
            ctx.body_timeout = Some(timeouts.body);
            session.set_read_timeout(Some(timeouts.body));
            session.set_write_timeout(Some(timeouts.write));
            session.set_total_drain_timeout(Some(timeouts.body));
            ctx.serve_half_closed = listener.serve_half_closed;
            if listener.serve_half_closed
                && let HttpSession::H1(http1) = session.as_downstream_mut()
            {
                http1.set_abort_on_close(false);
            }
            // Pingora forgets the keepalive timeout after a connection's first request.
            if !self.node.lifecycle.is_closed() && session.get_keepalive().is_some() {
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
