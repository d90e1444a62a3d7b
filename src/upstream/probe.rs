//! A request that is to find out whether a server that was left out is well again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::upstream::Server;

/// The one place of a probe on a server; given back when dropped.
#[derive(Debug)]
pub struct Probe {
    server: Arc<Server>,
    number: u64,
    urgent: bool,
}

impl Probe {
    /// Takes the place, if nobody has it.
    pub(super) fn begin(server: &Arc<Server>) -> Option<Probe> {
        let number = server.conduct.begin_probe()?;
        Some(Probe { server: server.clone(), number, urgent: false })
    }

    /// Takes the place where nobody else is left, so that its success is enough; `every` at most.
    pub(super) fn begin_urgent(server: &Arc<Server>, now: Instant, every: Duration) -> Option<Probe> {
        let number = server.conduct.begin_urgent_probe(now, every)?;
        Some(Probe { server: server.clone(), number, urgent: true })
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
        self.server.conduct.end_probe(self.number);
    }
}
