//! What calls of gRPC need beyond HTTP/2: their own deadline, and refusals that they understand.
//!
//! A call looks only at `grpc-status`: so a refusal is an answer of status 200 that says it there, and where the answer has
//! begun already, its trailers do (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Version};
use pingora::http::RequestHeader;

use crate::proxy::Refusal;

/// The status of a call.
pub const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// What is said about it.
pub const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const KIND: &[u8] = b"application/grpc";

/// Whether a request is a call. gRPC-Web, which does without trailers, is not.
pub fn is_call(request: &RequestHeader) -> bool {
    let kind = request.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    request.version == Version::HTTP_2
        && kind.is_some_and(|kind| {
            let (start, rest) = kind.split_at(kind.len().min(KIND.len()));
            start.eq_ignore_ascii_case(KIND) && matches!(rest.first(), None | Some(b'+' | b';'))
        })
}

/// How long the client of a call waits for all of it; None: it does not say, or nothing that can be read.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    // Eight at most, so that no unit overflows.
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

/// `grpc-status` of a refusal.
pub fn code(refusal: Refusal) -> HeaderValue {
    HeaderValue::from_static(match refusal.status().as_u16() {
        // CANCELLED
        499 => "1",
        // DEADLINE_EXCEEDED
        408 | 504 => "4",
        // PERMISSION_DENIED
        403 => "7",
        // RESOURCE_EXHAUSTED
        413 | 414 | 429 | 431 => "8",
        // UNIMPLEMENTED
        404 | 405 => "12",
        // UNAVAILABLE
        502 | 503 => "14",
        // INTERNAL
        _ => "13",
    })
}

/// Trailers that end a call whose answer has begun.
pub fn trailers(refusal: Refusal) -> HeaderMap {
    let said = HeaderValue::from_static(refusal.name());
    HeaderMap::from_iter([(STATUS, code(refusal)), (MESSAGE, said)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, kind: &'static str) -> RequestHeader {
        let mut request = RequestHeader::build("POST", b"/a.B/C", None).unwrap();
        request.set_version(version);
        request.insert_header(CONTENT_TYPE, kind).unwrap();
        request
    }

    #[test]
    fn calls_are_known_by_version_and_type() {
        for kind in ["application/grpc", "application/grpc+proto", "Application/gRPC; charset=x"] {
            assert!(is_call(&request(Version::HTTP_2, kind)), "{kind}");
            assert!(!is_call(&request(Version::HTTP_11, kind)), "{kind}");
        }
        for kind in ["application/grpc-web", "application/grpcx", "application/grp", "text/plain", ""] {
            assert!(!is_call(&request(Version::HTTP_2, kind)), "{kind}");
        }
    }

    #[test]
    fn timeouts() {
        let of = |text: &'static str| timeout(&HeaderMap::from_iter([(TIMEOUT, HeaderValue::from_static(text))]));
        assert_eq!(of("100m"), Some(Duration::from_millis(100)));
        assert_eq!(of("2S"), Some(Duration::from_secs(2)));
        assert_eq!(of("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(of("3M"), Some(Duration::from_secs(180)));
        assert_eq!(of("99999999u"), Some(Duration::from_micros(99_999_999)));
        assert_eq!(of("5n"), Some(Duration::from_nanos(5)));
        for text in ["", "S", "1", "1s", "-1S", "+1S", "123456789S", "1.5S", "1 S"] {
            assert_eq!(of(text), None, "{text}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }
}
