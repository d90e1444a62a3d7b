//! The target of a request. A client may name its host there (`GET http://example.com/x`, RFC 9112 §3.2.2); a server
//! is asked in origin form. Pingora has refused by then what differs from the Host header.

use pingora::http::RequestHeader;

/// Leaves path and query of a target that names its host.
pub fn to_origin_form(request: &mut RequestHeader) {
    let target = request.raw_path();
    if !target.starts_with(b"/") && target != b"*" && request.uri.path().starts_with('/') {
        // Setting it drops the bytes that were sent.
        request.set_uri(request.uri.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_in_the_target_is_left_out() {
        let mut request = RequestHeader::build("GET", b"http://example.com:81/a?b=c", None).unwrap();
        assert_eq!(request.raw_path(), b"http://example.com:81/a?b=c");
        to_origin_form(&mut request);
        assert_eq!(request.raw_path(), b"/a?b=c");
    }

    #[test]
    fn origin_form_stays() {
        for target in ["/a?b", "*", "/a//http://x"] {
            let mut request = RequestHeader::build("OPTIONS", target.as_bytes(), None).unwrap();
            to_origin_form(&mut request);
            assert_eq!(request.raw_path(), target.as_bytes());
        }
    }
}
