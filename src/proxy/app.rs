//! Connections of clients, around Pingora's proxy: counted, so that a node knows when it has drained, and not cut
//! off while a client may be about to use one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::protocols::Stream;
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;

use crate::node::Node;
use crate::proxy::Proxy;

/// How long idle connections stay open once listeners are closed. A request that a client is just sending on one is
/// still served, and answered with `Connection: close`.
pub const LINGER: Duration = Duration::from_secs(2);

/// The application behind all listeners.
pub struct EdgeApp {
    node: Arc<Node>,
    proxy: Arc<HttpProxy<Proxy>>,
}

impl EdgeApp {
    /// Wraps an initialised proxy.
    pub fn new(node: Arc<Node>, proxy: HttpProxy<Proxy>) -> Self {
        EdgeApp { node, proxy: Arc::new(proxy) }
    }
}

#[async_trait]
impl ServerApp for EdgeApp {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let _connection = self.node.lifecycle.connection();
        self.proxy.process_new(stream, shutdown).await
    }

    async fn cleanup(&self) {
        self.node.lifecycle.set_closed();
        tokio::time::timeout(LINGER, self.node.lifecycle.no_connections()).await.ok();
        self.proxy.cleanup().await;
    }
}
