//! Whether a request that failed is sent again. Pure: everything it depends on is passed in.
//!
//! The one rule that nothing overrides: a request that may have had an effect is not repeated unless its method says that
//! this is harmless. So where a connection could not be made, when nothing of the request had left, any method goes to
//! another server; after a reset, even one on a pooled connection that was closed long ago, only the route's `methods`.

use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, Method};

use crate::config::Retry;
use crate::proxy::refusal::Refusal;

/// A server that asks for a longer pause than this gets it from the client.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What went wrong with an attempt, as far as it can be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No connection: nothing was sent.
    Connect,
    /// The connection broke.
    Reset,
    /// No header in time.
    Timeout,
    /// This status, where the route lists it.
    Status(u16),
}

impl Fault {
    /// What a failure comes to; None: it is not the kind that another server would mend.
    pub fn of(refusal: Refusal) -> Option<Fault> {
        match refusal {
            Refusal::ConnectFailed => Some(Fault::Connect),
            Refusal::UpstreamReset => Some(Fault::Reset),
            Refusal::PerTryTimeout | Refusal::IdleTimeout => Some(Fault::Timeout),
            _ => None,
        }
    }

    /// The `reason` of `fairlead_retries_total`.
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::Connect => "connect",
            Fault::Reset => "reset",
            Fault::Timeout => "timeout",
            Fault::Status(_) => "status",
        }
    }
}

/// An attempt that failed, and what is left for another.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// How it failed.
    pub fault: Fault,
    /// Of the request.
    pub method: &'a Method,
    /// Attempts made, this one included.
    pub attempts: u32,
    /// All that was read of the request's body is still there.
    pub replayable: bool,
    /// The client has a final response header already.
    pub answered: bool,
    /// Until the response header must be there; None: no limit.
    pub left: Option<Duration>,
    /// Some server may be chosen.
    pub somebody: bool,
    /// How long the server asks to wait.
    pub retry_after: Option<Duration>,
    /// At random, from 0 to 1.
    pub jitter: f64,
}

/// The pause before the next attempt; None: there is no other.
pub fn decide(rules: &Retry, facts: &Facts) -> Option<Duration> {
    let listed = match facts.fault {
        Fault::Connect => rules.on.connect,
        Fault::Reset => rules.on.reset,
        Fault::Timeout => rules.on.timeout,
        Fault::Status(status) => rules.on.status(status),
    };
    let harmless = facts.fault == Fault::Connect || rules.methods.contains(facts.method);
    let possible = facts.attempts < rules.attempts && facts.replayable && !facts.answered && facts.somebody;
    if !listed || !harmless || !possible {
        return None;
    }
    let left = facts.left.unwrap_or(Duration::MAX);
    let pause = backoff(rules, facts.attempts, facts.jitter).min(left / 2);
    let asked = facts.retry_after.unwrap_or_default();
    let in_time = !left.is_zero() && asked < left && asked <= LONGEST_PAUSE;
    in_time.then(|| pause.max(asked))
}

/// Exponential, with full jitter: from nothing to a bound that doubles with each attempt.
fn backoff(rules: &Retry, attempts: u32, jitter: f64) -> Duration {
    let doubled = rules.backoff.base.saturating_mul(1u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX));
    doubled.min(rules.backoff.max).mul_f64(jitter.clamp(0.0, 1.0))
}

/// What `Retry-After` asks for: seconds, or a date. What cannot be read asks for nothing.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number too large for any clock is a pause too long for any request.
        return Some(Duration::from_secs(u64::from(value.parse::<u32>().unwrap_or(u32::MAX))));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn facts(fault: Fault) -> Facts<'static> {
        Facts {
            fault,
            method: &Method::GET,
            attempts: 1,
            replayable: true,
            answered: false,
            left: Some(Duration::from_secs(10)),
            somebody: true,
            retry_after: None,
            jitter: 1.0,
        }
    }

    fn rules() -> Retry {
        let mut rules = Retry::default();
        rules.on.statuses = vec![(503, 504)];
        rules
    }

    #[test]
    fn who_gets_another_attempt() {
        type Change = fn(&mut Facts<'static>);
        let rules = rules();
        let again = |change: Change, fault| {
            let mut facts = facts(fault);
            change(&mut facts);
            decide(&rules, &facts).is_some()
        };
        use Fault::{Connect, Reset, Status, Timeout};
        // The change, and whether each of connect, reset, timeout, 503 and 500 is tried again.
        let table: [(&str, Change, [bool; 5]); 11] = [
            ("a GET", |_| (), [true, true, true, true, false]),
            ("a HEAD", |f| f.method = &Method::HEAD, [true, true, true, true, false]),
            ("a POST", |f| f.method = &Method::POST, [true, false, false, false, false]),
            ("a PUT", |f| f.method = &Method::PUT, [true, false, false, false, false]),
            ("the second attempt", |f| f.attempts = 2, [true, true, true, true, false]),
            ("the last attempt", |f| f.attempts = 3, [false; 5]),
            ("a body that is gone", |f| f.replayable = false, [false; 5]),
            ("an answer under way", |f| f.answered = true, [false; 5]),
            ("no time left", |f| f.left = Some(Duration::ZERO), [false; 5]),
            ("no limit of time", |f| f.left = None, [true, true, true, true, false]),
            ("nobody left", |f| f.somebody = false, [false; 5]),
        ];
        for (what, change, expected) in table {
            let got = [Connect, Reset, Timeout, Status(503), Status(500)].map(|fault| again(change, fault));
            assert_eq!(got, expected, "{what}");
        }
    }

    #[test]
    fn only_what_is_listed_is_tried_again() {
        let mut rules = rules();
        rules.on = crate::config::RetryOn { statuses: vec![(500, 599)], ..Default::default() };
        let again = |fault| decide(&rules, &facts(fault)).is_some();
        assert!(again(Fault::Status(500)) && again(Fault::Status(599)) && !again(Fault::Status(429)));
        assert!(!again(Fault::Connect) && !again(Fault::Reset) && !again(Fault::Timeout));
    }

    #[test]
    fn the_pause_doubles_up_to_its_bound_and_is_random() {
        let mut rules = rules();
        rules.attempts = 10;
        let pause = |attempts, jitter| decide(&rules, &Facts { attempts, jitter, ..facts(Fault::Reset) });
        let pauses = [1, 2, 3, 4, 5, 9].map(|attempts| pause(attempts, 1.0).unwrap().as_millis());
        assert_eq!(pauses, [25, 50, 100, 200, 250, 250]);
        assert_eq!(pause(2, 0.5), Some(25 * MS));
        assert_eq!(pause(1, 0.0), Some(Duration::ZERO));
    }

    #[test]
    fn the_pause_leaves_time_for_the_attempt() {
        let rules = rules();
        let pause = |left| decide(&rules, &Facts { left: Some(left), ..facts(Fault::Reset) });
        assert_eq!(pause(10 * MS), Some(5 * MS));
    }

    #[test]
    fn what_the_server_asks_for_is_respected() {
        let rules = rules();
        let pause = |seconds, left| {
            let retry_after = Some(Duration::from_secs(seconds));
            decide(&rules, &Facts { retry_after, left: Some(Duration::from_secs(left)), ..facts(Fault::Status(503)) })
        };
        assert_eq!(pause(2, 10), Some(Duration::from_secs(2)));
        assert_eq!(pause(0, 10), Some(25 * MS));
        assert_eq!(pause(3, 3), None, "not in time");
        assert_eq!(pause(6, 10), None, "the client can wait better");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let read = |value: &'static str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, http::HeaderValue::from_static(value))]);
            retry_after(&headers, now)
        };
        assert_eq!(read("2"), Some(Duration::from_secs(2)));
        assert!(read("99999999999999999999999").is_some_and(|pause| pause > LONGEST_PAUSE));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:40 GMT"), Some(Duration::from_secs(3)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:30 GMT"), Some(Duration::ZERO));
        for bad in ["", "-1", "soon", "1.5"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
