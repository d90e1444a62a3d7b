//! How often a client may ask, of one node and of a fleet that shares its buckets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::support::{Client, Fairlead, Origin, Redis, config, get, ms, request, servers, until, within};

fn yaml(origin: &Origin, limits: &[(&str, &str)], more: &str) -> String {
    let routes: Vec<_> = limits
        .iter()
        .map(|(name, limit)| {
            format!("{{ name: {name}, match: {{ path_prefix: /{name} }}, pool: app, rate_limit: {{ {limit} }} }}")
        })
        .collect();
    config(&format!(
        "routes: [{}, {{ name: free, pool: app }}]\n\
         pools: {{ app: {{ servers: [{}], health: {{ type: tcp, interval: 60s, timeout: 1s }} }} }}\n\
         trusted_proxies: [127.0.0.0/8]\n{more}",
        routes.join(", "),
        servers(&[origin])
    ))
}

async fn status(node: &Fairlead, path: &str, headers: &str) -> u16 {
    node.get_with(path, headers).await.status
}

fn from(client: &str) -> String {
    format!("X-Forwarded-For: {client}\r\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_address_has_a_bucket_of_its_own() {
    let origin = Origin::start("a");
    let node =
        Fairlead::start(&yaml(&origin, &[("api", "rate: 2/h, burst: 2")], "access_log: { format: json }\n")).await;
    for client in ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1"] {
        for _ in 0..2 {
            assert_eq!(status(&node, "/api", &from(client)).await, 200, "{client}");
        }
        let refused = node.get_with("/api", &from(client)).await;
        assert_eq!(refused.refusal(), (429, "rate-limited"), "{client}");
        let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((1790..=1800).contains(&wait), "{wait}");
        assert_eq!(refused.header("ratelimit-policy"), Some("\"api\";q=2;w=3600"));
        assert_eq!(refused.header("ratelimit").unwrap(), format!("\"api\";r=0;t={wait}"));
        assert!(refused.header("x-request-id").is_some());
    }
    // The same client, however it is written.
    assert_eq!(status(&node, "/api", &from("::ffff:192.0.2.1")).await, 429);
    assert_eq!(status(&node, "/api", &from("2001:db8::ffff:1:2")).await, 429);
    // Other routes are free, and say nothing of limits.
    let free = node.get_with("/", &from("192.0.2.1")).await;
    assert_eq!((free.status, free.header("ratelimit"), free.header("ratelimit-policy")), (200, None, None));
    assert_eq!(node.metric("fairlead_refused_total", &[("reason", "rate-limited")]).await, 6.0);
    assert_eq!(node.metric("fairlead_rate_limit_keys", &[("route", "api")]).await, 4.0);
    assert_eq!(node.metric("fairlead_requests_total", &[("route", "api"), ("class", "4xx")]).await, 6.0);
    until("it is in the access log", async || {
        node.output().lines().any(|line| line.contains("\"error\":\"rate-limited\""))
    })
    .await;
    let line = node.output();
    let line = line.lines().find(|line| line.contains("rate-limited")).unwrap();
    assert!(line.contains("\"route\":\"api\"") && line.contains("\"status\":429"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buckets_by_header_and_of_the_whole_route() {
    let origin = Origin::start("a");
    let limits = [("key", "rate: 1/h, key: { header: x-api-key }"), ("all", "rate: 1/h, burst: 3, key: route")];
    let node = Fairlead::start(&yaml(&origin, &limits, "")).await;
    let key = |key: &str, client: &str| format!("X-Api-Key: {key}\r\n{}", from(client));
    assert_eq!(status(&node, "/key", &key("one", "192.0.2.1")).await, 200);
    assert_eq!(status(&node, "/key", &key("one", "192.0.2.2")).await, 429, "the key counts, not the address");
    assert_eq!(status(&node, "/key", &key("two", "192.0.2.1")).await, 200);
    assert_eq!(status(&node, "/key", &from("192.0.2.1")).await, 200, "without the header: by its address");
    assert_eq!(status(&node, "/key", &from("192.0.2.1")).await, 429);
    assert_eq!(status(&node, "/key", &from("192.0.2.2")).await, 200);
    for client in 1..=3 {
        assert_eq!(status(&node, "/all", &from(&format!("192.0.2.{client}"))).await, 200);
    }
    assert_eq!(status(&node, "/all", &from("192.0.2.4")).await, 429);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_client_may_go_on_over_its_connection() {
    let origin = Origin::start("a");
    let node = Fairlead::start(&yaml(&origin, &[("api", "rate: 5/s, burst: 1")], "")).await;
    let mut client = node.client().await;
    assert_eq!(client.get("/api").await.status, 200);
    assert_eq!(client.get("/api").await.status, 429);
    assert_eq!(client.get("/").await.status, 200);
    within(ms(2000), "a token comes back", async || client.get("/api").await.status == 200).await;
    // Only what was asked for got through.
    let got = origin.seen().iter().filter(|line| line.ends_with("/api")).count();
    assert_eq!(got, 2, "{:?}", origin.seen());
    // A body that nobody reads: the connection cannot go on.
    client.send(request("POST", "/api", "Expect: 100-continue\r\nContent-Length: 5\r\n", "")).await;
    assert_eq!(client.response().await.unwrap().status, 429);
    client.closed().await;
}

/// Nodes that share one limit of 100/s, and clients that count what they are given.
struct Crowd {
    nodes: Vec<Fairlead>,
    _origin: Origin,
    admitted: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    odd: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<()>>,
    began: Instant,
}

const RATE: f64 = 100.0;
const BURST: f64 = 100.0;

impl Crowd {
    /// So many requests a second for each node, evenly.
    async fn start(redis: &Redis, demands: &[f64]) -> Self {
        let origin = Origin::start("a");
        let more = format!("redis: {{ url: \"{}\" }}\n", redis.url());
        let yaml = yaml(&origin, &[("api", "rate: 100/s, burst: 100, key: route")], &more);
        let mut nodes: Vec<_> = demands.iter().map(|_| Fairlead::spawn(&yaml)).collect();
        for node in &mut nodes {
            node.wait_ready().await;
        }
        for node in &nodes {
            let all = nodes.len() as u64;
            within(ms(5000), "they know each other", async || node.pool("app").await["nodes"] == all).await;
        }
        let mut crowd = Crowd {
            nodes,
            _origin: origin,
            admitted: Arc::default(),
            refused: Arc::default(),
            odd: Arc::default(),
            stop: Arc::default(),
            clients: Vec::new(),
            began: Instant::now(),
        };
        for (node, demand) in crowd.nodes.iter().zip(demands) {
            let counts = [&crowd.admitted, &crowd.refused, &crowd.odd].map(Arc::clone);
            let client = client(node.address(), *demand, counts, crowd.stop.clone());
            crowd.clients.push(tokio::spawn(client));
        }
        crowd
    }

    /// Until so long after the start.
    async fn until(&self, time: Duration) {
        tokio::time::sleep(time.saturating_sub(self.began.elapsed())).await;
    }

    /// What was admitted, and the rate and one burst since the start.
    async fn end(self) -> (f64, f64) {
        self.stop.store(true, SeqCst);
        for client in self.clients {
            client.await.unwrap();
        }
        let time = self.began.elapsed().as_secs_f64();
        let (admitted, refused) = (self.admitted.load(SeqCst) as f64, self.refused.load(SeqCst));
        let allowed = RATE * time + BURST;
        println!("{admitted} of {allowed:.0} in {time:.2} s, {refused} refused");
        assert_eq!(self.odd.load(SeqCst), 0, "neither 200 nor 429");
        assert!(refused > 100, "{refused}");
        (admitted, allowed)
    }
}

async fn client(address: SocketAddr, rate: f64, [ok, refused, odd]: [Arc<AtomicU64>; 3], stop: Arc<AtomicBool>) {
    let mut connection = Client::connect(address).await;
    let began = Instant::now();
    let mut sent = 0u32;
    while !stop.load(SeqCst) {
        sent += 1;
        tokio::time::sleep_until((began + Duration::from_secs_f64(f64::from(sent) / rate)).into()).await;
        let count = match connection.get("/api").await.status {
            200 => &ok,
            429 => &refused,
            _ => &odd,
        };
        count.fetch_add(1, SeqCst);
    }
}

/// Clients and nodes go by one clock, from before the first request to after the last answer: so the upper bound is exact.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_admit_the_rate_of_one() {
    for demands in [[100.0; 3], [270.0, 15.0, 15.0]] {
        let redis = Redis::start().await;
        let crowd = Crowd::start(&redis, &demands).await;
        crowd.until(ms(8000)).await;
        for node in &crowd.nodes {
            let calls = node.metric("fairlead_redis_calls_total", &[("call", "rate"), ("result", "ok")]).await;
            assert!((10.0..2000.0).contains(&calls), "{calls}");
        }
        let (admitted, allowed) = crowd.end().await;
        assert!(admitted <= allowed, "{demands:?}");
        assert!(admitted >= 0.97 * allowed, "{demands:?}");
        let keys = redis.ask(&["KEYS", "fairlead:{default/rate/api}:*"]).await.text();
        assert_eq!(keys.split(' ').count(), 1, "{keys}");
        within(ms(4000), "Redis forgets", async || redis.ask(&["EXISTS", &keys]).await.text() == "0").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_redis_away_each_admits_its_share_and_its_return_gives_nothing_twice() {
    let mut redis = Redis::start().await;
    let crowd = Crowd::start(&redis, &[150.0; 3]).await;
    crowd.until(ms(4000)).await;
    redis.stop();
    crowd.until(ms(8000)).await;
    let (admitted, allowed) = (crowd.admitted.load(SeqCst) as f64, RATE * crowd.began.elapsed().as_secs_f64() + BURST);
    println!("{admitted} of {allowed:.0} when it returns");
    assert!((0.9..=1.0).contains(&(admitted / allowed)));
    redis.run().await;
    crowd.until(ms(12_000)).await;
    let (admitted, allowed) = crowd.end().await;
    assert!((0.9..=1.0).contains(&(admitted / allowed)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_a_node_alone_asks_nobody() {
    let (origin, redis) = (Origin::start("a"), Redis::start().await);
    let more = format!("redis: {{ url: \"{}\" }}\n", redis.url());
    let yaml = yaml(&origin, &[("api", "rate: 1/h, burst: 2, scope: local")], &more);
    for node in [Fairlead::start(&yaml).await, Fairlead::start(&yaml).await] {
        let got = [(); 3].map(|()| get(node.address(), "/api", ""));
        let mut statuses = Vec::new();
        for response in got {
            statuses.push(response.await.status);
        }
        assert_eq!(statuses, [200, 200, 429]);
        assert_eq!(node.metric("fairlead_redis_calls_total", &[("call", "rate")]).await, 0.0);
    }
}
