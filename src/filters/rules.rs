//! What a route changes in requests and responses, and whom it serves.

use std::net::IpAddr;

use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};

use crate::config::{HeaderRules, Redirect, Rules};

/// Whether a client is served.
pub fn serves(rules: &Rules, client: IpAddr) -> bool {
    let client = client.to_canonical();
    let among = |list: &[ipnet::IpNet]| list.iter().any(|net| net.contains(&client));
    !among(&rules.deny) && (rules.allow.is_empty() || among(&rules.allow))
}

/// Changes the headers of a request.
///
/// # Errors
/// More headers than a message can have.
pub fn change_request(rules: &HeaderRules, request: &mut RequestHeader) -> Result<()> {
    rules.remove.iter().for_each(|name| {
        request.remove_header(name);
    });
    for (name, value) in &rules.set {
        request.insert_header(name.clone(), value.clone())?;
    }
    for (name, value) in &rules.add {
        request.append_header(name.clone(), value.clone())?;
    }
    Ok(())
}

/// Changes the headers of a response.
///
/// # Errors
/// More headers than a message can have.
pub fn change_response(rules: &HeaderRules, response: &mut ResponseHeader) -> Result<()> {
    rules.remove.iter().for_each(|name| {
        response.remove_header(name);
    });
    for (name, value) in &rules.set {
        response.insert_header(name.clone(), value.clone())?;
    }
    for (name, value) in &rules.add {
        response.append_header(name.clone(), value.clone())?;
    }
    Ok(())
}

/// `path` with `to` in place of `from`, both without a slash at their end unless they are `/`. None: it does not begin
/// so.
fn replaced(path: &str, from: &str, to: &str) -> Option<String> {
    let from = from.trim_end_matches('/');
    let rest = path.strip_prefix(from).filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
    let to = to.trim_end_matches('/');
    let joined = format!("{to}{rest}");
    Some(if joined.is_empty() { "/".to_owned() } else { joined })
}

/// Puts the route's `rewrite` in place of its `path_prefix`. False: the path as sent does not begin with the prefix,
/// only its normal form does.
pub fn rewrite(request: &mut RequestHeader, from: &str, to: &str) -> bool {
    let Some(path) = replaced(request.uri.path(), from, to) else { return false };
    let target = match request.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let Ok(target) = target.parse::<PathAndQuery>() else { return false };
    let mut parts = request.uri.clone().into_parts();
    parts.path_and_query = Some(target);
    match Uri::from_parts(parts) {
        Ok(uri) => {
            request.set_uri(uri);
            true
        }
        Err(_) => false,
    }
}

/// The `Location` of a redirect: of a request for `host` (as sent, perhaps with a port) and `uri`, by a route with this
/// `path_prefix`. `tls`: whether the client speaks TLS.
pub fn location(redirect: &Redirect, host: &str, uri: &Uri, prefix: &str, tls: bool) -> Option<HeaderValue> {
    let scheme = redirect.scheme.unwrap_or(if tls { "https" } else { "http" });
    let host = match (&redirect.host, redirect.scheme) {
        (Some(host), _) => host,
        // Another scheme has another port.
        (None, Some(_)) => crate::routing::without_port(host),
        (None, None) => host,
    };
    let path = match &redirect.prefix {
        Some(to) => replaced(uri.path(), prefix, to)?,
        None => uri.path().to_owned(),
    };
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    HeaderValue::try_from(format!("{scheme}://{host}{path}{query}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    #[test]
    fn deny_goes_before_allow() {
        let net = |text: &str| text.parse().unwrap();
        let rules = Rules { allow: vec![net("10.0.0.0/8")], deny: vec![net("10.1.0.0/16")], ..Rules::default() };
        let serves = |ip: &str| super::serves(&rules, ip.parse().unwrap());
        assert!(serves("10.0.0.1") && serves("::ffff:10.0.0.1"));
        assert!(!serves("10.1.0.1") && !serves("192.0.2.1") && !serves("::1"));
        let all = Rules { deny: vec![net("2001:db8::/32")], ..Rules::default() };
        assert!(super::serves(&all, "::1".parse().unwrap()));
        assert!(!super::serves(&all, "2001:db8::7".parse().unwrap()));
    }

    #[test]
    fn a_prefix_is_replaced_on_its_segments_and_the_rest_stays_as_sent() {
        let sent = |target: &str, from, to| {
            let mut request = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
            rewrite(&mut request, from, to).then(|| String::from_utf8(request.raw_path().to_vec()).unwrap())
        };
        for (target, from, to, expected) in [
            ("/v1/x?a=b", "/v1", "/v2", "/v2/x?a=b"),
            ("/v1", "/v1", "/v2", "/v2"),
            ("/v1?a", "/v1", "/", "/?a"),
            ("/v1/x%2Fy//z", "/v1", "/", "/x%2Fy//z"),
            ("/x", "/", "/app", "/app/x"),
            ("/", "/", "/app", "/app/"),
        ] {
            assert_eq!(sent(target, from, to).as_deref(), Some(expected), "{target} {from} {to}");
        }
        assert_eq!(sent("/v10/x", "/v1", "/v2"), None);
        assert_eq!(sent("/%761/x", "/v1", "/v2"), None);
    }

    #[test]
    fn a_redirect_keeps_what_it_does_not_name() {
        let to = |scheme, host: Option<&str>, prefix: Option<&str>| Redirect {
            scheme,
            host: host.map(str::to_owned),
            prefix: prefix.map(str::to_owned),
            status: StatusCode::PERMANENT_REDIRECT,
        };
        let at = |redirect: &Redirect, host, tls| {
            location(redirect, host, &"/v1/x?a=b".parse().unwrap(), "/v1", tls).unwrap()
        };
        let https = to(Some("https"), None, None);
        assert_eq!(at(&https, "a.example:8080", false), "https://a.example/v1/x?a=b");
        assert_eq!(at(&https, "[::1]:80", false), "https://[::1]/v1/x?a=b");
        assert_eq!(at(&to(None, Some("b.example:81"), None), "a.example", true), "https://b.example:81/v1/x?a=b");
        assert_eq!(at(&to(None, None, Some("/v2")), "a.example:81", false), "http://a.example:81/v2/x?a=b");
    }

    #[test]
    fn headers_are_removed_then_set_then_added() {
        let pair = |name: &'static str, value| (name.parse().unwrap(), HeaderValue::from_static(value));
        let rules = HeaderRules {
            remove: vec!["x-a".parse().unwrap()],
            set: vec![pair("x-b", "new")],
            add: vec![pair("x-a", "1"), pair("x-b", "2")],
        };
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in [("x-a", "old"), ("x-b", "old"), ("x-c", "old")] {
            request.append_header(name, value).unwrap();
        }
        change_request(&rules, &mut request).unwrap();
        let all = |name: &str| request.headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!((all("x-a"), all("x-b"), all("x-c")), (vec!["1"], vec!["new", "2"], vec!["old"]));
    }
}
