//! Ports that nobody else gets.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// A port of this machine that refuses connections until somebody listens on it, and that the system gives to nobody else meanwhile.
pub struct Reserved {
    /// Where it is.
    pub address: SocketAddr,
    /// Bound but not listening: keeps the port, and lets others that reuse addresses bind it too.
    _holder: TcpSocket,
}

impl Reserved {
    /// A port on 127.0.0.1.
    pub fn new() -> Self {
        Self::on("127.0.0.1:0")
    }

    /// A port on the given address.
    pub fn on(address: &str) -> Self {
        let holder = bind(address.parse().unwrap());
        Reserved { address: holder.local_addr().unwrap(), _holder: holder }
    }

    /// Starts to listen.
    pub fn listen(&self) -> TcpListener {
        bind(self.address).listen(1024).unwrap()
    }
}

fn bind(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket
}
