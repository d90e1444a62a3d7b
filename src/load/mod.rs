//! Who is busy: how many requests every server has in flight.

pub mod redis;
