//! The script of rate limits. Buckets fill while a test runs, so what is compared is off by the time that it took.

use std::time::Instant;

use bytes::Bytes;
use fairlead::load::redis::{calls, keys, scripts};

use crate::resp::{Command, Conn, text};
use crate::server::Server;

/// 100 s of rate time.
const COMMON: i64 = 100_000_000;

struct Buckets {
    conn: Conn,
    began: Instant,
    _server: Server,
}

impl Buckets {
    fn new() -> Self {
        let server = Server::start();
        let mut conn = Conn::open(&server.socket);
        conn.ask(&[b"SCRIPT", b"LOAD", scripts::RATE.source.as_bytes()]);
        Buckets { conn, began: Instant::now(), _server: server }
    }

    fn key(name: &str) -> Bytes {
        keys::bucket("default", "api", name)
    }

    fn ask(&mut self, most: i64, asks: &[(&str, i64, i64)]) -> Vec<i64> {
        let keys: Vec<_> = asks.iter().map(|(name, ..)| Self::key(name)).collect();
        let mut command = Command::script(&scripts::RATE.sha1, &keys);
        calls::rate(COMMON, most, asks.iter().map(|&(_, need, fill)| (need, fill)), &mut command);
        calls::rated(self.conn.call(&command).unwrap(), asks.len()).unwrap()
    }

    fn one(&mut self, need: i64, fill: i64) -> i64 {
        self.ask(COMMON, &[("a", need, fill)])[0]
    }

    /// Equal, but for what has come back since the start.
    fn near(&self, got: i64, wanted: i64) {
        let drift = self.began.elapsed().as_micros() as i64;
        assert!((wanted..=wanted + drift).contains(&got), "{got}, not {wanted} and at most {drift} more");
    }

    fn text(&mut self, command: &[u8]) -> String {
        text(self.conn.ask(&[command, &Self::key("a")]))
    }
}

#[test]
fn nobody_gets_more_than_there_is() {
    let mut buckets = Buckets::new();
    assert_eq!(buckets.one(60_000_000, 0), 60_000_000);
    let rest = buckets.one(60_000_000, 0);
    buckets.near(rest, 40_000_000);
    let rest = buckets.one(1_000_000_000, 1_000_000_000);
    buckets.near(rest, 0);
    // What comes back is there again, and never more than a full bucket.
    assert_eq!(buckets.one(-30_000_000, 0), 0);
    let rest = buckets.one(COMMON, 0);
    buckets.near(rest, 30_000_000);
    buckets.one(-3 * COMMON, 0);
    assert_eq!(buckets.text(b"EXISTS"), "0", "a full bucket needs no key");
    assert_eq!(buckets.one(2 * COMMON, 0), COMMON);
}

#[test]
fn a_key_ends_when_its_bucket_is_full() {
    let mut buckets = Buckets::new();
    buckets.one(2_000_000, 0);
    let left: i64 = buckets.text(b"PTTL").parse().unwrap();
    assert!((1900..=2001).contains(&left), "{left}");
    buckets.one(COMMON, 0);
    let left: i64 = buckets.text(b"PTTL").parse().unwrap();
    assert!((99_000..=100_001).contains(&left), "{left}");
    assert_eq!(buckets.text(b"TYPE"), "string");
}

#[test]
fn what_is_not_needed_now_comes_from_the_upper_half() {
    let mut buckets = Buckets::new();
    let given = buckets.one(0, COMMON);
    buckets.near(given, COMMON / 2);
    let given = buckets.one(10_000_000, 10_000_000);
    buckets.near(given, 10_000_000);
}

#[test]
fn after_an_outage_only_what_came_since_counts() {
    let mut buckets = Buckets::new();
    assert_eq!(buckets.ask(5_000_000, &[("a", 20_000_000, 0), ("b", 2_000_000, 0)]), [5_000_000, 2_000_000]);
    // What did not count then does not count later either.
    let given = buckets.ask(COMMON, &[("a", COMMON, 0), ("b", COMMON, 0), ("c", COMMON, 0)]);
    buckets.near(given[0], 0);
    buckets.near(given[1], 3_000_000);
    assert_eq!(given[2], COMMON);
}

#[test]
fn a_clock_that_was_set_back_locks_nobody_out() {
    let mut buckets = Buckets::new();
    buckets.conn.ask(&[b"SET", &Buckets::key("a"), b"99999999999999999"]);
    let given = buckets.one(1_000_000, 0);
    buckets.near(given, 0);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!(buckets.one(1_000_000, 0) >= 20_000);
    // Nor does a key that somebody else put there.
    buckets.conn.ask(&[b"SET", &Buckets::key("a"), b"nonsense"]);
    assert_eq!(buckets.one(1_000_000, 0), 1_000_000);
}

#[test]
fn a_call_of_all_keys_it_may_have_is_short() {
    let mut buckets = Buckets::new();
    let names: Vec<_> = (0..fairlead::load::rate::leases::KEYS_A_CALL).map(|n| format!("{n:024x}")).collect();
    let asks: Vec<_> = names.iter().map(|name| (name.as_str(), 1000, 0)).collect();
    for _ in 0..200 {
        assert!(buckets.ask(COMMON, &asks).iter().all(|given| *given == 1000));
    }
    let stats = text(buckets.conn.ask(&[b"INFO", b"commandstats"]));
    let line = stats.lines().find(|line| line.starts_with("cmdstat_evalsha")).unwrap();
    println!("{} keys a call: {line}", names.len());
}
