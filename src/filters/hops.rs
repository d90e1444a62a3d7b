//! `Max-Forwards`: how many more hops an `OPTIONS` or `TRACE` may make (RFC 9110 §7.6.2).

use http::Method;
use http::header::MAX_FORWARDS;
use pingora::http::RequestHeader;

use crate::filters::framing::Fault;

/// The hops that are left; none: no limit.
///
/// # Errors
/// The header is not one number.
pub fn left(request: &RequestHeader) -> Result<Option<u32>, Fault> {
    if request.method != Method::OPTIONS && request.method != Method::TRACE {
        return Ok(None);
    }
    let mut all = request.headers.get_all(MAX_FORWARDS).iter();
    let Some(value) = all.next() else { return Ok(None) };
    let number = value.to_str().ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    match (number.and_then(|text| text.parse().ok()), all.next()) {
        (Some(hops), None) => Ok(Some(hops)),
        _ => Err(Fault::Malformed),
    }
}
