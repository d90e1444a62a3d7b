//! Fairlead: an HTTP edge load balancer.
#![forbid(unsafe_code)]

pub mod balance;
pub mod config;
pub mod load;
