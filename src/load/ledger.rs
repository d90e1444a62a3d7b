//! The ledger: one counter a server, changed only by leases.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::load::Queue;

/// Requests on one server, as this process knows them: how many are in flight, and how many there ever were.
///
/// Both stand in one word, so that a lease costs one atomic addition and one subtraction. Aligned so that two servers
/// never share a cache line: all worker threads write here.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Ledger {
    /// Low half: in flight. High half: ever taken, wrapping.
    counts: AtomicU64,
    /// Who waits for a lease to come back; none where nothing is limited.
    queue: Option<Arc<Queue>>,
}

const TAKEN: u64 = 1 << 32;

impl Ledger {
    /// A ledger whose leases, when they come back, call the first in `queue`.
    pub fn with_queue(queue: Option<Arc<Queue>>) -> Self {
        Ledger { counts: AtomicU64::new(0), queue }
    }

    /// Who waits for a lease to come back.
    pub fn queue(&self) -> Option<&Arc<Queue>> {
        self.queue.as_ref()
    }

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

    /// Counts one more request, unless the holder has `limit` in flight already.
    pub fn take_below(holder: Arc<T>, limit: u32) -> Option<Self> {
        let counts = &(*holder).as_ref().counts;
        let more = |counts: u64| ((counts as u32) < limit).then(|| counts.wrapping_add(TAKEN | 1));
        counts.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Lease { holder })
    }

    /// What the request is in flight on.
    pub fn holder(&self) -> &Arc<T> {
        &self.holder
    }
}

impl<T: AsRef<Ledger>> Drop for Lease<T> {
    fn drop(&mut self) {
        let ledger = (*self.holder).as_ref();
        let before = ledger.counts.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before as u32 > 0, "a lease was given back twice");
        if let Some(queue) = &ledger.queue {
            // Whoever joins the queue at this moment sees either the room or this call.
            fence(Ordering::SeqCst);
            queue.call();
        }
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
    fn no_thread_gets_past_the_limit() {
        let server = Arc::new(Server::default());
        let most = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        if let Some(lease) = Lease::take_below(server.clone(), 2) {
                            most.fetch_max(server.0.own(), Ordering::Relaxed);
                            drop(lease);
                        }
                    }
                });
            }
        });
        assert!((1..=2).contains(&most.into_inner()));
        let held = [0, 0].map(|_| Lease::take_below(server.clone(), 2));
        assert!(held.iter().all(Option::is_some));
        assert!(Lease::take_below(server.clone(), 2).is_none());
        assert!(Lease::take_below(server.clone(), 3).is_some());
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
