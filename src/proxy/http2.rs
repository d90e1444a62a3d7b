//! Connections of HTTP/2. Pingora runs each request in a task of its own; a connection has its own instance of
//! [`Http2`], all of which share the one proxy and its connections to servers.
//!
//! What Pingora leaves to us: the time until the first request, clients that ask only to cancel, and a client that goes
//! on sending a body when its response is over.

use std::cell::Cell;
use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::protocols::l4::stream::Stream as Connection;
use pingora::protocols::{ALPN, Stream};
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use prometheus::IntCounter;
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

use crate::config::{ClientTimeouts, Protocols};
use crate::node::Node;
use crate::proxy::{Proxy, unparsed};

/// What every connection of HTTP/2 begins with (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of bodies that a client may send ahead: of one request, and of all of a connection. The usual 64 KiB would be
/// 1 MB/s where a round trip takes 60 ms.
const WINDOWS: (u32, u32) = (256 * 1024, 1024 * 1024);

/// Requests that a client may cancel on one connection, beyond as many as it let finish. Each has begun, and may have
/// reached a server.
const RESETS: usize = 100;

tokio::task_local! {
    static REQUEST: Request;
}

/// One request, as its task knows it.
#[derive(Default)]
struct Request {
    /// Until when it must be over.
    until: Cell<Option<Instant>>,
    /// Its client has cancelled it.
    cancelled: Cell<bool>,
}

/// What a client begins to speak.
pub enum Spoken {
    /// HTTP/1, or nothing that is known: Pingora will say so.
    Http1(Stream),
    /// HTTP/2.
    Http2(Stream),
    /// Something that this listener does not speak, or nothing at all.
    Other,
    /// Nothing yet, and that for too long.
    TooSlow,
}

/// Finds out what a client speaks: by TLS, or where HTTP/2 is welcome without, by its first bytes, which are put back.
pub async fn spoken(stream: Stream, protocols: Protocols, limit: Duration) -> Spoken {
    if stream.get_ssl().is_some() {
        return match stream.selected_alpn_proto() {
            Some(ALPN::H2) => Spoken::Http2(stream),
            _ if protocols.h1 => Spoken::Http1(stream),
            _ => Spoken::Other,
        };
    }
    if !protocols.h2c {
        return Spoken::Http1(stream);
    }
    let Ok(mut connection) = stream.into_any().downcast::<Connection>() else { return Spoken::Other };
    match timeout(limit, has_preface(&mut connection)).await {
        Ok(Ok(true)) => Spoken::Http2(connection),
        Ok(Ok(false)) if protocols.h1 => Spoken::Http1(connection),
        Ok(_) => Spoken::Other,
        Err(_) => Spoken::TooSlow,
    }
}

/// Pingora's own look would wait for 24 bytes of a request that has fewer.
async fn has_preface(connection: &mut Connection) -> std::io::Result<bool> {
    let mut bytes = [0; PREFACE.len()];
    let mut have = 0;
    while have < bytes.len() && bytes[..have] == PREFACE[..have] {
        match connection.read(&mut bytes[have..]).await? {
            0 => break,
            more => have += more,
        }
    }
    connection.rewind(&bytes[..have]);
    Ok(bytes[..have] == PREFACE[..])
}

/// One connection.
pub struct Http2 {
    node: Arc<Node>,
    proxy: Arc<HttpProxy<Proxy>>,
    options: HttpServerOptions,
    header_bytes: u32,
    first: Duration,
    slow_body: IntCounter,
    begun: AtomicBool,
    cancelled: AtomicUsize,
    finished: AtomicUsize,
    enough: Notify,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As it should, or by its client.
    Closed,
    /// No request came in time.
    Silent,
    /// Its client cancelled most of its requests.
    Resets,
}

impl Http2 {
    /// A connection that has been made.
    pub fn new(
        node: Arc<Node>,
        proxy: Arc<HttpProxy<Proxy>>,
        timeouts: &ClientTimeouts,
        header_bytes: u64,
        slow_body: IntCounter,
    ) -> Arc<Self> {
        let mut options = HttpServerOptions::default();
        // Where there is TLS it does not matter.
        options.h2c = true;
        options.h2_idle_timeout = Some(timeouts.keepalive);
        Arc::new(Http2 {
            node,
            proxy,
            options,
            header_bytes: u32::try_from(header_bytes).unwrap_or(u32::MAX),
            first: timeouts.header,
            slow_body,
            begun: AtomicBool::new(false),
            cancelled: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            enough: Notify::new(),
        })
    }

    /// Serves it to its end.
    pub async fn serve(self: Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> End {
        let silent = async {
            sleep(self.first).await;
            if self.begun.load(Ordering::Relaxed) {
                pending::<()>().await;
            }
        };
        tokio::select! {
            _ = self.process_new(stream, shutdown) => End::Closed,
            () = silent => End::Silent,
            () = self.enough.notified() => End::Resets,
        }
    }

    /// A request is over.
    fn count(&self, cancelled: bool) {
        if !cancelled {
            self.finished.fetch_add(1, Ordering::Relaxed);
        } else if self.cancelled.fetch_add(1, Ordering::Relaxed) >= RESETS + self.finished.load(Ordering::Relaxed) {
            self.enough.notify_one();
        }
    }
}

#[async_trait]
impl HttpServerApp for Http2 {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        self.begun.store(true, Ordering::Relaxed);
        if session.req_header().method == Method::CONNECT {
            unparsed::refuse_connect(session, &self.node).await.ok();
            self.count(false);
            return None;
        }
        let request = async {
            let ended = within_time(self.proxy.process_new_http(session, shutdown)).await;
            (ended, REQUEST.with(|request| request.cancelled.get()))
        };
        let (ended, cancelled) = REQUEST.scope(Request::default(), request).await;
        if ended.is_none() {
            self.slow_body.inc();
        }
        self.count(cancelled);
        None
    }

    fn h2_options(&self) -> Option<H2Options> {
        let mut options = default_h2_options();
        options.max_header_list_size(self.header_bytes);
        options.initial_window_size(WINDOWS.0).initial_connection_window_size(WINDOWS.1);
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}

/// Runs a request. None: it was dropped, because [`end_in`] said so.
async fn within_time<F: Future>(request: F) -> Option<F::Output> {
    let mut request = pin!(request);
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        if let Poll::Ready(output) = request.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        while let Some(until) = REQUEST.with(|request| request.until.get()) {
            let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
            if timer.as_mut().poll(cx).is_pending() {
                break;
            }
            if Instant::now() >= until {
                return Poll::Ready(None);
            }
            timer.as_mut().reset(until);
        }
        Poll::Pending
    })
    .await
}

/// The running request is dropped after this time, unless it is over or this is said again; none: it is not. Its client
/// sees its stream reset. Does nothing for a request of HTTP/1.
pub fn end_in(time: Option<Duration>) {
    REQUEST.try_with(|request| request.until.set(time.map(|time| Instant::now() + time))).ok();
}

/// The running request was cancelled by its client. Does nothing for a request of HTTP/1.
pub fn cancelled() {
    REQUEST.try_with(|request| request.cancelled.set(true)).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_ends_when_it_is_told_to() {
        let start = Instant::now();
        let request = within_time(async {
            end_in(Some(Duration::from_secs(5)));
            sleep(Duration::from_secs(4)).await;
            end_in(Some(Duration::from_secs(5)));
            pending::<()>().await;
        });
        assert_eq!(REQUEST.scope(Request::default(), request).await, None);
        assert_eq!(start.elapsed().as_secs(), 9);
        let request = within_time(sleep(Duration::from_secs(1000)));
        assert_eq!(REQUEST.scope(Request::default(), request).await, Some(()));
        end_in(None);
        cancelled();
    }
}
