//! The loop of a pool, when something in it goes wrong that never should.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use fairlead::load::fleet::{Command, Exchange, Mode, Reply, Settings, Share};
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

#[tokio::test]
async fn an_exchange_that_failed_begins_anew() {
    let redis = Redis::start(&[]);
    let config = at(&redis.url());
    let server = Arc::new(Server::default());
    let (share, queue) = Share::new(vec![server.clone()]);
    let (leave, commands) = mpsc::unbounded_channel();
    let (first_view, joined) = oneshot::channel();
    let settings = Settings {
        pool: "mined".to_owned(),
        namespace: "default".to_owned(),
        incarnation: "me".to_owned(),
        mode: fairlead::config::Mode::Batched,
        by_load: true,
        timeout: Duration::from_millis(5),
        max_calls: 1000,
        active_pools: Arc::new(AtomicU32::new(0)),
        servers: vec![("a".to_owned(), Terms { weight: 1.0, cap: 0 })],
    };
    let active = settings.active_pools.clone();
    let metrics = FleetMetrics::new(&Metrics::new().unwrap()).unwrap();
    let client = connected(&config).await;
    let exchange = Exchange::new(settings, client, share.clone(), queue, commands, first_view, metrics);
    let exchange = tokio::spawn(exchange.run());
    joined.await.unwrap();
    let in_redis = || redis.cli(&["ZSCORE", "fairlead:{default/mined}:load", "a"]);
    let mut held = vec![Lease::take(server.clone())];
    until("it is told", async || in_redis() == "1").await;

    server.mined.store(true, SeqCst);
    until("it has failed", async || !logged("exchange_failed pool=mined").is_empty()).await;
    assert_eq!((share.mode(), active.load(SeqCst)), (Mode::Local, 0));
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

    let (done, left) = oneshot::channel();
    leave.send(Command::Leave(done)).unwrap();
    left.await.unwrap();
    exchange.await.unwrap();
    assert_eq!(redis.cli(&["EXISTS", "fairlead:{default/mined}:row:me"]), "0");
}
