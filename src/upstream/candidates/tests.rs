//! What is known of servers and what is chosen, together.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::*;
use crate::config::{self, Config, Ejection, Latency};
use crate::observe::metrics::Metrics;
use crate::upstream::server::{Ended, Outcome};

const BASE: Duration = Duration::from_millis(20);

/// Servers of these priorities that are up, by name: 0, 1, …
fn pool(priorities: &[u32], edit: impl FnOnce(&mut config::Pool)) -> Pool {
    let listen = "127.0.0.1:0".parse().unwrap();
    let names: Vec<_> = (1..).take(priorities.len()).map(|port| ("127.0.0.1".to_owned(), port)).collect();
    let mut config = Config::quick(listen, &names, None, None).unwrap().pools.remove(0);
    for ((place, server), &priority) in config.servers.iter_mut().enumerate().zip(priorities) {
        (server.name, server.priority) = (place.to_string(), priority);
    }
    config.ejection = Some(Ejection { base: BASE, ..Ejection::default() });
    config.slow_start = Duration::ZERO;
    edit(&mut config);
    let pool = Pool::new(config, &Metrics::new().unwrap());
    for server in &pool.servers {
        server.observe_check(None, Ok(()), 1, 1);
    }
    pool
}

fn check(pool: &Pool, server: usize, well: bool) {
    pool.servers[server].observe_check(None, if well { Ok(()) } else { Err("off".into()) }, 1, 1);
}

fn ended(outcome: Outcome) -> Ended {
    Ended { outcome, began: Instant::now(), to_header: None, first_byte: None, told: false }
}

fn fail(pool: &Pool, server: usize, outcome: Outcome, times: usize) {
    for _ in 0..times {
        pool.servers[server].observe_attempt(&ended(outcome), None);
    }
}

/// Who is chosen, of a hundred requests with different keys.
fn chosen(pool: &Pool) -> BTreeSet<usize> {
    (0..100_u64).filter_map(|n| pool.choose(&[], n.wrapping_mul(0x9E37_79B9_7F4A_7C15))?.name.parse().ok()).collect()
}

fn standings(pool: &Pool) -> Vec<Standing> {
    pool.servers.iter().map(|server| server.conduct.standing()).collect()
}

/// Waits until the time of an ejection is over.
fn until_probing(pool: &Pool, server: usize) {
    let began = Instant::now();
    while pool.servers[server].conduct.standing() != Standing::Probing {
        assert!(began.elapsed() < Duration::from_secs(10), "it is never probed");
        std::thread::sleep(Duration::from_millis(1));
        pool.tick();
    }
}

#[test]
fn who_fails_is_left_out_then_tried_by_one_request_at_a_time_and_comes_back() {
    let pool = pool(&[0, 0, 0], |_| {});
    fail(&pool, 0, Outcome::ServerError, 5);
    assert_eq!(pool.servers[0].conduct.standing(), Standing::Ejected);
    assert_eq!(chosen(&pool), [1, 2].into());
    assert!(pool.probe(&[], 0).is_none(), "its time is not over");
    until_probing(&pool, 0);
    assert_eq!(chosen(&pool), [1, 2].into(), "only probes go there");
    for n in 0..3 {
        assert!(pool.probe(&[1], 0).is_none(), "a retry is no probe");
        let (index, probe) = pool.probe(&[], 0).unwrap();
        assert_eq!(index, 0);
        assert!(pool.probe(&[], 0).is_none(), "one at a time, {n}");
        // Nor does what else comes back from it count.
        fail(&pool, 0, Outcome::ServerError, 5);
        pool.servers[0].observe_attempt(&ended(Outcome::Success), Some(&probe));
    }
    assert_eq!(standings(&pool), [Standing::Serving; 3]);
    assert_eq!(chosen(&pool), [0, 1, 2].into());
    assert!(pool.probe(&[], 0).is_none());
}

#[test]
fn a_probe_that_tells_nothing_makes_room_for_another() {
    let pool = pool(&[0, 0], |_| {});
    fail(&pool, 0, Outcome::Reset, 5);
    until_probing(&pool, 0);
    let (_, probe) = pool.probe(&[], 0).unwrap();
    pool.servers[0].observe_attempt(&ended(Outcome::Cancelled), Some(&probe));
    drop(probe);
    drop(pool.probe(&[], 0).unwrap());
    let (_, probe) = pool.probe(&[], 0).unwrap();
    pool.servers[0].observe_attempt(&ended(Outcome::Timeout), Some(&probe));
    drop(probe);
    assert_eq!(pool.servers[0].conduct.standing(), Standing::Ejected);
    assert_eq!(pool.servers[0].conduct.reason(), "a probe failed: 1 timeout");
}

#[test]
fn with_hash_only_a_key_of_the_servers_own_is_its_probe() {
    let pool = pool(&[0, 0, 0], |config| config.balance = Policy::Hash);
    let keys: Vec<u64> = (0..60).map(|key| crate::balance::hash_key(&u64::to_le_bytes(key))).collect();
    let homes: Vec<String> = keys.iter().map(|&key| pool.choose(&[], key).unwrap().name.clone()).collect();
    assert!(homes.iter().any(|home| home == "1"));
    fail(&pool, 1, Outcome::Reset, 5);
    until_probing(&pool, 1);
    for (&key, home) in keys.iter().zip(&homes) {
        assert_eq!(pool.probe(&[], key).is_some(), home == "1");
        let now = &pool.choose(&[], key).unwrap().name;
        assert!(now != "1" && (home == "1" || now == home));
    }
}

#[test]
fn a_tier_that_is_silent_as_a_whole_is_gone() {
    let pool = pool(&[0, 0, 1], |config| {
        config.ejection = Some(Ejection { base: Duration::from_secs(3600), ..Ejection::default() });
    });
    fail(&pool, 0, Outcome::Timeout, 5);
    fail(&pool, 1, Outcome::ServerError, 5);
    assert_eq!(standings(&pool), [Standing::Ejected, Standing::Condemned, Standing::Serving]);
    assert_eq!(chosen(&pool), [1].into(), "it answers, at least");
    fail(&pool, 1, Outcome::Timeout, 5);
    assert_eq!(chosen(&pool), [2].into());
    assert!(!pool.all_gone());
    fail(&pool, 2, Outcome::ConnectFailed, 1);
    assert_eq!(pool.servers[2].conduct.standing(), Standing::Serving);
    fail(&pool, 2, Outcome::ConnectFailed, 4);
    assert_eq!(pool.servers[2].conduct.standing(), Standing::Silent, "alone in its tier, so not ejected");
    assert!(pool.all_gone());
    assert_eq!(chosen(&pool), [1].into(), "those who are left, the first tier first");
    // A success of the first tier is enough.
    fail(&pool, 1, Outcome::Success, 1);
    assert!(!pool.all_gone());
    assert_eq!(chosen(&pool), [1].into());
}

#[test]
fn the_client_and_this_process_are_not_the_servers_fault() {
    let pool = pool(&[0, 0], |_| {});
    fail(&pool, 0, Outcome::Cancelled, 100);
    assert_eq!(standings(&pool), [Standing::Serving; 2]);
    assert_eq!(pool.servers[0].totals(), (100, 0));
}

#[test]
fn no_ejection_where_it_is_switched_off() {
    let pool = pool(&[0, 0], |config| config.ejection = None);
    fail(&pool, 0, Outcome::Reset, 100);
    pool.tick();
    assert_eq!(standings(&pool), [Standing::Serving; 2]);
    // But it does not attract load.
    let first = (0..1000).filter(|_| pool.choose(&[], 0).unwrap().name == "0").count();
    assert!(first < 100, "{first}");
}

#[test]
fn what_was_sent_before_it_came_back_tells_nothing() {
    let pool = pool(&[0, 0], |_| {});
    let old = ended(Outcome::Timeout);
    fail(&pool, 0, Outcome::Reset, 5);
    check(&pool, 0, false);
    check(&pool, 0, true);
    assert_eq!(standings(&pool), [Standing::Serving; 2], "down and up again is another life");
    for _ in 0..100 {
        pool.servers[0].observe_attempt(&old, None);
    }
    assert_eq!(standings(&pool), [Standing::Serving; 2]);
    assert_eq!(pool.servers[0].conduct.presence(), Presence::FULL);
}

#[test]
fn silence_counts_when_it_is_noticed_and_only_once() {
    let pool = pool(&[0, 0], |_| {});
    let began = Instant::now();
    for _ in 0..4 {
        pool.servers[0].observe_silence(began);
        pool.servers[0].observe_attempt(&Ended { told: true, ..ended(Outcome::Timeout) }, None);
    }
    assert_eq!(pool.servers[0].conduct.standing(), Standing::Serving);
    pool.servers[0].observe_silence(began);
    assert_eq!(pool.servers[0].conduct.reason(), "5 failures in a row: 5 timeouts");
    until_probing(&pool, 0);
    let (_, probe) = pool.probe(&[], 0).unwrap();
    pool.servers[0].observe_silence(began);
    assert_eq!(pool.servers[0].conduct.standing(), Standing::Probing, "that one was sent long before");
    pool.servers[0].observe_silence(Instant::now());
    assert_eq!(pool.servers[0].conduct.standing(), Standing::Ejected, "that was the probe");
    pool.servers[0].observe_attempt(&Ended { told: true, ..ended(Outcome::Timeout) }, Some(&probe));
    assert_eq!(pool.servers[0].conduct.standing(), Standing::Ejected);
}

#[test]
fn urgent_probes_are_few_and_one_success_is_enough() {
    let pool = pool(&[0, 0], |config| {
        config.ejection = Some(Ejection { base: Duration::from_secs(3600), ..Ejection::default() });
    });
    let (out, well) = (&pool.servers[0], &pool.servers[1]);
    fail(&pool, 0, Outcome::Timeout, 5);
    let now = Instant::now();
    assert!(well.begin_probe(now, Duration::ZERO).is_none(), "nothing is wrong with it");
    let probe = out.begin_probe(now, Duration::from_secs(5)).unwrap();
    assert!(out.begin_probe(now, Duration::from_secs(5)).is_none(), "not that often");
    let later = now + Duration::from_secs(6);
    let second = out.begin_probe(later, Duration::from_secs(5)).unwrap();
    drop(probe);
    assert!(!out.conduct.probe_is_free(), "the second has the place, whose first was still waiting");
    drop(second);
    let now = later + Duration::from_secs(6);
    let probe = out.begin_probe(now, Duration::from_secs(5)).unwrap();
    out.observe_attempt(&ended(Outcome::Timeout), Some(&probe));
    drop(probe);
    assert!(out.begin_probe(now, Duration::from_secs(5)).is_none(), "not that often");
    let probe = out.begin_probe(now + Duration::from_secs(6), Duration::from_secs(5)).unwrap();
    out.observe_attempt(&ended(Outcome::Success), Some(&probe));
    drop(probe);
    assert_eq!(standings(&pool), [Standing::Serving; 2]);
    // One that was condemned for its silence is tried in the same way.
    fail(&pool, 0, Outcome::Timeout, 5);
    fail(&pool, 1, Outcome::Timeout, 5);
    assert!(pool.all_gone());
    let probe = well.begin_probe(now + Duration::from_secs(9), Duration::ZERO).unwrap();
    well.observe_attempt(&ended(Outcome::Success), Some(&probe));
    assert!(!pool.all_gone());
}

/// Answers of each server take so long, several times; then time passes.
fn answer(pool: &Pool, millis: &[u64]) {
    for (server, &millis) in pool.servers.iter().zip(millis) {
        let took = Some(Duration::from_millis(millis));
        for _ in 0..20 {
            server.observe_attempt(&Ended { first_byte: took, ..ended(Outcome::Success) }, None);
        }
    }
    pool.tick();
}

#[test]
fn a_server_far_slower_than_the_others_is_left_out_one_at_a_time() {
    let pool = pool(&[0; 8], |_| {});
    answer(&pool, &[20, 20, 20, 40, 20, 40, 40, 40]);
    assert_eq!(standings(&pool), [Standing::Serving; 8]);
    let slow = [20, 200, 20, 20, 20, 20, 300, 20];
    for _ in 0..3 {
        // By chance, it seems: as many times again say otherwise.
        answer(&pool, &slow);
        (0..10).for_each(|_| pool.tick());
        assert_eq!(standings(&pool), [Standing::Serving; 8]);
        answer(&pool, &[20; 8]);
    }
    answer(&pool, &slow);
    answer(&pool, &slow);
    pool.tick();
    assert_eq!(chosen(&pool), [0, 1, 2, 3, 4, 5, 7].into());
    assert_eq!(pool.servers[6].conduct.reason(), "half of its answers take 300 ms, those of the others 20 ms");
    until_probing(&pool, 6);
    let slow = Ended { first_byte: Some(Duration::from_millis(300)), ..ended(Outcome::Success) };
    let (_, probe) = pool.probe(&[], 0).unwrap();
    pool.servers[6].observe_attempt(&slow, Some(&probe));
    drop(probe);
    assert_eq!(pool.servers[6].conduct.reason(), "a probe took 300 ms, more than 120 ms");
    until_probing(&pool, 6);
    for _ in 0..3 {
        let quick = Ended { first_byte: Some(Duration::from_millis(30)), ..slow };
        let (_, probe) = pool.probe(&[], 0).unwrap();
        pool.servers[6].observe_attempt(&quick, Some(&probe));
    }
    answer(&pool, &[20, 200, 20, 20, 20, 20, 20, 20]);
    assert_eq!(chosen(&pool), [0, 2, 3, 4, 5, 6, 7].into(), "the next one's turn");
}

#[test]
fn slow_servers_stay_where_that_is_wished_or_the_key_decides() {
    let kinds: [fn(&mut config::Pool); 3] = [
        |config| config.balance = Policy::Hash,
        |config| config.ejection = Some(Ejection { latency: Latency::Report, ..Ejection::default() }),
        |config| config.ejection = Some(Ejection { latency: Latency::Off, ..Ejection::default() }),
    ];
    let counted = kinds.map(|kind| {
        let pool = pool(&[0; 4], kind);
        for _ in 0..3 {
            answer(&pool, &[20, 2000, 20, 20]);
        }
        assert_eq!(standings(&pool), [Standing::Serving; 4]);
        pool.guard.slow.with_label_values(&["app", "1"]).get()
    });
    assert_eq!(counted, [0, 1, 0], "it is reported, once");
}

#[test]
fn in_panic_everybody_is_chosen() {
    let pool = pool(&[0, 0, 0, 1], |config| config.panic_below = 50);
    for server in &pool.servers {
        server.set_address("127.0.0.1:9".parse().unwrap(), &pool.config.upstream);
        server.observe_check(server.resolved(), Ok(()), 1, 1);
    }
    let down = |server: usize, well: bool| {
        let server = &pool.servers[server];
        server.observe_check(server.resolved(), if well { Ok(()) } else { Err("off".into()) }, 1, 1);
        pool.tick();
    };
    down(0, false);
    fail(&pool, 1, Outcome::Reset, 5);
    pool.tick();
    assert_eq!(chosen(&pool), [2].into(), "two of four are just enough");
    down(3, false);
    assert_eq!(chosen(&pool), [0, 1, 2, 3].into());
    down(3, true);
    assert_eq!(chosen(&pool), [2].into());
}

#[test]
fn who_comes_back_or_moves_starts_slowly_and_who_is_there_at_the_start_does_not() {
    let pool = pool(&[0, 0], |config| config.slow_start = Duration::from_secs(30));
    assert!(pool.servers.iter().all(|server| server.conduct.presence() == Presence::FULL));
    check(&pool, 0, false);
    check(&pool, 0, true);
    let share = |pool: &Pool| (0..2000).filter(|_| pool.choose(&[], 0).unwrap().name == "0").count();
    let few = share(&pool);
    assert!((50..200).contains(&few), "about a twentieth: {few} of 2000");
    assert!(pool.servers[0].conduct.is_starting());
    let moved = &pool.servers[1];
    for port in [1, 2] {
        moved.set_address(([127, 0, 0, 1], port).into(), &pool.config.upstream);
        moved.observe_check(moved.resolved(), Ok(()), 1, 1);
    }
    let half = share(&pool);
    assert!((700..1300).contains(&half), "both start: {half} of 2000");
}

#[test]
fn spares_are_not_probed_while_they_are_not_needed() {
    let pool = pool(&[0, 1, 1], |_| {});
    fail(&pool, 1, Outcome::Reset, 5);
    until_probing(&pool, 1);
    assert!(pool.probe(&[], 0).is_none());
    check(&pool, 0, false);
    assert!(pool.probe(&[], 0).is_some());
}

#[test]
fn a_probe_that_lasts_has_passed_when_it_is_answered() {
    let pool = pool(&[0, 0], |_| ());
    fail(&pool, 0, Outcome::Reset, 5);
    until_probing(&pool, 0);
    let tunnels: Vec<_> = (0..3)
        .map(|_| {
            let (index, probe) = pool.probe(&[], 0).unwrap();
            pool.servers[index as usize].probe_answered(&probe);
        })
        .collect();
    assert_eq!(tunnels.len(), 3);
    assert_eq!(standings(&pool), [Standing::Serving; 2]);
    assert_eq!(pool.servers[0].totals(), (5, 5), "they are counted at their end");
}

#[test]
fn one_that_fell_silent_is_asked_again_though_a_spare_serves() {
    let pool = pool(&[0, 1], |_| ());
    fail(&pool, 0, Outcome::Reset, 5);
    assert_eq!(standings(&pool), [Standing::Silent, Standing::Serving]);
    assert_eq!(chosen(&pool), [1].into(), "the spare");
    let began = Instant::now();
    let probe = loop {
        match pool.probe(&[], 0) {
            Some((0, probe)) => break probe,
            Some(_) => panic!("the spare needs none"),
            None => assert!(began.elapsed() < Duration::from_secs(10), "it is never asked again"),
        }
        std::thread::sleep(Duration::from_millis(1));
        pool.tick();
    };
    assert!(pool.probe(&[], 0).is_none(), "not at once again");
    pool.servers[0].observe_attempt(&ended(Outcome::Success), Some(&probe));
    assert_eq!(standings(&pool), [Standing::Serving; 2]);
    assert_eq!(chosen(&pool), [0].into());
    assert!(pool.probe(&[], 0).is_none());
}
