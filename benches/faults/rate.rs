//! Three nodes that share one rate limit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Promise;
use crate::common::load::Seen;
use crate::common::port::Port;
use crate::common::redis::launch;
use crate::common::{Outcome, load};
use crate::options::{Options, Who};
use crate::origins::Origin;
use crate::proxies::{Proxy, Settings};
use crate::trace::draw;

const NODES: usize = 3;
const RATE: f64 = 100.0;
const BURST: f64 = 100.0;
/// Of what is allowed, so much is asked for.
const ASKED: f64 = 3.0;
const LENGTH: Duration = Duration::from_secs(20);

/// With Redis, and then again while it stops half-way.
pub async fn run(options: &Options) -> Outcome<Vec<Promise>> {
    let allowed = RATE * LENGTH.as_secs_f64() + BURST;
    let (seen, n) = admitted(options, false).await?;
    let others = Seen::reasons(seen.failures.iter().filter(|failure| failure.status != Some(429)));
    let mut promises = vec![
        Promise { what: format!("admitted ≤ rate × t + burst ({n} ≤ {allowed})"), holds: n as f64 <= allowed },
        Promise {
            what: format!("and ≥ 97 % of it ({:.1} %)", 1e2 * n as f64 / allowed),
            holds: n as f64 >= 0.97 * allowed,
        },
        Promise { what: format!("all others get 429 ({others})"), holds: others.is_empty() },
    ];
    let (_, n) = admitted(options, true).await?;
    let share = n as f64 / allowed;
    let what = format!("with Redis stopped half-way, within 10 % ({n} of {allowed}: {:.1} %)", 1e2 * share);
    promises.push(Promise { what, holds: (0.9..=1.1).contains(&share) });
    Ok(promises)
}

/// What clients saw, and how many requests were admitted.
async fn admitted(options: &Options, stop: bool) -> Outcome<(Seen, usize)> {
    let folder = tempfile::Builder::new().prefix("fairlead-rate-").tempdir()?;
    let port = Port::new()?;
    let mut redis = launch(port.address, folder.path()).await?;
    let mut origins = Vec::new();
    for _ in 0..3 {
        origins.push(Origin::start(Duration::from_millis(5), 64).await?);
    }
    let servers: Vec<_> = origins.iter().map(|origin| origin.address).collect();
    let settings = Settings {
        pool: String::new(),
        more: format!(
            "routes: [{{ match: {{}}, pool: app, rate_limit: {{ key: route, rate: {RATE}/s, burst: {BURST}, scope: fleet }} }}]\n\
             redis: {{ url: \"redis://{}\" }}\n",
            port.address
        ),
    };
    let mut nodes = Vec::new();
    for number in 0..NODES {
        let folder = folder.path().join(number.to_string());
        std::fs::create_dir(&folder)?;
        nodes.push(Proxy::start(Who::Fairlead, &options.fairlead, &settings, &servers, &folder).await?);
    }
    // They learn of each other, and what starting them took of the bucket comes back.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let addresses: Vec<_> = nodes.iter().map(|node| node.address).collect();
    let trace = Arc::new(draw(options.seed, ASKED * RATE, LENGTH, |job, _| job.work = 1.0));
    let start = Instant::now() + Duration::from_millis(50);
    let load = tokio::spawn(async move { load::run(trace, &addresses, start).await });
    if stop {
        tokio::time::sleep_until((start + LENGTH / 2).into()).await;
        redis.kill();
    }
    let seen = load.await?;
    if options.logs {
        nodes.iter().for_each(|node| eprintln!("{}", node.log()));
    }
    let n = seen.samples.len();
    Ok((seen, n))
}
