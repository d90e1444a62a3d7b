//! Asks Fairlead, while it is loaded, what it thinks of its servers.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::Outcome;
use crate::common::http::Connection;

/// How often.
const EVERY: Duration = Duration::from_millis(100);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long counts may take to come to nothing after the load.
const SETTLE_WITHIN: Duration = Duration::from_secs(3);

/// What it said.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The circuit's states, each with the moment from which it was seen.
    pub circuit: Vec<(Duration, String)>,
    /// Servers' states other than `none`, the same way: "2 ejected" is the third server.
    pub ejection: Vec<(Duration, String)>,
    /// `fairlead_ejections_total`, all servers.
    pub ejections: f64,
    /// `fairlead_retries_total`, all reasons.
    pub retries: f64,
    /// Requests counted as in flight after the load.
    pub left: u64,
}

/// Asks again and again; dropped, no more.
pub struct Watch {
    admin: SocketAddr,
    told: Arc<Mutex<Told>>,
    task: tokio::task::AbortHandle,
}

impl Watch {
    /// Starts to ask; moments count from `start`.
    pub fn start(admin: SocketAddr, start: Instant) -> Self {
        let told: Arc<Mutex<Told>> = Arc::default();
        let into = told.clone();
        let task = tokio::spawn(async move {
            let mut clock = tokio::time::interval(EVERY);
            loop {
                clock.tick().await;
                let at = start.saturating_duration_since(Instant::now());
                let at = if at.is_zero() { start.elapsed() } else { Duration::ZERO };
                let Ok(pool) = pool(admin).await else { continue };
                let mut told = into.lock().unwrap_or_else(PoisonError::into_inner);
                note(&mut told.circuit, at, pool["circuit"].as_str().unwrap_or_default().to_owned());
                let servers = pool["servers"].as_array().cloned().unwrap_or_default();
                let states = servers.iter().enumerate().filter_map(|(number, server)| {
                    let state = server["ejection"].as_str().filter(|state| *state != "none")?;
                    Some(format!("{} {state}", number + 1))
                });
                note(&mut told.ejection, at, states.collect::<Vec<_>>().join(", "));
            }
        });
        Watch { admin, told, task: task.abort_handle() }
    }

    /// Ends the questions, waits until nothing is in flight, and says all.
    pub async fn end(self) -> Outcome<Told> {
        self.task.abort();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let deadline = Instant::now() + SETTLE_WITHIN;
        loop {
            let pool = pool(self.admin).await?;
            let servers = pool["servers"].as_array().cloned().unwrap_or_default();
            told.left = servers.iter().filter_map(|server| server["in_flight"]["local"].as_u64()).sum();
            if told.left == 0 || Instant::now() > deadline {
                break;
            }
            tokio::time::sleep(EVERY).await;
        }
        let page = ask(self.admin, "/metrics").await?;
        let page = String::from_utf8_lossy(&page);
        told.ejections = sum(&page, "fairlead_ejections_total");
        told.retries = sum(&page, "fairlead_retries_total");
        Ok(told)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Told {
    /// In one line, moments in seconds.
    pub fn line(&self) -> String {
        let list = |states: &[(Duration, String)]| {
            let states: Vec<String> = states
                .iter()
                .map(|(at, state)| {
                    format!("{:.1} s {}", at.as_secs_f64(), if state.is_empty() { "none" } else { state })
                })
                .collect();
            states.join("; ")
        };
        format!(
            "{} ejections, {} retries. Circuit: {}. Ejected: {}",
            self.ejections,
            self.retries,
            list(&self.circuit),
            list(&self.ejection)
        )
    }
}

fn note(states: &mut Vec<(Duration, String)>, at: Duration, state: String) {
    if states.last().is_none_or(|(_, last)| *last != state) {
        states.push((at, state));
    }
}

/// The sum of a metric's series.
fn sum(page: &str, name: &str) -> f64 {
    let series = page.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).fold(0.0, |sum, value| sum + value)
}

async fn pool(admin: SocketAddr) -> Outcome<Value> {
    Ok(serde_json::from_slice(&ask(admin, "/api/v1/pools/app").await?)?)
}

async fn ask(admin: SocketAddr, path: &str) -> Outcome<Vec<u8>> {
    let answer = tokio::time::timeout(PATIENCE, async { Connection::open(admin).await?.get(path).await }).await??;
    Ok(answer.body)
}
