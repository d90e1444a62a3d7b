//! What is asked of a request before anything is done with it.

use std::sync::Arc;

use http::header::{EXPECT, HOST, MAX_FORWARDS};
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

/// Changes what may not go on as it came, for the next hop.
pub(super) fn adapt(request: &mut RequestHeader, came: &RequestHeader) -> Result<()> {
    if let Ok(Some(hops)) = hops::left(came) {
        request.insert_header(MAX_FORWARDS, hops.saturating_sub(1).to_string())?;
    }
    if came.version == Version::HTTP_10 && request.headers.contains_key(EXPECT) {
        // Means nothing there (RFC 9110 §10.1.1), but would in the HTTP/1.1 that the server is spoken to.
        request.remove_header(&EXPECT);
    }
    if !request.headers.contains_key(HOST)
        && let Some(authority) = target::authority(request).map(str::to_owned)
    {
        request.insert_header(HOST, authority)?;
    }
    target::to_origin_form(request)
}

/// The most specific route.
///
/// # Errors
/// Servers may read the path so that another route would serve it.
pub(super) fn route<'s>(snapshot: &'s Snapshot, asked: &routing::Request) -> Result<Option<&'s Arc<Route>>, Refusal> {
    let routes = &snapshot.routes;
    let route = routes.find(asked);
    let same = |path: &str| match (route, routes.find(&routing::Request { path, ..*asked })) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (one, other) => one.is_none() && other.is_none(),
    };
    let clear = !routes.reads_paths() || path::all_readings(asked.path, same);
    if clear { Ok(route) } else { Err(Refusal::AmbiguousPath) }
}
