//! The end of a node: unready → `delay` → listeners close, answers say `Connection: close` → requests finish, at
//! most for `drain`, shortly before whose end those that still wait for a server are answered → the process ends at once. A second signal ends it immediately. SIGHUP opens the access log
//! again and reads certificates again.
//!
//! Pingora by itself would close the listeners first, sleep through the whole grace period even when idle, and then
//! cut off what is left.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Shutdown;
use crate::node::Node;
use crate::observe::logging;

/// How long before the end of `drain` requests that wait for a server are answered, but at most a quarter of it.
const LAST_CALL: Duration = Duration::from_millis(500);
/// The longest that the last lines of each log may take.
const FLUSH: Duration = Duration::from_millis(500);

/// SIGHUP came, perhaps before [`Orderly`] listened to signals.
static HANG_UP: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From now on SIGHUP does not end the process. To be called first thing.
///
/// # Errors
/// The signal cannot be handled.
pub fn survive_hang_up() -> std::io::Result<()> {
    signal_hook::flag::register(signal_hook::consts::SIGHUP, HANG_UP.clone()).map(drop)
}

pub struct Orderly {
    node: Arc<Node>,
    config: Shutdown,
}

impl Orderly {
    pub fn new(node: Arc<Node>, config: Shutdown) -> Self {
        Orderly { node, config }
    }
}

#[async_trait]
impl ShutdownSignalWatch for Orderly {
    async fn recv(&self) -> ShutdownSignal {
        let mut signals = match Signals::new() {
            Ok(signals) => signals,
            Err(error) => {
                log::error!(error = error.to_string(); "cannot_handle_signals");
                std::future::pending().await
            }
        };
        if HANG_UP.load(Ordering::Relaxed) {
            hang_up(&self.node);
        }
        let name = signals.stop(&self.node).await;
        // Whoever was never sent traffic need not wait for balancers to notice.
        let delay = if self.node.lifecycle.unready().is_none() { self.config.delay } else { Duration::ZERO };
        self.node.lifecycle.set_draining();
        let connections = self.node.lifecycle.connections();
        log::info!(signal = name, connections = connections; "draining");
        let node = self.node.clone();
        tokio::spawn(async move {
            signals.stop(&node).await;
            log::warn!(connections = node.lifecycle.connections(); "stopped_at_once");
            end(&node, 1);
        });
        tokio::time::sleep(delay).await;
        tokio::spawn(drain(self.node.clone(), self.config.drain));
        ShutdownSignal::GracefulTerminate
    }
}

/// Waits until the listeners are closed and the last connection is gone.
async fn drain(node: Arc<Node>, limit: Duration) {
    let drained = async {
        node.lifecycle.closed().await;
        node.lifecycle.no_connections().await;
    };
    tokio::pin!(drained);
    let last_call = LAST_CALL.min(limit / 4);
    let mut in_time = tokio::time::timeout(limit - last_call, &mut drained).await;
    if in_time.is_err() {
        node.lifecycle.set_ending();
        in_time = tokio::time::timeout(last_call, drained).await;
    }
    match in_time {
        Ok(()) => log::info!("stopped"),
        Err(_) => log::warn!(connections = node.lifecycle.connections(); "stopped_before_all_was_done"),
    }
    if let Some(fleet) = node.fleet.get() {
        fleet.leave().await;
    }
    end(&node, 0);
}

/// Ends the process, with all that was logged if that can be written soon.
pub fn end(node: &Node, code: i32) -> ! {
    if let Some(log) = &node.access_log {
        log.flush(FLUSH);
    }
    logging::flush(FLUSH);
    std::process::exit(code)
}

fn hang_up(node: &Node) {
    if let Some(log) = &node.access_log {
        log.reopen();
    }
    node.tls.ask();
    log::info!(signal = "SIGHUP"; "access_log_reopened");
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Returns the name of the first signal that asks for the end.
    async fn stop(&mut self, node: &Node) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hang_up.recv() => hang_up(node),
            }
        }
    }
}
