//! The names of a pool's keys. All share one hash tag, so a cluster keeps them together.

use bytes::Bytes;

/// The keys of one pool.
///
/// A generation or a mode never stands in a name: nodes of different age and mode share one truth.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: String,
    /// Sorted set: server → requests in flight in the fleet.
    pub load: Bytes,
    /// String: picks ever made, then the total of each slot.
    pub tot: Bytes,
    /// Hash: the table of servers.
    pub servers: Bytes,
    /// Sorted set: incarnation → expiry, ms of Redis time.
    pub lease: Bytes,
    /// Sorted set: server → (n+1)/weight, where weights or caps matter.
    pub order: Bytes,
    /// Sorted set: server → when a node last said that it has it, ms of Redis time.
    pub claims: Bytes,
}

impl Keys {
    /// The keys of `pool` in `namespace`.
    pub fn new(namespace: &str, pool: &str) -> Self {
        let prefix = format!("fairlead:{{{namespace}/{pool}}}:");
        let key = |name: &str| Bytes::from(format!("{prefix}{name}"));
        Self {
            load: key("load"),
            tot: key("tot"),
            servers: key("servers"),
            lease: key("lease"),
            order: key("order"),
            claims: key("claims"),
            prefix,
        }
    }

    /// The row of an incarnation: what that node holds.
    pub fn row(&self, incarnation: &[u8]) -> Bytes {
        let mut key = Vec::with_capacity(self.prefix.len() + 4 + incarnation.len());
        key.extend_from_slice(self.prefix.as_bytes());
        key.extend_from_slice(b"row:");
        key.extend_from_slice(incarnation);
        key.into()
    }

    /// The keys of `exchange`, in its order; they never change, so make them once.
    pub fn exchange(&self, incarnation: &[u8]) -> [Bytes; 6] {
        let [load, tot, servers, lease] = self.first_four();
        [load, tot, servers, lease, self.row(incarnation), self.order.clone()]
    }

    /// The keys of `register`, in its order.
    pub fn register(&self) -> [Bytes; 5] {
        let [load, tot, servers, _] = self.first_four();
        [load, tot, servers, self.order.clone(), self.claims.clone()]
    }

    /// The keys of `reap`, in its order.
    pub fn reap(&self, who: &[u8]) -> [Bytes; 6] {
        self.exchange(who)
    }

    /// The keys of `audit`, in its order. `incarnations` as passed to [`super::calls::audit`]: none for a quick one.
    pub fn audit(&self, incarnations: &[Bytes]) -> Vec<Bytes> {
        let mut keys = Vec::from(self.first_four());
        keys.push(self.order.clone());
        keys.extend(incarnations.iter().map(|who| self.row(who)));
        keys
    }

    fn first_four(&self) -> [Bytes; 4] {
        [&self.load, &self.tot, &self.servers, &self.lease].map(Bytes::clone)
    }
}

/// The key of one bucket of the rate limit of `route`. Those of one limit share a hash tag, which no pool can have: its name
/// would need a `/`.
pub fn bucket(namespace: &str, route: &str, name: &str) -> Bytes {
    Bytes::from(format!("fairlead:{{{namespace}/rate/{route}}}:{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_documented_ones_and_share_a_hash_tag() {
        let keys = Keys::new("default", "api");
        assert_eq!(keys.load, "fairlead:{default/api}:load");
        assert_eq!(keys.row(b"n1"), "fairlead:{default/api}:row:n1");
        for key in keys.exchange(b"n1") {
            assert!(key.starts_with(b"fairlead:{default/api}:"), "{key:?}");
        }
    }
}
