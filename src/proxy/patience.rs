//! How long a response header is waited for.

use std::time::{Duration, Instant};

use crate::config::ClientTimeouts;
use crate::proxy::deadline::TICK;

/// How long a response header is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    response: Option<Duration>,
    upload: Option<Duration>,
    /// Until when the client of a call waits.
    call: Option<Instant>,
}

/// Whose wait it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request of HTTP/1: Pingora itself ends the wait for a body.
    Http1,
    /// A request of HTTP/2: nobody else does.
    Http2,
    /// A call of gRPC, which may pause as long as a response may, and lasts until then at most.
    Call(Option<Instant>),
}

impl Patience {
    /// With the route's `response` and `idle`, on a listener with these timeouts.
    pub fn new(
        response: Option<Duration>,
        idle: Option<Duration>,
        client: Option<&ClientTimeouts>,
        kind: Kind,
    ) -> Self {
        let body = client.map(|timeouts| timeouts.body);
        let (upload, call) = match kind {
            // The client's own time limit for its body must be able to run out first.
            Kind::Http1 => (response.map(|limit| limit.max(body.unwrap_or_default()) + 2 * TICK), None),
            Kind::Http2 => (body.or(response), None),
            Kind::Call(until) => (idle.map(|idle| idle.max(response.unwrap_or_default())), until),
        };
        Patience { response, upload, call }
    }

    /// From `now` on, of a request that is still being sent or not. None: without end.
    pub fn until(&self, now: Instant, uploading: bool) -> Option<Instant> {
        let limit = if uploading { self.upload } else { self.response };
        let until = limit.map(|limit| now + limit);
        match (until, self.call) {
            (Some(until), Some(call)) => Some(until.min(call)),
            (one, other) => one.or(other),
        }
    }

    /// Until when the whole call must be over.
    pub fn call(&self) -> Option<Instant> {
        self.call
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn who_waits_how_long() {
        let now = Instant::now();
        let client = ClientTimeouts { header: 10 * S, body: 30 * S, write: 60 * S, keepalive: 60 * S };
        let wait = |response: Option<Duration>, kind, uploading| {
            let patience = Patience::new(response, Some(60 * S), Some(&client), kind);
            patience.until(now, uploading).map(|until| (until - now).as_secs())
        };
        assert_eq!(wait(Some(15 * S), Kind::Http1, false), Some(15));
        assert_eq!(wait(Some(15 * S), Kind::Http1, true), Some(30));
        assert_eq!(wait(None, Kind::Http1, true), None, "Pingora's own timeout is enough");
        assert_eq!(wait(None, Kind::Http2, true), Some(30));
        assert_eq!(wait(None, Kind::Http2, false), None);
        assert_eq!(wait(Some(15 * S), Kind::Call(None), true), Some(60));
        assert_eq!(wait(Some(15 * S), Kind::Call(Some(now + 2 * S)), true), Some(2));
        assert_eq!(wait(None, Kind::Call(Some(now + 2 * S)), false), Some(2));
        assert_eq!(wait(Some(S), Kind::Call(Some(now + 2 * S)), false), Some(1));
    }
}
