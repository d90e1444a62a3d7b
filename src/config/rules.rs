//! What a route changes in requests and responses, and whom it serves.

use http::header::{CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderName, HeaderValue, StatusCode};
use ipnet::IpNet;
use serde_json::json;

use super::fields::Fields;
use super::kind::{List, Named, Parsed, Section, Word};
use super::route::{header_name, header_value};
use super::units::{host_name, network, url_path};

/// What a route changes, and whom it serves.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Clients that are served; empty: all.
    pub allow: Vec<IpNet>,
    /// Clients that are not served, whatever `allow` says.
    pub deny: Vec<IpNet>,
    /// Of requests on their way to servers.
    pub request: HeaderRules,
    /// Of servers' responses on their way to clients.
    pub response: HeaderRules,
    /// What servers see in place of the route's `path_prefix`; without a slash at its end, unless it is `/`.
    pub rewrite: Option<String>,
    /// Where clients are sent instead of a server.
    pub redirect: Option<Redirect>,
}

/// Changes to headers; done in this order.
#[derive(Clone, Debug, Default)]
pub struct HeaderRules {
    /// Removed, all of a name.
    pub remove: Vec<HeaderName>,
    /// Set, in place of all of the name.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Added to those that are there.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

/// Where clients are sent. What is None stays as they asked for it.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<&'static str>,
    /// Host, perhaps with a port.
    pub host: Option<String>,
    /// In place of the route's `path_prefix`; without a slash at its end, unless it is `/`.
    pub prefix: Option<String>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

/// The rules of a route, read from among its keys.
pub(super) fn rules(f: &mut Fields<'_>) -> Option<Rules> {
    let networks = || List { item: network(), of: "networks", empty: true };
    let allow = f.default("allow", "Networks of clients that are served. Empty: all.", networks(), json!([]));
    let deny =
        f.default("deny", "Networks of clients that get 403 `denied`, whatever `allow` says.", networks(), json!([]));
    let headers = f.section("headers", "Changes to headers.", headers);
    let rewrite = f.optional("rewrite", "What servers see in place of the path.", Section(rewrite));
    let redirect = f.optional(
        "redirect",
        "Sends clients elsewhere, in place of `pool`; what is not given stays as they asked for it.",
        Section(redirect),
    );
    let (request, response) = headers?;
    Some(Rules {
        allow: allow?.into_iter().flatten().collect(),
        deny: deny?.into_iter().flatten().collect(),
        request,
        response,
        rewrite,
        redirect,
    })
}

fn headers(f: &mut Fields<'_>) -> Option<(HeaderRules, HeaderRules)> {
    let request = f.section("request", "Of requests on their way to servers.", header_rules);
    let response = f.section("response", "Of servers' responses on their way to clients.", header_rules);
    Some((request?, response?))
}

fn header_rules(f: &mut Fields<'_>) -> Option<HeaderRules> {
    let values = || Named {
        value: header_value(),
        of: "headers and their values",
        empty: true,
        check: |name| free_header(name).map(|_| ()),
    };
    let remove = f.default(
        "remove",
        "Removed first.",
        List {
            item: Parsed { what: "the name of a header", pattern: "", parse: free_header },
            of: "names of headers",
            empty: true,
        },
        json!([]),
    );
    let set = f.default("set", "Set, in place of what was there.", values(), json!({}));
    let add = f.default("add", "Added to what is there.", values(), json!({}));
    let pairs = |named: Vec<(String, Option<HeaderValue>)>| {
        named.into_iter().filter_map(|(name, value)| Some((free_header(&name).ok()?, value?))).collect()
    };
    Some(HeaderRules { remove: remove?.into_iter().flatten().collect(), set: pairs(set?), add: pairs(add?) })
}

/// A header that rules may touch: not one that says where a message ends or whose connection it is.
fn free_header(text: &str) -> Result<HeaderName, String> {
    let name = header_name(text)?;
    let framing = [CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];
    if framing.contains(&name) || ["keep-alive", "proxy-connection"].contains(&name.as_str()) {
        return Err("says where messages end or whose connection it is: Fairlead sets it itself".to_owned());
    }
    if name == "fairlead-error" || name == "x-request-id" {
        return Err("is Fairlead's own: leave it out".to_owned());
    }
    Ok(name)
}

fn rewrite(f: &mut Fields<'_>) -> Option<String> {
    f.required("prefix", "In place of the route's `path_prefix`.", prefix())
}

/// A path prefix, without the slash that it may end with.
fn prefix() -> Parsed<String> {
    Parsed {
        parse: |text| {
            let path = (url_path().parse)(text)?;
            if path.contains(['?', '#']) {
                return Err("has a query or a fragment: give a path alone".to_owned());
            }
            let trimmed = path.trim_end_matches('/');
            Ok(if trimmed.is_empty() { "/".to_owned() } else { trimmed.to_owned() })
        },
        ..url_path()
    }
}

fn redirect(f: &mut Fields<'_>) -> Option<Redirect> {
    let scheme = f.optional("scheme", "http or https.", Word(&[("http", "http"), ("https", "https")]));
    let host = f.optional("host", "HOST or HOST:PORT.", authority());
    let path = f.optional("prefix", "In place of the route's `path_prefix`; the query stays.", prefix());
    let status = f.default("status", "301, 302, 303, 307 or 308.", Status, 308);
    if !["scheme", "host", "prefix"].into_iter().any(|key| f.given(key)) {
        f.problem(&[], "leads to where it comes from: give at least one of `scheme`, `host` and `prefix`");
    }
    Some(Redirect { scheme, host, prefix: path, status: status? })
}

fn authority() -> Parsed<String> {
    Parsed {
        what: "HOST or HOST:PORT",
        pattern: "",
        parse: |text| {
            let (host, port) = match text.rsplit_once(':') {
                Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
                _ => (text, None),
            };
            let bad_port = |port: &str| !port.bytes().all(|b| b.is_ascii_digit()) || port.parse::<u16>().is_err();
            if port.is_some_and(bad_port) {
                return Err("has a port outside 1 to 65535".to_owned());
            }
            let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            match inner {
                Some(inner) if inner.parse::<std::net::Ipv6Addr>().is_ok() => Ok(text.to_owned()),
                Some(_) => Err("has no IPv6 address between its brackets".to_owned()),
                None => host_name(host).map(|_| text.to_ascii_lowercase()),
            }
        },
    }
}

/// A number that may stand without quotes.
struct Status;

impl super::kind::Kind for Status {
    type Out = StatusCode;

    fn what(&self) -> String {
        "one of 301, 302, 303, 307, 308".to_owned()
    }

    fn schema(&self) -> serde_json::Value {
        json!({ "enum": [301, 302, 303, 307, 308] })
    }

    fn read(&self, node: &super::tree::Node, found: &mut super::problem::Findings) -> Option<StatusCode> {
        let text = match node {
            super::tree::Node::Number(text) | super::tree::Node::Variable(text) | super::tree::Node::Text(text) => text,
            _ => "",
        };
        let code = text.parse().ok().filter(|code| [301, 302, 303, 307, 308].contains(code));
        if code.is_none() {
            found.add(format!("must be {}, not {}", self.what(), node.shown()));
        }
        code.and_then(|code: u16| StatusCode::from_u16(code).ok())
    }
}
