//! Each policy, seen from outside.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::{Client, Fairlead, Load, Origin, one_pool, servers, until};

/// Sends `n` requests one after the other over one connection and counts who answered.
async fn ask(client: &mut Client, n: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..n {
        let response = client.get("/").await;
        assert_eq!(response.status, 200);
        *counts.entry(response.text()).or_default() += 1;
    }
    counts
}

/// A server with a weight in the long form.
fn weighted(origin: &Origin, weight: u32) -> String {
    format!("{{ address: \"{}\", weight: {weight} }}", origin.server())
}

/// With this policy, a server that is busy gets no request while another is idle.
async fn avoids_a_busy_server(policy: &str) {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let fairlead = Fairlead::start(&one_pool(&servers(&[&a, &b]), &format!("balance: {policy}"))).await;
    let mut waiting = fairlead.client().await;
    waiting.send_get("/hang", "").await;
    until("a request waits", async || a.in_flight() + b.in_flight() == 1).await;
    let idle = if a.in_flight() == 0 { "a" } else { "b" };
    let counts = ask(&mut fairlead.client().await, 20).await;
    assert_eq!(counts, BTreeMap::from([(idle.to_string(), 20)]));
}

#[tokio::test]
async fn least_load_avoids_a_busy_server() {
    avoids_a_busy_server("least-load").await;
}

#[tokio::test]
async fn least_connections_avoids_a_busy_server() {
    avoids_a_busy_server("least-connections").await;
}

#[tokio::test]
async fn power_of_two_avoids_a_busy_server() {
    avoids_a_busy_server("power-of-two").await;
}

#[tokio::test]
async fn by_default_a_fast_server_gets_more_than_a_slow_one() {
    let (fast, slow) = (Origin::start("fast"), Origin::start("slow"));
    fast.delay(10);
    slow.delay(150);
    let fairlead = Fairlead::start(&one_pool(&servers(&[&fast, &slow]), "")).await;
    assert_eq!(fairlead.pool("app").await["balance"], "least-load");
    let load = Load::start(fairlead.address(), 8, "/");
    until("300 answers", async || load.tally().ok >= 300).await;
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    assert!(tally.by_body["fast"] > 4 * tally.by_body["slow"], "{:?}", tally.by_body);
    assert!(slow.most_in_flight() <= 6, "{} of 8 at once on the slow server", slow.most_in_flight());
}

#[tokio::test]
async fn least_load_fills_servers_by_weight() {
    let (light, heavy) = (Origin::start("light"), Origin::start("heavy"));
    let list = format!("{}, {}", weighted(&light, 1), weighted(&heavy, 3));
    let fairlead = Fairlead::start(&one_pool(&list, "")).await;
    let mut waiting = Vec::new();
    for n in 1..=8 {
        let mut client = fairlead.client().await;
        client.send_get("/hang", "").await;
        waiting.push(client);
        until("it arrived", async || light.in_flight() + heavy.in_flight() == n).await;
    }
    assert_eq!((light.in_flight(), heavy.in_flight()), (2, 6));
}

#[tokio::test]
async fn least_load_breaks_ties_at_random() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let fairlead = Fairlead::start(&one_pool(&servers(&[&a, &b]), "balance: least-load")).await;
    let counts = ask(&mut fairlead.client().await, 100).await;
    assert!(counts["a"] > 20 && counts["b"] > 20, "{counts:?}");
}

#[tokio::test]
async fn round_robin_is_exact_by_weight() {
    let (a, b, c) = (Origin::start("a"), Origin::start("b"), Origin::start("c"));
    let list = format!("{}, {}, {}", weighted(&a, 3), weighted(&b, 1), weighted(&c, 1));
    let fairlead = Fairlead::start(&one_pool(&list, "balance: round-robin")).await;
    let mut client = fairlead.client().await;
    for round in 0..5 {
        let counts = ask(&mut client, 5).await;
        let expected = BTreeMap::from([("a".into(), 3), ("b".into(), 1), ("c".into(), 1)]);
        assert_eq!(counts, expected, "round {round}");
    }
}

#[tokio::test]
async fn round_robin_is_smooth() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let list = format!("{}, {}", weighted(&a, 2), weighted(&b, 2));
    let fairlead = Fairlead::start(&one_pool(&list, "balance: round-robin")).await;
    let mut client = fairlead.client().await;
    let mut last = String::new();
    for _ in 0..10 {
        let now = client.get("/").await.text();
        assert_ne!(now, last, "servers of equal weight take turns");
        last = now;
    }
}

#[tokio::test]
async fn random_follows_weights() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let list = format!("{}, {}", weighted(&a, 1), weighted(&b, 3));
    let fairlead = Fairlead::start(&one_pool(&list, "balance: random")).await;
    let counts = ask(&mut fairlead.client().await, 400).await;
    assert!((240..=360).contains(&counts["b"]), "{counts:?}");
}

#[tokio::test]
async fn power_of_two_uses_all_servers() {
    let origins = ["a", "b", "c"].map(Origin::start);
    let list = servers(&origins.each_ref());
    let fairlead = Fairlead::start(&one_pool(&list, "balance: power-of-two")).await;
    let counts = ask(&mut fairlead.client().await, 300).await;
    assert!(counts.len() == 3 && counts.values().all(|n| (50..=150).contains(n)), "{counts:?}");
}

#[tokio::test]
async fn power_of_two_favours_weight() {
    let (light, heavy, other) = (Origin::start("light"), Origin::start("heavy"), Origin::start("other"));
    let list = format!("{}, {}, {}", weighted(&light, 1), weighted(&heavy, 4), weighted(&other, 1));
    let fairlead = Fairlead::start(&one_pool(&list, "balance: power-of-two")).await;
    let counts = ask(&mut fairlead.client().await, 200).await;
    assert!(counts["heavy"] > 120, "{counts:?}");
}

/// Who answers requests with these header lines; asks three times.
async fn owner(client: &mut Client, headers: &str) -> String {
    let mut names = BTreeSet::new();
    for _ in 0..3 {
        client.send_get("/", headers).await;
        names.insert(client.response().await.unwrap().text());
    }
    assert_eq!(names.len(), 1, "{headers:?} went to {names:?}");
    names.pop_first().unwrap()
}

/// Each of 40 keys sticks to one server, and all servers own some. `{}` in `line` is the key.
async fn hash_sticks(on: &str, line: &str) {
    let mut origins = ["a", "b", "c"].map(Origin::start);
    let list = servers(&origins.each_ref());
    let health = "health: { type: tcp, interval: 200ms, timeout: 200ms, rise: 1, fall: 1 }";
    let fairlead = Fairlead::start(&one_pool(&list, &format!("balance: hash, hash: {{ on: {on} }}, {health}"))).await;
    let mut client = fairlead.client().await;
    let lines: Vec<String> = (0..40).map(|n| line.replace("{}", &format!("key{n}"))).collect();
    let mut before = Vec::new();
    for line in &lines {
        before.push(owner(&mut client, line).await);
    }
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 3, "{before:?}");

    origins[0].kill().await;
    fairlead.wait_state(&origins[0].server(), "down").await;
    for (line, before) in lines.iter().zip(before) {
        let now = owner(&mut client, line).await;
        assert!(now == before || before == "a", "{line:?} moved from {before}, which serves, to {now}");
    }
}

#[tokio::test]
async fn hash_of_a_header_sticks() {
    hash_sticks("{ header: x-user }", "X-User: {}\r\n").await;
}

#[tokio::test]
async fn hash_of_a_cookie_sticks() {
    hash_sticks("{ cookie: user }", "Cookie: theme=dark; user={}\r\n").await;
}

#[tokio::test]
async fn hash_of_the_client_sticks() {
    let origins = ["a", "b", "c", "d"].map(Origin::start);
    let list = servers(&origins.each_ref());
    let yaml = one_pool(&list, "balance: hash") + "trusted_proxies: [127.0.0.0/8]\n";
    let fairlead = Fairlead::start(&yaml).await;
    let mut client = fairlead.client().await;
    owner(&mut client, "").await;
    let mut owners = BTreeSet::new();
    for n in 1..30 {
        owners.insert(owner(&mut client, &format!("X-Forwarded-For: 203.0.113.{n}\r\n")).await);
    }
    assert!(owners.len() >= 3, "{owners:?}");
}

#[tokio::test]
async fn a_lower_tier_serves_only_while_the_higher_has_nobody() {
    let (mut first, mut second, spare) = (Origin::start("first"), Origin::start("second"), Origin::start("spare"));
    let list = format!("{}, {{ address: \"{}\", priority: 1 }}", servers(&[&first, &second]), spare.server());
    let health = "health: { type: tcp, interval: 200ms, timeout: 200ms, rise: 1, fall: 1 }, slow_start: 0s";
    let fairlead = Fairlead::start(&one_pool(&list, health)).await;
    let mut client = fairlead.client().await;

    let counts = ask(&mut client, 20).await;
    assert!(!counts.contains_key("spare"), "{counts:?}");

    first.kill().await;
    fairlead.wait_state(&first.server(), "down").await;
    assert_eq!(ask(&mut client, 10).await, BTreeMap::from([("second".into(), 10)]));

    second.kill().await;
    fairlead.wait_state(&second.server(), "down").await;
    assert_eq!(ask(&mut client, 10).await, BTreeMap::from([("spare".into(), 10)]));

    second.listen();
    fairlead.wait_state(&second.server(), "up").await;
    assert_eq!(ask(&mut client, 10).await, BTreeMap::from([("second".into(), 10)]));
}

#[tokio::test]
async fn servers_may_have_names() {
    let origin = Origin::start("a");
    let list = format!("localhost:{}", origin.address.port());
    let fairlead = Fairlead::start(&one_pool(&list, "")).await;
    assert_eq!(fairlead.get("/").await.text(), "a");
    let server = fairlead.server(&list).await;
    assert_eq!(server["state"], "up", "{server}");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_does_not_keep_others_from_serving() {
    let origin = Origin::start("a");
    let list = format!("nobody.invalid:80, {}", origin.server());
    let mut fairlead = Fairlead::spawn(&one_pool(&list, ""));
    fairlead.wait_ready().await;
    let mut client = fairlead.client().await;
    assert_eq!(ask(&mut client, 10).await, BTreeMap::from([("a".into(), 10)]));
    assert_ne!(fairlead.server("nobody.invalid:80").await["state"], "up");
}
