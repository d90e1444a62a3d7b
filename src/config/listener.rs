//! Where clients connect.

use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderValue;

use super::fields::Fields;
use super::kind::{OrNone, Parsed, count};
use super::units::{bytes, name, socket, span};

/// One address that clients connect to.
#[derive(Clone, Debug)]
pub struct Listener {
    /// For routes and logs; the address where the file gives none.
    pub name: String,
    /// Port 0 lets the system choose (the log tells which).
    pub address: SocketAddr,
    /// How long a client may take.
    pub timeouts: ClientTimeouts,
    /// How large a request may be.
    pub limits: Limits,
    /// The `Server` header of responses.
    pub server_header: ServerHeader,
}

/// How large a request may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of request line and headers, line ends included.
    pub header_bytes: u64,
    /// Headers, each line counted.
    pub headers: usize,
    /// Bytes of the target.
    pub uri_bytes: u64,
    /// Bytes of the body; none: no limit.
    pub body: Option<u64>,
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

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct ClientTimeouts {
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
    let timeouts = f.section("timeouts", "How long a client may take.", client_timeouts);
    let limits = f.section("limits", "How large a request may be.", limits);
    let server_header =
        f.default("server_header", "The `Server` header of responses: `pass`, `remove`, or a text.", server(), "pass");
    f.later(&["protocols", "tls", "proxy_protocol"]);
    let address = address?;
    Some(Listener {
        name: name.unwrap_or_else(|| address.to_string()),
        address,
        timeouts: timeouts?,
        limits: limits?,
        server_header: server_header?,
    })
}

fn client_timeouts(f: &mut Fields<'_>) -> Option<ClientTimeouts> {
    let body = f.default("body", "Between two reads of a request body.", span(), "30s");
    let write = f.default("write", "Between two writes of a response.", span(), "60s");
    let keepalive = f.default("keepalive", "An idle connection between two requests.", span(), "60s");
    f.later(&["header"]);
    Some(ClientTimeouts { body: body?, write: write?, keepalive: keepalive? })
}

fn limits(f: &mut Fields<'_>) -> Option<Limits> {
    // Pingora itself reads no more than 256 headers and 1 MiB.
    let header_bytes = f.default("header_bytes", "Bytes of request line and headers.", bytes(64, 1_000_000), "64KiB");
    let headers = f.default("headers", "Lines of headers.", count(1, 256), 128);
    let uri_bytes = f.default("uri_bytes", "Bytes of the target, with its query.", bytes(1, 1_000_000), "16KiB");
    let body = f.default("body", "Bytes of the body, in chunks too.", OrNone(bytes(0, u64::MAX)), "none");
    Some(Limits { header_bytes: header_bytes?, headers: headers?, uri_bytes: uri_bytes?, body: body? })
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
