//! What the tests stand on: the process under test, origins behind it, clients before it.

mod client;
mod fairlead;
mod fault;
mod fleet;
pub mod frames;
mod h2;
mod load;
mod lossy;
mod origin;
mod ports;
mod redis;
mod tls;
mod websocket;
mod wire;

pub use client::{Client, Response, get, request};
pub use fairlead::{Fairlead, Finished, config, one_pool, run_to_end};
pub use fault::Fault;
pub use fleet::{Fleet, hold};
pub use h2::{Answer, H2, h2_request};
pub use load::{Load, Tally};
pub use lossy::{Lossy, Weather};
pub use origin::{Heartbeat, Origin, pattern, servers};
pub use ports::Reserved;
pub use redis::{LongWay, Redis, Reply};
pub use tls::{Front, Pair, Secured, Wish, handshake, trusting};
pub use websocket::{EchoServer, Socket, end_of, exchange, secure_websocket, websocket};
pub use wire::ms;

use std::time::{Duration, Instant};

/// Longest that anything which must happen may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until `holds`, and fails the test after [`PATIENCE`].
pub async fn until(what: &str, holds: impl AsyncFnMut() -> bool) {
    within(PATIENCE, what, holds).await;
}

/// Waits until `holds`, and fails the test after `limit`. Returns the time it took.
pub async fn within(limit: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    start.elapsed()
}

/// Fails the test if `future` takes longer than [`PATIENCE`].
pub async fn soon<F: IntoFuture>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}
