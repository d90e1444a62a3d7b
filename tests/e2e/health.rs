//! Who may be chosen.

use std::time::Duration;

use tokio::net::TcpListener;

use crate::support::{Fairlead, Heartbeat, Load, Origin, Reserved, ms, one_pool, servers, until, within};

/// Checks `/heartbeat` five times a second; one result decides, at once in full. `more` is added to its keys.
fn quick(more: &str) -> String {
    format!("health: {{ path: /heartbeat, interval: 200ms, timeout: 150ms, rise: 1, fall: 1, {more} }}, slow_start: 0s")
}

#[tokio::test]
async fn a_server_whose_status_is_wrong_gets_no_request_until_it_is_right() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let fairlead = Fairlead::start(&one_pool(&servers(&[&a, &b]), &quick(""))).await;
    a.heartbeat(Heartbeat::Answer(500, "broken"));
    fairlead.wait_state(&a.server(), "down").await;
    let server = fairlead.server(&a.server()).await;
    assert_eq!(server["health"], "down");
    assert!(server["reason"].as_str().is_some_and(|r| r.contains("500")), "{server}");
    assert_eq!(fairlead.metric("fairlead_server_up", &[("server", &a.server())]).await, 0.0);
    assert_eq!(fairlead.metric("fairlead_server_up", &[("server", &b.server())]).await, 1.0);

    let before = a.requests();
    let mut client = fairlead.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.text(), "b");
    }
    assert_eq!(a.requests(), before);

    a.heartbeat(Heartbeat::Answer(200, "ok"));
    fairlead.wait_state(&a.server(), "up").await;
    until("it serves again", async || client.get("/").await.text() == "a").await;
}

#[tokio::test]
async fn the_expected_status_can_be_set() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    a.heartbeat(Heartbeat::Answer(302, ""));
    b.heartbeat(Heartbeat::Answer(200, ""));
    let list = servers(&[&a, &b]);
    let fairlead = Fairlead::start(&one_pool(&list, &quick("expect: { status: [204, 300-399] }"))).await;
    fairlead.wait_state(&a.server(), "up").await;
    fairlead.wait_state(&b.server(), "down").await;
}

#[tokio::test]
async fn the_expected_body_can_be_set() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    a.heartbeat(Heartbeat::Answer(200, "state: ok, version 7"));
    b.heartbeat(Heartbeat::Answer(200, "maintenance"));
    let fairlead = Fairlead::start(&one_pool(&servers(&[&a, &b]), &quick("expect: { body: \"state: ok\" }"))).await;
    fairlead.wait_state(&a.server(), "up").await;
    fairlead.wait_state(&b.server(), "down").await;
    b.heartbeat(Heartbeat::Answer(200, "state: ok"));
    fairlead.wait_state(&b.server(), "up").await;
}

#[tokio::test]
async fn a_check_names_the_server_as_its_host() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let _fairlead = Fairlead::start(&one_pool(&servers(&[&a, &b]), &quick(""))).await;
    for origin in [&a, &b] {
        assert_eq!(origin.checks()[0].header("host"), Some(origin.server().as_str()));
        assert_eq!(origin.checks()[0].start, "GET /heartbeat HTTP/1.1");
    }
}

#[tokio::test]
async fn the_host_of_checks_can_be_set() {
    let a = Origin::start("a");
    let _fairlead = Fairlead::start(&one_pool(&servers(&[&a]), &quick("host: app.internal"))).await;
    assert_eq!(a.checks()[0].header("host"), Some("app.internal"));
}

#[tokio::test]
async fn rise_and_fall_count_results_in_a_row() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let health = "health: { path: /heartbeat, interval: 200ms, timeout: 150ms, rise: 3, fall: 3 }, slow_start: 0s";
    let fairlead = Fairlead::start(&one_pool(&servers(&[&a, &b]), health)).await;
    fairlead.wait_state(&a.server(), "up").await;

    let before = a.checks().len();
    a.heartbeat(Heartbeat::Answer(503, ""));
    fairlead.wait_state(&a.server(), "down").await;
    let failed = a.checks().len() - before;
    assert!((3..=5).contains(&failed), "down after {failed} checks");

    let before = a.checks().len();
    a.heartbeat(Heartbeat::Answer(200, ""));
    fairlead.wait_state(&a.server(), "up").await;
    let passed = a.checks().len() - before;
    assert!((3..=5).contains(&passed), "up after {passed} checks");
}

#[tokio::test]
async fn without_settings_a_check_connects() {
    let (a, mut b) = (Origin::start("a"), Origin::stopped("b"));
    a.heartbeat(Heartbeat::Answer(500, ""));
    let list = servers(&[&a, &b]);
    let fairlead = Fairlead::start(&one_pool(&list, "")).await;
    assert_eq!(fairlead.server(&a.server()).await["state"], "up");
    assert_eq!(fairlead.server(&b.server()).await["state"], "down");
    assert!(a.checks().is_empty());
    drop(fairlead);

    let health = "health: { type: tcp, interval: 200ms, timeout: 150ms, rise: 1, fall: 1 }, slow_start: 0s";
    let fairlead = Fairlead::start(&one_pool(&list, health)).await;
    fairlead.wait_state(&b.server(), "down").await;
    b.listen();
    fairlead.wait_state(&b.server(), "up").await;
}

#[tokio::test]
async fn a_dripping_body_does_not_hold_up_a_pass() {
    let (a, b, c) = (Origin::start("a"), Origin::start("b"), Origin::start("c"));
    let fairlead = Fairlead::start(&one_pool(&servers(&[&a, &b, &c]), &quick("expect: { body: ok }"))).await;
    a.heartbeat(Heartbeat::Drip);
    b.heartbeat(Heartbeat::Hang);
    fairlead.wait_state(&a.server(), "down").await;
    fairlead.wait_state(&b.server(), "down").await;
    let before = c.checks().len();
    let took = within(ms(10_000), "ten more checks", async || c.checks().len() >= before + 10).await;
    assert!(took < ms(4_000), "ten passes of 200 ms took {took:?}");
    a.heartbeat(Heartbeat::Answer(200, "ok"));
    fairlead.wait_state(&a.server(), "up").await;
}

#[tokio::test]
async fn a_pass_over_100_servers_that_hang_fits_its_interval() {
    // One socket takes the connections to all addresses and never answers.
    let dead = Reserved::on("0.0.0.0:0");
    let _backlog: TcpListener = dead.listen();
    let good = Origin::start("good");
    let mut list: Vec<String> = (1..=100).map(|n| format!("127.1.0.{n}:{}", dead.address.port())).collect();
    list.push(good.server());
    let health = "health: { path: /heartbeat, interval: 1s, timeout: 500ms, rise: 1, fall: 1 }";
    let fairlead = Fairlead::start(&one_pool(&list.join(", "), health)).await;
    fairlead.wait_state(&good.server(), "up").await;
    fairlead.wait_state(&format!("127.1.0.100:{}", dead.address.port()), "down").await;
    let before = good.checks().len();
    let took = within(ms(20_000), "five more checks", async || good.checks().len() >= before + 5).await;
    assert!(took < ms(7_000), "five passes of 1 s took {took:?}");
    assert_eq!(fairlead.get("/").await.text(), "good");
}

#[tokio::test]
async fn nobody_healthy_from_the_start() {
    let origin = Origin::start("a");
    origin.heartbeat(Heartbeat::Answer(404, "not found"));
    let fairlead = Fairlead::start(&one_pool(&servers(&[&origin]), &quick(""))).await;
    let response = fairlead.get("/").await;
    assert_eq!(response.refusal(), (503, "no-server"));
    assert!(response.header("x-request-id").is_some());
    assert_eq!(origin.requests(), 0);

    let errors = || {
        let lines = fairlead.log_lines();
        lines
            .into_iter()
            .filter(|l| l["level"].as_str().is_some_and(|l| l.eq_ignore_ascii_case("error")))
            .collect::<Vec<_>>()
    };
    until("an ERROR", async || !errors().is_empty()).await;
    let passes = origin.checks().len() + 3;
    until("three more passes", async || origin.checks().len() >= passes).await;
    let errors = errors();
    assert_eq!(errors.len(), 1, "{errors:?}");
    let text = errors[0].to_string();
    assert!(text.contains("/heartbeat") && text.contains("404") && text.contains("app"), "{text}");

    origin.heartbeat(Heartbeat::Answer(200, "ok"));
    until("it serves", async || fairlead.get("/").await.status == 200).await;
}

#[tokio::test]
async fn ready_does_not_wait_for_a_healthy_server() {
    let origin = Origin::stopped("a");
    let fairlead = Fairlead::start(&one_pool(&servers(&[&origin]), "health: { path: /heartbeat }")).await;
    assert_eq!(fairlead.get("/").await.refusal(), (503, "no-server"));
}

#[tokio::test]
async fn a_server_that_dies_is_gone_in_4_seconds_and_back_in_3() {
    let (mut a, b) = (Origin::start("a"), Origin::start("b"));
    let list = servers(&[&a, &b]);
    let fairlead = Fairlead::start(&one_pool(&list, "health: { path: /heartbeat, interval: 1s }")).await;
    let load = Load::start(fairlead.address(), 2, "/delay/5");
    until("both serve", async || a.requests() > 0 && b.requests() > 0).await;

    a.heartbeat(Heartbeat::Answer(500, ""));
    tokio::time::sleep(Duration::from_secs(4)).await;
    let before = a.requests();
    a.kill().await;
    tokio::time::sleep(ms(200)).await;
    assert_eq!(a.requests(), before, "requests 4 s after it became unhealthy");

    a.heartbeat(Heartbeat::Answer(200, "ok"));
    a.listen();
    let took = within(ms(10_000), "it serves again", async || a.requests() > before).await;
    assert!(took < ms(3_100), "back after {took:?}");
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
}
