//! What tests of this module hold leases on.

use super::Ledger;

/// A server that is nothing but its ledger.
#[derive(Debug, Default)]
pub(super) struct Server(pub(super) Ledger);

impl AsRef<Ledger> for Server {
    fn as_ref(&self) -> &Ledger {
        &self.0
    }
}
