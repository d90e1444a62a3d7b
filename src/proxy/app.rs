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
use crate::tls;

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

    /// On a listener with TLS: the connection after its handshake. None: there was none in time, and it is closed.
    ///
    /// Pingora's own TLS listeners would wait a minute for a silent client, and keep one context for ever.
    async fn secured(&self, stream: Stream) -> Option<Stream> {
        match self.tls_of(&stream) {
            Some((tls, limit)) => tls.accept(stream, limit).await,
            None => Some(stream),
        }
    }

    /// TLS that a new connection is to begin with, and how long that may take.
    fn tls_of(&self, stream: &Stream) -> Option<(Arc<tls::Listener>, Duration)> {
        let snapshot = self.node.snapshot.load();
        if !snapshot.has_tls() || stream.get_ssl().is_some() {
            return None;
        }
        let local = stream.get_socket_digest().and_then(|digest| digest.local_addr()?.as_inet().copied());
        let listener = snapshot.listener(local)?;
        Some((listener.tls.clone()?, listener.timeouts.header))
    }
}

#[async_trait]
impl ServerApp for EdgeApp {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let _connection = self.node.lifecycle.connection();
        let stream = self.secured(stream).await?;
        self.proxy.process_new(stream, shutdown).await
    }

    async fn cleanup(&self) {
        self.node.lifecycle.set_closed();
        tokio::time::timeout(LINGER, self.node.lifecycle.no_connections()).await.ok();
        self.proxy.cleanup().await;
    }
}
