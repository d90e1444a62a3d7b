//! Where clients connect.

use std::net::SocketAddr;
use std::time::Duration;

use super::fields::Fields;
use super::kind::Section;
use super::tls::{ListenerTls, listener_tls, redirect_to_https};
use super::units::{name, socket, span};

/// One address that clients connect to.
#[derive(Clone, Debug)]
pub struct Listener {
    /// For routes and logs; the address where the file gives none.
    pub name: String,
    /// Port 0 lets the system choose (the log tells which).
    pub address: SocketAddr,
    /// None: without TLS.
    pub tls: Option<ListenerTls>,
    /// Every request is answered with a redirect to this port. None: requests are served.
    pub redirect_to_https: Option<u16>,
    /// How long a client may take.
    pub timeouts: ClientTimeouts,
}

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct ClientTimeouts {
    /// A whole request header.
    pub header: Duration,
    /// Between two reads of a request body.
    pub body: Duration,
    /// Between two writes of a response.
    pub write: Duration,
    /// An idle connection between two requests.
    pub keepalive: Duration,
}

pub(super) fn listener(f: &mut Fields<'_>) -> Option<Listener> {
    let name = f.optional("name", "For routes and logs. Default: the address.", name());
    let address =
        f.required("address", "IP:PORT to listen on; `[::]` is IPv6 only; port 0 lets the system choose.", socket());
    let tls = f.optional("tls", "TLS. Left out: clients speak plain HTTP.", Section(listener_tls));
    let redirect = redirect_to_https(f);
    let timeouts = f.section("timeouts", "How long a client may take.", client_timeouts);
    f.later(&["protocols", "proxy_protocol", "limits"]);
    if f.given("tls") && redirect.is_some_and(|redirect| redirect.is_some()) {
        f.problem(
            &["redirect_to_https".into()],
            "would redirect this listener to itself: it has `tls`, so remove one of the two",
        );
    }
    let address = address?;
    let name = name.unwrap_or_else(|| address.to_string());
    Some(Listener { name, address, tls, redirect_to_https: redirect?, timeouts: timeouts? })
}

fn client_timeouts(f: &mut Fields<'_>) -> Option<ClientTimeouts> {
    let header = f.default("header", "A whole request header, from when it is waited for.", span(), "10s");
    let body = f.default("body", "Between two reads of a request body.", span(), "30s");
    let write = f.default("write", "Between two writes of a response.", span(), "60s");
    let keepalive = f.default("keepalive", "An idle connection between two requests.", span(), "60s");
    Some(ClientTimeouts { header: header?, body: body?, write: write?, keepalive: keepalive? })
}
