//! A request that is to find out whether a server that was left out is well again, and what every request gets: its
//! grant of a server.

use std::ops::Deref;
use std::sync::Arc;

use crate::load::Lease;
use crate::upstream::Server;
use crate::upstream::server::Ended;

/// The one place of a probe on a server; given back when dropped.
#[derive(Debug)]
pub struct Probe {
    server: Arc<Server>,
    urgent: bool,
}

impl Probe {
    /// Takes the place, if nobody has it. `urgent`: nobody else is left, so that its success is enough.
    pub(super) fn begin(server: &Arc<Server>, urgent: bool) -> Option<Probe> {
        server.conduct.begin_probe().then(|| Probe { server: server.clone(), urgent })
    }

    /// Whose it is.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Whether it was sent because nobody else is left.
    pub fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Makes it the request of a grant.
    pub fn grant(self) -> Grant {
        Grant { lease: Lease::take(self.server.clone()), probe: Some(self) }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.server.conduct.end_probe();
    }
}

/// A server for one attempt: counted on it, and perhaps its probe.
#[derive(Debug)]
pub struct Grant {
    lease: Lease<Server>,
    probe: Option<Probe>,
}

impl Grant {
    /// The attempt is over; all is given back.
    pub fn end(self, ended: &Ended) {
        self.lease.holder().observe_attempt(ended, self.probe.as_ref());
    }

    /// Whether it is a probe.
    pub fn is_probe(&self) -> bool {
        self.probe.is_some()
    }
}

impl From<Lease<Server>> for Grant {
    fn from(lease: Lease<Server>) -> Self {
        Grant { lease, probe: None }
    }
}

impl Deref for Grant {
    type Target = Lease<Server>;

    fn deref(&self) -> &Lease<Server> {
        &self.lease
    }
}
