//! The one service behind all listeners. Hands our bound sockets to Pingora's listening service.

use std::os::fd::IntoRawFd;
use std::sync::Arc;

use async_trait::async_trait;
use pingora::listeners::{L4BufferSettings, ListenerConfig};
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use pingora::services::listening::Service as Listening;

use crate::config;
use crate::node::Node;
use crate::proxy::app::EdgeApp;
use crate::server::listeners::Bound;
use crate::server::{fleet, shutdown};

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

    /// All sockets listen, or this ends the process.
    fn listen(&mut self, fds: &ListenFds) {
        for bound in &self.sockets {
            if let Err(error) = bound.listen() {
                let (listener, address) = (&bound.name, bound.address.to_string());
                log::error!(listener = listener, address = address, error = error.to_string(); "cannot_listen");
                shutdown::end(&self.node, 1);
            }
        }
        for bound in self.sockets.drain(..) {
            let address = bound.address.to_string();
            log::info!(listener = bound.name, address = address; "listening");
            let mut table = fds.lock();
            if table.get(&address).is_none() {
                table.add(address, bound.socket.into_raw_fd());
            }
        }
    }
}

#[async_trait]
impl Service for Edge {
    async fn start_service(&mut self, fds: Option<ListenFds>, shutdown: ShutdownWatch, tasks: usize) {
        let Some(fds) = fds else { return };
        if let Some(redis) = self.redis.take() {
            fleet::join_beside(&self.node, redis).await;
        }
        if self.node.lifecycle.is_draining() {
            // Told to end before it could begin.
            self.node.lifecycle.set_closed();
            return;
        }
        self.listen(&fds);
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
