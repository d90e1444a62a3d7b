//! The target of a request. A client may name its host there (`GET http://example.com/x`, RFC 9112 §3.2.2); a server
//! is asked in origin form. Pingora has refused by then what differs from the Host header.

use http::Method;
use pingora::Result;
use pingora::http::RequestHeader;
use pingora::protocols::http::authority::{RawTargetAuthority, raw_target_authority};

/// Whether it is a path, a URL of the web, or the `*` of an `OPTIONS`.
pub fn is_sound(request: &RequestHeader) -> bool {
    let target = request.raw_path();
    match target.first() {
        Some(b'/') => true,
        Some(b'*') => target == b"*" && request.method == Method::OPTIONS,
        _ => match raw_target_authority(target) {
            RawTargetAuthority::Absolute { scheme, authority, .. } => {
                !authority.is_empty() && (scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https"))
            }
            _ => false,
        },
    }
}

/// The host that the target names, perhaps with a port.
pub fn authority(request: &RequestHeader) -> Option<&str> {
    let named = request.uri.authority().map(|authority| authority.as_str());
    named.or_else(|| std::str::from_utf8(raw_target_authority(request.raw_path()).authority()?).ok())
}

/// Leaves path and query of a target that names its host; of an `OPTIONS` without a path, `*` (RFC 9112 §3.2.4).
///
/// # Errors
/// None that a parsed target could cause.
pub fn to_origin_form(request: &mut RequestHeader) -> Result<()> {
    if request.raw_path().starts_with(b"/") {
        return Ok(());
    }
    if let RawTargetAuthority::Absolute { path_and_query, .. } = raw_target_authority(request.raw_path()) {
        let whole_server = path_and_query.is_empty() && request.method == Method::OPTIONS;
        let target = match path_and_query.first() {
            _ if whole_server => b"*".to_vec(),
            Some(b'/') => path_and_query.to_vec(),
            _ => [b"/", path_and_query].concat(),
        };
        request.set_raw_path(&target)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin_form(method: &str, target: &str) -> String {
        let mut request = RequestHeader::build(method, target.as_bytes(), None).unwrap();
        assert_eq!(request.raw_path(), target.as_bytes());
        to_origin_form(&mut request).unwrap();
        String::from_utf8(request.raw_path().to_vec()).unwrap()
    }

    #[test]
    fn a_host_in_the_target_is_left_out() {
        assert_eq!(origin_form("GET", "http://example.com:81/a?b=c"), "/a?b=c");
        assert_eq!(origin_form("GET", "http://example.com?b=c"), "/?b=c");
        assert_eq!(origin_form("GET", "http://example.com"), "/");
        assert_eq!(origin_form("OPTIONS", "http://example.com"), "*");
        assert_eq!(origin_form("OPTIONS", "http://example.com/"), "/");
    }

    #[test]
    fn origin_form_stays() {
        for target in ["/a?b", "*", "/a//http://x"] {
            assert_eq!(origin_form("OPTIONS", target), target);
        }
    }

    #[test]
    fn other_forms_are_not_sound() {
        let sound =
            |method: &str, target: &str| is_sound(&RequestHeader::build(method, target.as_bytes(), None).unwrap());
        assert!(sound("GET", "/") && sound("GET", "HTTP://a/b") && sound("OPTIONS", "*"));
        for target in ["*", "a/b", "ftp://a/b", "http:a", "?a", "a:80"] {
            assert!(!sound("GET", target), "{target}");
        }
    }
}
