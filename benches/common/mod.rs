//! What the benches share that put load on whole proxies.
//!
//! | part | does |
//! |---|---|
//! | [`http`], [`load`] | send requests and time them |
//! | [`process`], [`port`] | start, watch and end programs |
//! | [`redis`] | starts a Redis |
//! | [`peers`] | configurations of other proxies |

// Each bench uses a part of it.
#![allow(dead_code)]

pub mod http;
pub mod load;
pub mod peers;
pub mod port;
pub mod process;
pub mod redis;

use std::error::Error;

/// Any failure ends the program with its text.
pub type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The smallest of `sorted` that a share `q` of them does not exceed; not a number if there is none.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// How busy the machine is, and what it is.
pub fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("an unknown processor");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{}, {cores} cores for everything", cpu.trim_start_matches([' ', '\t', ':']))
}

/// The load average of the last minute.
pub fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}

/// Returns when somebody wants us to end: then all that we started is dropped, and so ended.
pub async fn interrupted() -> Outcome<bool> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        interrupt = tokio::signal::ctrl_c() => interrupt?,
    }
    Err("interrupted".into())
}
