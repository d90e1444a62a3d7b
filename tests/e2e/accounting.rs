//! Every count is given back exactly once, whatever happens to a request.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use tokio::task::JoinSet;

use crate::support::{Client, Fairlead, Load, Origin, config, ms, one_pool, request, servers, until};

/// Two origins; short timeouts.
async fn start() -> (Origin, Origin, Fairlead) {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let yaml = format!(
        "routes: [{{ name: all, match: {{}}, pool: app, timeouts: {{ response: 500ms, idle: 500ms }} }}]\n\
         pools: {{ app: {{ servers: [{}], health: {{ type: tcp, interval: 60s, timeout: 1s }}, ejection: none }} }}\n",
        servers(&[&a, &b])
    );
    let fairlead = Fairlead::start(&config(&yaml)).await;
    (a, b, fairlead)
}

#[tokio::test]
async fn counted_while_it_runs_on_its_server_only() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let fairlead = Fairlead::start(&one_pool(&servers(&[&a, &b]), "")).await;
    let mut clients = Vec::new();
    for n in 1..=6 {
        let mut client = fairlead.client().await;
        client.send_get("/hang", "").await;
        clients.push(client);
        until("it arrives", async || a.in_flight() + b.in_flight() == n).await;
        assert_eq!(fairlead.in_flight().await, n as u64);
    }
    for origin in [&a, &b] {
        assert_eq!(fairlead.server(&origin.server()).await["in_flight"]["local"], 3);
        let labels = [("pool", "app"), ("server", &origin.server()), ("scope", "local")];
        assert_eq!(fairlead.metric("fairlead_in_flight", &labels).await, 3.0);
    }
    drop(clients);
    fairlead.idle().await;
}

#[tokio::test]
async fn every_ending_gives_the_count_back() {
    let (_a, _b, fairlead) = start().await;
    let endings = [
        ("/", 200),
        ("/close", 200),
        ("/status/500", 500),
        ("/status/304", 304),
        ("/reset", 502),
        ("/reset-header", 502),
        ("/garbage", 502),
        ("/hang", 504),
        ("/pauses/2/50", 200),
    ];
    for (path, status) in endings {
        for _ in 0..3 {
            assert_eq!(fairlead.get(path).await.status, status, "{path}");
        }
        fairlead.idle().await;
    }
}

#[tokio::test]
async fn a_refused_connection_and_the_retry_give_theirs_back() {
    let (mut a, mut b, fairlead) = start().await;
    a.kill().await;
    for _ in 0..10 {
        assert_eq!(fairlead.get("/").await.text(), "b");
        fairlead.idle().await;
    }
    b.kill().await;
    for _ in 0..10 {
        assert_eq!(fairlead.get("/").await.status, 502);
        fairlead.idle().await;
    }
}

/// One of many misfortunes.
pub async fn misfortune(address: std::net::SocketAddr, n: usize) {
    let Ok(mut client) = Client::try_connect(address).await else {
        return;
    };
    match n % 8 {
        0 => {
            client.send_get("/hang", "").await;
            tokio::time::sleep(ms(30)).await;
            client.reset();
        }
        1 => {
            client.send_get("/events", "").await;
            let _ = client.chunk().await;
        }
        2 => {
            client.send(request("POST", "/echo", "Content-Length: 100000\r\n", "")).await;
            client.send("half a body").await;
            tokio::time::sleep(ms(20)).await;
        }
        3 => client.send_get("/bytes/3000000", "").await,
        4 => {
            client.send_get("/reset-body", "").await;
            let _ = client.response().await;
        }
        5 => {
            client.send_get("/ws", "Connection: Upgrade\r\nUpgrade: websocket\r\n").await;
            client.head().await;
            client.send("hello").await;
            client.bytes(5).await;
        }
        6 => {
            client.send_get("/reset", "").await;
            let _ = client.response().await;
        }
        _ => client.send("GET / HTTP/1.1\r\nHost: te").await,
    }
}

#[tokio::test]
async fn under_mixed_load_counts_stay_true_and_return_to_zero() {
    let (mut a, b, fairlead) = start().await;
    let load = Load::start(fairlead.address(), 8, "/delay/3");
    let done = AtomicBool::new(false);
    let trouble = async {
        for round in 0..15 {
            let address = fairlead.address();
            let clients: JoinSet<()> = (0..16).map(|n| misfortune(address, n)).collect();
            clients.join_all().await;
            match round {
                5 => drop(a.kill().await),
                10 => a.listen(),
                _ => {}
            }
        }
        done.store(true, SeqCst);
    };
    let sampling = async {
        let mut most = 0;
        while !done.load(SeqCst) {
            most = most.max(fairlead.in_flight().await);
            tokio::time::sleep(ms(5)).await;
        }
        most
    };
    let (_, most) = tokio::join!(trouble, sampling);
    assert!((1..=24).contains(&most), "at most 24 clients at once, but {most} in flight");
    let tally = load.stop().await;
    assert!(tally.ok > 200, "{tally:?}");
    fairlead.idle().await;
    until("the origins are idle", async || a.in_flight() + b.in_flight() == 0).await;
    let metric = fairlead.metric("fairlead_in_flight", &[("scope", "local")]).await;
    assert_eq!(metric, 0.0);
}
