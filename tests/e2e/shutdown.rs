//! How the process ends, and what it does on other signals.

use nix::sys::signal::Signal::{self, SIGHUP, SIGINT, SIGTERM};

use crate::support::{Client, Fairlead, Heartbeat, Origin, config, ms, one_pool, request, servers, until};

/// One origin, and these `shutdown` settings.
async fn start(shutdown: &str) -> (Origin, Fairlead) {
    let origin = Origin::start("a");
    let yaml = one_pool(&servers(&[&origin]), "") + &format!("shutdown: {{ {shutdown} }}\n");
    let fairlead = Fairlead::start(&yaml).await;
    (origin, fairlead)
}

/// A client whose request the origin is answering.
async fn running(origin: &Origin, fairlead: &Fairlead, path: &str) -> Client {
    let mut client = fairlead.client().await;
    client.send_get(path, "").await;
    until("the request arrives", async || origin.in_flight() == 1).await;
    client
}

async fn refuses(fairlead: &Fairlead) {
    let address = fairlead.address();
    until("the listener is closed", async || Client::try_connect(address).await.is_err()).await;
}

async fn ends_when_idle(signal: Signal) {
    let (_origin, mut fairlead) = start("drain: 30s").await;
    assert_eq!(fairlead.get("/").await.status, 200);
    fairlead.signal(signal);
    let (code, took) = fairlead.exit(ms(10_000)).await;
    assert_eq!(code, Some(0));
    assert!(took < ms(5_000), "idle, but it took {took:?}");
}

#[tokio::test]
async fn sigterm_ends_it() {
    ends_when_idle(SIGTERM).await;
}

#[tokio::test]
async fn sigint_ends_it() {
    ends_when_idle(SIGINT).await;
}

#[tokio::test]
async fn during_delay_it_is_unready_and_serves() {
    let (_origin, mut fairlead) = start("delay: 3s, drain: 30s").await;
    let start = std::time::Instant::now();
    fairlead.signal(SIGTERM);
    until("/readyz is 503", async || fairlead.admin_get("/readyz").await.status == 503).await;
    assert!(start.elapsed() < ms(1_500), "unready after {:?}", start.elapsed());
    assert_eq!(fairlead.admin_get("/healthz").await.status, 200);
    assert_eq!(fairlead.get("/").await.status, 200, "a new connection during the delay");
    refuses(&fairlead).await;
    assert!(start.elapsed() > ms(2_500), "refused after {:?}", start.elapsed());
    assert_eq!(fairlead.exit(ms(10_000)).await.0, Some(0));
}

#[tokio::test]
async fn a_running_request_finishes_and_then_it_ends() {
    let (origin, mut fairlead) = start("drain: 30s").await;
    let mut client = running(&origin, &fairlead, "/delay/2500").await;
    fairlead.signal(SIGTERM);
    refuses(&fairlead).await;
    assert!(fairlead.runs());
    assert_eq!(origin.in_flight(), 1, "the test was too slow");
    let response = client.response().await.unwrap();
    assert_eq!(response.text(), "a");
    assert_eq!(response.header("connection").map(str::to_lowercase).as_deref(), Some("close"));
    let (code, took) = fairlead.exit(ms(10_000)).await;
    assert_eq!(code, Some(0));
    assert!(took < ms(5_000), "the last request was over, but it took {took:?}");
}

#[tokio::test]
async fn a_running_upload_finishes() {
    let (origin, mut fairlead) = start("drain: 30s").await;
    let mut client = fairlead.client().await;
    client.send(request("POST", "/echo", "Transfer-Encoding: chunked\r\n", "")).await;
    client.send_chunk("before ").await;
    until("the request arrives", async || origin.in_flight() == 1).await;
    fairlead.signal(SIGTERM);
    refuses(&fairlead).await;
    client.send_chunk("after").await;
    client.send_chunk("").await;
    assert_eq!(client.response().await.unwrap().text(), "before after");
    assert_eq!(fairlead.exit(ms(10_000)).await.0, Some(0));
}

#[tokio::test]
async fn an_idle_client_is_not_reset_in_the_middle_of_a_request() {
    let (origin, fairlead) = start("delay: 0s, drain: 30s").await;
    let mut idle = fairlead.client().await;
    idle.get("/").await;
    let mut slow = running(&origin, &fairlead, "/delay/2000").await;
    fairlead.signal(SIGTERM);
    refuses(&fairlead).await;
    // It could not know yet: one more request is served, and the answer says that it is the last.
    let response = idle.get("/").await;
    assert_eq!(response.status, 200);
    assert_eq!(response.header("connection").map(str::to_lowercase).as_deref(), Some("close"));
    assert_eq!(slow.response().await.unwrap().status, 200);
}

#[tokio::test]
async fn when_drain_is_over_it_ends() {
    let (origin, mut fairlead) = start("drain: 1s").await;
    let mut client = running(&origin, &fairlead, "/hang").await;
    fairlead.signal(SIGTERM);
    let (_, took) = fairlead.exit(ms(10_000)).await;
    assert!(took > ms(700) && took < ms(5_000), "{took:?}");
    client.closed().await;
    until("the origin's request is cancelled", async || origin.in_flight() == 0).await;
}

#[tokio::test]
async fn who_waits_for_a_server_is_answered_before_it_ends() {
    let origin = Origin::start("a");
    let server = format!("{{ address: \"{}\", max_in_flight: 1 }}", origin.address);
    let yaml = one_pool(&server, "queue: { max: 10, timeout: 1m }") + "shutdown: { drain: 1500ms }\n";
    let mut fairlead = Fairlead::start(&yaml).await;
    let _runs = running(&origin, &fairlead, "/hang").await;
    let mut waits = fairlead.client().await;
    waits.send(request("GET", "/waits", "", "")).await;
    until("it waits", async || fairlead.pool("app").await["queued"] == 1).await;
    fairlead.signal(SIGTERM);
    let response = waits.response().await.unwrap();
    assert_eq!(response.refusal(), (503, "shutting-down"));
    assert_eq!(response.header("connection").map(str::to_lowercase).as_deref(), Some("close"));
    fairlead.exit(ms(10_000)).await;
}

#[tokio::test]
async fn a_websocket_does_not_outlive_drain() {
    let (origin, mut fairlead) = start("drain: 1s").await;
    let mut client = fairlead.client().await;
    client.send_get("/ws", "Connection: Upgrade\r\nUpgrade: websocket\r\n").await;
    assert_eq!(client.head().await.word(1), "101");
    fairlead.signal(SIGTERM);
    refuses(&fairlead).await;
    client.send("still open").await;
    assert_eq!(client.bytes(10).await, b"still open");
    let (_, took) = fairlead.exit(ms(10_000)).await;
    assert!(took < ms(5_000), "{took:?}");
    until("the origin's side ended", async || origin.in_flight() == 0).await;
}

async fn second_signal(first: Signal, second: Signal, shutdown: &str) {
    let (origin, mut fairlead) = start(shutdown).await;
    let _client = running(&origin, &fairlead, "/hang").await;
    fairlead.signal(first);
    until("/readyz is 503", async || fairlead.admin_get("/readyz").await.status == 503).await;
    assert!(fairlead.runs());
    fairlead.signal(second);
    let (_, took) = fairlead.exit(ms(10_000)).await;
    assert!(took < ms(1_500), "{took:?} after the second signal");
}

#[tokio::test]
async fn a_second_sigterm_ends_it_at_once_while_draining() {
    second_signal(SIGTERM, SIGTERM, "drain: 60s").await;
}

#[tokio::test]
async fn a_second_sigint_ends_it_at_once_during_delay() {
    second_signal(SIGINT, SIGINT, "delay: 60s, drain: 60s").await;
}

#[tokio::test]
async fn a_sigint_after_a_sigterm_ends_it_at_once() {
    second_signal(SIGTERM, SIGINT, "delay: 60s, drain: 60s").await;
}

#[tokio::test]
async fn sighup_does_not_kill() {
    let (_origin, mut fairlead) = start("drain: 30s").await;
    for _ in 0..3 {
        fairlead.signal(SIGHUP);
        tokio::time::sleep(ms(100)).await;
    }
    assert!(fairlead.runs());
    assert_eq!(fairlead.get("/").await.status, 200);
    assert_eq!(fairlead.admin_get("/readyz").await.status, 200);
    fairlead.signal(SIGTERM);
    assert_eq!(fairlead.exit(ms(10_000)).await.0, Some(0));
}

#[tokio::test]
async fn a_signal_before_it_is_ready_ends_it() {
    let mut fairlead = Fairlead::spawn(&config("pools: { app: { servers: [192.0.2.1:80] } }\n"));
    until("it listens", async || !fairlead.events("listening").is_empty()).await;
    fairlead.signal(SIGTERM);
    let (code, took) = fairlead.exit(ms(10_000)).await;
    assert_eq!(code, Some(0));
    assert!(took < ms(5_000), "{took:?}");
}

#[tokio::test]
async fn a_signal_during_the_first_checks_ends_it_at_once() {
    let origin = Origin::start("a");
    origin.heartbeat(Heartbeat::Hang);
    let health = "health: { path: /heartbeat, interval: 20s, timeout: 10s }";
    let mut fairlead =
        Fairlead::spawn(&(one_pool(&servers(&[&origin]), health) + "shutdown: { delay: 20s, drain: 30s }\n"));
    until("it checks", async || !origin.checks().is_empty() && fairlead.catches(SIGTERM)).await;
    fairlead.signal(SIGTERM);
    let (code, took) = fairlead.exit(ms(10_000)).await;
    assert_eq!(code, Some(0));
    assert!(took < ms(1_500), "{took:?}");
    assert!(fairlead.events("listening").is_empty(), "{}", fairlead.log());
}

#[tokio::test]
async fn sighup_early_in_the_start_does_not_kill_and_is_not_forgotten() {
    let origin = Origin::start("a");
    let yaml = one_pool(&servers(&[&origin]), "") + "access_log: { path: \"{dir}/access.log\" }\n";
    let mut fairlead = Fairlead::spawn(&yaml);
    let log = fairlead.dir.path().join("access.log");
    let start = std::time::Instant::now();
    while !log.exists() {
        assert!(start.elapsed() < ms(10_000) && fairlead.runs(), "{}", fairlead.log());
        std::hint::spin_loop();
    }
    std::fs::rename(&log, log.with_extension("old")).unwrap();
    fairlead.signal(SIGHUP);
    fairlead.wait_ready().await;
    until("the log is opened again", async || log.exists()).await;
    assert_eq!(fairlead.get("/").await.status, 200);
}
