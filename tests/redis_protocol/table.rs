//! The table of servers: slots are used again only when nobody can hold a count there.

use std::time::Duration;

use fairlead::load::redis::calls::{TableOp, Terms};

use crate::member::{Fate, Member};
use crate::random::settle;
use crate::resp::texts;
use crate::server::Server;
use crate::world::{PLAIN, World};

/// A table of two servers, and a node that has both.
fn a_and_b(server: &Server) -> (World, Member) {
    let mut world = World::new(&server.socket, 1);
    world.conn.ask(&[b"FLUSHALL"]);
    world.conf = [("a".to_owned(), PLAIN), ("b".to_owned(), PLAIN)].into();
    let node = Member::new(&mut world);
    (world, node)
}

fn names(world: &mut World) -> Vec<(String, usize)> {
    let counts = world.counts().into_iter();
    counts.map(|(name, (slot, _, _))| (name, slot)).collect()
}

#[test]
fn a_busy_server_keeps_its_slot_until_it_is_idle() {
    let server = Server::start();
    let (mut world, mut node) = a_and_b(&server);
    node.pick_locally("a");
    let mut nodes = [node];
    settle(&mut world, &mut nodes).unwrap();

    world.conf.remove("a");
    world.register(TableOp::Del, &[("a".to_owned(), PLAIN)]);
    world.conf.insert("c".to_owned(), PLAIN);
    world.register_all(TableOp::Add);
    assert_eq!(names(&mut world), [("a".into(), 2), ("b".into(), 3), ("c".into(), 4)]);
    settle(&mut world, &mut nodes).unwrap();
    assert_eq!(nodes[0].held_of("a"), 1, "counted, though retired");

    let node = &mut nodes[0];
    node.call(&mut world, 16, false, Fate::Sent);
    node.read(&mut world).unwrap();
    assert_eq!(node.held_of("a"), 1, "and not picked");
    node.own.fill(0);
    settle(&mut world, &mut nodes).unwrap();
    world.register(TableOp::Add, &[("d".to_owned(), PLAIN)]);
    world.read_table();
    world.register(TableOp::Add, &[("e".to_owned(), PLAIN)]);
    let slots: Vec<_> = names(&mut world).into_iter().map(|(_, slot)| slot).collect();
    assert_eq!(names(&mut world).len(), 4, "a is forgotten");
    assert!(slots.contains(&2), "and its slot serves again: {slots:?}");
    world.check().unwrap();
}

#[test]
fn add_leaves_the_terms_of_others_alone_and_set_changes_them() {
    let server = Server::start();
    let mut world = World::new(&server.socket, 1);
    let mut node = Member::new(&mut world);
    let s1 = ("s1".to_owned(), Terms { weight: 5.0, cap: 9 });
    let mut terms = |world: &mut World| {
        for _ in 0..2 {
            node.call(world, 0, true, Fate::Sent);
            node.read(world).unwrap();
        }
        let servers = node.node.servers();
        let entry = servers.entry(servers.index(b"s1").unwrap()).unwrap();
        (entry.weight, entry.cap)
    };
    world.register(TableOp::Add, std::slice::from_ref(&s1));
    assert_eq!(terms(&mut world), (1.0, 0));
    world.register(TableOp::Set, &[s1]);
    assert_eq!(terms(&mut world), (5.0, 9));
}

#[test]
fn a_slot_that_lost_its_owner_with_the_table_holds_nothing_for_the_next() {
    let server = Server::start();
    let (mut world, mut node) = a_and_b(&server);
    node.pick_locally("a");
    node.pick_locally("b");
    let mut nodes = [node];
    settle(&mut world, &mut nodes).unwrap();

    let servers = world.keys.servers.clone();
    world.conn.ask(&[b"DEL", &servers]);
    nodes[0].own.fill(0);
    world.conf.remove("b");
    world.register_all(TableOp::Add);
    settle(&mut world, &mut nodes).unwrap();
    world.conf.insert("c".to_owned(), PLAIN);
    world.register_all(TableOp::Add);
    let counts = world.counts();
    assert_eq!(counts["c"], (3, 0, Some(0.0)), "the slot that b had, empty");
}

/// A server that was renamed or removed in all files: nobody says so, and its name must not stay for ever.
#[test]
fn what_nobody_claims_is_forgotten_once_it_is_idle() {
    let server = Server::start();
    let (mut world, mut node) = a_and_b(&server);
    node.pick_locally("b");
    let mut nodes = [node];
    settle(&mut world, &mut nodes).unwrap();
    let for_long = Duration::from_secs(180);
    world.conf = [("a".to_owned(), PLAIN)].into();
    assert!(world.tidy(for_long).is_empty(), "they have been claimed just now");

    let claims = world.keys.claims.clone();
    let claimed = |world: &mut World| texts(world.conn.ask(&[b"ZRANGE", &claims, b"0", b"-1"]));
    world.neglect("a");
    world.neglect("b");
    // The node says again what it has; that does not change the table.
    let before = world.read_table();
    assert_eq!(world.register_all(TableOp::Add), before);
    assert!(world.tidy(for_long).is_empty(), "b is busy");
    settle(&mut world, &mut nodes).unwrap();
    assert_eq!(nodes[0].held_of("b"), 1);
    nodes[0].own.fill(0);
    settle(&mut world, &mut nodes).unwrap();
    assert_eq!(world.tidy(for_long), ["b"]);
    assert_eq!(claimed(&mut world), ["a"]);
    settle(&mut world, &mut nodes).unwrap();

    // Whoever still has it puts it in again, in any slot, and at 0.
    world.conf.insert("c".to_owned(), PLAIN);
    world.conf.insert("b".to_owned(), PLAIN);
    world.register_all(TableOp::Add);
    assert_eq!(world.counts()["b"].1, 0);
    settle(&mut world, &mut nodes).unwrap();

    // Nothing is known of who has what: everybody gets the time to say.
    world.conn.ask(&[b"DEL", &claims]);
    assert!(world.tidy(for_long).is_empty());
    assert_eq!(claimed(&mut world), ["a", "b", "c"]);
    world.check().unwrap();
}
