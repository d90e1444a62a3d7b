//! Which messages are streams by their nature.

use http::HeaderMap;
use http::header::CONTENT_TYPE;

/// Whether a message is part of a stream, such as gRPC or server-sent events: the time to its response header says nothing
/// about how fast its server is.
pub fn is_stream(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| {
        let begins =
            |stream: &[u8]| kind.as_bytes().get(..stream.len()).is_some_and(|k| k.eq_ignore_ascii_case(stream));
        begins(b"application/grpc") || begins(b"text/event-stream")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_their_type() {
        let is = |kind: &'static str| {
            is_stream(&HeaderMap::from_iter([(CONTENT_TYPE, http::HeaderValue::from_static(kind))]))
        };
        assert!(is("application/grpc+proto") && is("Application/gRPC") && is("text/event-stream; charset=utf-8"));
        assert!(!is("text/plain") && !is("text/event") && !is(""));
        assert!(!is_stream(&HeaderMap::new()));
    }
}
