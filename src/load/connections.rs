//! Clients' connections: how many there are, and whether there may be one more.
//!
//! Each listener has one [`Gate`]. A connection that may come in holds a [`Pass`] for as long as it lives.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Clients that come and go at the same moment rarely wait for each other.
const SHARDS: usize = 64;

/// Lets connections of one listener in, up to its limits.
#[derive(Debug)]
pub struct Gate {
    limit: usize,
    per_client: Option<usize>,
    open: AtomicUsize,
    clients: [Mutex<HashMap<Address, usize>>; SHARDS],
    hasher: RandomState,
}

/// The connection would be one too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// One connection. It counts until this is dropped.
#[derive(Debug)]
pub struct Pass {
    gate: Arc<Gate>,
    client: Option<Address>,
}

/// An address as far as it tells one client from another: of IPv6 its /64, since that is what one customer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Address(u128);

impl Address {
    fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(v4) => Address(v4.to_ipv6_mapped().to_bits()),
            IpAddr::V6(v6) => Address(v6.to_bits() >> 64 << 64),
        }
    }
}

impl Gate {
    /// At most `limit` connections, of one client at most `per_client`.
    pub fn new(limit: usize, per_client: Option<usize>) -> Self {
        Gate {
            limit,
            per_client,
            open: AtomicUsize::new(0),
            clients: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
        }
    }

    /// Whether connections are counted by client at all.
    pub fn counts_clients(&self) -> bool {
        self.per_client.is_some()
    }

    /// A connection comes in. Without `client` it counts for nobody but the listener.
    ///
    /// # Errors
    /// There are as many as there may be.
    pub fn enter(self: &Arc<Self>, client: Option<IpAddr>) -> Result<Pass, Full> {
        // From here on the pass gives back what was taken, whatever the answer.
        let mut pass = Pass { gate: self.clone(), client: None };
        if self.open.fetch_add(1, Ordering::AcqRel) >= self.limit {
            return Err(Full);
        }
        if let Some(ip) = client {
            pass.name(ip)?;
        }
        Ok(pass)
    }

    /// Connections now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    fn clients(&self, address: Address) -> MutexGuard<'_, HashMap<Address, usize>> {
        let shard = self.hasher.hash_one(address) as usize % SHARDS;
        self.clients[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// Now it is known whose connection it is, if it was not.
    ///
    /// # Errors
    /// This client has as many as it may have.
    pub fn name(&mut self, client: IpAddr) -> Result<(), Full> {
        let (Some(most), None) = (self.gate.per_client, self.client) else { return Ok(()) };
        let address = Address::of(client);
        let mut clients = self.gate.clients(address);
        let count = clients.entry(address).or_default();
        if *count >= most {
            return Err(Full);
        }
        *count += 1;
        self.client = Some(address);
        Ok(())
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.open.fetch_sub(1, Ordering::AcqRel);
        let Some(address) = self.client else { return };
        let mut clients = self.gate.clients(address);
        if let Some(count) = clients.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    fn known(gate: &Gate) -> usize {
        gate.clients.iter().map(|shard| shard.lock().unwrap().len()).sum()
    }

    #[test]
    fn as_many_as_the_limit_and_again_when_one_leaves() {
        let gate = Arc::new(Gate::new(2, None));
        let first = gate.enter(ip("10.0.0.1")).unwrap();
        let _second = gate.enter(None).unwrap();
        assert_eq!(gate.enter(ip("10.0.0.2")).unwrap_err(), Full);
        assert_eq!(gate.open(), 2, "a refused one does not count");
        drop(first);
        let _third = gate.enter(ip("10.0.0.2")).unwrap();
        assert_eq!((gate.open(), known(&gate)), (2, 0));
    }

    #[test]
    fn one_client_does_not_take_the_place_of_another() {
        let gate = Arc::new(Gate::new(10, Some(2)));
        let first = gate.enter(ip("10.0.0.1")).unwrap();
        let _second = gate.enter(ip("::ffff:10.0.0.1")).unwrap();
        assert!(gate.enter(ip("10.0.0.1")).is_err());
        assert_eq!(gate.open(), 2);
        let _other = gate.enter(ip("10.0.0.2")).unwrap();
        let unknown: Vec<_> = (0..3).map(|_| gate.enter(None).unwrap()).collect();
        assert_eq!(unknown.len(), 3, "who counts for nobody has no limit but the listener's");
        drop(first);
        assert!(gate.enter(ip("10.0.0.1")).is_ok());
    }

    #[test]
    fn a_client_that_is_known_later_counts_from_then_on() {
        let gate = Arc::new(Gate::new(10, Some(1)));
        let (mut first, mut second) = (gate.enter(None).unwrap(), gate.enter(None).unwrap());
        assert_eq!(first.name(ip("10.0.0.1").unwrap()), Ok(()));
        assert_eq!(first.name(ip("10.0.0.2").unwrap()), Ok(()), "it stays whose it is");
        assert_eq!(second.name(ip("10.0.0.1").unwrap()), Err(Full));
        assert!(gate.enter(ip("10.0.0.2")).is_ok() && gate.enter(ip("10.0.0.1")).is_err());
        drop((first, second));
        assert_eq!((gate.open(), known(&gate)), (0, 0));
    }

    #[test]
    fn all_of_a_64_are_one_client() {
        let gate = Arc::new(Gate::new(10, Some(1)));
        let _first = gate.enter(ip("2001:db8:0:1::1")).unwrap();
        assert!(gate.enter(ip("2001:db8:0:1:ffff::2")).is_err());
        let _other = gate.enter(ip("2001:db8:0:2::1")).unwrap();
    }

    #[test]
    fn clients_that_left_are_forgotten() {
        let gate = Arc::new(Gate::new(usize::MAX, Some(1)));
        let passes: Vec<_> = (0..1000u32).map(|n| gate.enter(Some(IpAddr::from(n.to_be_bytes()))).unwrap()).collect();
        assert_eq!(known(&gate), 1000);
        drop(passes);
        assert_eq!((gate.open(), known(&gate)), (0, 0));
    }
}
