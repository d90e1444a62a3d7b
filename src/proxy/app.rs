//! Connections of clients, around Pingora's proxy: let in and counted, named by a balancer in front, ended when a header
//! takes too long, and not cut off at the end of the node while a client may be about to use one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::protocols::Stream;
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use prometheus::IntCounter;

use crate::config::{ClientTimeouts, Protocols};
use crate::load::connections::{Full, Pass};
use crate::node::{Connection, Node};
use crate::proxy::http2::{self, End, Http2, Spoken};
use crate::proxy::proxied::{self, Failure};
use crate::proxy::turn_away::TurnedAway;
use crate::proxy::unparsed::Replaced;
use crate::proxy::{Proxy, Refusal, slow};
use crate::tls;

/// How long idle connections stay open once listeners are closed. A request that a client is just sending on one is
/// still served, and answered with `Connection: close`.
pub const LINGER: Duration = Duration::from_secs(2);

/// The application behind all listeners.
pub struct EdgeApp {
    node: Arc<Node>,
    proxy: Arc<HttpProxy<Proxy>>,
    turned_away: TurnedAway,
    too_many: IntCounter,
    slow_header: IntCounter,
    too_many_resets: IntCounter,
    slow_body: IntCounter,
    bad_proxy_header: IntCounter,
}

impl EdgeApp {
    /// Wraps an initialised proxy.
    pub fn new(node: Arc<Node>, proxy: HttpProxy<Proxy>) -> Self {
        let refused = |refusal: Refusal| node.metrics.refused.with_label_values(&[refusal.name()]);
        let (too_many, slow_header) = (refused(Refusal::TooManyConnections), refused(Refusal::SlowHeader));
        let bad_proxy_header = refused(Refusal::BadProxyHeader);
        let (too_many_resets, slow_body) = (refused(Refusal::TooManyResets), refused(Refusal::SlowBody));
        let turned_away = TurnedAway::new(node.max_connections / 8);
        let proxy = Arc::new(proxy);
        EdgeApp { node, proxy, turned_away, too_many, slow_header, too_many_resets, slow_body, bad_proxy_header }
    }

    /// Lets a connection in, with the timeouts of its listener, unless there are too many.
    fn enter(&self, stream: &Stream) -> Result<Entered<'_>, Full> {
        let counted = self.node.lifecycle.connection();
        if counted.number > self.node.max_connections {
            return Err(Full);
        }
        let snapshot = self.node.snapshot.load();
        let digest = stream.get_socket_digest();
        let inet = |address: &pingora::protocols::l4::socket::SocketAddr| address.as_inet().copied();
        let local = digest.as_ref().and_then(|digest| digest.local_addr()).and_then(inet);
        let Some(listener) = snapshot.listener(local) else {
            return Ok(Entered { _counted: counted, by: None, expects_header: false });
        };
        let peer = || digest.as_ref()?.peer_addr().and_then(inet).as_ref().map(SocketAddr::ip);
        let expects_header = listener.expects_header(peer);
        // Behind a trusted proxy are many clients.
        let client = || peer().filter(|peer| !snapshot.trusts(*peer));
        let client = if listener.gate.counts_clients() && !expects_header { client() } else { None };
        let pass = listener.gate.enter(client)?;
        let terms = Terms {
            timeouts: listener.timeouts,
            protocols: listener.protocols,
            header_bytes: listener.limits.header_bytes,
        };
        Ok(Entered { _counted: counted, by: Some((pass, terms)), expects_header })
    }

    /// From a peer that must say whose connection it is: the connection once it has, as that client's. None: it did
    /// not, or the client has too many, and it is closed.
    async fn named(&self, stream: Stream, entered: &mut Entered<'_>) -> Option<Stream> {
        let (true, Some((pass, terms))) = (entered.expects_header, &mut entered.by) else {
            return Some(stream);
        };
        let (stream, client) = match proxied::receive(stream, terms.timeouts.header).await {
            Ok(received) => received,
            Err(failure) => {
                match failure {
                    Failure::Malformed => self.bad_proxy_header.inc(),
                    Failure::Slow => self.slow_header.inc(),
                    Failure::Closed => {}
                }
                return None;
            }
        };
        let client = client.filter(|client| !self.node.snapshot.load().trusts(*client));
        if let Some(client) = client
            && pass.name(client).is_err()
        {
            self.turn_away(stream).await;
            return None;
        }
        Some(stream)
    }

    /// There are too many connections for this one.
    async fn turn_away(&self, stream: Stream) {
        self.too_many.inc();
        // Who waits for a handshake would not understand.
        if self.tls_of(&stream).is_none() {
            self.turned_away.tell(stream).await;
        }
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

/// A connection that was let in, for as long as it lives.
struct Entered<'a> {
    _counted: Connection<'a>,
    /// None: by no listener that is known.
    by: Option<(Pass, Terms)>,
    /// Of the PROXY protocol.
    expects_header: bool,
}

/// What a connection may do.
struct Terms {
    timeouts: ClientTimeouts,
    protocols: Protocols,
    header_bytes: u64,
}

#[async_trait]
impl ServerApp for EdgeApp {
    /// Called once for a connection: Pingora's own implementation goes from one request to the next.
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let Ok(mut entered) = self.enter(&stream) else {
            self.turn_away(stream).await;
            return None;
        };
        let stream = self.named(stream, &mut entered).await?;
        let stream = self.secured(stream).await?;
        let Some((_pass, terms)) = &entered.by else { return self.proxy.process_new(stream, shutdown).await };
        match http2::spoken(stream, terms.protocols, terms.timeouts.header).await {
            Spoken::Http1(stream) => {
                let stream = Box::new(Replaced::new(stream, self.node.clone(), terms.header_bytes));
                let connection = self.proxy.process_new(stream, shutdown);
                let ended = slow::header_deadline(&terms.timeouts, connection).await;
                if ended.is_none() {
                    self.slow_header.inc();
                }
                ended.flatten()
            }
            Spoken::Http2(stream) => {
                let proxy = self.proxy.clone();
                let (node, slow_body) = (self.node.clone(), self.slow_body.clone());
                let http2 = Http2::new(node, proxy, &terms.timeouts, terms.header_bytes, slow_body);
                match http2.serve(stream, shutdown).await {
                    End::Closed => {}
                    End::Silent => self.slow_header.inc(),
                    End::Resets => self.too_many_resets.inc(),
                }
                None
            }
            Spoken::TooSlow => {
                self.slow_header.inc();
                None
            }
            Spoken::Other => None,
        }
    }

    async fn cleanup(&self) {
        self.node.lifecycle.set_closed();
        tokio::time::timeout(LINGER, self.node.lifecycle.no_connections()).await.ok();
        self.proxy.cleanup().await;
    }
}
