//! How long requests take, policy by policy, when nothing fails.

use std::time::Instant;

use crate::node::Mode;
use crate::servers::{Law, Spec};
use crate::setting;
use crate::world::{MS, Nanos, SEC, Setup, World, seconds};

/// The fleet's calls a second: the default of `redis.max_calls`.
const MAX_CALLS: f64 = 10_000.0;

fn setup(nodes: usize, servers: Vec<Spec>, load: f64) -> Setup {
    let seed = setting("FAIRLEAD_SIM_SEED", 1);
    Setup {
        nodes,
        servers,
        load,
        law: Law::Exponential,
        max_calls: MAX_CALLS,
        rtt: 300 * MS / 1000,
        seed,
        check_every: 997,
        lacking: None,
    }
}

/// 16 nodes, 8 servers of two speeds with one worker each.
fn two_speeds() -> Setup {
    let server = |mean_ms| Spec { mean_ms, workers: 1, weight: 1.0 };
    setup(16, [20.0, 40.0].into_iter().flat_map(|mean| vec![server(mean); 4]).collect(), 0.85)
}

/// 50 nodes, 100 equal servers.
fn many(workers: u32) -> Setup {
    setup(50, vec![Spec { mean_ms: 10.0, workers, weight: 1.0 }; 100], 0.9)
}

/// p99 in ms.
fn p99(setup: &Setup, mode: Mode, span: Nanos) -> f64 {
    let begin = Instant::now();
    let mut world = World::new(setup.clone(), |_| mode);
    // Near its capacity a queue takes long to become what it will be; with several workers less long.
    world.run(5 * SEC / u64::from(setup.servers[0].workers));
    let counted = world.run(span);
    // Those that came near the end and are not done yet would be missing among the slowest.
    world.end_arrivals();
    while world.in_flight() > 0 {
        world.run(100 * MS);
    }
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|q| world.latencies.quantile(q, counted.clone()));
    assert!(world.longest_wait <= crate::node::TIMEOUT);
    println!(
        "{:>3} nodes {:>3}×{} servers {:<10} p50 {p50:>7.1}  p99 {p99:>7.1}  p99.9 {p999:>7.1} ms  {} requests, {} calls, {:.0} s in {:.1} s",
        setup.nodes,
        setup.servers.len(),
        setup.servers[0].workers,
        format!("{mode:?}"),
        world.latencies.len(),
        world.steps,
        seconds(span),
        begin.elapsed().as_secs_f64(),
    );
    p99
}

/// Ordered, each with 10 % for chance.
fn assert_ordered(tails: &[(&str, f64)]) {
    for pair in tails.windows(2) {
        assert!(pair[0].1 <= 1.1 * pair[1].1, "{} {:.1} ms, {} {:.1} ms", pair[0].0, pair[0].1, pair[1].0, pair[1].1);
    }
}

fn compare(setup: &Setup, span: Nanos) -> [f64; 4] {
    let modes = [Mode::Ideal, Mode::Exact, Mode::Batched, Mode::Local, Mode::PowerOfTwo];
    let [ideal, exact, batched, local, _] = modes.map(|mode| p99(setup, mode, span));
    assert_ordered(&[("ideal", ideal), ("exact", exact), ("batched", batched), ("local", local)]);
    [ideal, exact, batched, local]
}

fn span(default: u64) -> Nanos {
    setting("FAIRLEAD_SIM_SECONDS", default) * SEC
}

#[test]
fn two_speeds_of_servers() {
    let [ideal, exact, batched, local] = compare(&two_speeds(), span(40));
    assert!(batched <= local / 2.0, "batched {batched:.1} ms, local {local:.1} ms");
    assert!(exact <= 1.1 * ideal && batched <= 1.25 * ideal, "{ideal:.1} {exact:.1} {batched:.1} ms");
}

#[test]
fn many_servers() {
    let [_, _, batched, local] = compare(&many(1), span(4));
    assert!(batched <= 0.6 * local, "batched {batched:.1} ms, local {local:.1} ms");
}

/// Four workers a server, so four times as many picks between two views.
#[test]
fn an_old_view_does_not_make_nodes_herd() {
    let setup = many(4);
    let seldom = Setup { max_calls: 500.0, ..setup.clone() };
    let local = p99(&setup, Mode::Local, span(1));
    for (setup, interval, gain) in [(setup, "5 ms", 0.6), (seldom, "100 ms", 0.15)] {
        let [tide, stale] = [Mode::Batched, Mode::Stale].map(|mode| p99(&setup, mode, span(1)));
        let all = format!("every {interval}: tide {tide:.1}, least of the view {stale:.1}, local {local:.1} ms");
        assert!(tide <= gain * stale && tide <= 1.1 * local, "{all}");
    }
}
