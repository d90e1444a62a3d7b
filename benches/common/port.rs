//! Ports for programs that we start.

use std::net::SocketAddr;

use tokio::net::TcpSocket;

use super::Outcome;

/// A port of this machine that the system gives to nobody else while this lives.
pub struct Port {
    /// Where it is.
    pub address: SocketAddr,
    /// Bound, but not listening: a program that reuses addresses can listen there.
    _holder: TcpSocket,
}

impl Port {
    /// A free one on 127.0.0.1.
    pub fn new() -> Outcome<Self> {
        let holder = TcpSocket::new_v4()?;
        holder.set_reuseaddr(true)?;
        holder.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        Ok(Port { address: holder.local_addr()?, _holder: holder })
    }
}
