//! What a node shows of itself: metrics, logs, latencies. Nothing here decides anything.

pub mod access_log;
pub mod fleet;
pub mod latency;
pub mod logging;
pub mod metrics;
pub mod writer;
