//! A request that is to find out whether a server that was left out is well again.

use std::sync::Arc;

use crate::upstream::Server;

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
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.server.conduct.end_probe();
    }
}
