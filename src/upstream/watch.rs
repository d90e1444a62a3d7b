//! What is looked at several times a second, so that no request has to: times that are over, servers that answer far
//! later than the others, and whether too few are left.

use std::sync::atomic::Ordering;
use std::time::Duration;

use smallvec::SmallVec;

use crate::config::Latency;
use crate::upstream::circuit::State;
use crate::upstream::{Pool, outlier};

/// How often [`Pool::tick`] is to be called.
pub const TICK: Duration = Duration::from_millis(100);

impl Pool {
    /// Time passes.
    pub fn tick(&self) {
        self.servers.iter().for_each(|server| server.conduct.tick());
        self.look_for_slow_ones();
        self.look_for_panic();
        self.look_into_the_dark();
    }

    /// Where nobody answers those who wait, nobody may be asking any more either.
    fn look_into_the_dark(&self) {
        let waited_for = self.servers.iter().any(|server| server.in_flight() > 0);
        if waited_for && self.circuit.state() == State::Closed && self.is_dark() {
            self.circuit.open();
        }
    }

    /// Whether so few servers may be chosen that all are used.
    #[inline]
    pub fn is_in_panic(&self) -> bool {
        self.panic.load(Ordering::Relaxed)
    }

    fn look_for_slow_ones(&self) {
        if self.guard.latency() == Latency::Off {
            return;
        }
        // One server at a time: with two out, who is to say what is normal?
        let may_eject = !self.servers.iter().any(|server| server.conduct.is_out_for_latency());
        for tier in self.servers.chunk_by(|a, b| a.priority == b.priority) {
            let medians: SmallVec<[_; 16]> = tier.iter().map(|server| server.conduct.median()).collect();
            let outlier = outlier::find(&medians);
            for (place, server) in tier.iter().enumerate() {
                match outlier.filter(|outlier| outlier.place == place) {
                    Some(outlier) => server.conduct.is_slow(&outlier, may_eject),
                    None => server.conduct.is_not_slow(),
                }
            }
        }
    }

    fn look_for_panic(&self) {
        let limit = self.config.panic_below as usize;
        if limit == 0 {
            return;
        }
        let eligible = self.servers.iter().filter(|server| server.is_eligible()).count();
        let panic = eligible * 100 < limit * self.servers.len();
        if self.panic.swap(panic, Ordering::Relaxed) != panic {
            let (pool, servers) = (&self.config.name, self.servers.len());
            match panic {
                true => log::error!(pool = pool, eligible = eligible, servers = servers; "panic_all_servers_used"),
                false => log::info!(pool = pool, eligible = eligible, servers = servers; "panic_over"),
            }
        }
    }
}
