//! **The choice**: which of the eligible servers takes a request.
//!
//! Everything here is a pure function over plain data: no clock, no state, no lock; randomness and a ticket are passed in.

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
