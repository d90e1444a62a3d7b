//! Who the client is, and what servers are told about it.
//!
//! From a peer that is not trusted, all that claims to know the client is replaced by what we see ourselves. From a
//! trusted one it is kept and appended to, and the client is the rightmost address that is not a trusted proxy's.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use http::header::{HOST, HeaderName, HeaderValue};
use pingora::Result;
use pingora::http::RequestHeader;
use smallvec::SmallVec;

use crate::snapshot::Snapshot;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Who sent a request.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// The client itself, as far as trusted proxies tell.
    pub address: IpAddr,
    /// Who is connected to us.
    pub peer: IpAddr,
    /// Whether the peer is a trusted proxy.
    pub trusted: bool,
}

/// Finds the client of a request from `peer`.
pub fn identify(peer: SocketAddr, headers: &HeaderMap, snapshot: &Snapshot) -> Client {
    let peer = peer.ip().to_canonical();
    if !snapshot.trusts_somebody() || !snapshot.trusts(peer) {
        return Client { address: peer, peer, trusted: false };
    }
    let address = rightmost_untrusted(headers, |ip| snapshot.trusts(ip)).unwrap_or(peer);
    Client { address, peer, trusted: true }
}

/// None when nobody but trusted proxies is named. An entry that is no address ends the search: what stands left of
/// it was written by somebody we cannot judge.
fn rightmost_untrusted(headers: &HeaderMap, trusts: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let values: Vec<_> = headers.get_all(X_FORWARDED_FOR).iter().collect();
    let mut furthest = None;
    for value in values.into_iter().rev() {
        // Whatever bytes stand further left must not hide what a trusted proxy has written.
        for entry in value.as_bytes().rsplit(|b| *b == b',') {
            let entry = std::str::from_utf8(entry).ok();
            let Some(ip) = entry.and_then(|entry| parse_address(entry.trim())) else { return furthest };
            furthest = Some(ip);
            if !trusts(ip) {
                return furthest;
            }
        }
    }
    furthest
}

/// `10.0.0.1`, `10.0.0.1:80`, `::1`, `[::1]` or `[::1]:80`.
fn parse_address(text: &str) -> Option<IpAddr> {
    let ip = text.parse().ok();
    let ip = ip.or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    ip.or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()).map(|ip| ip.to_canonical())
}

/// Writes who the client is into the request that goes to a server.
///
/// # Errors
/// A value that is not a valid header, which a parsed request cannot cause.
pub fn forward(request: &mut RequestHeader, client: &Client, tls: bool) -> Result<()> {
    let scheme = HeaderValue::from_static(if tls { "https" } else { "http" });
    if client.trusted {
        // Proxies write `-`; who takes `_` for that would find a second word beside theirs.
        for name in claims(&request.headers).iter().filter(|name| name.as_str().contains('_')) {
            request.remove_header(name);
        }
        append_peer(request, client.peer)?;
        if !request.headers.contains_key(X_FORWARDED_PROTO) {
            request.insert_header(X_FORWARDED_PROTO, scheme)?;
        }
        if !request.headers.contains_key(X_FORWARDED_HOST)
            && let Some(host) = request.headers.get(HOST).cloned()
        {
            request.insert_header(X_FORWARDED_HOST, host)?;
        }
        return Ok(());
    }
    for name in claims(&request.headers) {
        request.remove_header(&name);
    }
    request.insert_header(X_FORWARDED_FOR, address_value(client.address)?)?;
    request.insert_header(X_FORWARDED_PROTO, scheme)?;
    if let Some(host) = request.headers.get(HOST).cloned() {
        request.insert_header(X_FORWARDED_HOST, host)?;
    }
    Ok(())
}

/// Headers by which a peer claims to know the client, whatever it says of it. Some servers take `_` for `-`.
fn claims(headers: &HeaderMap) -> SmallVec<[HeaderName; 4]> {
    let is_claim = |name: &&HeaderName| {
        let name = name.as_str().as_bytes();
        let starts = |prefix: &[u8]| {
            name.len() >= prefix.len() && name.iter().zip(prefix).all(|(a, b)| a == b || (*a == b'_' && *b == b'-'))
        };
        name.first() == Some(&b'x') && (starts(b"x-forwarded-") || starts(b"x-real-ip") || starts(b"x-request-id"))
            || name == b"forwarded"
    };
    headers.keys().filter(is_claim).cloned().collect()
}

/// Puts the peer at the end of the list, in one header.
fn append_peer(request: &mut RequestHeader, peer: IpAddr) -> Result<()> {
    let mut list: Vec<u8> = Vec::with_capacity(64);
    for value in request.headers.get_all(X_FORWARDED_FOR) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(peer.to_string().as_bytes());
    request.insert_header(X_FORWARDED_FOR, list)
}

fn address_value(address: IpAddr) -> Result<HeaderValue> {
    use std::io::Write;
    // Long enough for any address; cheaper than a String.
    let mut text = [0u8; 48];
    let mut rest = &mut text[..];
    let room = rest.len();
    write!(rest, "{address}").ok();
    let used = room - rest.len();
    HeaderValue::from_bytes(&text[..used])
        .map_err(|e| pingora::Error::because(pingora::ErrorType::InternalError, "an address is no header", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn trusted(ip: IpAddr) -> bool {
        ip.to_string().starts_with("10.")
    }

    #[test]
    fn the_rightmost_untrusted_address_is_the_client() {
        let find = |values: &[&str]| rightmost_untrusted(&headers(values), trusted).map(|ip| ip.to_string());
        assert_eq!(find(&["6.6.6.6, 1.2.3.4, 10.0.0.2"]).as_deref(), Some("1.2.3.4"));
        assert_eq!(find(&["6.6.6.6", "1.2.3.4", "10.0.0.2, 10.0.0.3"]).as_deref(), Some("1.2.3.4"));
        assert_eq!(find(&["10.0.0.1, 10.0.0.2"]).as_deref(), Some("10.0.0.1"));
        assert_eq!(find(&["1.2.3.4, nonsense, 10.0.0.2"]).as_deref(), Some("10.0.0.2"));
        assert_eq!(find(&["[2001:db8::1]:99"]).as_deref(), Some("2001:db8::1"));
        assert_eq!(find(&[]), None);
        let mut odd = HeaderMap::new();
        odd.insert(X_FORWARDED_FOR, HeaderValue::from_bytes(b"\xff, 6.6.6.6, 10.0.0.2").unwrap());
        assert_eq!(rightmost_untrusted(&odd, trusted), Some(IpAddr::from([6, 6, 6, 6])), "no byte hides it");
    }

    #[test]
    fn an_untrusted_peer_cannot_say_who_it_is() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in [
            ("Host", "example.com"),
            ("X-Forwarded-For", "6.6.6.6"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "evil"),
            ("Forwarded", "for=6.6.6.6"),
            ("X-Real-IP", "6.6.6.6"),
            ("X_Forwarded_For", "6.6.6.6"),
            ("X-Forwarded-Prefix", "/evil"),
            ("X-Other", "stays"),
        ] {
            request.insert_header(name, value).unwrap();
        }
        let me = IpAddr::from([1, 2, 3, 4]);
        forward(&mut request, &Client { address: me, peer: me, trusted: false }, false).unwrap();
        assert_eq!(request.headers["x-forwarded-for"], "1.2.3.4");
        assert_eq!(request.headers["x-forwarded-proto"], "http");
        assert_eq!(request.headers["x-forwarded-host"], "example.com");
        let mut left: Vec<_> = request.headers.keys().map(|name| name.as_str()).collect();
        left.sort_unstable();
        assert_eq!(left, ["host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-other"]);
    }

    #[test]
    fn a_trusted_peer_is_appended() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        request.insert_header("X-Forwarded-For", "1.2.3.4").unwrap();
        request.append_header("X-Forwarded-For", "10.0.0.2").unwrap();
        request.insert_header("X-Forwarded-Proto", "https").unwrap();
        request.insert_header("X_Forwarded_Proto", "http").unwrap();
        let client = Client { address: IpAddr::from([1, 2, 3, 4]), peer: IpAddr::from([10, 0, 0, 3]), trusted: true };
        forward(&mut request, &client, false).unwrap();
        let all: Vec<_> = request.headers.get_all("x-forwarded-for").iter().collect();
        assert_eq!(all, ["1.2.3.4, 10.0.0.2, 10.0.0.3"]);
        assert_eq!(request.headers["x-forwarded-proto"], "https");
        assert!(!request.headers.contains_key("x_forwarded_proto"));
    }
}
