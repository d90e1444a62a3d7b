//! One attempt at one server: how it begins, and how it fails.

use std::os::fd::RawFd;
use std::time::Duration;

use pingora::protocols::Digest;
use pingora::proxy::Session;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, Result};

use crate::proxy::again::{is_repeatable, prefer_untried};
use crate::proxy::client_left::client_left;
use crate::proxy::deadline::{Socket, TICK};
use crate::proxy::handshake::Handshake;
use crate::proxy::refusal::was_not_taken;
use crate::proxy::retry::Fault;
use crate::proxy::{Context, Proxy, Refusal, fail};
use crate::upstream::errno::{out_of_descriptors, out_of_ports};
use crate::upstream::refused;

impl Proxy {
    /// The pause before a retry, the choice of a server, and the lease on it.
    pub(super) async fn begin_attempt(&self, session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        ctx.end_attempt(None);
        if let Some(at) = ctx.again.take() {
            tokio::select! {
                () = tokio::time::sleep_until(at.into()) => {}
                () = client_left(session, ctx.serve_half_closed) => return fail(ctx, Refusal::ClientGone),
                () = self.node.lifecycle.ending() => return fail(ctx, ctx.failure.unwrap_or(Refusal::ShuttingDown)),
            }
            prefer_untried(ctx);
        }
        let (Some(route), Some(target)) = (&ctx.route, &ctx.target) else {
            return fail(ctx, Refusal::Internal);
        };
        let timeouts = route.timeouts;
        let left = ctx.left().unwrap_or(Duration::MAX);
        let seat = tokio::select! {
            biased; // Most find a server at once.
            seat = target.pool.acquire(&ctx.tried, ctx.key, left, client_left(session, ctx.serve_half_closed)) => seat.map_err(Refusal::from),
            () = self.node.lifecycle.ending() => Err(Refusal::ShuttingDown),
        };
        let seat = match seat {
            Ok(seat) => seat,
            // Where an attempt has failed already, that is what the client should hear of.
            Err(why) => return fail(ctx, ctx.failure.unwrap_or(why)),
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

    /// Nothing was sent: any request may go to another server.
    pub(super) fn not_connected(&self, session: &mut Session, ctx: &mut Context, mut error: Box<Error>) -> Box<Error> {
        if out_of_descriptors(&error) {
            // Our own trouble, which another server would not end.
            ctx.end_attempt(Some(Refusal::OutOfDescriptors));
            ctx.failure = Some(Refusal::OutOfDescriptors);
            error.set_retry(false);
            return error;
        }
        // Ports are taken by address: to another server there may be one.
        let failure = if out_of_ports(&error) { Refusal::OutOfPorts } else { Refusal::ConnectFailed };
        ctx.end_attempt(Some(failure));
        let in_time = ctx.left().is_none_or(|left| !left.is_zero());
        ctx.failure = Some(if in_time { failure } else { Refusal::ResponseTimeout });
        if let (Some(target), Some(server)) = (&ctx.target, ctx.server()) {
            refused::tell(&target.pool, server, &error);
        }
        let again = self.try_again(session, ctx, Fault::Connect, None);
        error.set_retry(again);
        error
    }

    /// Something was sent: only a request that may be repeated goes out again.
    pub(super) fn broken(&self, session: &mut Session, ctx: &mut Context, mut error: Box<Error>) -> Box<Error> {
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
}

/// From here the wait for the response header is watched.
pub(super) fn connected(session: &Session, peer: &HttpPeer, fd: RawFd, digest: Option<&Digest>, ctx: &mut Context) {
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
}
