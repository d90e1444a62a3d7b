//! Tells why there is no connection to a server where the attempt itself does not: because of TLS, of which Pingora's error
//! says too little, so that the server is asked again in the background, or for want of something here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use pingora::{Error, ErrorType};

use crate::tls::why_refused;
use crate::upstream::errno::our_own_want;
use crate::upstream::{Pool, Server};

/// A server is asked and told about at most so often.
const EVERY: Duration = Duration::from_secs(10);
/// The longest that asking may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// When a server was last told about, in seconds since 1970; 0: never.
#[derive(Debug, Default)]
pub struct Told(AtomicU64);

impl Told {
    /// Whether it is time to tell again. Of several at once only one is answered with yes.
    fn due(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let last = self.0.load(Ordering::Relaxed);
        now.abs_diff(last) >= EVERY.as_secs()
            && self.0.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// Whether a connection failed only once there was one, because of TLS.
pub fn is_tls(error: &Error) -> bool {
    matches!(error.etype(), ErrorType::TLSHandshakeFailure | ErrorType::InvalidCert)
}

/// Logs, soon, why an attempt at a server had no connection, if that is because of TLS or of this node.
pub fn tell(pool: &Arc<Pool>, server: &Arc<Server>, error: &Error) {
    if let Some(reason) = our_own_want(error).filter(|_| server.told.due()) {
        log::warn!(
            pool = pool.config.name, server = server.name, reason = reason,
            hint = "raise net.ipv4.ip_local_port_range, or let more connections idle (upstream.idle_max); this does not count against the server";
            "cannot_connect"
        );
        return;
    }
    if !is_tls(error) || !server.told.due() {
        return;
    }
    let (pool, server, plain) = (pool.clone(), server.clone(), error.to_string());
    tokio::spawn(async move {
        let reason = why(&server).await.unwrap_or(plain);
        log::warn!(pool = pool.config.name, server = server.name, reason = reason; "server_tls_failed");
    });
}

/// Why TLS to a server cannot be had; None: nobody knows.
pub async fn why(server: &Server) -> Option<String> {
    let (tls, address) = (server.tls()?, server.resolved()?);
    tokio::time::timeout(TIMEOUT, why_refused(tls, address, &server.address.host)).await.ok()?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_twice_at_once() {
        let told = Told::default();
        assert!(told.due());
        assert!(!told.due());
    }
}
