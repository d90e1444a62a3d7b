//! Who may use the admin listener: whoever has the token, if there is one; and no web page that a browser was led to
//! (its Host would be a name that we do not go by).

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::config::Admin;
use crate::routing::without_port;

/// Lets a request pass or answers it.
pub async fn check(State(config): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    if !known_host(headers, &config.hosts) {
        let why = "this node does not go by that name; add it to admin.hosts\n";
        return (StatusCode::MISDIRECTED_REQUEST, why).into_response();
    }
    if needs_token(request.uri().path(), &config) && !has_token(headers, config.token.as_deref()) {
        let challenge = [(WWW_AUTHENTICATE, "Bearer")];
        return (StatusCode::UNAUTHORIZED, challenge, "send the header Authorization: Bearer TOKEN\n").into_response();
    }
    next.run(request).await
}

fn needs_token(path: &str, config: &Admin) -> bool {
    let open = matches!(path, "/healthz" | "/readyz") || (path == "/metrics" && config.metrics_open);
    config.token.is_some() && !open
}

fn has_token(headers: &HeaderMap, token: Option<&str>) -> bool {
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.split_once(' ')).filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
    match (token, given) {
        (None, _) => true,
        (Some(token), Some((_, given))) => same(token.as_bytes(), given.trim().as_bytes()),
        (Some(_), None) => false,
    }
}

/// Compares in a time that tells nothing but the length.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// Addresses and `localhost` cannot be rebound by anybody's DNS; names must be ours.
fn known_host(headers: &HeaderMap, hosts: &[String]) -> bool {
    let Some(host) = headers.get(HOST).and_then(|value| value.to_str().ok()) else { return false };
    let name = without_port(host);
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok()
        || hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn only_our_own_names_and_addresses_are_known() {
        let known = |host: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static(host));
            known_host(&headers, &["edge-1.internal".into()])
        };
        for host in ["127.0.0.1:9900", "localhost", "[::1]:9900", "10.1.2.3", "Edge-1.internal:9900"] {
            assert!(known(host), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example:9900", "localhost.evil", ""] {
            assert!(!known(host), "{host}");
        }
        assert!(!known_host(&HeaderMap::new(), &[]));
    }

    #[test]
    fn a_token_must_be_the_same() {
        let given = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static(value));
            headers
        };
        assert!(has_token(&given("Bearer secret"), Some("secret")));
        assert!(has_token(&given("bearer secret"), Some("secret")));
        assert!(!has_token(&given("Bearer secreT"), Some("secret")));
        assert!(!has_token(&given("Bearer "), Some("secret")));
        assert!(!has_token(&given("Basic secret"), Some("secret")));
        assert!(!has_token(&HeaderMap::new(), Some("secret")));
        assert!(has_token(&HeaderMap::new(), None));
    }
}
