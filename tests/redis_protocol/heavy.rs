//! Many servers in one call, and nodes that really run at once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fairlead::load::redis::calls::{TableOp, Terms};

use crate::member::{Fate, Member};
use crate::random::settle;
use crate::server::Server;
use crate::world::World;

/// Lua's `unpack` carries some thousands of words: longer commands go in pieces.
#[test]
fn three_thousand_servers_fit_in_one_call() {
    let server = Server::start();
    let mut world = World::new(&server.socket, 1);
    world.conn.ask(&[b"FLUSHALL"]);
    let terms = |i: u32| Terms { weight: f64::from(1 + i % 2), cap: 0 };
    world.conf = (0..3000).map(|i| (format!("10.0.{}.{}:80", i / 250, i % 250), terms(i))).collect();
    let (mut a, mut b) = (Member::new(&mut world), Member::new(&mut world));
    let names: Vec<_> = world.conf.keys().cloned().collect();
    for name in &names {
        a.pick_locally(name);
        b.pick_locally(name);
    }
    let mut both = [a, b];
    settle(&mut world, &mut both).unwrap();
    let [mut a, b] = both;

    // All that the row has is stray now.
    a.own.fill(0);
    a.disconnect(&world);
    let mut both = [a, b];
    settle(&mut world, &mut both).unwrap();
    let gone = both[1].me();
    world.expire(&gone);
    assert!(world.reap(&gone, false));
    world.check().unwrap();
    assert!(world.counts().values().all(|(_, total, _)| *total == 0));

    // 5,000 picks in one call, then 3,000 changes and 5,000 picks.
    let mut c = Member::new(&mut world);
    for expected in [5000, 10_000] {
        let before = c.own.clone();
        c.call(&mut world, 5000, false, Fate::Sent);
        c.read(&mut world).unwrap();
        world.check().unwrap();
        let picked = world.happened["picks"] + world.happened["picks of servers that the node lacks"];
        assert_eq!(picked, expected);
        assert_ne!(c.own, before);
        names.iter().for_each(|name| c.pick_locally(name));
    }
}

#[test]
fn nodes_that_run_at_once_agree_in_the_end() {
    let server = Server::start();
    let mut world = World::new(&server.socket, 2);
    let terms = |i: u32| Terms { weight: f64::from(1 + i % 3), cap: if i.is_multiple_of(2) { 6 } else { 0 } };
    world.conf = (0..10).map(|i| (format!("s{i}"), terms(i))).collect();
    world.register_all(TableOp::Set);
    let stop = Instant::now() + Duration::from_secs(2);
    let threads: Vec<_> = (0..4)
        .map(|seed| {
            let mut world = world.another(seed);
            let mut node = Member::new(&mut world);
            std::thread::spawn(move || {
                while Instant::now() < stop {
                    act(&mut world, &mut node).unwrap();
                }
                world.late.clear();
                (world, node)
            })
        })
        .collect();
    let mut nodes = Vec::new();
    let mut happened = BTreeMap::<_, u64>::new();
    for thread in threads {
        let (theirs, node) = thread.join().unwrap();
        world.incarnations.push(node.me());
        nodes.push(node);
        for (what, times) in theirs.happened {
            *happened.entry(what).or_default() += times;
        }
    }
    settle(&mut world, &mut nodes).unwrap();
    println!("{happened:?}");
    assert!(happened["calls"] > 200, "{happened:?}");
}

fn act(world: &mut World, node: &mut Member) -> Result<(), String> {
    (0..world.rng.u32(0..=4)).for_each(|_| node.finish_one(world));
    if world.chance(0.2) {
        node.pick_locally(&world.one_configured());
    }
    if node.node.ready() {
        let picks = if node.held() < 20 { [0, 1, 2, 4][world.rng.usize(..4)] } else { 0 };
        let fate = match world.rng.u32(..100) {
            0 => Fate::Lost,
            1..=2 => Fate::Cut,
            _ => Fate::Sent,
        };
        let snapshot = world.chance(0.3);
        node.call(world, picks, snapshot, fate);
    }
    if node.outstanding() > 0 && world.chance(0.6) {
        node.read(world)?;
    }
    if world.chance(0.01) {
        world.expire(&node.me());
    }
    Ok(())
}
