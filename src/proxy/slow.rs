//! Slow clients: those that keep a connection, a request or a server busy by doing next to nothing.
//!
//! - A header must be there in time. Pingora knows only a timeout between two reads, which a client that sends one
//!   byte now and then never reaches. Here the whole connection runs under [`header_deadline`], which drops it when a
//!   header has been waited for too long. That costs a request no timer of its own: a connection has one, it is
//!   looked at only while a header is waited for, and it is moved only when it goes off.
//! - A body must come at a minimum rate ([`Pace`]), besides Pingora's timeout between two reads.
//! - A response must be taken: the system ends a connection whose client takes nothing at all for `write` (see
//!   `server::listeners`), and a client that takes little loses it when one write takes longer than [`give_time`]
//!   allows. Pingora's own `min_send_rate` has neither grace nor patience with pauses: one second for a short write.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use pingora::http::RequestHeader;
use pingora::proxy::Session;
use tokio::time::Instant;

use crate::config::{ClientLimits, ClientTimeouts};
use crate::proxy::grpc;

/// How long a client may be slower than the minimum rate.
pub const GRACE: Duration = Duration::from_secs(5);

tokio::task_local! {
    static HEADER: Waiting;
}

/// What one connection waits for.
struct Waiting {
    /// Until when a header must be there; None while a request is served.
    until: Cell<Option<Instant>>,
    /// How long the next one may take.
    next: Duration,
}

/// Runs an HTTP/1 connection. None: it was dropped because a request header was not there in time.
///
/// The first header may take `header`; the following ones may come `keepalive` later.
pub async fn header_deadline<F: Future>(timeouts: &ClientTimeouts, connection: F) -> Option<F::Output> {
    let first = Instant::now() + timeouts.header;
    let waiting = Waiting { until: Cell::new(Some(first)), next: timeouts.keepalive + timeouts.header };
    let watched = async {
        let mut connection = pin!(connection);
        let mut timer = pin!(tokio::time::sleep_until(first));
        poll_fn(|cx| {
            if let Poll::Ready(output) = connection.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            // While a request is served the timer may go off unheard: the next wait finds it so.
            while let Some(until) = HEADER.with(|waiting| waiting.until.get()) {
                if timer.as_mut().poll(cx).is_pending() {
                    break;
                }
                if Instant::now() >= until {
                    return Poll::Ready(None);
                }
                timer.as_mut().reset(until);
            }
            Poll::Pending
        })
        .await
    };
    HEADER.scope(waiting, watched).await
}

/// A request header is there. Does nothing where no deadline is watched.
pub fn header_arrived() {
    HEADER.try_with(|waiting| waiting.until.set(None)).ok();
}

/// Whether a request header is still waited for.
pub fn waits_for_header() -> bool {
    HEADER.try_with(|waiting| waiting.until.get().is_some()).unwrap_or(false)
}

/// A request has been served: what is left of its body, and the next header, are waited for.
pub fn request_over() {
    HEADER.try_with(|waiting| waiting.until.set(Some(Instant::now() + waiting.next))).ok();
}

/// Watches over the speed of one client.
#[derive(Debug)]
pub struct Pace {
    /// Bytes a second; None: any.
    rate: Option<u64>,
    write: Duration,
    /// Request bodies are measured.
    measured: bool,
    since: Option<Instant>,
    bytes: u64,
    was_slow: bool,
    sent: usize,
    batch: usize,
}

impl Default for Pace {
    /// Of a client that may be as slow as it likes.
    fn default() -> Self {
        let write = Duration::MAX;
        Pace { rate: None, write, measured: false, since: None, bytes: 0, was_slow: false, sent: 0, batch: 0 }
    }
}

impl Pace {
    /// For a request. Calls of gRPC and connections that are upgraded are conversations: they may pause.
    pub fn of(limits: &ClientLimits, timeouts: &ClientTimeouts, request: &RequestHeader, upgrade: bool) -> Self {
        let measured = !grpc::is_call(request) && !upgrade;
        Pace { rate: limits.min_rate, write: timeouts.write, measured, ..Pace::default() }
    }

    /// Bytes of a request body have come, and more are to follow. True if they come too slowly: less than the rate
    /// for half of [`GRACE`], and the next half too.
    ///
    /// Two, because a server that takes nothing for a while holds the client up as well. Afterwards what has piled up
    /// comes at once.
    pub fn too_slow(&mut self, now: Instant, bytes: usize) -> bool {
        let Some(rate) = self.rate.filter(|_| self.measured) else { return false };
        // The time before the first bytes is that of `timeouts.body`: a client may wait for a 100 Continue.
        let since = *self.since.get_or_insert(now);
        self.bytes += bytes as u64;
        let took = now - since;
        if took < GRACE / 2 {
            return false;
        }
        let slow = (self.bytes as f64) < rate as f64 * took.as_secs_f64();
        let twice = slow && self.was_slow;
        (self.since, self.bytes, self.was_slow) = (Some(now), 0, slow);
        twice
    }

    /// How long the write of which these bytes are a part may take, when `sent` have been written before it. Pingora
    /// gathers what the server has sent and writes it at once.
    fn time_for(&mut self, sent: usize, bytes: usize) -> Option<Duration> {
        let rate = self.rate?;
        if sent != self.sent {
            (self.sent, self.batch) = (sent, 0);
        }
        self.batch += bytes;
        Some(self.write.max(GRACE + Duration::from_secs_f64(self.batch as f64 / rate as f64)))
    }
}

/// Whether the client sends its body too slowly. Once all of it is there it is welcome; once the response has begun
/// the two are a conversation.
pub fn sends_too_slowly(pace: &mut Pace, session: &Session, body: Option<&Bytes>, end: bool) -> bool {
    let Some(bytes) = body.filter(|bytes| !bytes.is_empty() && !end) else { return false };
    pace.measured && session.response_written().is_none() && pace.too_slow(Instant::now(), bytes.len())
}

/// A piece of a response goes to the client: as long as it is taken at the minimum rate it may take long.
pub fn give_time(pace: &mut Pace, session: &mut Session, body: Option<&Bytes>) {
    let bytes = body.map_or(0, Bytes::len);
    if let Some(time) = pace.time_for(session.body_bytes_sent(), bytes) {
        session.set_write_timeout(Some(time));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::time::sleep;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn timeouts() -> ClientTimeouts {
        ClientTimeouts { header: s(10), body: s(30), write: s(60), keepalive: s(60) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_header_has_its_time() {
        let start = Instant::now();
        assert_eq!(header_deadline(&timeouts(), pending::<()>()).await, None);
        assert_eq!(start.elapsed().as_secs(), 10);
        let in_time = async {
            sleep(s(9)).await;
            header_arrived();
            sleep(s(1000)).await;
        };
        assert_eq!(header_deadline(&timeouts(), in_time).await, Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_following_header_has_keepalive_more() {
        for served in [1, 100] {
            let start = Instant::now();
            let connection = async {
                for _ in 0..3 {
                    header_arrived();
                    sleep(s(served)).await;
                    request_over();
                    sleep(s(69)).await;
                }
                header_arrived();
                request_over();
                pending::<()>().await;
            };
            assert_eq!(header_deadline(&timeouts(), connection).await, None);
            assert_eq!(start.elapsed().as_secs(), 3 * (served + 69) + 70);
        }
    }

    #[tokio::test]
    async fn nothing_is_watched_elsewhere() {
        header_arrived();
        request_over();
    }

    fn pace(content_type: &str) -> Pace {
        let mut request = RequestHeader::build("POST", b"/", None).unwrap();
        request.set_version(http::Version::HTTP_2);
        request.insert_header("content-type", content_type).unwrap();
        let config = crate::config::Config::quick(([127, 0, 0, 1], 0).into(), &[("127.0.0.1".into(), 9)], None, None);
        let limits = ClientLimits { min_rate: Some(240), ..config.unwrap().listeners[0].limits };
        Pace::of(&limits, &timeouts(), &request, false)
    }

    /// Whether a body of these pieces, each (seconds after the one before, bytes), is cut.
    fn cut(content_type: &str, pieces: &[(u64, usize)]) -> bool {
        let mut pace = pace(content_type);
        let mut now = Instant::now();
        pieces.iter().any(|(after, bytes)| {
            now += s(*after);
            pace.too_slow(now, *bytes)
        })
    }

    #[test]
    fn a_trickle_is_cut_and_a_pause_is_not() {
        assert!(cut("", &[(0, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1)]));
        assert!(!cut("", &[(20, 1), (1, 1), (1, 1), (1, 1), (1, 1)]), "five seconds from the first byte");
        assert!(!cut("", &[(0, 240), (1, 240), (1, 240), (1, 240), (1, 240), (1, 240), (1, 240), (1, 240)]));
        assert!(!cut("", &[(0, 100), (25, 100), (0, 1000), (3, 100), (20, 100), (3, 1000), (3, 1000)]));
        assert!(cut("", &[(0, 100), (25, 100), (25, 100)]));
        assert!(!cut("application/grpc+proto", &[(0, 1), (25, 1), (25, 1), (25, 1)]));
    }

    #[test]
    fn a_long_write_may_take_longer() {
        let mut pace = pace("");
        assert_eq!(pace.time_for(0, 100), Some(s(60)));
        assert_eq!(pace.time_for(0, 23_900), Some(s(105)), "one write of both");
        assert_eq!(pace.time_for(24_000, 240), Some(s(60)), "a new one");
        assert_eq!(Pace::default().time_for(0, 1 << 30), None);
    }
}
