//! `fairlead check`: is a configuration fine, and with `--probe`, are its servers and Redis?

use std::path::Path;
use std::process::ExitCode;

use crate::config::{self, Config, Findings, Problems};
use crate::load::redis::Client;
use crate::observe::metrics::Metrics;
use crate::snapshot::Snapshot;
use crate::tls::Tls;
use crate::upstream::check;
use crate::upstream::health::Health;

/// Checks a file and, when asked to, every server once.
pub fn run(file: &Path, probe: bool) -> ExitCode {
    let config = match config::load(file) {
        Ok(config) => config,
        Err(problems) => return super::refused(problems),
    };
    let metrics = match Metrics::new() {
        Ok(metrics) => metrics,
        Err(error) => return super::refused(error),
    };
    let tls = match files(file, &config, &metrics) {
        Ok(tls) => tls,
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
    let mut worries = Findings::default();
    tls.worries(&config, &mut worries);
    for worry in config::in_file(file, worries) {
        println!("warning: {worry}");
    }
    if !probe {
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return super::refused(error),
    };
    let snapshot = Snapshot::new(&config, &[], &metrics, &Default::default()).with_tls(&tls);
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

/// Reads the certificates that a configuration names.
///
/// # Errors
/// All that is wrong with them, with the lines that name them.
pub fn files(file: &Path, config: &Config, metrics: &Metrics) -> Result<Tls, Problems> {
    let mut found = Findings::default();
    Tls::load(config, metrics, &mut found).ok_or_else(|| config::in_file(file, found))
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
