//! Keeps certificates up to date while a node runs: renewed files, the metric of days left, and a warning in time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::node::Node;
use crate::tls::Shown;

/// How often files are looked at. A change is taken in at the second look that sees it.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often a certificate that is almost over is logged.
const WARN_EVERY: Duration = Duration::from_secs(24 * 3600);
/// Days left below which that begins.
const WARN_BELOW: f64 = 14.0;

/// Runs until the task is dropped.
pub async fn keep(node: Arc<Node>) {
    if node.tls.is_empty() {
        return;
    }
    let mut told = HashMap::new();
    let mut warned: Option<Instant> = None;
    loop {
        let shown = node.tls.shown();
        set_metric(&node, &shown, &mut told);
        if warned.is_none_or(|last| last.elapsed() >= WARN_EVERY) {
            warned = Some(Instant::now());
            warn(&shown);
        }
        let all = tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => false,
            () = node.tls.asked() => true,
        };
        let reader = node.clone();
        // Disks may take their time.
        let Ok(renewed) = tokio::task::spawn_blocking(move || reader.tls.refresh(all)).await else { continue };
        let snapshot = node.snapshot.load();
        for pool in renewed.into_iter().filter_map(|place| snapshot.pools.get(place)) {
            pool.servers.iter().for_each(|server| server.renew_peer(&pool.config.upstream));
        }
    }
}

/// The days left by listener and name; of two with one name, those of the one that ends first.
fn set_metric(node: &Node, shown: &[Shown], told: &mut HashMap<(String, String), f64>) {
    let mut now: HashMap<(String, String), f64> = HashMap::new();
    for certificate in shown {
        let labels = (certificate.listener.clone().unwrap_or_default(), certificate.name.clone());
        let days = now.entry(labels).or_insert(f64::INFINITY);
        *days = days.min(certificate.days_left);
    }
    let metric = &node.metrics.certificate_expiry;
    for (listener, name) in told.keys().filter(|labels| !now.contains_key(*labels)) {
        // It was there.
        metric.remove_label_values(&[listener.as_str(), name.as_str()]).ok();
    }
    for ((listener, name), days) in &now {
        metric.with_label_values(&[listener.as_str(), name.as_str()]).set(*days);
    }
    *told = now;
}

fn warn(shown: &[Shown]) {
    for certificate in shown.iter().filter(|certificate| certificate.days_left < WARN_BELOW) {
        let listener = certificate.listener.as_deref().unwrap_or_default();
        let days = (certificate.days_left * 10.0).round() / 10.0;
        log::warn!(listener = listener, certificate = certificate.name, days_left = days; "certificate_expires_soon");
    }
}
