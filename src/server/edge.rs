//! The one service behind all listeners. Hands our bound sockets to Pingora's listening service.

use std::os::fd::IntoRawFd;
use std::sync::Arc;

use async_trait::async_trait;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use pingora::services::listening::Service as Listening;

use crate::node::Node;
use crate::proxy::app::EdgeApp;
use crate::server::listeners::Bound;
use crate::server::shutdown;

/// Connections that may wait to be accepted; the system's `net.core.somaxconn` caps it.
const BACKLOG: i32 = 65_535;

pub struct Edge {
    node: Arc<Node>,
    listening: Listening<EdgeApp>,
    sockets: Vec<Bound>,
}

impl Edge {
    pub fn new(node: Arc<Node>, app: EdgeApp, sockets: Vec<Bound>) -> Self {
        let mut listening = Listening::new("edge".into(), app);
        for socket in &sockets {
            listening.add_tcp(&socket.address.to_string());
        }
        Edge { node, listening, sockets }
    }

    /// Two processes can bind one port before either listens: the second learns it here.
    fn listen(&mut self, fds: &ListenFds) -> std::io::Result<()> {
        for bound in self.sockets.drain(..) {
            bound.socket.listen(BACKLOG)?;
            log::info!(listener = bound.name, address = bound.address.to_string(); "listening");
            let mut table = fds.lock();
            let address = bound.address.to_string();
            if table.get(&address).is_none() {
                table.add(address, bound.socket.into_raw_fd());
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Service for Edge {
    async fn start_service(&mut self, fds: Option<ListenFds>, shutdown: ShutdownWatch, tasks: usize) {
        let Some(fds) = fds else { return };
        if let Err(error) = self.listen(&fds) {
            log::error!(error = error.to_string(); "cannot_listen");
            shutdown::end(&self.node, 1);
        }
        self.node.lifecycle.set_listening();
        self.listening.start_service(Some(fds), shutdown, tasks).await;
    }

    fn name(&self) -> &str {
        "edge"
    }

    fn listen_addresses(&self) -> Option<Vec<String>> {
        Service::listen_addresses(&self.listening)
    }
}
