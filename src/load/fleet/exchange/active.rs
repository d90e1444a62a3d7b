//! How many pools of this node have traffic: they share `redis.max_calls`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// One pool's part in the count; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Active {
    pools: Arc<AtomicU32>,
    on: bool,
}

impl Active {
    pub(super) fn new(pools: &Arc<AtomicU32>) -> Self {
        Active { pools: pools.clone(), on: false }
    }

    /// Whether this pool has traffic.
    pub(super) fn get(&self) -> bool {
        self.on
    }

    pub(super) fn set(&mut self, on: bool) {
        if on != self.on {
            self.on = on;
            if on {
                self.pools.fetch_add(1, Ordering::Relaxed)
            } else {
                self.pools.fetch_sub(1, Ordering::Relaxed)
            };
        }
    }

    /// How many pools have traffic.
    pub(super) fn pools(&self) -> u32 {
        self.pools.load(Ordering::Relaxed)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pool_counts_once_and_no_longer_than_it_lives() {
        let pools = Arc::new(AtomicU32::new(0));
        let (mut first, mut second) = (Active::new(&pools), Active::new(&pools));
        for on in [true, true] {
            first.set(on);
        }
        second.set(true);
        assert_eq!((first.pools(), first.get()), (2, true));
        first.set(false);
        drop(second);
        assert_eq!(first.pools(), 0);
    }
}
