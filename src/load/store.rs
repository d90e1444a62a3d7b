//! Where counts are shared: the seam between this process and the fleet.

use async_trait::async_trait;

/// What went wrong between this node and the store. The request path never sees it: a node whose store is away
/// balances on what it knows itself.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store did not answer, or not in time.
    #[error("the store does not answer: {0}")]
    Away(String),
}

/// Shares the counts of a pool's servers with the fleet.
#[async_trait]
pub trait LoadStore: Send + Sync {
    /// Publishes this node's requests in flight (server name, count) of one pool, and returns the whole fleet's,
    /// in the same order.
    ///
    /// # Errors
    /// [`StoreError::Away`]: nothing is known; what was published before may or may not stand.
    async fn exchange(&self, pool: &str, own: &[(&str, u32)]) -> Result<Vec<u32>, StoreError>;
}

/// The fleet is this process alone.
#[derive(Debug, Default)]
pub struct MemoryStore;

#[async_trait]
impl LoadStore for MemoryStore {
    async fn exchange(&self, _pool: &str, own: &[(&str, u32)]) -> Result<Vec<u32>, StoreError> {
        Ok(own.iter().map(|&(_, count)| count).collect())
    }
}
