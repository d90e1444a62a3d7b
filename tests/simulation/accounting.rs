//! Whatever fails, the counts are right: after every step of the store, and with what nodes hold once all is quiet.

use std::collections::{BTreeMap, BTreeSet};

use crate::network::Faults;
use crate::node::{LEASE_MS, Mode};
use crate::servers::{Law, Spec};
use crate::setting;
use crate::store::{Data, Key};
use crate::world::{MS, Nanos, Power, SEC, Setup, World};

const LEASE: Nanos = LEASE_MS as Nanos * MS;

fn setup(nodes: usize, weights: &[f32], seed: u64) -> Setup {
    Setup {
        nodes,
        servers: weights.iter().map(|weight| Spec { mean_ms: 60.0, workers: 4, weight: *weight }).collect(),
        load: 0.8,
        law: if seed.is_multiple_of(2) { Law::Exponential } else { Law::Bimodal },
        max_calls: 1_000.0,
        rtt: MS,
        seed,
        check_every: 1,
        lacking: Some(0.9),
    }
}

fn mixed(number: usize) -> Mode {
    if number.is_multiple_of(2) { Mode::Batched } else { Mode::Exact }
}

/// Something goes wrong.
fn mischief(world: &mut World, replica: Data, rng: &mut fastrand::Rng) -> &'static str {
    let member = rng.usize(0..world.members.len());
    match rng.u32(0..18) {
        // Never the last one: there would be nobody to reap it.
        0 | 1 if world.members[member].alive && world.members.iter().filter(|other| other.alive).count() > 1 => {
            world.crash(member);
            "crash"
        }
        2..5 if !world.members[member].alive => {
            world.restart(member);
            "restart"
        }
        5 => {
            world.freeze(member, rng.u64(0..2 * LEASE));
            "freeze"
        }
        6..9 => {
            world.drop_connection(member);
            "connection lost"
        }
        9 => {
            world.set_power(if rng.bool() { Power::Hangs } else { Power::Refuses });
            world.run(rng.u64(0..5 * SEC));
            world.set_power(Power::Up);
            "outage"
        }
        10 => {
            world.store.flush_all();
            "FLUSHALL"
        }
        11 => {
            let keys = [Key::Load, Key::Tot, Key::Servers, Key::Lease, Key::Claims, Key::Row];
            world.store.delete(keys[rng.usize(0..keys.len())]);
            "DEL"
        }
        12 => {
            world.store.fail_over(replica);
            "failover"
        }
        13 | 14 => {
            world.members[member].mode = mixed(rng.usize(0..2));
            "another mode"
        }
        _ => "nothing",
    }
}

#[test]
fn any_faults_in_any_order() {
    let mut seen = BTreeSet::<&str>::new();
    let first = setting("FAIRLEAD_SIM_SEED", 1);
    for seed in first..first + setting("FAIRLEAD_SIM_SEEDS", 4) {
        let weights: &[f32] = if seed.is_multiple_of(2) { &[1.0; 5] } else { &[1.0, 2.0, 1.0, 4.0, 1.0] };
        let mut world = World::new(setup(6, weights, seed), mixed);
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut settled, mut held) = (0, 0);
        let mut happened = BTreeMap::<_, u32>::new();
        let end = world.now + setting("FAIRLEAD_SIM_SECONDS", 120) * SEC;
        while world.now < end {
            world.faults = Faults { lost_before: 0.004, lost_after: 0.004, late: 0.004, doubled: 0.01, jitter: 3.0 };
            for _ in 0..20 {
                world.run(rng.u64(0..500 * MS));
                let replica = world.store.data.clone();
                world.run(rng.u64(0..50 * MS));
                *happened.entry(mischief(&mut world, replica, &mut rng)).or_default() += 1;
            }
            // Quiet: late messages come in, nodes thaw, the dead are reaped, what was deleted is put right.
            world.faults = Faults::default();
            world.pause();
            world.run(4 * LEASE);
            held += world.assert_settled();
            settled += 1;
            world.resume();
        }
        println!("seed {seed}: {} steps, {settled} times at rest with {held} in flight", world.steps);
        println!("  {happened:?} {:?}", world.store.seen);
        assert!(held > 10 * settled, "at rest with next to nothing to count");
        seen.extend(world.store.seen.keys());
    }
    for case in ["GAP", "NOLEASE", "STALE", "RESET", "reset STALE", "reaped", "audit", "forgotten"] {
        assert!(seen.contains(case), "{case} never happened");
    }
}

#[test]
fn a_crashed_nodes_share_is_gone_within_its_lease_and_one_exchange() {
    for mode in [Mode::Batched, Mode::Exact] {
        // How long until somebody looks: batched at each exchange (6 nodes, 1000 calls/s), exact with the call that renews its lease.
        let look = if mode == Mode::Batched { 7 * MS } else { 1_100 * MS };
        let mut world = World::new(setup(6, &[1.0; 5], 7), |_| mode);
        let mut share = 0;
        for victim in 0..6 {
            world.run(2 * SEC + 137 * MS);
            let life = world.members[victim].life;
            assert!(world.has_row(victim, life), "{mode:?}: it takes part");
            share += world.members[victim].own.iter().sum::<u32>();
            world.crash(victim);
            world.run(LEASE - SEC - 100 * MS);
            assert!(world.has_row(victim, life), "{mode:?}: a lease that runs is not touched");
            world.run(SEC + 100 * MS + look + 3 * world.setup.rtt);
            assert!(!world.has_row(victim, life), "{mode:?}: its share stays after its lease");
            // The totals are the rows' (checked after each step), so its share is out of them, too.
            world.restart(victim);
        }
        assert!(share > 5, "{mode:?}: the dead held something");
        world.pause();
        world.run(200 * MS);
        assert!(world.assert_settled() > 0);
    }
}

#[test]
fn a_clean_run_ends_at_zero() {
    let mut world = World::new(setup(8, &[1.0; 5], 3), mixed);
    world.run(10 * SEC);
    assert!(world.in_flight() > 0);
    world.end_arrivals();
    while world.in_flight() > 0 {
        world.run(100 * MS);
    }
    world.run(200 * MS);
    assert_eq!(world.assert_settled(), 0);
}
