//! The store is away for 5 s: nobody waits for it, the choice is no worse than without it, and then the totals are right at once.

use crate::node::{Mode, TIMEOUT};
use crate::servers::{Law, Spec};
use crate::setting;
use crate::world::{MS, Nanos, Power, SEC, Setup, World};

const BEFORE: Nanos = 5 * SEC;
const AWAY: Nanos = 5 * SEC;

fn setup() -> Setup {
    Setup {
        nodes: 20,
        servers: vec![Spec { mean_ms: 20.0, workers: 1, weight: 1.0 }; 20],
        load: 0.85,
        law: Law::Exponential,
        max_calls: 4_000.0,
        rtt: 300 * MS / 1000,
        seed: setting("FAIRLEAD_SIM_SEED", 1),
        check_every: 7,
        lacking: None,
    }
}

/// p99 in ms of the requests that come while the store is away.
fn through(mode: Mode, power: Power) -> f64 {
    let mut world = World::new(setup(), |_| mode);
    world.run(BEFORE);
    world.set_power(power);
    let (waits, from) = (world.waits, world.now);
    let during = world.run(AWAY);
    // Who was about to be answered when it went, and that once: from then on nobody tries.
    let waits = world.waits - waits;
    assert!(waits <= 2 * world.setup.nodes as u64, "{mode:?}, {power:?}: {waits} requests waited in the dark");
    assert!(mode == Mode::Exact || waits == 0);
    world.set_power(Power::Up);
    // What is in flight stays so for the last third of the second, so that there is one right answer.
    world.run(700 * MS);
    world.pause();
    world.run(300 * MS);
    assert!(!mode.uses_store() || world.assert_settled() > 0);
    world.resume();
    world.run(2 * SEC);
    world.end_arrivals();
    while world.in_flight() > 0 {
        world.run(100 * MS);
    }
    assert!(world.longest_wait <= TIMEOUT);
    assert!(from == during.start);
    let p99 = world.latencies.quantile(0.99, during);
    println!("{mode:?}, {power:?}: p99 {p99:.1} ms, {waits} waited");
    p99
}

#[test]
fn five_seconds_without_the_store() {
    let local = through(Mode::Local, Power::Up);
    for mode in [Mode::Batched, Mode::Exact] {
        for power in [Power::Refuses, Power::Hangs] {
            let p99 = through(mode, power);
            assert!(p99 <= 1.2 * local, "{mode:?}, {power:?}: {p99:.1} ms, local {local:.1} ms");
        }
    }
}
