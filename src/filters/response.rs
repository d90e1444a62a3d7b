//! Responses whose end two readers could find in different places.

use http::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use http::{StatusCode, Version};
use pingora::http::ResponseHeader;

/// Makes the framing of a response one that no client can mistake; false where that cannot be done.
///
/// Pingora has compared several lengths by now, and removed the length of a chunked response; it would pass on other
/// codings with a body that only ends with the connection.
pub fn mend(response: &mut ResponseHeader) -> bool {
    let bodiless = response.status.is_informational() || response.status == StatusCode::NO_CONTENT;
    if response.headers.contains_key(TRANSFER_ENCODING) {
        if bodiless {
            // Neither may have one (RFC 9112 §6.1).
            response.remove_header(&TRANSFER_ENCODING);
        } else if response.version < Version::HTTP_11 || !is_chunked(response) {
            return false;
        }
    }
    if let Some(length) = response.headers.get(CONTENT_LENGTH) {
        let one = length.as_bytes().split(|b| *b == b',').next().unwrap_or_default().trim_ascii();
        if bodiless {
            response.remove_header(&CONTENT_LENGTH);
        } else if one.len() < length.len() || response.headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
            let Ok(one) = HeaderValue::from_bytes(one) else { return false };
            return response.insert_header(CONTENT_LENGTH, one).is_ok();
        }
    }
    true
}

fn is_chunked(response: &ResponseHeader) -> bool {
    let mut all = response.headers.get_all(TRANSFER_ENCODING).iter();
    let first = all.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"));
    first && all.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mended(status: u16, headers: &[(&'static str, &'static str)]) -> Option<ResponseHeader> {
        let mut response = ResponseHeader::build(status, None).unwrap();
        response.set_version(Version::HTTP_11);
        for (name, value) in headers {
            response.append_header(*name, *value).unwrap();
        }
        mend(&mut response).then_some(response)
    }

    #[test]
    fn lengths_become_one() {
        for headers in [&[("Content-Length", "5, 5")][..], &[("Content-Length", "5"), ("Content-Length", "5")]] {
            let response = mended(200, headers).unwrap();
            let all: Vec<_> = response.headers.get_all(CONTENT_LENGTH).iter().collect();
            assert_eq!(all, ["5"]);
        }
    }

    #[test]
    fn only_chunked_will_do() {
        assert!(mended(200, &[("Transfer-Encoding", "Chunked")]).is_some());
        assert!(mended(200, &[("Transfer-Encoding", "gzip, chunked")]).is_none());
        assert!(mended(200, &[("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")]).is_none());
    }

    #[test]
    fn what_has_no_body_has_no_length() {
        for status in [103, 204] {
            let response = mended(status, &[("Content-Length", "5"), ("Transfer-Encoding", "gzip")]).unwrap();
            assert!(response.headers.is_empty());
        }
        assert_eq!(mended(304, &[("Content-Length", "5")]).unwrap().headers.len(), 1);
    }
}
