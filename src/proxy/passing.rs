//! What passes through: the request on its way to the server, the response on its way to the client.

use std::time::SystemTime;

use bytes::Bytes;
use http::header::{EXPECT, HOST, TRANSFER_ENCODING};
use http::{StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};

use crate::filters::stream::is_stream;
use crate::filters::{certificate, client, hop_by_hop, path, request_id, response, rules, server_header};
use crate::proxy::again::is_repeatable;
use crate::proxy::refusal::{self, Letterhead};
use crate::proxy::retry::{self, Fault};
use crate::proxy::{Context, Proxy, Refusal, checks, fail, is_final, slow};

/// What the server is told.
pub(super) async fn pass_request(session: &mut Session, request: &mut RequestHeader, ctx: &mut Context) -> Result<()> {
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
        if let Some(to) = &route.rules.rewrite {
            // What is put before a path must not be left by it.
            if path::has_dots(request.uri.path()) {
                return fail(ctx, Refusal::AmbiguousPath);
            }
            if !rules::rewrite(request, &route.path_prefix, to) {
                return fail(ctx, Refusal::BadRequest);
            }
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

/// A part of the request's body.
pub(super) fn pass_request_body(
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

impl Proxy {
    /// The server's header is there: it is passed on, or another attempt is made.
    pub(super) fn take_response(
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

    /// What the client is told.
    pub(super) fn pass_response(
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
}
