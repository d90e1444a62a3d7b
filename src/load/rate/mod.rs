//! How often each client has asked of late: token buckets by key.
//!
//! | part | does |
//! |---|---|
//! | [`table`] | a sharded map that forgets keys at rest, and is bounded |
//! | [`gcra`] | one bucket that this node fills by itself: one number |
//! | [`leases`] | buckets that the whole fleet shares: this node's part of them, and what it asks of Redis |
//! | [`stock`] | one key of the former |
//! | [`exchange`] | the loop that talks to Redis |
//!
//! A bucket holds `burst` tokens; one request takes one; one comes back every `1 / rate`. So in any time `t` no more than
//! `rate × t + burst` requests of a key pass. Tokens are counted as the time they take to come back ("rate time"): a
//! second of it is as many tokens as `rate` allows in a second.
//!
//! A request costs a hash, a short lock of one of 64 parts of a table, and a comparison; it never waits for Redis.

pub mod exchange;
pub mod gcra;
pub mod leases;
pub mod stock;
pub mod table;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::gcra::Buckets;
use self::leases::Leases;
use self::stock::Name;
use crate::config::RateLimit;

/// Keys that one limit remembers at the most: beyond it forgets those nearest to rest, and never refuses for it.
pub const KEYS: usize = 1 << 20;

/// What a limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The time in which one token comes back, in nanoseconds.
    pub token: u64,
    /// Tokens in a full bucket.
    pub burst: u32,
}

impl Terms {
    /// A full bucket, in nanoseconds of rate time.
    pub fn depth(self) -> u64 {
        self.token.saturating_mul(self.burst.into())
    }
}

/// Whose bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key<'a> {
    /// Everybody's.
    All,
    /// An IPv4 address.
    V4([u8; 4]),
    /// An IPv6 network of 64 bits: what one client has to itself.
    V6([u8; 8]),
    /// A header's value.
    Text(&'a [u8]),
}

impl Key<'_> {
    /// What the fleet calls it: the same on all nodes, and nobody can find a second key with the name of a first.
    fn name(self) -> Name {
        let text = match self {
            Key::All => "all".to_owned(),
            Key::V4(octets) => format!("4:{}", octets.escape_ascii()),
            Key::V6(octets) => format!("6:{}", octets.escape_ascii()),
            Key::Text(value) => format!("t:{}", value.escape_ascii()),
        };
        Name::of(&text)
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It took a token.
    Pass,
    /// There is none; the time until there may be one.
    Refuse(Duration),
}

/// One limit, with all its buckets.
pub struct Limit {
    /// Of its route.
    pub route: String,
    settings: RateLimit,
    epoch: Instant,
    kind: Kind,
}

enum Kind {
    Local(Buckets),
    Fleet(Arc<Leases>),
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limit").field("route", &self.route).field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Limit {
    /// A limit of which nobody has asked anything yet.
    pub fn new(route: &str, settings: &RateLimit) -> Self {
        let terms = Terms { token: settings.rate.token(), burst: settings.burst };
        let kind = match settings.fleet {
            true => Kind::Fleet(Arc::new(Leases::new(terms))),
            false => Kind::Local(Buckets::new(terms)),
        };
        Limit { route: route.to_owned(), settings: settings.clone(), epoch: Instant::now(), kind }
    }

    /// As configured.
    pub fn settings(&self) -> &RateLimit {
        &self.settings
    }

    /// One request of `key`.
    pub fn take(&self, key: Key<'_>) -> Verdict {
        match &self.kind {
            Kind::Local(buckets) => buckets.take(key, self.now()),
            Kind::Fleet(leases) => leases.take(key, self.now()),
        }
    }

    /// Keys that are remembered now.
    pub fn keys(&self) -> usize {
        match &self.kind {
            Kind::Local(buckets) => buckets.keys(self.now()),
            Kind::Fleet(leases) => leases.keys(self.now()),
        }
    }

    /// None: each node counts by itself.
    pub fn leases(&self) -> Option<&Arc<Leases>> {
        match &self.kind {
            Kind::Local(_) => None,
            Kind::Fleet(leases) => Some(leases),
        }
    }

    /// Nanoseconds of this limit's own clock.
    pub fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// All limits of a node, by route. A limit outlives the configuration that asked for it: as long as its settings stay
/// the same, so do its buckets.
#[derive(Debug, Default)]
pub struct Limits {
    by_route: Mutex<HashMap<String, Arc<Limit>>>,
}

impl Limits {
    /// The limit of a route: the one there is, if its settings are these.
    pub fn get(&self, route: &str, settings: &RateLimit) -> Arc<Limit> {
        let mut limits = self.by_route.lock().unwrap_or_else(PoisonError::into_inner);
        match limits.get(route) {
            Some(limit) if limit.settings == *settings => limit.clone(),
            _ => {
                let limit = Arc::new(Limit::new(route, settings));
                limits.insert(route.to_owned(), limit.clone());
                limit
            }
        }
    }

    /// Forgets the limits of routes that have none any more.
    pub fn retain(&self, keep: impl Fn(&Limit) -> bool) {
        self.by_route.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, limit| keep(limit));
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Limit>> {
        self.by_route.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Rate, RateKey};

    fn settings(burst: u32) -> RateLimit {
        let rate = Rate { count: 1, per: Duration::from_secs(3600) };
        RateLimit { key: RateKey::ClientIp, rate, burst, fleet: false }
    }

    #[test]
    fn a_limit_outlives_its_configuration_unless_it_changes() {
        let limits = Limits::default();
        let passes = |limit: &Limit| limit.take(Key::V4([1, 2, 3, 4])) == Verdict::Pass;
        let first = limits.get("api", &settings(1));
        assert!(passes(&first) && !passes(&first));
        drop(first);
        assert!(!passes(&limits.get("api", &settings(1))));
        assert!(passes(&limits.get("other", &settings(1))));
        assert!(passes(&limits.get("api", &settings(2))));
        limits.retain(|limit| limit.route == "api");
        assert_eq!(limits.all().len(), 1);
    }

    #[test]
    fn keys_have_names_of_their_own() {
        let keys = [Key::All, Key::V4(*b"abcd"), Key::Text(b"abcd"), Key::Text(b"all"), Key::V6(*b"abcdefgh")];
        let names: std::collections::HashSet<_> = keys.iter().map(|key| key.name().hex()).collect();
        assert_eq!(names.len(), keys.len());
        assert!(names.iter().all(|name| name.len() == 24));
    }
}
