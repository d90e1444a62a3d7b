//! Where clients connect.

use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderValue;
use ipnet::IpNet;

use super::fields::Fields;
use super::kind::{List, OrNone, Parsed, Section, Truth, count};
use super::protocols::{Protocols, protocols};
use super::sizes::bytes;
use super::tls::{ListenerTls, listener_tls, redirect_to_https};
use super::units::{byte_rate, name, network, socket, span};

/// One address that clients connect to.
#[derive(Clone, Debug)]
pub struct Listener {
    /// For routes and logs; the address where the file gives none.
    pub name: String,
    /// Port 0 lets the system choose (the log tells which).
    pub address: SocketAddr,
    /// What clients may speak.
    pub protocols: Protocols,
    /// None: without TLS.
    pub tls: Option<ListenerTls>,
    /// Peers whose connections begin with a header of the PROXY protocol, and only theirs. Empty: nobody's.
    pub proxy_protocol: Vec<IpNet>,
    /// Every request is answered with a redirect to this port. None: requests are served.
    pub redirect_to_https: Option<u16>,
    /// How much clients may take.
    pub limits: ClientLimits,
    /// How long a client may take.
    pub timeouts: ClientTimeouts,
    /// The `Server` header of responses.
    pub server_header: ServerHeader,
    /// Whether a client of HTTP/1 that closes its own half is answered all the same, not taken to be gone.
    pub serve_half_closed: bool,
}

/// The `Server` header of responses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerHeader {
    /// As the server sends it; none of ours.
    Pass,
    /// None at all.
    Remove,
    /// This one, on our own answers too.
    Set(HeaderValue),
}

/// How much clients may take.
#[derive(Clone, Copy, Debug)]
pub struct ClientLimits {
    /// Connections at once.
    pub connections: usize,
    /// Connections at once of one client; None: as many as of all.
    pub per_client: Option<usize>,
    /// Bytes a second that a client must send of a body and take of a response. None: any.
    pub min_rate: Option<u64>,
    /// Bytes of request line and headers, line ends included.
    pub header_bytes: u64,
    /// Headers, each line counted.
    pub headers: usize,
    /// Bytes of the target.
    pub uri_bytes: u64,
    /// Bytes of a body. None: any.
    pub body: Option<u64>,
}

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct ClientTimeouts {
    /// A whole request header.
    pub header: Duration,
    /// Between two reads of a request body.
    pub body: Duration,
    /// Without taking anything of a response.
    pub write: Duration,
    /// An idle connection between two requests.
    pub keepalive: Duration,
}

pub(super) fn listener(f: &mut Fields<'_>) -> Option<Listener> {
    let name = f.optional("name", "For routes and logs. Default: the address.", name());
    let address =
        f.required("address", "IP:PORT to listen on; `[::]` is IPv6 only; port 0 lets the system choose.", socket());
    let tls = f.optional("tls", "TLS. Left out: clients speak plain HTTP.", Section(listener_tls));
    let protocols = protocols(f);
    let proxy_protocol = f.optional(
        "proxy_protocol",
        "Balancers in front that say by the PROXY protocol (version 1 or 2) who the client is. Left out: none do.",
        Section(proxy_protocol),
    );
    let redirect = redirect_to_https(f);
    let limits = f.section("limits", "How much clients may take.", client_limits);
    let timeouts = f.section("timeouts", "How long a client may take.", client_timeouts);
    let server_header =
        f.default("server_header", "The `Server` header of responses: `pass`, `remove`, or a text.", server(), "pass");
    let serve_half_closed = f.default(
        "serve_half_closed",
        "Whether a client of HTTP/1 that closes its own half of the connection is answered; `false`: it counts as gone.",
        Truth { what: "`true` or `false`", yes: || true, no: || false },
        false,
    );
    if f.given("tls") && redirect.is_some_and(|redirect| redirect.is_some()) {
        f.problem(
            &["redirect_to_https".into()],
            "would redirect this listener to itself: it has `tls`, so remove one of the two",
        );
    }
    let address = address?;
    let name = name.unwrap_or_else(|| address.to_string());
    Some(Listener {
        name,
        address,
        protocols,
        tls,
        proxy_protocol: proxy_protocol.unwrap_or_default(),
        redirect_to_https: redirect?,
        limits: limits?,
        timeouts: timeouts?,
        server_header: server_header?,
        serve_half_closed: serve_half_closed?,
    })
}

fn proxy_protocol(f: &mut Fields<'_>) -> Option<Vec<IpNet>> {
    let from = f.required(
        "from",
        "Networks of peers that must send a header; all others are clients themselves.",
        List { item: network(), of: "networks", empty: false },
    );
    Some(from?.into_iter().flatten().collect())
}

fn client_limits(f: &mut Fields<'_>) -> Option<ClientLimits> {
    let connections = f.default("connections", "At once; a client beyond them gets 503.", count(1, MANY), 50_000);
    let per_client = f.default(
        "per_client",
        "Connections at once of one client's address (IPv6: of its /64); `none`: no limit.",
        OrNone(count(1, MANY)),
        "none",
    );
    let min_rate = f.default(
        "min_rate",
        "Bytes a second that a client must send of a body and take of a response; `none`: any rate will do.",
        OrNone(byte_rate()),
        "240B/s",
    );
    // Pingora itself reads no more than 256 headers and 1 MiB.
    let header_bytes = f.default("header_bytes", "Bytes of request line and headers.", bytes(64, 1_000_000), "64KiB");
    let headers = f.default("headers", "Lines of headers.", count(1, 256), 128);
    let uri_bytes = f.default("uri_bytes", "Bytes of the target, with its query.", bytes(1, 1_000_000), "16KiB");
    let body = f.default("body", "Bytes of a body, in chunks too; `none`: any.", OrNone(bytes(0, u64::MAX)), "none");
    Some(ClientLimits {
        connections: connections?,
        per_client: per_client?,
        min_rate: min_rate?,
        header_bytes: header_bytes?,
        headers: headers?,
        uri_bytes: uri_bytes?,
        body: body?,
    })
}

/// More connections than this is a mistake.
const MANY: u32 = 10_000_000;

fn client_timeouts(f: &mut Fields<'_>) -> Option<ClientTimeouts> {
    let header = f.default("header", "A whole request header, from when it is waited for.", span(), "10s");
    let body = f.default("body", "Between two reads of a request body.", span(), "30s");
    let write = f.default("write", "Without taking anything of a response.", span(), "60s");
    let keepalive = f.default("keepalive", "An idle connection between two requests.", span(), "60s");
    Some(ClientTimeouts { header: header?, body: body?, write: write?, keepalive: keepalive? })
}

fn server() -> Parsed<ServerHeader> {
    Parsed {
        what: "`pass`, `remove`, or the value of the header",
        pattern: "^[ -~]+$",
        parse: |text| match text {
            "pass" => Ok(ServerHeader::Pass),
            "remove" => Ok(ServerHeader::Remove),
            "" => Err("is empty: write `remove` for no header".to_owned()),
            text => HeaderValue::from_str(text)
                .map(ServerHeader::Set)
                .map_err(|_| "has characters that no header can have: use printable ASCII".to_owned()),
        },
    }
}
