//! Sizes of a request, as a listener allows them.

use http::header::CONTENT_LENGTH;
use pingora::http::RequestHeader;

use crate::config::ClientLimits;
use crate::filters::framing::Fault;

/// Checks what is known from the header. `head` is its length in bytes; none where it was not in HTTP/1.
///
/// # Errors
/// What is too large.
pub fn check(request: &RequestHeader, head: Option<usize>, limits: &ClientLimits) -> Result<(), Fault> {
    if request.raw_path().len() as u64 > limits.uri_bytes {
        return Err(Fault::UriTooLong);
    }
    if head.is_some_and(|head| head as u64 > limits.header_bytes) || request.headers.len() > limits.headers {
        return Err(Fault::HeadersTooLarge);
    }
    if let Some(limit) = limits.body
        && let Some(length) = request.headers.get(CONTENT_LENGTH)
        && length.to_str().ok().and_then(|text| text.parse::<u64>().ok()).is_none_or(|length| length > limit)
    {
        return Err(Fault::BodyTooLarge);
    }
    Ok(())
}
