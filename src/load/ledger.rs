//! The ledger: one counter a server, changed only by leases.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Requests on one server, as this process knows them: how many are in flight, and how many there ever were.
///
/// Both stand in one word, so that a lease costs one atomic addition and one subtraction. Aligned so that two servers
/// never share a cache line: all worker threads write here.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Ledger {
    /// Low half: in flight. High half: ever taken, wrapping.
    counts: AtomicU64,
}

const TAKEN: u64 = 1 << 32;

impl Ledger {
    /// This process's own requests in flight.
    pub fn own(&self) -> u32 {
        self.counts.load(Ordering::Relaxed) as u32
    }

    /// Leases ever taken; wraps.
    pub fn taken(&self) -> u32 {
        (self.counts.load(Ordering::Relaxed) >> 32) as u32
    }
}

/// One request in flight on one server. Dropping it is the only way to give the count back, and never blocks.
///
/// `T` is whatever holds the ledger (a server), so that a lease costs one reference count and no allocation.
#[derive(Debug)]
pub struct Lease<T: AsRef<Ledger>> {
    holder: Arc<T>,
}

impl<T: AsRef<Ledger>> Lease<T> {
    /// Counts one more request on the holder's ledger.
    pub fn take(holder: Arc<T>) -> Self {
        (*holder).as_ref().counts.fetch_add(TAKEN | 1, Ordering::Relaxed);
        Lease { holder }
    }

    /// What the request is in flight on.
    pub fn holder(&self) -> &Arc<T> {
        &self.holder
    }
}

impl<T: AsRef<Ledger>> Drop for Lease<T> {
    fn drop(&mut self) {
        let before = (*self.holder).as_ref().counts.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before as u32 > 0, "a lease was given back twice");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::testing::Server;

    #[test]
    fn a_lease_counts_while_it_lives() {
        let server = Arc::new(Server::default());
        let first = Lease::take(server.clone());
        let second = Lease::take(server.clone());
        assert_eq!(server.0.own(), 2);
        drop(first);
        assert_eq!(server.0.own(), 1);
        drop(second);
        assert_eq!((server.0.own(), server.0.taken()), (0, 2));
    }

    #[test]
    fn a_panic_gives_the_lease_back() {
        let server = Arc::new(Server::default());
        let inner = server.clone();
        let result = std::thread::spawn(move || {
            let _lease = Lease::take(inner);
            panic!("a hook went wrong");
        })
        .join();
        assert!(result.is_err());
        assert_eq!(server.0.own(), 0);
    }

    #[test]
    fn many_threads_end_at_zero() {
        let server = Arc::new(Server::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let lease = Lease::take(server.clone());
                        assert!(server.0.own() >= 1);
                        drop(lease);
                    }
                });
            }
        });
        assert_eq!(server.0.own(), 0);
    }
}
