//! Sockets, bound before anything else starts. Pingora would retry a taken port for half a minute and then go on
//! without it.

use std::net::SocketAddr;
use std::path::PathBuf;

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Listener;

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Somebody else has the port, or it may not be used.
    #[error("cannot listen on {address} ({what}): {error}{}", hint(.error))]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Whose it is.
        what: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The access log cannot be opened.
    #[error("cannot open the access log {}: {error}; check access_log.path and its permissions", path_or_stdout(.path))]
    AccessLog {
        /// Its path.
        path: Option<PathBuf>,
        /// What the system said.
        error: std::io::Error,
    },
    /// Two metrics of one name.
    #[error("cannot register metrics: {0}")]
    Metrics(prometheus::Error),
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "; another process has this port: stop it or choose another address",
        std::io::ErrorKind::PermissionDenied => "; ports below 1024 need root or CAP_NET_BIND_SERVICE",
        std::io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        _ => "",
    }
}

fn path_or_stdout(path: &Option<PathBuf>) -> String {
    path.as_ref().map_or("-".into(), |path| path.display().to_string())
}

/// A bound socket that does not accept yet: until the node is ready clients are refused, not kept waiting.
#[derive(Debug)]
pub struct Bound {
    /// As configured.
    pub name: String,
    /// With the port that the system chose, if it did.
    pub address: SocketAddr,
    /// The socket.
    pub socket: Socket,
}

impl Bound {
    /// What to tell when its socket cannot be listened on.
    pub fn refused(&self, error: std::io::Error) -> StartError {
        StartError::Bind { address: self.address, what: format!("listener {}", self.name), error }
    }
}

/// Binds a listener.
///
/// # Errors
/// The address cannot be had.
pub fn bind(listener: &Listener) -> Result<Bound, StartError> {
    let failed =
        |error| StartError::Bind { address: listener.address, what: format!("listener {}", listener.name), error };
    let (socket, address) = bind_socket(listener.address).map_err(failed)?;
    Ok(Bound { name: listener.name.clone(), address, socket })
}

fn bind_socket(address: SocketAddr) -> std::io::Result<(Socket, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Lets a node start again while connections of its predecessor are still closing.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        // `[::]` does not take IPv4's place: who wants both lists both.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    let bound = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok((socket, bound))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClientTimeouts;
    use std::time::Duration;

    #[test]
    fn a_taken_port_is_told_at_once() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let second = Duration::from_secs(1);
        let listener = Listener {
            name: "public".into(),
            address: taken.local_addr().unwrap(),
            timeouts: ClientTimeouts { body: second, write: second, keepalive: second },
        };
        let message = bind(&listener).unwrap_err().to_string();
        assert!(message.contains("listener public") && message.contains("another process has this port"), "{message}");
    }
}
