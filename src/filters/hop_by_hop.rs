//! Headers of a response that concern only the connection to the server (RFC 9110 §7.6.1). Pingora removes those of
//! requests; for responses to HTTP/1 clients it leaves that to us.

use http::StatusCode;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use pingora::http::ResponseHeader;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Removes them. A response that switches protocols keeps all: the connection becomes the client's.
pub fn strip(response: &mut ResponseHeader) {
    if response.status == StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    if response.headers.contains_key(CONNECTION) {
        for name in nominated(response) {
            response.remove_header(&name);
        }
        response.remove_header(&CONNECTION);
    }
    for name in [&KEEP_ALIVE, &PROXY_CONNECTION, &TE, &TRAILER, &UPGRADE] {
        if response.headers.contains_key(name) {
            response.remove_header(name);
        }
    }
}

/// What `Connection` names. Framing is never given up: a server must not be able to change how long a body is.
fn nominated(response: &ResponseHeader) -> Vec<HeaderName> {
    let values = response.headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let words = values.flat_map(|value| value.split(',')).map(str::trim);
    let named = words.filter(|word| !word.eq_ignore_ascii_case("keep-alive") && !word.eq_ignore_ascii_case("close"));
    let names = named.filter_map(|word| HeaderName::from_bytes(word.as_bytes()).ok());
    names.filter(|name| name != CONTENT_LENGTH && name != TRANSFER_ENCODING).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, headers: &[(&'static str, &'static str)]) -> ResponseHeader {
        let mut response = ResponseHeader::build(status, None).unwrap();
        for (name, value) in headers {
            response.append_header(*name, *value).unwrap();
        }
        response
    }

    #[test]
    fn what_concerns_the_connection_goes_and_the_rest_stays() {
        let mut r = response(
            200,
            &[
                ("Connection", "keep-alive, X-Internal"),
                ("Connection", "content-length"),
                ("Keep-Alive", "timeout=5"),
                ("X-Internal", "1"),
                ("Upgrade", "h2c"),
                ("Trailer", "x-sum"),
                ("Content-Length", "3"),
                ("X-Other", "2"),
            ],
        );
        strip(&mut r);
        let left: Vec<_> = r.headers.keys().map(|name| name.as_str()).collect();
        assert_eq!(left, ["content-length", "x-other"]);
    }

    #[test]
    fn switching_protocols_keeps_its_headers() {
        let mut r = response(101, &[("Connection", "Upgrade"), ("Upgrade", "websocket")]);
        strip(&mut r);
        assert_eq!(r.headers.len(), 2);
    }
}
