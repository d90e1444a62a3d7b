//! Requests that two readers could take differently. Pingora's parser (httparse) is lenient in places where servers are
//! not, or are so in other ways: what it lets through and what must not reach a server is found here, before anything
//! is done with the request.

use std::net::Ipv6Addr;

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Version};
use pingora::http::RequestHeader;

/// Why a request is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It can be understood in two ways, or in none.
    Malformed,
    /// It expects what nobody here can do.
    Expectation,
    /// Its target is too long.
    UriTooLong,
    /// Its header is too long, or has too many fields.
    HeadersTooLarge,
    /// Its body is too long.
    BodyTooLarge,
}

/// Checks a request. `head` are the bytes it came in, to the empty line; none where it was not in HTTP/1.
///
/// # Errors
/// What is wrong with it.
pub fn check(request: &RequestHeader, head: Option<&[u8]>) -> Result<(), Fault> {
    let headers = &request.headers;
    let named = Named::of(headers);
    let head_is_sound = head.is_none_or(lines_are_sound);
    let hosts_are_sound = headers.get_all(HOST).iter().all(|host| is_host(host.as_bytes()));
    let body_is_sound = match (named.coding, named.length) {
        (true, _) => is_chunked(headers) && head.is_none_or(|head| !names_length(head)),
        (false, true) => is_length(headers),
        (false, false) => true,
    };
    let traced_body = request.method == Method::TRACE && (named.coding || named.length);
    if !head_is_sound || !hosts_are_sound || !body_is_sound || traced_body || named.lookalike {
        return Err(Fault::Malformed);
    }
    if named.expect && request.version >= Version::HTTP_11 && !expects_continue(headers) {
        return Err(Fault::Expectation);
    }
    Ok(())
}

/// Whether the client will close after this request. Pingora looks at the first `Connection` only.
pub fn says_close(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONNECTION).iter();
    let others = values.next().and(values.next()).into_iter().chain(values);
    let mut words = others.flat_map(|value| value.as_bytes().split(|b| *b == b','));
    words.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// Which of the fields that matter here are there, found in one walk.
#[derive(Default)]
struct Named {
    length: bool,
    coding: bool,
    expect: bool,
    /// A field that servers behind gateways of the CGI kind cannot tell from one of framing.
    lookalike: bool,
}

impl Named {
    fn of(headers: &HeaderMap) -> Named {
        let mut named = Named::default();
        for name in headers.keys() {
            match name.as_str().len() {
                6 => named.expect |= name == EXPECT,
                14 if name == CONTENT_LENGTH => named.length = true,
                14 => named.lookalike |= is_alike(name.as_str(), "content-length"),
                17 if name == TRANSFER_ENCODING => named.coding = true,
                17 => named.lookalike |= is_alike(name.as_str(), "transfer-encoding"),
                _ => {}
            }
        }
        named
    }
}

fn is_alike(name: &str, other: &str) -> bool {
    name.bytes().zip(other.bytes()).all(|(a, b)| a == b || (a == b'_' && b == b'-'))
}

/// Lines end with CR LF, and the target has no fragment, which Pingora would silently cut off.
fn lines_are_sound(head: &[u8]) -> bool {
    let bare = head.first() == Some(&b'\n')
        || head.iter().zip(&head[1..]).fold(false, |bare, (a, b)| bare | (*b == b'\n' && *a != b'\r'));
    let line = head.trim_ascii_start().split(|b| *b == b'\r').next().unwrap_or_default();
    let target = line.split(|b| *b == b' ').nth(1).unwrap_or_default();
    !bare && !target.contains(&b'#')
}

/// Exactly one coding. What else Pingora takes for chunked would reach a server without the other codings' names.
fn is_chunked(headers: &HeaderMap) -> bool {
    let mut all = headers.get_all(TRANSFER_ENCODING).iter();
    let first = all.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"));
    first && all.next().is_none()
}

/// Exactly one number, which fits where servers keep it.
fn is_length(headers: &HeaderMap) -> bool {
    let mut all = headers.get_all(CONTENT_LENGTH).iter();
    let first = all.next().and_then(|value| value.to_str().ok());
    let number =
        first.filter(|text| text.bytes().all(|b| b.is_ascii_digit())).and_then(|text| text.parse::<i64>().ok());
    number.is_some() && all.next().is_none()
}

/// Whether a `Content-Length` came. Pingora removes it from a chunked request before anybody sees it.
fn names_length(head: &[u8]) -> bool {
    let name = CONTENT_LENGTH.as_str().as_bytes();
    head.split(|b| *b == b'\n').any(|line| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name)))
}

fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get_all(EXPECT).iter().all(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// `name`, `name:port`, `[v6]` or `[v6]:port`; the characters of RFC 3986 §3.2.2 without the comma, which would make a
/// list of it, and without `%` and empty labels, which some servers read as another name.
pub fn is_host(host: &[u8]) -> bool {
    let (fine, rest) = match host {
        [b'[', inner @ ..] => {
            let Some(end) = inner.iter().position(|b| *b == b']') else { return false };
            let address = std::str::from_utf8(&inner[..end]).ok().and_then(|text| text.parse::<Ipv6Addr>().ok());
            (address.is_some(), &inner[end + 1..])
        }
        _ => {
            let end = host.iter().position(|b| *b == b':').unwrap_or(host.len());
            (is_name(&host[..end]), &host[end..])
        }
    };
    fine && match rest {
        [] => true,
        [b':', port @ ..] => port.len() <= 5 && port.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|b| is_of_name(*b)) && !name.windows(2).any(|two| two == b"..")
}

fn is_of_name(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._~!$&'()*+;=".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for host in ["test", "a.b-c_d:80", "test:", "10.0.0.1:80", "[::1]", "[::1]:80", "xn--a.test."] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            "", ":80", "a b", "a,b", "a/b", "a@b", "a:b", "a:1:2", "[::1", "[x]", "[::1]a", "\u{e4}", "a#b", "a\\b",
            "a%41", "a..b", "a:999999",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn line_ends_are_crlf() {
        assert!(lines_are_sound(b"\r\nGET / HTTP/1.1\r\nHost: a#b\r\n\r\n"));
        for head in
            ["\nGET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\n\r\n", "GET / HTTP/1.1\r\n\n", "GET /#a HTTP/1.1\r\n\r\n"]
        {
            assert!(!lines_are_sound(head.as_bytes()), "{head:?}");
        }
    }

    #[test]
    fn a_length_is_found_where_pingora_has_removed_it() {
        assert!(names_length(b"POST / HTTP/1.1\r\ncontent-LENGTH: 5\r\n\r\n"));
        assert!(!names_length(b"POST / HTTP/1.1\r\nX-Content-Length: 5\r\nContent-Len: 1\r\n\r\n"));
    }

    #[test]
    fn close_is_found_in_later_lines() {
        let mut headers = HeaderMap::new();
        assert!(!says_close(&headers));
        headers.append(CONNECTION, "keep-alive".parse().unwrap());
        assert!(!says_close(&headers));
        headers.append(CONNECTION, "x, CLOSE".parse().unwrap());
        assert!(says_close(&headers));
    }
}
