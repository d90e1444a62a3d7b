//! What all parts of one running node share.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::load::connections::Gate;
use crate::load::fleet::Fleet;
use crate::load::rate::Limits;
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::Metrics;
use crate::proxy::deadline::Deadlines;
use crate::snapshot::Snapshot;
use crate::tls::Tls;

/// One running node.
#[derive(Debug)]
pub struct Node {
    /// The present routes and pools.
    pub snapshot: ArcSwap<Snapshot>,
    /// Everything it counts.
    pub metrics: Metrics,
    /// None: requests are not logged.
    pub access_log: Option<AccessLog>,
    /// Attempts that must answer in time.
    pub deadlines: Deadlines,
    /// Its certificates.
    pub tls: Tls,
    /// How often clients have asked; outlives a snapshot.
    pub limits: Limits,
    /// Where it is between start and end.
    pub lifecycle: Lifecycle,
    /// Clients' connections that it has file descriptors for, over all listeners.
    pub max_connections: usize,
    /// Requests in flight, where `max_in_flight` limits them.
    pub in_flight: Option<Arc<Gate>>,
    /// Its part in the fleet; none without Redis.
    pub fleet: OnceLock<Fleet>,
}

/// Where a node is between its start and its end.
#[derive(Debug)]
pub struct Lifecycle {
    listening: AtomicBool,
    checked: AtomicBool,
    draining: AtomicBool,
    connections: AtomicUsize,
    idle: watch::Sender<()>,
    closed: watch::Sender<bool>,
    ending: watch::Sender<bool>,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Lifecycle {
            listening: AtomicBool::new(false),
            checked: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            idle: watch::Sender::new(()),
            closed: watch::Sender::new(false),
            ending: watch::Sender::new(false),
        }
    }
}

impl Lifecycle {
    /// Clients can connect.
    pub fn set_listening(&self) {
        self.listening.store(true, Ordering::Release);
    }

    /// The first pass of health checks is done, whatever it found.
    pub fn set_checked(&self) {
        self.checked.store(true, Ordering::Release);
    }

    /// The end has begun: unready from now on.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the end has begun.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Why the node should not get traffic; None: it should.
    pub fn unready(&self) -> Option<&'static str> {
        if self.is_draining() {
            Some("draining")
        } else if !self.checked.load(Ordering::Acquire) {
            Some("first health checks are not done")
        } else if !self.listening.load(Ordering::Acquire) {
            Some("not listening yet")
        } else {
            None
        }
    }

    /// Counts a client's connection for as long as the guard lives.
    pub fn connection(&self) -> Connection<'_> {
        let number = self.connections.fetch_add(1, Ordering::AcqRel) + 1;
        Connection { lifecycle: self, number }
    }

    /// Clients' connections now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }

    /// Nobody can connect any more.
    pub fn set_closed(&self) {
        self.closed.send_replace(true);
    }

    /// Whether nobody can connect any more: from then on answers say `Connection: close`. Earlier, during
    /// `shutdown.delay`, that would only make clients connect again, to a listener that is about to close.
    pub fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Returns when nobody can connect any more.
    pub async fn closed(&self) {
        self.closed.subscribe().wait_for(|closed| *closed).await.ok();
    }

    /// The time to drain is almost over: who still waits for a server will not get one.
    pub fn set_ending(&self) {
        self.ending.send_replace(true);
    }

    /// Returns when the time to drain is almost over.
    pub async fn ending(&self) {
        self.ending.subscribe().wait_for(|ending| *ending).await.ok();
    }

    /// Returns when no client is connected.
    pub async fn no_connections(&self) {
        let mut idle = self.idle.subscribe();
        while self.connections() > 0 {
            if idle.changed().await.is_err() {
                return;
            }
        }
    }
}

/// One client's connection.
#[derive(Debug)]
pub struct Connection<'a> {
    lifecycle: &'a Lifecycle,
    /// How many there were with it when it came.
    pub number: usize,
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        if self.lifecycle.connections.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.lifecycle.idle.send_replace(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_needs_everything_and_draining_ends_it() {
        let lifecycle = Lifecycle::default();
        assert!(lifecycle.unready().is_some());
        lifecycle.set_listening();
        lifecycle.set_checked();
        assert_eq!(lifecycle.unready(), None);
        lifecycle.set_draining();
        assert_eq!(lifecycle.unready(), Some("draining"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_connection_wakes_the_drain() {
        let lifecycle = Lifecycle::default();
        lifecycle.no_connections().await;
        let first = lifecycle.connection();
        let wait = lifecycle.no_connections();
        tokio::pin!(wait);
        assert!(tokio::time::timeout(std::time::Duration::from_secs(1), &mut wait).await.is_err());
        drop(first);
        tokio::time::timeout(std::time::Duration::from_secs(1), wait).await.unwrap();
    }
}
