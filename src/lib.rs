//! Fairlead: an HTTP edge load balancer that sends each request to the server the whole fleet has loaded least.
//!
//! # Where things are
//!
//! | module | one responsibility |
//! |---|---|
//! | [`cli`] | the commands |
//! | [`server`] | composition root: configuration → running services; start, signals, drain |
//! | [`admin`] | the admin listener: health, metrics, state of the pools |
//! | [`proxy`] | the life of a request, one short method a phase; attempts, deadlines, refusals |
//! | [`node`] | what all parts of a running node share |
//! | [`snapshot`] | what a request sees of the configuration |
//! | [`filters`] | what is read from and changed in headers |
//! | [`routing`] | listener + host + path → route |
//! | [`upstream`] | which servers may be chosen now, and whether a request may go ([`upstream::admission`]); **where one is chosen:** [`upstream::Pool::choose`] |
//! | [`balance`] | **the choice** itself: pure functions over plain data |
//! | [`load`] | who is busy: connections of clients, the ledger of leases, the fleet's view, the exchange with Redis and its protocol; who asks too often |
//! | [`tls`] | certificates: read, checked, shown to clients and servers, renewed |
//! | [`observe`] | metrics, logs, percentiles |
//! | [`config`] | reads a file, checks all of it, reports all problems at once |
//!
//! Imports go downward in this list only (`admin` and `server` share how a socket is bound).
//!
//! # The life of a request
//!
//! A connection comes in by [`proxy::app::EdgeApp`], which counts it, turns it away where there are too many, reads whose
//! it is where a balancer in front says so, and ends it when a header takes too long; one of HTTP/2 is watched over by
//! [`proxy::http2::Http2`]. Pingora reads the header and calls the phases of [`proxy::Proxy`]: a route and its pool are
//! found, [`upstream::Pool::choose`] picks a server, a [`load::Lease`] counts the request on it, Pingora takes a pooled
//! connection or makes one, bodies stream both ways, and when all is done or anything fails the lease goes back.
//!
//! # The fleet
//!
//! For each pool a [`load::fleet::Share`] holds what is known of the whole fleet's load: plain atomics that every
//! choice reads. Who writes it is the seam: nobody (one node alone: the share stays empty, and the choice is by this
//! node's own counts), or a [`load::fleet::Exchange`], the one loop that talks to Redis for the pool. It runs on the
//! proxy's own threads, since in exact mode a request and the exchange it waits for wake each other.
//!
//! # What always holds
//!
//! - The request path waits for nothing but the client and the server: no look-up of names, no lock across an await,
//!   no lock that all threads share, no log that could block; for Redis only in exact mode, at most `redis.timeout`.
//! - In Redis a node changes only its own row, and the totals in the same script: total = sum of the rows, always.
//! - A policy never sees a server that may not be chosen, reads no clock and keeps no state.
//! - Every count in flight is held by exactly one [`load::Lease`], and given back whatever way the request ends.
//! - A configuration is valid once it is loaded.
//! - Every answer that Fairlead makes itself has one name ([`proxy::Refusal`]).
#![forbid(unsafe_code)]

pub mod admin;
pub mod balance;
pub mod cli;
pub mod config;
pub mod filters;
pub mod load;
pub mod node;
pub mod observe;
pub mod proxy;
pub mod routing;
pub mod server;
pub mod snapshot;
pub mod tls;
pub mod upstream;
