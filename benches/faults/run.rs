//! One proxy under one trace.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::load::{Failure, Seen};
use crate::common::{Outcome, load, quantile};
use crate::loris::SlowClients;
use crate::options::{Options, Who};
use crate::origins::{Behaviour, Origin};
use crate::proxies::{Proxy, Settings};
use crate::trace::Job;
use crate::watch::{Told, Watch};

/// Between the start of all clocks and the first request.
const LEAD: Duration = Duration::from_millis(50);

/// What to do. Moments count from the start of the load.
pub struct Plan {
    /// The proxy.
    pub who: Who,
    /// Its settings, if it is Fairlead.
    pub settings: Settings,
    /// Mean time and workers of each server.
    pub servers: Vec<(Duration, usize)>,
    /// The requests.
    pub trace: Arc<Vec<Job>>,
    /// What servers do from some moment on.
    pub faults: Vec<(Duration, Range<usize>, Behaviour)>,
    /// So many clients send a byte now and then, beside the others.
    pub slow_clients: usize,
}

/// What came of it. Moments count from the start of the load.
pub struct Ran {
    /// The requests.
    pub trace: Arc<Vec<Job>>,
    /// What the clients saw.
    pub seen: Seen,
    /// When attempts arrived at each server, and of which request.
    pub arrivals: Vec<Vec<(Duration, usize)>>,
    /// What Fairlead said.
    pub told: Option<Told>,
    /// How long each slow client's connection lived; none: it outlived the load.
    pub slow_clients: Vec<Option<Duration>>,
    /// The most memory that the proxy held, in bytes.
    pub most_memory: u64,
}

/// Does it.
pub async fn run(plan: Plan, options: &Options) -> Outcome<Ran> {
    let folder = tempfile::Builder::new().prefix("fairlead-faults-").tempdir()?;
    let mut origins = Vec::new();
    for (mean, workers) in &plan.servers {
        origins.push(Origin::start(*mean, *workers).await?);
    }
    let servers: Vec<SocketAddr> = origins.iter().map(|origin| origin.address).collect();
    let mut settings = plan.settings;
    if !options.pool.is_empty() {
        settings.pool.push_str(&format!("{},", options.pool));
    }
    let proxy = Proxy::start(plan.who, &options.fairlead, &settings, &servers, folder.path()).await?;

    let start = Instant::now() + LEAD;
    let watch = proxy.admin.map(|admin| Watch::start(admin, start));
    let (trace, nodes) = (plan.trace.clone(), [proxy.address]);
    let load = tokio::spawn(async move { load::run(trace, &nodes, start).await });
    let slow_clients = SlowClients::start(plan.slow_clients, proxy.address);
    for (at, which, behaviour) in plan.faults {
        tokio::time::sleep_until((start + at).into()).await;
        for origin in origins.get(which).into_iter().flatten() {
            origin.behave(behaviour);
        }
    }
    let mut most_memory = 0;
    while !load.is_finished() {
        most_memory = most_memory.max(proxy.memory());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let seen = load.await?;
    let slow_clients = slow_clients.lived();
    let told = match watch {
        Some(watch) => Some(watch.end().await?),
        None => None,
    };
    if options.logs {
        eprintln!("{}", proxy.log());
    }
    let arrivals = origins.iter().map(|origin| {
        origin.arrivals().into_iter().map(|a| (a.at.saturating_duration_since(start), a.number)).collect()
    });
    Ok(Ran { trace: plan.trace, seen, arrivals: arrivals.collect(), told, slow_clients, most_memory })
}

/// From the start on.
pub const ALWAYS: Range<Duration> = Duration::ZERO..Duration::MAX;

impl Ran {
    /// How many requests were due then.
    pub fn requests(&self, when: &Range<Duration>) -> usize {
        self.trace.iter().filter(|job| when.contains(&job.at)).count()
    }

    /// Those of them that failed.
    pub fn failures(&self, when: &Range<Duration>) -> Vec<&Failure> {
        self.seen.failures.iter().filter(|failure| when.contains(&failure.due)).collect()
    }

    /// How long clients waited for the answers to requests due then, whatever answers; milliseconds, sorted.
    pub fn latencies(&self, when: &Range<Duration>) -> Vec<f64> {
        let good = self.seen.samples.iter().map(|sample| (sample.due, sample.done));
        let all = good.chain(self.seen.failures.iter().map(|failure| (failure.due, failure.done)));
        sorted(all.filter(|(due, _)| when.contains(due)).map(|(due, done)| done.saturating_sub(due)))
    }

    /// How many attempts arrived at all servers then.
    pub fn attempts(&self, when: &Range<Duration>) -> usize {
        self.arrivals.iter().flatten().filter(|(at, _)| when.contains(at)).count()
    }

    /// How many attempts each request made.
    pub fn attempts_by_request(&self) -> Vec<usize> {
        let mut attempts = vec![0; self.trace.len()];
        for (_, number) in self.arrivals.iter().flatten() {
            if let Some(attempts) = attempts.get_mut(*number) {
                *attempts += 1;
            }
        }
        attempts
    }

    /// How late requests were sent: 99 % were less, in milliseconds. This program's own noise.
    pub fn lateness(&self) -> f64 {
        let good = self.seen.samples.iter().map(|sample| sample.sent.saturating_sub(sample.due));
        let late =
            sorted(good.chain(self.seen.failures.iter().map(|failure| failure.sent.saturating_sub(failure.due))));
        quantile(&late, 0.99)
    }

    /// Why requests failed, if any did.
    pub fn reasons(&self) -> String {
        Seen::reasons(&self.seen.failures)
    }
}

/// Milliseconds.
pub fn sorted(durations: impl Iterator<Item = Duration>) -> Vec<f64> {
    let mut values: Vec<f64> = durations.map(|duration| duration.as_secs_f64() * 1e3).collect();
    values.sort_by(f64::total_cmp);
    values
}
