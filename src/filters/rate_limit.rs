//! Who has asked too often, and what it is told.
//!
//! A refused request gets `Retry-After` and the fields `RateLimit-Policy` and `RateLimit` of
//! draft-ietf-httpapi-ratelimit-headers-11. Requests that pass carry none of them: how much is left is known to the fleet,
//! not to the one node that answers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};

use crate::config::RateKey;
use crate::load::rate::{Key, Limit, Verdict};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LEFT: HeaderName = HeaderName::from_static("ratelimit");

/// The limit of one route.
#[derive(Debug)]
pub struct Guard {
    limit: Arc<Limit>,
    /// Such as `"api";q=50;w=1`: 50 in a window of one second.
    policy: Option<HeaderValue>,
}

impl Guard {
    /// Of a limit and its route's name.
    pub fn new(limit: Arc<Limit>) -> Self {
        let rate = limit.settings().rate;
        let policy = format!("\"{}\";q={};w={}", limit.route, rate.count, rate.per.as_secs());
        Guard { limit, policy: HeaderValue::from_str(&policy).ok() }
    }

    /// Counts a request. None: it may pass; else the time until it may.
    pub fn check(&self, client: IpAddr, headers: &HeaderMap) -> Option<Duration> {
        let key = match &self.limit.settings().key {
            RateKey::Route => Key::All,
            RateKey::ClientIp => address(client),
            RateKey::Header(name) => match headers.get(name) {
                Some(value) => Key::Text(value.as_bytes()),
                None => address(client),
            },
        };
        match self.limit.take(key) {
            Verdict::Pass => None,
            Verdict::Refuse(wait) => Some(wait),
        }
    }

    /// What a refused client is told.
    pub fn headers(&self, wait: Duration) -> Vec<(HeaderName, HeaderValue)> {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let left = HeaderValue::from_str(&format!("\"{}\";r=0;t={seconds}", self.limit.route)).ok();
        let named = [(RETRY_AFTER, Some(seconds.into())), (POLICY, self.policy.clone()), (LEFT, left)];
        named.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// An IPv6 client has a network of 64 bits to itself; an IPv4 address is the same however it is written.
fn address(client: IpAddr) -> Key<'static> {
    match client.to_canonical() {
        IpAddr::V4(v4) => Key::V4(v4.octets()),
        IpAddr::V6(v6) => {
            let [a, b, c, d, e, f, g, h, ..] = v6.octets();
            Key::V6([a, b, c, d, e, f, g, h])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Rate, RateLimit};

    fn guard(key: RateKey, count: u32, per: u64) -> Guard {
        let rate = Rate { count, per: Duration::from_secs(per) };
        Guard::new(Arc::new(Limit::new("api", &RateLimit { key, rate, burst: 1, fleet: false })))
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_network() {
        let guard = guard(RateKey::ClientIp, 1, 3600);
        let passes = |ip: &str| guard.check(ip.parse().unwrap(), &HeaderMap::new()).is_none();
        assert!(passes("192.0.2.1") && passes("192.0.2.2"));
        assert!(!passes("192.0.2.1") && !passes("::ffff:192.0.2.1"));
        assert!(passes("2001:db8::1"));
        assert!(!passes("2001:db8::2") && !passes("2001:db8:0:0:ffff::1"));
        assert!(passes("2001:db8:0:1::1"));
    }

    #[test]
    fn without_its_header_a_request_counts_by_its_client() {
        let guard = guard(RateKey::Header(HeaderName::from_static("x-key")), 1, 3600);
        let passes = |ip: [u8; 4], value: Option<&'static str>| {
            let value = value.map(|value| (HeaderName::from_static("x-key"), HeaderValue::from_static(value)));
            guard.check(ip.into(), &value.into_iter().collect()).is_none()
        };
        assert!(passes([1; 4], Some("a")) && passes([1; 4], Some("b")));
        assert!(!passes([2; 4], Some("a")));
        assert!(passes([1; 4], None) && passes([2; 4], None) && !passes([1; 4], None));
    }

    #[test]
    fn what_a_refused_client_is_told() {
        let guard = guard(RateKey::Route, 100, 60);
        assert_eq!(guard.check([1; 4].into(), &HeaderMap::new()), None);
        let wait = guard.check([2; 4].into(), &HeaderMap::new()).unwrap();
        assert!(wait <= Duration::from_millis(600), "{wait:?}");
        let told: HeaderMap = guard.headers(wait).into_iter().collect();
        assert_eq!(told["retry-after"], "1");
        assert_eq!(told["ratelimit-policy"], "\"api\";q=100;w=60");
        assert_eq!(told["ratelimit"], "\"api\";r=0;t=1");
    }
}
