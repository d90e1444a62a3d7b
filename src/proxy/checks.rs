//! What is asked of a request before anything is done with it, and what it must not take along.

use std::sync::Arc;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderValue, MAX_FORWARDS, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Version};
use pingora::Result;
use pingora::http::RequestHeader;
use pingora::proxy::Session;

use crate::filters::{framing, hops, limits, path, target};
use crate::proxy::Refusal;
use crate::routing;
use crate::snapshot::{Listener, Route, Snapshot};

/// Whether a request goes on.
pub(super) enum Verdict {
    /// It may be routed.
    Fine,
    /// It is an `OPTIONS` that may go no further.
    Options,
    /// It is refused.
    Refused(Refusal),
}

/// Checks a request's form and size.
pub(super) fn check(session: &Session, listener: Option<&Listener>) -> Verdict {
    let request = session.req_header();
    // Shared with the request's own headers: no copy.
    let head = session.as_http1().map(|session| session.get_headers_raw_bytes());
    let size = listener
        .map_or(Ok(()), |listener| limits::check(request, head.as_ref().map(|head| head.len()), &listener.limits));
    if let Err(fault) = size.and_then(|()| framing::check(request, head.as_deref())) {
        return Verdict::Refused(fault.into());
    }
    if let Some(session) = session.as_http2()
        && session.is_body_empty()
        && request.headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes().iter().any(|b| *b != b'0'))
    {
        // It has ended without the body that it announces, which nobody else looks at.
        return Verdict::Refused(Refusal::BadRequest);
    }
    if request.version == Version::HTTP_2 && host_of(request).is_none_or(|host| !framing::is_host(host.as_bytes())) {
        return Verdict::Refused(Refusal::BadRequest);
    }
    if target::authority(request).is_some_and(|host| !framing::is_host(host.as_bytes())) {
        return Verdict::Refused(Refusal::BadRequest);
    }
    if !target::is_sound(request) || (request.version == Version::HTTP_11 && !request.headers.contains_key(HOST)) {
        return Verdict::Refused(Refusal::BadRequest);
    }
    match hops::left(request) {
        Ok(Some(0)) if request.method == Method::OPTIONS => Verdict::Options,
        Ok(Some(0)) => Verdict::Refused(Refusal::MethodNotAllowed),
        Ok(_) => Verdict::Fine,
        Err(fault) => Verdict::Refused(fault.into()),
    }
}

/// Changes what may not go on as it came, for the next hop. `upgrade`: it may switch protocols.
pub(super) fn adapt(request: &mut RequestHeader, came: &RequestHeader, upgrade: bool) -> Result<()> {
    if let Ok(Some(hops)) = hops::left(came) {
        request.insert_header(MAX_FORWARDS, hops.saturating_sub(1).to_string())?;
    }
    if came.version == Version::HTTP_10 && request.headers.contains_key(EXPECT) {
        // Means nothing there (RFC 9110 §10.1.1), but would in the HTTP/1.1 that the server is spoken to.
        request.remove_header(&EXPECT);
    }
    if !upgrade && request.headers.contains_key(UPGRADE) {
        // Pingora asks for it even where the client's `Connection` did not.
        request.remove_header(&UPGRADE);
        request.remove_header(&CONNECTION);
    }
    if came.version == Version::HTTP_2 && request.version != Version::HTTP_2 {
        join_cookies(request)?;
    }
    target::to_origin_form(request)
}

/// Puts the host of the target into `Host`, where it is missing.
pub(super) fn name_host(request: &mut RequestHeader) -> Result<()> {
    if !request.headers.contains_key(HOST)
        && let Some(authority) = target::authority(request).map(str::to_owned)
    {
        request.insert_header(HOST, authority)?;
    }
    Ok(())
}

/// HTTP/2 may carry each cookie in a field of its own, HTTP/1 may not (RFC 9113 §8.2.3).
fn join_cookies(request: &mut RequestHeader) -> Result<()> {
    if request.headers.get_all(COOKIE).iter().nth(1).is_none() {
        return Ok(());
    }
    let all: Vec<&[u8]> = request.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    let joined = all.join(&b"; "[..]);
    request.insert_header(COOKIE, joined)
}

/// The most specific route.
///
/// # Errors
/// There is none, or servers may read the path so that another one would serve it.
pub(super) fn route<'s>(
    snapshot: &'s Snapshot,
    listener: Option<&Listener>,
    request: &RequestHeader,
) -> Result<&'s Arc<Route>, Refusal> {
    let asked = routing::Request {
        listener: listener.map_or("", |listener| listener.name.as_str()),
        host: host_of(request).unwrap_or_default(),
        // `OPTIONS *` asks about the whole server.
        path: if request.uri.path() == "*" { "/" } else { request.uri.path() },
        headers: &request.headers,
    };
    let routes = &snapshot.routes;
    let route = routes.find(&asked);
    let same = |path: &str| match (route, routes.find(&routing::Request { path, ..asked })) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (one, other) => one.is_none() && other.is_none(),
    };
    if routes.reads_paths() && !path::all_readings(asked.path, same) {
        return Err(Refusal::AmbiguousPath);
    }
    route.ok_or(Refusal::NoRoute)
}

/// The host a request is for: the authority of its target (HTTP/2, absolute form) or its Host header.
pub(super) fn host_of(request: &RequestHeader) -> Option<&str> {
    target::authority(request).or_else(|| request.headers.get(HOST).and_then(|host| host.to_str().ok()))
}

/// Only then may a connection stay silent for long. Bodies and other methods are no part of a WebSocket handshake.
pub(super) fn asks_for_upgrade(request: &RequestHeader) -> bool {
    let connection = request.headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let mut words = connection.flat_map(|value| value.split(',')).map(str::trim);
    request.method == Method::GET
        && request.headers.contains_key(UPGRADE)
        && !request.headers.contains_key(CONTENT_LENGTH)
        && !request.headers.contains_key(TRANSFER_ENCODING)
        && words.any(|word| word.eq_ignore_ascii_case("upgrade"))
}
