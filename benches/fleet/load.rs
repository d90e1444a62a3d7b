//! The open loop: every request is sent when it is due, however many are still out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::http::{Answer, Connection};
use crate::origins::SPENT;
use crate::trace::Job;

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request that was answered with 200. Moments count from the start of the load.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// When it should have been sent.
    pub due: Duration,
    /// When it was.
    pub sent: Duration,
    /// When its answer was here.
    pub done: Duration,
    /// How long a server had it.
    pub spent: Duration,
}

/// What the clients saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// In the order of their answers.
    pub samples: Vec<Sample>,
    /// How many failed, by reason.
    pub failures: BTreeMap<String, usize>,
}

/// Idle connections, by node; the last used is used first.
struct Pools(Vec<(SocketAddr, Mutex<Vec<Connection>>)>);

/// Sends all of `trace` from `start` on, and waits for the answers.
pub async fn run(trace: Arc<Vec<Job>>, nodes: &[SocketAddr], start: Instant) -> Seen {
    let pools = Arc::new(Pools(nodes.iter().map(|node| (*node, Mutex::default())).collect()));
    let (results, mut answered) = mpsc::unbounded_channel();
    let runtime = Handle::current();
    // A thread of its own: the runtime's timers tick in milliseconds.
    std::thread::spawn(move || {
        for job in trace.iter().copied() {
            std::thread::sleep((start + job.at).saturating_duration_since(Instant::now()));
            if results.is_closed() {
                return;
            }
            let (pools, results) = (pools.clone(), results.clone());
            runtime.spawn(async move {
                let result = tokio::time::timeout(PATIENCE, pools.request(job, start)).await;
                results.send(result.unwrap_or_else(|_| Err("no answer in 30 s".into()))).ok();
            });
        }
    });
    let mut seen = Seen::default();
    while let Some(result) = answered.recv().await {
        match result {
            Ok(sample) => seen.samples.push(sample),
            Err(why) => *seen.failures.entry(why).or_default() += 1,
        }
    }
    seen
}

impl Pools {
    async fn request(&self, job: Job, start: Instant) -> Result<Sample, String> {
        let (address, idle) = &self.0[job.node % self.0.len()];
        let sent = start.elapsed();
        let mut connection = match take(idle) {
            Some(connection) => connection,
            None => Connection::open(*address).await.map_err(|error| format!("connect: {error}"))?,
        };
        let answer = connection.get(&format!("/{:.6}", job.work)).await.map_err(|error| error.to_string())?;
        let done = start.elapsed();
        if answer.keeps_alive() {
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
        Ok(Sample { due: job.at, sent, done, spent: spent(&answer)? })
    }
}

fn take(idle: &Mutex<Vec<Connection>>) -> Option<Connection> {
    let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
    std::iter::from_fn(|| idle.pop()).find(Connection::is_open)
}

fn spent(answer: &Answer) -> Result<Duration, String> {
    let micros = answer.header(SPENT).and_then(|text| text.parse().ok()).map(Duration::from_micros);
    let named = || format!("{} {}", answer.status, answer.header("fairlead-error").unwrap_or_default());
    micros.filter(|_| answer.status == 200).ok_or_else(named)
}
