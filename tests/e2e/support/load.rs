//! A steady crowd of clients.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::client::Client;

/// What the clients saw.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Answers with status 200.
    pub ok: usize,
    /// All other answers, and connections that broke.
    pub failed: usize,
    /// Bodies of the good answers (names of origins).
    pub by_body: BTreeMap<String, usize>,
    /// What went wrong.
    pub failures: BTreeMap<String, usize>,
    /// When each request began, and how long it took.
    pub took: Vec<(Instant, Duration)>,
}

/// Clients that send one request after the other, each over its own keepalive connection, until stopped.
pub struct Load {
    clients: JoinSet<()>,
    tally: Arc<Mutex<Tally>>,
    stop: watch::Sender<bool>,
}

impl Load {
    /// Starts them.
    pub fn start(address: SocketAddr, connections: usize, path: &'static str) -> Self {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        for _ in 0..connections {
            clients.spawn(one_client(address, path, tally.clone(), stopped.clone()));
        }
        Load { clients, tally, stop }
    }

    /// What they have seen until now.
    pub fn tally(&self) -> Tally {
        self.tally.lock().unwrap().clone()
    }

    /// Lets every client finish its request, and says what they saw.
    pub async fn stop(self) -> Tally {
        self.stop.send(true).unwrap();
        super::soon("the clients end", self.clients.join_all()).await;
        self.tally.lock().unwrap().clone()
    }
}

async fn one_client(address: SocketAddr, path: &str, tally: Arc<Mutex<Tally>>, stopped: watch::Receiver<bool>) {
    let mut connection = None;
    while !*stopped.borrow() {
        let began = Instant::now();
        let result = one_request(&mut connection, address, path).await;
        let mut tally = tally.lock().unwrap();
        tally.took.push((began, began.elapsed()));
        match result {
            Ok(body) => {
                tally.ok += 1;
                *tally.by_body.entry(body).or_default() += 1;
            }
            Err(why) => {
                tally.failed += 1;
                *tally.failures.entry(why).or_default() += 1;
            }
        }
    }
}

async fn one_request(connection: &mut Option<Client>, address: SocketAddr, path: &str) -> Result<String, String> {
    let mut client = match connection.take() {
        Some(client) => client,
        None => Client::try_connect(address).await.map_err(|e| format!("connect: {e}"))?,
    };
    client.send_get(path, "").await;
    let response = client.read(false).await.map_err(|e| format!("read: {e}"))?;
    let close = response.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
    if !close {
        *connection = Some(client);
    }
    match response.refusal() {
        (200, _) => Ok(response.text()),
        (status, name) => Err(format!("{status} {name}")),
    }
}
