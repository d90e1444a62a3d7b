//! `fairlead check`: is a configuration fine, and with `--probe`, are its servers?

use std::path::Path;
use std::process::ExitCode;

use crate::config;
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
    println!(
        "{}: fine ({} listeners, {} routes, {} pools, {servers} servers)",
        file.display(),
        config.listeners.len(),
        config.routes.len(),
        config.pools.len()
    );
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
    runtime.block_on(check_all(&snapshot))
}

/// One pass over all pools; fails when any server does.
async fn check_all(snapshot: &Snapshot) -> ExitCode {
    let mut all_up = true;
    for pool in &snapshot.pools {
        check::once(pool).await;
        for server in &pool.servers {
            let (health, reason) = server.health();
            all_up &= health == Health::Up;
            println!("  {} {}: {} {reason}", pool.config.name, server.name, health.as_str());
        }
    }
    if all_up { ExitCode::SUCCESS } else { ExitCode::from(1) }
}
