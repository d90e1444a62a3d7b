//! Where clients connect.

use std::net::SocketAddr;
use std::time::Duration;

use super::fields::Fields;
use super::units::{name, socket, span};

/// One address that clients connect to.
#[derive(Clone, Debug)]
pub struct Listener {
    /// For routes and logs; the address where the file gives none.
    pub name: String,
    /// Port 0 lets the system choose (the log tells which).
    pub address: SocketAddr,
    /// How long a client may take.
    pub timeouts: ClientTimeouts,
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
    f.later(&["protocols", "tls", "proxy_protocol", "limits"]);
    let address = address?;
    Some(Listener { name: name.unwrap_or_else(|| address.to_string()), address, timeouts: timeouts? })
}

fn client_timeouts(f: &mut Fields<'_>) -> Option<ClientTimeouts> {
    let body = f.default("body", "Between two reads of a request body.", span(), "30s");
    let write = f.default("write", "Between two writes of a response.", span(), "60s");
    let keepalive = f.default("keepalive", "An idle connection between two requests.", span(), "60s");
    f.later(&["header"]);
    Some(ClientTimeouts { body: body?, write: write?, keepalive: keepalive? })
}
