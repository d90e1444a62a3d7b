//! The loop of one limit that the fleet shares: a round every [`ROUND`] while there are keys, one
//! call at a time, and none while nobody asks. What it says and what it makes of the answers is in [`super::leases`].

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{Either, select};

use super::Limit;
use super::leases::{Call, KEYS_A_CALL, Leases, PATIENCE, ROUND};
use crate::load::redis::client::{CallError, Client};
use crate::load::redis::{calls, keys, scripts};
use crate::observe::fleet::FleetMetrics;

/// The longest time from one round to the next.
const SLOWEST: Duration = Duration::from_millis(100);
/// After an error, the pause until the next attempt.
const AFTER_REFUSAL: Duration = Duration::from_millis(500);

/// What the loop of one limit needs to know.
pub struct Settings {
    /// `redis.namespace`
    pub namespace: String,
    /// `redis.max_calls`: all limits together take at most half of it.
    pub max_calls: u32,
    /// Limits of this node that the fleet shares.
    pub limits: usize,
}

/// Runs for ever. What [`Leases::set_fleet`] needs must have been set before.
pub async fn run(limit: Arc<Limit>, client: Client, metrics: FleetMetrics, settings: Settings) {
    let Some(leases) = limit.leases() else { return };
    let mut link = client.link();
    let mut last = Instant::now();
    // There was more to say than one call can.
    let mut more = false;
    loop {
        let round = round_of(leases.share().nodes, &settings);
        leases.set_round(round);
        if !link.up {
            leases.away(limit.now());
            link = client.changed(link).await;
            continue;
        }
        // Its loss ends every wait.
        let lost = pin!(client.changed(link));
        let turn = pin!(async {
            if !leases.is_alone() {
                if !more {
                    leases.woken(round).await;
                }
                tokio::time::sleep((round / 4).saturating_sub(last.elapsed())).await;
            }
            last = Instant::now();
            more = one_round(&limit, leases, &client, &metrics, &settings).await;
        });
        if let Either::Left((new, _)) = select(lost, turn).await {
            leases.away(limit.now());
            link = new;
        }
    }
}

/// True: there is more to say.
async fn one_round(
    limit: &Limit,
    leases: &Leases,
    client: &Client,
    metrics: &FleetMetrics,
    settings: &Settings,
) -> bool {
    // The first call after an outage only asks whether there is somebody who takes what is written.
    let was_alone = leases.is_alone();
    let call = if was_alone { Call::default() } else { leases.round(limit.now()) };
    if call.asks.is_empty() && !was_alone {
        return false;
    }
    let bucket = |name: String| keys::bucket(&settings.namespace, &limit.route, &name);
    let mut names: Vec<Bytes> = call.asks.iter().map(|ask| bucket(ask.name.hex())).collect();
    let mut args = Vec::with_capacity(2 + 2 * call.asks.len());
    // In microseconds, so that nobody gets more than there is.
    let asks = call.asks.iter().map(|ask| (ask.need / 1000, ask.fill / 1000));
    match was_alone {
        true => {
            names.push(bucket("none".to_owned()));
            calls::rate(1, 1, [(1, 0)], &mut args);
        }
        false => calls::rate(call.common / 1000, call.most / 1000, asks, &mut args),
    }
    let (sent, sent_at) = (Instant::now(), limit.now());
    let reply = pin!(client.call(&scripts::RATE, &names, args));
    let reply = match select(reply, pin!(tokio::time::sleep(PATIENCE))).await {
        Either::Left((reply, _)) => reply,
        Either::Right((_, late)) => {
            // It may still come, and then what it gives is ours.
            leases.away(sent_at);
            late.await
        }
    };
    metrics.called(scripts::RATE.name, result(&reply), sent.elapsed());
    let given =
        reply.and_then(|reply| calls::rated(reply, names.len()).map_err(|error| CallError::Refused(error.to_string())));
    match given {
        Ok(given) => {
            for (ask, given) in call.asks.iter().zip(given) {
                leases.granted(ask, given.saturating_mul(1000));
            }
            leases.back(limit.now());
            call.asks.len() >= KEYS_A_CALL
        }
        Err(error) => {
            log::debug!(route = limit.route, error = error.to_string(); "rate_limit_by_this_node_alone");
            leases.away(limit.now());
            tokio::time::sleep(AFTER_REFUSAL).await;
            false
        }
    }
}

/// From one round to the next, so that the whole fleet keeps to half of `max_calls`.
fn round_of(nodes: u32, settings: &Settings) -> Duration {
    let calls = f64::from(nodes) * settings.limits as f64;
    Duration::from_secs_f64(calls * 2.0 / f64::from(settings.max_calls.max(1))).clamp(ROUND, SLOWEST)
}

fn result<V>(reply: &Result<V, CallError>) -> &'static str {
    match reply {
        Ok(_) => "ok",
        Err(CallError::Refused(_)) => "refused",
        Err(CallError::Lost(_)) => "lost",
    }
}
