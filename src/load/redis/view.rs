//! What a node knows of the fleet's load, from its last snapshot.

use super::reply::{Packed, Snapshot};
use super::servers::Servers;

/// The fleet's counts as of one script run, by local index.
///
/// `q = others + own now` is what a node knows of a server's load; `others` comes from here.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// For which generation of the table; 0: no view taken yet.
    pub table_gen: u64,
    /// Requests in flight in the fleet, this node's included.
    pub total: Vec<u32>,
    /// What this node's row held when the script ran; not what it held when the call was sent.
    pub own_at: Vec<u32>,
    /// Nodes whose lease runs.
    pub live_nodes: u32,
    /// Picks ever made by the fleet; only grows, but starts again at 0 when Redis lost it.
    pub picks: u64,
    /// Redis time of the snapshot, ms. Only for logs: ages are measured with the local clock.
    pub redis_ms: i64,
}

/// How a snapshot compares with what must hold.
pub(super) struct Checked {
    /// Totals contradict what this node knows to be in them: somebody deleted or changed a key.
    pub damaged: bool,
    /// Servers whose row is not what the node believes: a bug, or an edited row.
    pub row_differs: u32,
}

impl View {
    /// Requests of other nodes in flight on a server.
    pub fn others(&self, index: usize) -> u32 {
        let at = |counts: &[u32]| counts.get(index).copied().unwrap_or(0);
        at(&self.total).saturating_sub(at(&self.own_at))
    }

    /// Takes the snapshot over. One that turns out damaged is not to be used. `carried`: what a later call, sent already, put into `sent`.
    pub(super) fn take(
        &mut self,
        servers: &Servers,
        snapshot: &Snapshot,
        own_row: Option<&Packed>,
        carried: impl Iterator<Item = (usize, i64)>,
    ) -> Checked {
        let picks = snapshot.totals.head().max(0).unsigned_abs();
        // The counter never goes back within a generation: if it does, `tot` was lost and began anew.
        let again = self.table_gen == servers.table_gen() && picks < self.picks;
        let mut checked = Checked { damaged: again || !snapshot.totals.covers(servers.top_slot()), row_differs: 0 };
        self.total.clear();
        self.own_at.clear();
        self.own_at.extend((0..servers.len()).map(|index| servers.sent(index)));
        for (index, change) in carried {
            if let Some(own_at) = self.own_at.get_mut(index) {
                *own_at = (i64::from(*own_at) - change).try_into().unwrap_or(0);
            }
        }
        for index in 0..servers.len() {
            let slot = servers.entry(index).map(|entry| entry.slot);
            let total = slot.map_or(0, |slot| snapshot.totals.slot(slot));
            let own_at = &mut self.own_at[index];
            if let (Some(row), Some(slot)) = (own_row, slot) {
                let in_row = row.slot(slot);
                checked.row_differs += u32::from(in_row != *own_at);
                *own_at = in_row;
            }
            checked.damaged |= slot.is_some() && total < *own_at;
            self.total.push(total);
        }
        self.table_gen = servers.table_gen();
        self.picks = picks;
        self.live_nodes = snapshot.live_nodes;
        self.redis_ms = snapshot.now_ms;
        checked
    }
}
