//! The loop of a pool: what it does seldom, and when something in it goes wrong that never should.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use fairlead::load::fleet::{Command, Exchange, Mode, Reply, Settings, Share, Upkeep};
use fairlead::load::redis::calls::Terms;
use fairlead::load::{Lease, Ledger};
use fairlead::observe::fleet::FleetMetrics;
use fairlead::observe::metrics::Metrics;
use tokio::sync::{mpsc, oneshot};

use crate::support::{Redis, at, connected, logged, until};

/// Whoever looks at it panics, once.
#[derive(Debug, Default)]
struct Server {
    ledger: Ledger,
    mined: AtomicBool,
}

impl AsRef<Ledger> for Server {
    fn as_ref(&self) -> &Ledger {
        assert!(!self.mined.swap(false, SeqCst), "somebody stepped on it");
        &self.ledger
    }
}

/// The exchange of one node, and what is around it.
struct Node {
    servers: Vec<Arc<Server>>,
    share: Arc<Share<Server>>,
    active: Arc<AtomicU32>,
    leave: mpsc::UnboundedSender<Command>,
    task: tokio::task::JoinHandle<()>,
}

impl Node {
    /// One that has these servers, and a view.
    async fn start(redis: &Redis, pool: &str, incarnation: &str, names: &[&str]) -> Self {
        let servers: Vec<_> = names.iter().map(|_| Arc::new(Server::default())).collect();
        let (share, queue) = Share::new(servers.clone());
        let (leave, commands) = mpsc::unbounded_channel();
        let (first_view, joined) = oneshot::channel();
        let active = Arc::new(AtomicU32::new(0));
        let settings = Settings {
            pool: pool.to_owned(),
            namespace: "default".to_owned(),
            incarnation: incarnation.to_owned(),
            mode: fairlead::config::Mode::Batched,
            by_load: true,
            timeout: Duration::from_millis(5),
            max_calls: 1000,
            active_pools: active.clone(),
            servers: names.iter().map(|name| ((*name).to_owned(), Terms { weight: 1.0, cap: 0 })).collect(),
            upkeep: Upkeep {
                audit_every: Duration::from_millis(200),
                claim_every: Duration::from_millis(300),
                unclaimed: Duration::from_millis(1500),
            },
        };
        let metrics = FleetMetrics::new(&Metrics::new().unwrap()).unwrap();
        let client = connected(&at(&redis.url())).await;
        let exchange = Exchange::new(settings, client, share.clone(), queue, commands, first_view, metrics);
        let task = tokio::spawn(exchange.run());
        joined.await.unwrap();
        Node { servers, share, active, leave, task }
    }

    async fn leave(self) {
        let (done, left) = oneshot::channel();
        self.leave.send(Command::Leave(done)).unwrap();
        left.await.unwrap();
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn an_exchange_that_failed_begins_anew() {
    let redis = Redis::start(&[]);
    let node = Node::start(&redis, "mined", "me", &["a"]).await;
    let (server, share) = (&node.servers[0], &node.share);
    let in_redis = || redis.cli(&["ZSCORE", "fairlead:{default/mined}:load", "a"]);
    let mut held = vec![Lease::take(server.clone())];
    until("it is told", async || in_redis() == "1").await;

    server.mined.store(true, SeqCst);
    until("it has failed", async || !logged("exchange_failed pool=mined").is_empty()).await;
    assert_eq!((share.mode(), node.active.load(SeqCst)), (Mode::Local, 0));
    assert!(
        matches!(share.acquire(Default::default()).await, Reply::ChooseYourself),
        "who asks meanwhile chooses locally"
    );
    held.push(Lease::take(server.clone()));

    until("it works again", async || share.mode() == Mode::Batched && in_redis() == "2").await;
    assert_eq!(redis.cli(&["ZRANGE", "fairlead:{default/mined}:lease", "0", "-1"]), "me", "under the same name");
    held.clear();
    until("it is told", async || in_redis() == "0").await;
    assert_eq!(logged("pool=mined").len(), 1, "{:?}", logged("pool=mined"));
    node.leave().await;
    assert_eq!(redis.cli(&["EXISTS", "fairlead:{default/mined}:row:me"]), "0");
}

/// Servers of a node that has gone, with another list, do not stay in the table; those of a node that is there do.
#[tokio::test]
async fn servers_that_nobody_has_any_more_are_forgotten() {
    let redis = Redis::start(&[]);
    let table = || redis.cli(&["ZRANGE", "fairlead:{default/lists}:load", "0", "-1", "WITHSCORES"]).replace('\n', " ");
    let generation = || redis.cli(&["HGET", "fairlead:{default/lists}:servers", "#gen"]);
    let first = Node::start(&redis, "lists", "first", &["a", "b"]).await;
    let second = Node::start(&redis, "lists", "second", &["a", "c", "d"]).await;
    let held = Lease::take(second.servers[2].clone());
    until("all are there", async || table() == "a 0 b 0 c 0 d 1").await;
    let before = generation();
    let start = Instant::now();
    until("they are claimed and claimed again", async || start.elapsed() > Duration::from_millis(2500)).await;
    assert_eq!((table().as_str(), generation()), ("a 0 b 0 c 0 d 1", before));

    drop(held);
    second.leave().await;
    until("c and d are forgotten", async || table() == "a 0 b 0").await;
    assert_eq!(redis.cli(&["ZRANGE", "fairlead:{default/lists}:claims", "0", "-1"]), "a\nb");

    // Redis may forget who has what, and even what a node has: it says so again.
    redis.cli(&["HDEL", "fairlead:{default/lists}:servers", "b"]);
    redis.cli(&["DEL", "fairlead:{default/lists}:claims"]);
    let _held = [Lease::take(first.servers[0].clone()), Lease::take(first.servers[1].clone())];
    until("all is as it was", async || table() == "a 1 b 1").await;
    until("and claimed", async || redis.cli(&["ZRANGE", "fairlead:{default/lists}:claims", "0", "-1"]) == "a\nb").await;
    first.leave().await;
    assert!(
        logged("pool=lists").iter().all(|line| line.contains("fleet_totals_put_right")),
        "{:?}",
        logged("pool=lists")
    );
}
