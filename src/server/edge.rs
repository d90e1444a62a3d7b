//! The one service behind all listeners. Hands our bound sockets to Pingora's listening service.

use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::listeners::{L4BufferSettings, ListenerConfig};
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use pingora::services::listening::Service as Listening;

use crate::config;
use crate::node::Node;
use crate::observe::logging;
use crate::proxy::app::EdgeApp;
use crate::server::StartError;
use crate::server::fleet;
use crate::server::listeners::Bound;

/// Connections that may wait to be accepted; the system's `net.core.somaxconn` caps it.
const BACKLOG: i32 = 65_535;

/// No read buffer: headers are read into one of their own and bodies in large pieces, so another one, 64 KiB for each
/// connection, would only take memory. Writes are gathered, so that a header and a short body leave together.
const BUFFERS: L4BufferSettings = L4BufferSettings { read: Some(0), write: None };

pub struct Edge {
    node: Arc<Node>,
    listening: Listening<EdgeApp>,
    sockets: Vec<Bound>,
    redis: Option<config::Redis>,
}

impl Edge {
    pub fn new(node: Arc<Node>, app: EdgeApp, sockets: Vec<Bound>, redis: Option<config::Redis>) -> Self {
        let mut listening = Listening::new("edge".into(), app);
        for socket in &sockets {
            let endpoint = ListenerConfig::tcp(socket.address.to_string());
            listening.add_listener(endpoint.l4_buffer(BUFFERS));
        }
        Edge { node, listening, sockets, redis }
    }

    /// Two processes can bind one port before either listens: the second learns it here.
    fn listen(&mut self, fds: &ListenFds) -> Result<(), StartError> {
        for bound in &self.sockets {
            bound.socket.listen(BACKLOG).map_err(|error| bound.refused(error))?;
        }
        for bound in self.sockets.drain(..) {
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
        // In this runtime, not one of its own: in exact mode a request and the exchange it waits for then wake each
        // other without a switch of threads.
        if let Some(redis) = &self.redis {
            fleet::join(&self.node, redis).await;
        }
        if self.node.lifecycle.is_draining() {
            // Told to stop before it ever began.
            return self.node.lifecycle.set_closed();
        }
        if let Err(error) = self.listen(&fds) {
            log::error!(error = error.to_string(); "cannot_listen");
            logging::flush(Duration::from_secs(1));
            std::process::exit(1);
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
