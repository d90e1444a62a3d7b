//! `x-request-id`: on every request to a server and on every response.

use bytes::Bytes;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

/// The header's name.
pub const NAME: HeaderName = HeaderName::from_static("x-request-id");
/// A longer one from a trusted proxy is replaced: it would fill logs.
const LONGEST: usize = 128;

/// The id that a trusted proxy gave, or a new one: 128 random bits in hexadecimal.
pub fn of(headers: &HeaderMap, trusted: bool) -> HeaderValue {
    if trusted && let Some(given) = headers.get(NAME).filter(|id| is_sound(id.as_bytes())) {
        return given.clone();
    }
    fresh()
}

fn is_sound(id: &[u8]) -> bool {
    !id.is_empty() && id.len() <= LONGEST && id.iter().all(u8::is_ascii_graphic)
}

fn fresh() -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let random = fastrand::u128(..).to_ne_bytes();
    let mut text = [0u8; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(random) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    HeaderValue::from_maybe_shared(Bytes::copy_from_slice(&text)).unwrap_or(HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_ids_are_hexadecimal_and_differ() {
        let (a, b) = (fresh(), fresh());
        assert_eq!(a.len(), 32);
        assert!(a.as_bytes().iter().all(u8::is_ascii_hexdigit));
        assert_ne!(a, b);
    }

    #[test]
    fn only_a_trusted_and_sound_id_is_kept() {
        let mut headers = HeaderMap::new();
        headers.insert(NAME, HeaderValue::from_static("abc"));
        assert_eq!(of(&headers, true), "abc");
        assert_ne!(of(&headers, false), "abc");
        headers.insert(NAME, HeaderValue::from_static("a b"));
        assert_ne!(of(&headers, true), "a b");
    }
}
