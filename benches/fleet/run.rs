//! One policy under one trace.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::time::sleep_until;

use crate::common::{Outcome, load};
use crate::figures::{Cost, Figures, Moment};
use crate::options::{Fault, Options, Policy};
use crate::origins;
use crate::proxies::{Fleet, ask};
use crate::redis::Redis;
use crate::trace::{Job, draw};

/// How long a fault lasts.
pub const FAULT: Duration = Duration::from_secs(5);
/// How often the nodes are asked for their mode when Redis has a fault.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// How long counts may take to come to nothing after the load.
const SETTLE_WITHIN: Duration = Duration::from_secs(3);
/// Between the start of all clocks and the first request.
const LEAD: Duration = Duration::from_millis(50);

/// What all runs share.
pub struct Bench<'a> {
    options: &'a Options,
    servers: Vec<SocketAddr>,
    folder: TempDir,
}

impl<'a> Bench<'a> {
    /// Starts the servers.
    pub async fn start(options: &'a Options) -> Outcome<Self> {
        let folder = tempfile::Builder::new().prefix("fairlead-fleet-").tempdir()?;
        Ok(Bench { options, servers: origins::start(&options.servers).await?, folder })
    }

    /// The requests of a round.
    pub fn trace(&self, round: u64) -> Arc<Vec<Job>> {
        Arc::new(draw(self.options, round))
    }

    /// Starts a fleet, loads it, ends it.
    pub async fn run(&self, policy: Policy, fault: Fault, trace: &Arc<Vec<Job>>) -> Outcome<Figures> {
        let folder = tempfile::tempdir_in(self.folder.path())?;
        let mut redis = match policy.mode() {
            Some(_) => Some(Redis::start(fault, folder.path()).await?),
            None => None,
        };
        let address = redis.as_ref().map(Redis::address);
        let fleet = Fleet::start(policy, self.options, &self.servers, address, folder.path()).await?;
        let nodes = fleet.addresses();
        let ours = policy.mode().is_some();

        let start = Instant::now() + LEAD;
        let trace = trace.clone();
        let load = tokio::spawn(async move { load::run(trace, &nodes, start).await });
        let moments: Arc<Mutex<Vec<Moment>>> = Arc::default();
        let watch = (ours && self.options.redis_fault != Fault::None)
            .then(|| tokio::spawn(watch(fleet.admins(), start, moments.clone())).abort_handle());

        let from = start + self.options.warm_up();
        let end = from + self.options.seconds();
        let fails = from + (self.options.seconds() - FAULT.min(self.options.seconds())) / 2;
        sleep_until(from.into()).await;
        let cost = |redis: &Option<Redis>| Cost {
            proxies: fleet.cpu(),
            redis: redis.as_ref().map_or(Duration::ZERO, Redis::cpu),
        };
        let before = cost(&redis);
        if let Some(redis) = redis.as_mut().filter(|_| fault != Fault::None) {
            sleep_until(fails.into()).await;
            redis.fail(fault);
            sleep_until((fails + FAULT).into()).await;
            redis.heal(fault).await?;
        }
        sleep_until(end.into()).await;
        let spent = cost(&redis).since(before);
        if let Some(watch) = watch {
            watch.abort();
        }
        let admins = if ours { fleet.admins() } else { Vec::new() };
        let modes = ask(&admins).await.modes;
        let seen = load.await?;
        let left = settled(&admins).await;
        if self.options.logs {
            eprintln!("{}", fleet.log());
        }
        let moments = std::mem::take(&mut *moments.lock().unwrap_or_else(PoisonError::into_inner));
        let window = (from - start, end - start);
        let fault = (fails - start, fails - start + FAULT);
        Ok(Figures::of(seen, spent, window).with_modes(modes, left, &moments, fault))
    }
}

/// Notes how the nodes choose, again and again.
async fn watch(admins: Vec<SocketAddr>, start: Instant, moments: Arc<Mutex<Vec<Moment>>>) {
    let mut clock = tokio::time::interval(ASK_EVERY);
    loop {
        clock.tick().await;
        let modes = ask(&admins).await.modes;
        moments.lock().unwrap_or_else(PoisonError::into_inner).push(Moment { at: start.elapsed(), modes });
    }
}

/// Waits until no node believes in a request any more, and says in how many they still do.
async fn settled(admins: &[SocketAddr]) -> u64 {
    let deadline = Instant::now() + SETTLE_WITHIN;
    loop {
        let left = ask(admins).await.in_flight;
        if left == 0 || Instant::now() > deadline {
            return left;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
