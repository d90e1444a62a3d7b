//! The open loop: every request is sent when it is due, however many are still out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::http::{Answer, Connection};

/// What a server may tell of the time it had a request, in microseconds.
pub const SPENT: &str = "x-spent-us";
/// A request that takes longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One request.
pub trait Job: Copy + Send + Sync + 'static {
    /// When it is due, from the start of the load.
    fn at(&self) -> Duration;
    /// Which node gets it: taken modulo their number.
    fn node(&self) -> usize;
    /// Its path.
    fn path(&self) -> String;
    /// Header lines that it has besides, each with its line end.
    fn headers(&self) -> String {
        String::new()
    }
}

/// A request that was answered with 200. Moments count from the start of the load.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// When it should have been sent.
    pub due: Duration,
    /// When it was.
    pub sent: Duration,
    /// When its answer was here.
    pub done: Duration,
    /// How long a server had it; nothing if it did not say.
    pub spent: Duration,
}

/// A request that was not.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When it should have been sent.
    pub due: Duration,
    /// When it was.
    pub sent: Duration,
    /// When that was known.
    pub done: Duration,
    /// Status and name of the refusal, or what became of the connection.
    pub why: String,
    /// The status; none without an answer.
    pub status: Option<u16>,
}

/// What the clients saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// In the order of their answers.
    pub samples: Vec<Sample>,
    /// The others.
    pub failures: Vec<Failure>,
}

impl Seen {
    /// How many failed and why.
    pub fn reasons<'a>(failures: impl IntoIterator<Item = &'a Failure>) -> String {
        let mut counts = BTreeMap::<&str, usize>::new();
        for failure in failures {
            *counts.entry(&failure.why).or_default() += 1;
        }
        let counts: Vec<String> = counts.iter().map(|(why, count)| format!("{count} × {why}")).collect();
        counts.join(", ")
    }
}

/// Idle connections, by node; the last used is used first.
struct Pools(Vec<(SocketAddr, Mutex<Vec<Connection>>)>);

/// Sends all of `trace` from `start` on, and waits for the answers.
pub async fn run<J: Job>(trace: Arc<Vec<J>>, nodes: &[SocketAddr], start: Instant) -> Seen {
    let pools = Arc::new(Pools(nodes.iter().map(|node| (*node, Mutex::default())).collect()));
    let (results, mut answered) = mpsc::unbounded_channel();
    let runtime = Handle::current();
    // A thread of its own: the runtime's timers tick in milliseconds.
    std::thread::spawn(move || {
        for job in trace.iter().copied() {
            std::thread::sleep((start + job.at()).saturating_duration_since(Instant::now()));
            if results.is_closed() {
                return;
            }
            let (pools, results) = (pools.clone(), results.clone());
            runtime.spawn(async move { results.send(pools.request(job, start).await).ok() });
        }
    });
    let mut seen = Seen::default();
    while let Some(result) = answered.recv().await {
        match result {
            Ok(sample) => seen.samples.push(sample),
            Err(failure) => seen.failures.push(failure),
        }
    }
    seen
}

impl Pools {
    async fn request<J: Job>(&self, job: J, start: Instant) -> Result<Sample, Failure> {
        let (due, sent) = (job.at(), start.elapsed());
        let answer = tokio::time::timeout(PATIENCE, self.answer(job)).await;
        let done = start.elapsed();
        let failure = |why, status| Failure { due, sent, done, why, status };
        let answer = answer.unwrap_or_else(|_| Err("no answer in 30 s".into())).map_err(|why| failure(why, None))?;
        if answer.status != 200 {
            let name = answer.header("fairlead-error").unwrap_or_default();
            return Err(failure(format!("{} {name}", answer.status).trim_end().to_owned(), Some(answer.status)));
        }
        Ok(Sample { due, sent, done, spent: spent(&answer) })
    }

    async fn answer<J: Job>(&self, job: J) -> Result<Answer, String> {
        let (address, idle) = &self.0[job.node() % self.0.len()];
        let mut connection = match take(idle) {
            Some(connection) => connection,
            None => Connection::open(*address).await.map_err(|error| format!("connect: {error}"))?,
        };
        let answer = connection.get_with(&job.path(), &job.headers()).await.map_err(|error| error.to_string())?;
        if answer.keeps_alive() {
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
        Ok(answer)
    }
}

fn take(idle: &Mutex<Vec<Connection>>) -> Option<Connection> {
    let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
    std::iter::from_fn(|| idle.pop()).find(Connection::is_open)
}

fn spent(answer: &Answer) -> Duration {
    answer.header(SPENT).and_then(|text| text.parse().ok()).map(Duration::from_micros).unwrap_or_default()
}
