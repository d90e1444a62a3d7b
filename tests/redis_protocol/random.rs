//! Nodes in mixed modes, with everything going wrong that can: after any step the invariants hold, and at rest the totals are what the
//! nodes hold.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use fairlead::load::redis::calls::{TableOp, Terms};

use crate::member::{Fate, Member};
use crate::resp::texts;
use crate::world::{PLAIN, World};

const NODES: usize = 5;

/// Runs `steps` random steps.
pub fn run(world: &mut World, steps: usize) -> Result<(), String> {
    let mut nodes: Vec<Member> = (0..NODES).map(|_| Member::new(world)).collect();
    for at in 1..=steps {
        let failed = |wrong: String| format!("step {at}: {wrong}");
        step(world, &mut nodes).map_err(failed)?;
        if at % 5 == 0 {
            world.check().map_err(failed)?;
        }
        if at % 250 == 0 {
            settle(world, &mut nodes).map_err(failed)?;
        }
    }
    settle(world, &mut nodes)?;
    nodes.iter_mut().for_each(|node| node.own.fill(0));
    settle(world, &mut nodes)?;
    match world.counts().values().any(|(_, total, _)| *total > 0) {
        true => Err("not 0 at the end".into()),
        false => Ok(()),
    }
}

fn step(world: &mut World, nodes: &mut Vec<Member>) -> Result<(), String> {
    let mut at = world.rng.usize(..nodes.len());
    let dice = world.rng.f64();
    if nodes[at].frozen > 0 {
        nodes[at].frozen -= 1;
        at = world.rng.usize(..nodes.len());
    }
    let node = &mut nodes[at];
    if node.frozen > 0 {
        return Ok(());
    }
    if dice < 0.30 {
        (0..world.rng.u32(1..=3)).for_each(|_| node.finish_one(world));
    } else if dice < 0.40 {
        for _ in 0..world.rng.u32(1..=3) {
            node.pick_locally(&world.one_configured());
        }
    } else if dice < 0.75 {
        if node.node.ready() {
            let exact = world.chance(0.6);
            let picks = [1, 1, 2, 4, 16][world.rng.usize(..5)];
            let picks = if exact && node.held() < 40 { picks } else { 0 };
            let snapshot = !exact || world.chance(0.1);
            let fate = match world.rng.u32(..103) {
                0..90 => Fate::Sent,
                90..92 => Fate::Lost,
                92..95 => Fate::Late,
                95..98 => Fate::Cut,
                98..100 => Fate::Doubled,
                100 => Fate::Resent,
                _ => Fate::Bounced,
            };
            node.call(world, picks, snapshot, fate);
        }
    } else if dice < 0.94 {
        for _ in 0..world.rng.u32(0..=2) {
            if node.outstanding() > 0 {
                node.read(world)?;
            }
        }
    } else if dice < 0.955 {
        late_message(world)?;
    } else if dice < 0.965 {
        node.disconnect(world);
        world.hit("connection lost, idle or with replies unread");
    } else if dice < 0.975 {
        world.expire(&node.me());
        node.frozen = [0, 5, 40][world.rng.usize(..3)];
        world.hit("frozen past the lease");
    } else if dice < 0.980 {
        let me = node.me();
        world.expire(&me);
        world.reap(&me, false);
        world.hit("reaped alive");
    } else if dice < 0.984 {
        replace(world, nodes, at)?;
    } else if dice < 0.985 {
        world.flush_all();
        world.hit("FLUSHALL");
    } else if dice < 0.992 {
        change_table(world);
    } else if dice < 0.995 {
        tidy(world)?;
    }
    Ok(())
}

/// A late or doubled message comes in.
fn late_message(world: &mut World) -> Result<(), String> {
    if world.late.is_empty() {
        return Ok(());
    }
    let late = world.late.swap_remove(world.rng.usize(..world.late.len()));
    world.side.send(&late.message);
    let error = world.side.read().err().unwrap_or_default();
    world.hit(match error.split(' ').next() {
        Some("") => "late: ran",
        Some("NOLEASE") => "late: NOLEASE",
        Some("STALE") => "late: STALE",
        Some("GAP") => "late: GAP",
        Some("UNKNOWN") => "late: UNKNOWN",
        _ => return Err(error),
    });
    Ok(())
}

/// A node crashes or leaves, and a new one comes.
fn replace(world: &mut World, nodes: &mut Vec<Member>, at: usize) -> Result<(), String> {
    let mut node = nodes.remove(at);
    let me = node.me();
    if world.chance(0.5) {
        world.expire(&me);
        world.hit("crashes");
    } else {
        while node.outstanding() > 0 {
            node.read(world)?;
        }
        world.reap(&me, true);
        world.hit("leaves");
    }
    nodes.push(Member::new(world));
    Ok(())
}

fn change_table(world: &mut World) {
    world.hit("table changes");
    let name = world.one_configured();
    let dice = world.rng.f64();
    if dice < 0.25 {
        world.conf.values_mut().for_each(|terms| *terms = PLAIN);
        world.register_all(TableOp::Set);
    } else if dice < 0.5 {
        let weight = [1.0, 2.0, 3.0, 0.5, 7.0][world.rng.usize(..5)];
        let terms = Terms { weight, cap: [0, 0, 4, 9][world.rng.usize(..4)] };
        world.conf.insert(name.clone(), terms);
        world.register(TableOp::Set, &[(name, terms)]);
    } else if dice < 0.6 {
        let tight = [2, 5];
        for terms in world.conf.values_mut() {
            *terms = Terms { weight: 1.0, cap: tight[world.rng.usize(..2)] };
        }
        world.register_all(TableOp::Set);
    } else if dice < 0.8 && world.conf.len() > 4 {
        world.conf.remove(&name);
        // Nobody says so where a file has changed.
        if world.chance(0.3) {
            world.register(TableOp::Del, &[(name, PLAIN)]);
        }
    } else {
        let name = format!("s{}", world.rng.u32(..20));
        world.conf.insert(name, PLAIN);
        world.register_all(TableOp::Add);
    }
}

/// Servers that nobody has any more are forgotten once they are idle; rarely, all that are idle.
fn tidy(world: &mut World) -> Result<(), String> {
    let all = world.chance(0.05);
    let left_over: Vec<_> = world.counts().into_keys().filter(|name| !world.conf.contains_key(name)).collect();
    for name in left_over.iter().filter(|_| !all) {
        world.neglect(name);
    }
    if all {
        world.counts().keys().for_each(|name| world.neglect(name));
    }
    let before = world.counts();
    let gone = world.tidy(Duration::from_secs(60));
    for name in &gone {
        let total = before[name].1;
        if total > 0 || !(all || left_over.contains(name)) {
            return Err(format!("{name} was forgotten, with {total} in flight"));
        }
    }
    // Who has them says so again before the next time.
    let configured: Vec<_> = world.conf.keys().cloned().collect();
    configured.iter().for_each(|name| world.remember(name));
    world.hits("forgotten", gone.len() as u64);
    let busy = left_over.iter().filter(|name| before[*name].1 > 0).count();
    world.hits("left over and busy", busy as u64);
    Ok(())
}

/// Lets everything come to rest, and asserts that Redis holds exactly what the nodes hold.
pub fn settle(world: &mut World, nodes: &mut [Member]) -> Result<(), String> {
    for _ in 0..2 {
        // Twice: the first call renews a lease that had run out.
        nodes.iter_mut().try_for_each(|node| rest(world, node))?;
    }
    while !world.late.is_empty() {
        late_message(world)?;
    }
    // A late message may have brought back the row of a dead node, never harmed a live one.
    for node in nodes.iter_mut() {
        node.call(world, 0, true, Fate::Sent);
        node.read(world)?;
        if node.node.broken() {
            return Err("a late message harmed a live row".into());
        }
    }
    let live: Vec<Bytes> = nodes.iter().map(Member::me).collect();
    let lease = world.keys.lease.clone();
    for who in texts(world.conn.ask(&[b"ZRANGE", &lease, b"0", b"-1"])) {
        let who = Bytes::from(who);
        if !live.contains(&who) {
            world.expire(&who);
            world.reap(&who, false);
        }
    }
    world.check()?;
    world.read_table();
    let held = |name: &str| nodes.iter().map(|node| node.held_of(name)).sum::<u32>();
    for (name, (_, total, score)) in world.counts() {
        if total != held(&name) || score != Some(f64::from(total)) {
            let held = held(&name);
            return Err(format!("{name}: total {total}, load {score:?}, nodes hold {held}"));
        }
    }
    let mut rows = texts(world.conn.ask(&[b"KEYS", b"fairlead:{t/p}:row:*"]));
    let mut expected: Vec<_> = live.iter().map(|me| world.keys.row(me)).collect();
    rows.sort();
    expected.sort();
    if rows != expected {
        return Err(format!("rows {rows:?}, live nodes {expected:?}"));
    }
    nodes.iter_mut().try_for_each(|node| sees_the_truth(world, node))?;
    world.hit("settled");
    Ok(())
}

fn rest(world: &mut World, node: &mut Member) -> Result<(), String> {
    node.frozen = 0;
    for round in 0..20 {
        while node.outstanding() > 0 {
            node.read(world)?;
        }
        if round > 0 && !node.unsettled() {
            return Ok(());
        }
        node.call(world, 0, true, Fate::Sent);
    }
    Err("does not settle".into())
}

/// What a node decodes from a snapshot is what Redis holds.
fn sees_the_truth(world: &mut World, node: &mut Member) -> Result<(), String> {
    for _ in 0..2 {
        // The first answer may tell of a new table only.
        node.call(world, 0, true, Fate::Sent);
        node.read(world)?;
    }
    let counts = world.counts();
    let view = node.node.view();
    for index in 0..node.node.servers().len() {
        let name = String::from_utf8_lossy(&node.node.servers().name(index)).into_owned();
        let truth = counts.get(&name).map_or(0, |(_, total, _)| *total);
        let others = truth - node.held_of(&name);
        if (view.total[index], view.others(index)) != (truth, others) {
            return Err(format!("{name}: view {view:?}, truth {truth}, others {others}"));
        }
    }
    Ok(())
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn counts_survive_whatever_happens() {
    let server = crate::server::Server::start();
    let given = std::env::var("FAIRLEAD_PROTOCOL_SOCKET").map(std::path::PathBuf::from);
    let socket = given.unwrap_or_else(|_| server.socket.clone());
    let steps = setting("FAIRLEAD_PROTOCOL_STEPS", 20_000);
    let mut all = BTreeMap::<_, u64>::new();
    for seed in 0..setting("FAIRLEAD_PROTOCOL_SEEDS", 3) as u64 {
        let mut world = World::new(&socket, seed);
        let started = std::time::Instant::now();
        if let Err(wrong) = run(&mut world, steps) {
            panic!("seed {seed}: {wrong}\n{:?}", world.happened);
        }
        println!("seed {seed}: {steps} steps hold, {:.1} s", started.elapsed().as_secs_f64());
        for (what, times) in world.happened {
            *all.entry(what).or_default() += times;
        }
    }
    println!("{all:?}");
    for rare in [
        "GAP",
        "held a forgotten server",
        "late: ran",
        "FLUSHALL",
        "resets with picks",
        "forgotten",
        "left over and busy",
    ] {
        assert!(all.contains_key(rare), "{rare} never happened: the test does not test it");
    }
}

/// The test must notice when a script is wrong.
#[test]
fn broken_scripts_are_noticed() {
    let server = crate::server::Server::start();
    let mutations = [
        ("exchange", "if seq <= last then", "if seq < last then"),
        ("exchange", "elseif seq ~= last + 1 then", "elseif seq <= last then"),
        ("exchange", "change[i] = change[i] - was;", ""),
        ("exchange", "strays = true end", "end"),
        ("exchange", "if cap > 0 and count >= cap then", "if cap > 0 and count > cap then"),
        ("exchange", "if excluded and excluded[pick] then pick = nil", "if false then pick = nil"),
        ("exchange", "tied = tied - 1\n", "\n"),
        ("reap", "call('DEL', row)", ""),
        ("reap", "call('ZADD', load, left, server.name)", ""),
        ("register", "call('DEL', load, order)", "call('DEL', load)"),
        ("register", "if entry.weight == '-1' and count(entry.slot) == 0 then", "if entry.weight == '-1' then"),
        ("exchange", "call('EXPIRE', row, 43200)", ""),
    ];
    for mutation in mutations {
        let noticed = (0..4).find_map(|seed| {
            let mut world = World::mutated(&server.socket, seed, Some(mutation));
            let wrong = run(&mut world, 10_000).err()?;
            Some(format!("seed {seed}, {wrong}"))
        });
        println!("{mutation:?}: {noticed:?}");
        assert!(noticed.is_some(), "nobody notices {mutation:?}");
    }
}
