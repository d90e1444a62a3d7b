//! **The choice**: which of the eligible servers takes a request.
//!
//! Everything here is a pure function over plain data: no clock, no state, no lock; randomness and a ticket are passed in.
//! The caller leaves out whom it would not use (health, ejection, draining, lower tiers, tried already); what remains are the candidates.
//!
//! | policy | for | origin |
//! |---|---|---|
//! | `least-load` | the default: the fleet's requests in flight per weight | the rule of `least-connections` over fleet counts; for a delayed view see [`tide`] |
//! | `least-connections` | one node, or nodes that shall not share counts | "join the shortest queue", with weights as in LVS `wlc` and nginx `least_conn`; `(n + 1)/w` so that an idle heavy server wins over an idle light one |
//! | `power-of-two` | counts that are old or costly to compare | Mitzenmacher, *The Power of Two Choices in Randomized Load Balancing* (2001) |
//! | `round-robin` | equal requests, even spacing, no counts needed | nested balanced words (as in Altman, Gaujal and Hordijk, *Balanced Sequences and Optimal Routing*, 2000; the nesting is ours): what nginx's smooth weighted round-robin is for, without its state |
//! | `random` | a baseline without any state | |
//! | `hash` | caches and sessions: the same key to the same server | Karger et al., *Consistent Hashing and Random Trees* (1997), as a ring in the manner of libketama (2007) |
//! | [`tide`] | fleet counts that come with a delay | water-filling; how a stale minimum herds is in Mitzenmacher, *How Useful Is Old Information?* (2000) |
//!
//! A candidate whose weight is zero, negative, infinite or not a number is treated as absent.

mod hash;
mod least;
mod power_of_two;
mod random;
mod round_robin;
pub mod tide;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use hash::{Ring, hash_key};

/// How a pool chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Least load of the whole fleet per weight.
    #[default]
    LeastLoad,
    /// Least requests in flight on this node per weight.
    LeastConnections,
    /// The less loaded of two drawn by weight.
    PowerOfTwo,
    /// In turn, by weight, smoothly.
    RoundRobin,
    /// At random, by weight.
    Random,
    /// The same key, the same server (ketama).
    Hash,
}

/// A server that may be chosen now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The server's place in its pool: what identifies it in the answer.
    pub index: u32,
    /// Requests in flight on it.
    pub in_flight: u32,
    /// Effective weight, over 0.
    pub weight: f32,
}

/// What a single choice may draw upon besides the candidates.
#[derive(Debug)]
pub struct Draw<'a> {
    /// Randomness: ties, `power-of-two`, `random`.
    pub rng: &'a mut fastrand::Rng,
    /// Rises by one with each request of the pool; may wrap. For `round-robin`.
    pub ticket: u64,
    /// The request's key, see [`hash_key`]. For `hash`.
    pub key: u64,
    /// The pool's ring, over all its servers. For `hash`; without one the key is spread over the candidates alone.
    pub ring: Option<&'a Ring>,
}

impl Policy {
    /// The word that configurations and the admin API use.
    pub fn as_str(self) -> &'static str {
        match self {
            Policy::LeastLoad => "least-load",
            Policy::LeastConnections => "least-connections",
            Policy::PowerOfTwo => "power-of-two",
            Policy::RoundRobin => "round-robin",
            Policy::Random => "random",
            Policy::Hash => "hash",
        }
    }

    /// The chosen one's position in `candidates`. `None` when there is none, or none with a usable weight.
    ///
    /// `in_flight` is the fleet's count for `least-load` and this node's for the others: the caller fills it in.
    #[inline]
    pub fn pick(self, candidates: &[Candidate], draw: &mut Draw<'_>) -> Option<usize> {
        match self {
            Policy::LeastLoad | Policy::LeastConnections => least::pick(candidates, draw.rng),
            Policy::PowerOfTwo => power_of_two::pick(candidates, draw.rng),
            Policy::RoundRobin => round_robin::pick(candidates, draw.ticket),
            Policy::Random => random::pick(candidates, draw.rng),
            Policy::Hash => hash::pick(candidates, draw.key, draw.ring),
        }
    }
}

/// Whether a server of this weight takes part at all. (A NaN fails both.)
#[inline]
fn usable(weight: f32) -> bool {
    weight > 0.0 && weight < f32::INFINITY
}
