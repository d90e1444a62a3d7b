//! `fairlead check`: is a configuration fine, and with `--probe`, are its servers and Redis?

use std::path::Path;
use std::process::ExitCode;

use crate::config;
use crate::load::redis::Client;
use crate::observe::metrics::Metrics;
use crate::snapshot::Snapshot;
use crate::upstream::check;
use crate::upstream::health::Health;

/// Checks a file and, when asked to, every server once.
pub fn run(file: &Path, probe: bool) -> ExitCode {
    let config = match config::load(file) {
        Ok(config) => config,
        Err(problems) => return super::refused(problems),
    };
    let servers: usize = config.pools.iter().map(|pool| pool.servers.len()).sum();
    let parts = [
        count(config.listeners.len(), "listener"),
        count(config.routes.len(), "route"),
        count(config.pools.len(), "pool"),
        count(servers, "server"),
    ];
    println!("{}: fine ({})", file.display(), parts.join(", "));
    if !probe {
        return ExitCode::SUCCESS;
    }
    let metrics = match Metrics::new() {
        Ok(metrics) => metrics,
        Err(error) => return super::refused(error),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return super::refused(error),
    };
    let snapshot = Snapshot::new(&config, &[], &metrics, &Default::default());
    let fine = runtime.block_on(async {
        let servers = check_all(&snapshot).await;
        let redis = match &config.redis {
            Some(redis) => check_redis(redis).await,
            None => true,
        };
        servers && redis
    });
    if fine { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// One connection.
async fn check_redis(redis: &config::Redis) -> bool {
    let found = Client::probe(redis).await;
    match &found {
        Ok(version) => println!("  redis {}: up (version {version})", redis.servers),
        Err(reason) => println!("  redis {}: down {reason}", redis.servers),
    }
    found.is_ok()
}

/// One pass over all pools; false when any server fails it.
async fn check_all(snapshot: &Snapshot) -> bool {
    let mut all_up = true;
    for pool in &snapshot.pools {
        check::once(pool).await;
        for server in &pool.servers {
            let (health, reason) = server.health();
            all_up &= health == Health::Up;
            println!("  {} {}: {} {reason}", pool.config.name, server.name, health.as_str());
        }
    }
    all_up
}
