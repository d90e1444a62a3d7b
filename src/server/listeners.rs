//! Sockets, bound before anything else starts. Pingora would retry a taken port for half a minute and then go on
//! without it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::{Listener, Problems};

/// Connections that may wait to be accepted; the system's `net.core.somaxconn` caps it.
pub(crate) const BACKLOG: i32 = 65_535;

/// Bytes of a response that wait in the system beyond those on their way. By default these may be 4 MB for each client that
/// reads slowly, and all connections slow down once the system's memory for them is used up.
const UNSENT: u32 = 256 * 1024;

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
    #[error("cannot open the access log {}: {error}; {}", path_or_stdout(.path), log_hint(.error))]
    AccessLog {
        /// Its path.
        path: Option<PathBuf>,
        /// What the system said.
        error: std::io::Error,
    },
    /// Files of certificates that cannot be used.
    #[error("{0}")]
    Certificates(Problems),
    /// What is configured of Redis cannot be used.
    #[error(transparent)]
    Redis(crate::load::redis::StartError),
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

fn log_hint(error: &std::io::Error) -> &'static str {
    if error.raw_os_error() == Some(Errno::ENXIO as i32) {
        "it is a pipe that nobody reads: start its reader first"
    } else {
        "check access_log.path and its permissions"
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
    /// Starts to listen.
    ///
    /// # Errors
    /// Two processes can bind one port before either listens: the second learns it here.
    pub fn listen(&self) -> Result<(), StartError> {
        self.socket.listen(BACKLOG).map_err(|error| failed(self.address, &self.name, error))
    }
}

/// Binds a listener.
///
/// # Errors
/// The address cannot be had.
pub fn bind(listener: &Listener) -> Result<Bound, StartError> {
    let bound = bind_socket(listener.address);
    let (socket, address) = bound.map_err(|error| failed(listener.address, &listener.name, error))?;
    if let Err(error) = bound_slow_readers(&socket, listener.timeouts.write) {
        log::warn!(listener = listener.name, error = error.to_string(); "cannot_bound_slow_readers");
    }
    Ok(Bound { name: listener.name.clone(), address, socket })
}

/// What the system does about clients that take a response slowly. Connections inherit it from their listener.
fn bound_slow_readers(socket: &Socket, write: Duration) -> std::io::Result<()> {
    // Ends a connection whose client has no room for that long, or is silently gone, whatever part of a response is on
    // its way. Pingora has no timeout on headers and on the last of a body.
    socket.set_tcp_user_timeout(Some(write))?;
    socket.set_tcp_notsent_lowat(UNSENT)
}

fn failed(address: SocketAddr, name: &str, error: std::io::Error) -> StartError {
    StartError::Bind { address, what: format!("listener {name}"), error }
}

/// A bound TCP socket and its address. It listens only on what it says: `[::]` is no IPv4.
///
/// # Errors
/// The address cannot be had.
pub(crate) fn bind_socket(address: SocketAddr) -> std::io::Result<(Socket, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.ip().to_canonical().is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Lets a node start again while connections of its predecessor are still closing.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    let bound = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok((socket, bound))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn listener(address: SocketAddr) -> Listener {
        let config = Config::quick(address, &[("127.0.0.1".into(), 9)], None, None).unwrap();
        Listener { name: "public".into(), ..config.listeners[0].clone() }
    }

    fn taken(message: &str) {
        assert!(message.contains("listener public") && message.contains("another process has this port"), "{message}");
    }

    #[test]
    fn a_taken_port_is_told_at_once() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        taken(&bind(&listener(other.local_addr().unwrap())).unwrap_err().to_string());
    }

    #[test]
    fn of_two_that_bound_one_port_the_second_to_listen_is_told() {
        let first = bind(&listener("127.0.0.1:0".parse().unwrap())).unwrap();
        let second = bind(&listener(first.address)).unwrap();
        first.listen().unwrap();
        taken(&second.listen().unwrap_err().to_string());
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_explained() {
        let error = std::io::Error::from_raw_os_error(Errno::ENXIO as i32);
        let message = StartError::AccessLog { path: Some("/run/pipe".into()), error }.to_string();
        assert!(message.contains("/run/pipe") && message.contains("nobody reads"), "{message}");
    }
}
