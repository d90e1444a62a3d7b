//! What deleting or editing a key by hand breaks, and that it is noticed, repaired and told.

use bytes::Bytes;
use fairlead::load::redis::calls::{Audited, Reaped, TableOp, Terms, audited};
use fairlead::load::redis::{Outcome, Request};

use crate::member::{Fate, Member};
use crate::random::settle;
use crate::resp::{text, texts};
use crate::server::Server;
use crate::world::{LEASE_MS, PLAIN, World};

/// Three nodes that hold requests, over servers with weights and caps.
fn busy(server: &Server, seed: u64) -> (World, Vec<Member>) {
    let mut world = World::new(&server.socket, seed);
    for (i, terms) in world.conf.values_mut().enumerate() {
        *terms = Terms { weight: 1.0 + i as f64, cap: if i == 3 { 2 } else { 0 } };
    }
    world.register_all(TableOp::Set);
    let mut nodes: Vec<Member> = (0..3).map(|_| Member::new(&mut world)).collect();
    settle(&mut world, &mut nodes).unwrap();
    for node in &mut nodes {
        node.call(&mut world, 16, true, Fate::Sent);
        node.read(&mut world).unwrap();
        // By chance that call excluded all servers.
        node.pick_locally("s0");
    }
    settle(&mut world, &mut nodes).unwrap();
    (world, nodes)
}

/// Requests come and go everywhere, so that what is left of a key changes before anybody looks. Returns what the nodes complained of.
fn go_on(world: &mut World, nodes: &mut [Member]) -> Vec<String> {
    let mut complaints = Vec::new();
    for node in nodes {
        node.finish_one(world);
        node.pick_locally("s5");
        complaints.extend((0..4).filter_map(|_| beat(world, node).err()));
    }
    complaints
}

fn beat(world: &mut World, node: &mut Member) -> Result<(), String> {
    node.call(world, 0, true, Fate::Sent);
    node.read(world)
}

fn full(world: &mut World) -> Audited {
    let known = world.incarnations.clone();
    audited(world.audit(&known).unwrap()).unwrap()
}

#[test]
fn a_sound_pool_is_left_alone() {
    let server = Server::start();
    let (mut world, _nodes) = busy(&server, 1);
    assert_eq!(full(&mut world), Audited::default());
    assert_eq!(audited(world.audit(&[]).unwrap()).unwrap(), Audited::default());
}

#[test]
fn deleting_any_single_key_is_repaired() {
    let server = Server::start();
    for name in ["load", "tot", "servers", "lease", "order", "claims", "row"] {
        let (mut world, mut nodes) = busy(&server, 2);
        let key = match name {
            "row" => world.keys.row(&nodes[1].me()),
            _ => Bytes::from(format!("fairlead:{{t/p}}:{name}")),
        };
        world.conn.ask(&[b"DEL", &key]);
        let complaints = go_on(&mut world, &mut nodes);
        let for_an_audit = |it: &String| it.starts_with("audit without need");
        assert!(complaints.iter().all(for_an_audit), "{name}: {complaints:?}");
        // The others heal by themselves or need an audit that nobody calls for: those come in turn.
        assert_eq!(!complaints.is_empty(), ["tot", "row"].contains(&name), "{name}");
        let found = full(&mut world);
        println!("{name}: {found:?}");
        assert_eq!(found.differences > 0, !["servers", "lease", "claims"].contains(&name), "{name}");
        settle(&mut world, &mut nodes).unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
        assert_eq!(full(&mut world).differences, 0, "{name}");
    }
}

#[test]
fn what_was_edited_is_put_right_and_told() {
    let server = Server::start();
    let (mut world, mut nodes) = busy(&server, 3);
    let [load, order] = [&world.keys.load, &world.keys.order].map(Bytes::clone);
    let before = world.counts();
    world.conn.ask(&[b"ZADD", &load, b"77", b"s1", b"5", b"stranger"]);
    world.conn.ask(&[b"ZREM", &order, b"s2"]);
    let found = audited(world.audit(&[]).unwrap()).unwrap();
    let mut told: Vec<_> = found.first.iter().map(|it| format!("{} {} {}", it.key, it.name, it.found)).collect();
    told.sort();
    assert_eq!(told, ["load s1 77", "load stranger 5", "order s2 "]);
    assert_eq!(world.counts(), before);
    settle(&mut world, &mut nodes).unwrap();
}

/// A stranger at the head of the sorted set must not stop the picks until the audit comes.
#[test]
fn a_stranger_is_never_picked() {
    let server = Server::start();
    for weighted in [false, true] {
        let (mut world, mut nodes) = busy(&server, 9);
        if !weighted {
            world.conf.values_mut().for_each(|terms| *terms = PLAIN);
            world.register_all(TableOp::Set);
        }
        settle(&mut world, &mut nodes).unwrap();
        let set = if weighted { &world.keys.order } else { &world.keys.load }.clone();
        world.conn.ask(&[b"ZADD", &set, b"-1", b"stranger"]);
        let mut picks = Vec::new();
        for _ in 0..3 {
            let request = Request { picks: 4, ..Request::default() };
            picks.push(nodes[0].picks(&world, &request));
        }
        // Without weights it may cost the picks of one call; never an error, never more than that.
        assert!(picks[1..] == [4, 4], "{picks:?}");
        assert_eq!(full(&mut world).differences, 0);
        nodes[0].disconnect(&world);
        settle(&mut world, &mut nodes).unwrap();
    }
}

#[test]
fn a_report_is_bounded() {
    let server = Server::start();
    let (mut world, mut nodes) = busy(&server, 4);
    let load = world.keys.load.clone();
    for i in 0..40 {
        world.conn.ask(&[b"ZADD", &load, b"1", format!("stranger{i}").as_bytes()]);
    }
    let found = full(&mut world);
    assert_eq!((found.differences, found.first.len()), (40, 16));
    settle(&mut world, &mut nodes).unwrap();
}

#[test]
fn an_audit_that_does_not_know_all_leases_changes_nothing() {
    let server = Server::start();
    let (mut world, nodes) = busy(&server, 5);
    let tot = world.keys.tot.clone();
    let before = world.conn.ask(&[b"GET", &tot]);
    let error = world.audit(&[nodes[0].me(), nodes[1].me()]).unwrap_err();
    assert!(error.starts_with("RETRY"), "{error}");
    assert_eq!(world.conn.ask(&[b"GET", &tot]), before);
    world.conn.ask(&[b"DEL", &tot]);
    let error = world.audit(&[]).unwrap_err();
    assert!(error.starts_with("RETRY"), "a quick one trusts the totals: {error}");
    world.conn.ask(&[b"FLUSHALL"]);
    let error = world.audit(&[]).unwrap_err();
    assert!(error.starts_with("UNKNOWN"), "{error}");
}

#[test]
fn a_dead_node_counts_until_it_is_reaped_and_no_longer() {
    let server = Server::start();
    let (mut world, mut nodes) = busy(&server, 6);
    let dead = nodes.pop().unwrap();
    assert!(dead.held() > 0);
    world.expire(&dead.me());
    assert_eq!(full(&mut world).differences, 0);
    assert!(world.reap(&dead.me(), false));
    assert_eq!(full(&mut world).differences, 0);
    settle(&mut world, &mut nodes).unwrap();
}

#[test]
fn the_row_of_a_node_that_died_when_the_leases_were_deleted_is_reaped() {
    let server = Server::start();
    let (mut world, mut nodes) = busy(&server, 7);
    let dead = nodes.pop().unwrap();
    let lease = world.keys.lease.clone();
    world.conn.ask(&[b"DEL", &lease]);
    assert_eq!(full(&mut world).differences, 0, "rows without a lease count");
    let leased = texts(world.conn.ask(&[b"ZRANGE", &lease, b"0", b"-1"]));
    assert!(leased.contains(&String::from_utf8(dead.me().to_vec()).unwrap()), "{leased:?}");
    world.expire(&dead.me());
    settle(&mut world, &mut nodes).unwrap();
}

/// Without its lease nobody knows of the row of a dead node: it goes by itself, in time.
#[test]
fn the_row_of_a_dead_node_that_nobody_saw_does_not_stay_for_ever() {
    let server = Server::start();
    let (mut world, mut nodes) = busy(&server, 10);
    let dead = nodes.pop().unwrap();
    assert!(dead.held() > 0);
    let dead = dead.me();
    let [lease, row] = [world.keys.lease.clone(), world.keys.row(&dead)];
    world.conn.ask(&[b"DEL", &lease]);
    for node in &mut nodes {
        beat(&mut world, node).unwrap();
    }
    let live: Vec<Bytes> = nodes.iter().map(Member::me).collect();
    let found = audited(world.audit(&live).unwrap()).unwrap();
    assert!(found.differences > 0, "what it held is taken out of the totals");
    let ttl = |world: &mut World, row: &Bytes| text(world.conn.ask(&[b"TTL", row])).parse::<i64>().unwrap();
    let left = ttl(&mut world, &row);
    assert!((3600..=86_400).contains(&left), "{left} s");

    // A living node's is renewed with its lease.
    let mine = world.keys.row(&live[0]);
    world.conn.ask(&[b"EXPIRE", &mine, b"100"]);
    nodes[0].own.fill(0);
    beat(&mut world, &mut nodes[0]).unwrap();
    assert!(ttl(&mut world, &mine) > 3600);

    world.conn.ask(&[b"PEXPIRE", &row, b"1"]);
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert_eq!(text(world.conn.ask(&[b"EXISTS", &row])), "0");
    settle(&mut world, &mut nodes).unwrap();
    assert_eq!(full(&mut world), Audited::default());
}

/// All nodes were away until the row of a dead one had run out, but not its lease: then nothing can be taken back from the row.
#[test]
fn a_lease_without_its_row_calls_for_an_audit() {
    let server = Server::start();
    let (mut world, mut nodes) = busy(&server, 11);
    let dead = nodes.pop().unwrap();
    assert!(dead.held() > 0);
    let row = world.keys.row(&dead.me());
    world.conn.ask(&[b"DEL", &row]);
    world.expire(&dead.me());
    assert_eq!(world.reaped(&dead.me(), false), Reaped::WithoutRow);
    assert!(full(&mut world).differences > 0);
    settle(&mut world, &mut nodes).unwrap();
    assert_eq!(world.reaped(&dead.me(), false), Reaped::NotDead);
}

#[test]
fn a_table_made_anew_in_another_order_moves_no_counts_to_other_servers() {
    let server = Server::start();
    let (mut world, mut nodes) = busy(&server, 8);
    let servers = world.keys.servers.clone();
    world.conn.ask(&[b"DEL", &servers]);
    let turned: Vec<_> = world.conf.iter().rev().skip(2).map(|(k, v)| (k.clone(), *v)).collect();
    world.register(TableOp::Add, &turned);
    // Until a node has seen the new table, its changes hit the wrong slots; then it resets.
    go_on(&mut world, &mut nodes);
    full(&mut world);
    settle(&mut world, &mut nodes).unwrap();
}

/// The arguments go to the client library as they are; nothing else here shows it.
#[test]
fn the_client_librarys_arguments_are_the_same() {
    let mut node = fairlead::load::redis::Node::new("me", LEASE_MS);
    let mut args: Vec<fred::types::Value> = Vec::new();
    let index = node.claim(b"a");
    node.begin(&Request::default(), |i| u32::from(i == index), &mut args).unwrap();
    let words: Vec<_> = args.iter().map(|arg| arg.as_string().unwrap()).collect();
    assert_eq!(words.join(" "), format!("me 1 {LEASE_MS} 1 0 0 0 1 a 1"));
    let reply = fred::types::Value::Array(vec![0.into(), fred::types::Value::Array(vec![]), 0.into()]);
    assert!(matches!(node.answered(1, Ok(reply.into())), Outcome::Done(_)));
}
