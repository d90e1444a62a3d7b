//! TLS: what the files hold that a configuration names, kept up to date while a node runs.
//!
//! `Tls::load` reads and checks every file of a configuration; `fairlead check` shows what it finds, and a node does
//! not start with it. [`Tls::refresh`] then takes in what changes: a renewed certificate serves new connections, and a broken one
//! changes nothing but the log.

mod accept;
pub mod client;
mod diagnosis;
mod listener;
mod names;
mod pem;
mod upstream;
mod watch;

use std::sync::Arc;

use tokio::sync::Notify;

pub use diagnosis::{alert, why_refused};
pub use listener::Listener;
pub use upstream::Upstream;

use crate::config::{Config, Findings, Step};
use crate::observe::metrics::Metrics;
use crate::tls::pem::Certificate;

/// TLS of a whole node; empty where a configuration has none.
#[derive(Debug, Default)]
pub struct Tls {
    /// In the configuration's order.
    listeners: Vec<Option<Arc<Listener>>>,
    /// In the configuration's order.
    pools: Vec<Option<Arc<Upstream>>>,
    again: Notify,
}

/// A certificate that a node shows.
#[derive(Clone, Debug)]
pub struct Shown {
    /// To clients of this listener; none: to servers.
    pub listener: Option<String>,
    /// Its first name.
    pub name: String,
    /// Until it is over.
    pub days_left: f64,
}

impl Tls {
    /// Reads every file that a configuration names. None: something is wrong with one, and noted.
    pub(crate) fn load(config: &Config, metrics: &Metrics, found: &mut Findings) -> Option<Tls> {
        let mut tls = Tls::default();
        let mut whole = true;
        let mut note = |path: &[Step], faults: Vec<(Vec<Step>, String)>| {
            whole = false;
            for (steps, text) in faults {
                found.add_at(&[path, &steps].concat(), text);
            }
        };
        for (place, listener) in config.listeners.iter().enumerate() {
            let made = listener.tls.as_ref().map(|wanted| Listener::new(listener, wanted, metrics)).transpose();
            let made = made.unwrap_or_else(|faults| {
                note(&listener_path(place), faults);
                None
            });
            tls.listeners.push(made.map(Arc::new));
        }
        for pool in &config.pools {
            let made = pool.upstream.tls.as_ref().map(|wanted| Upstream::new(&pool.name, wanted)).transpose();
            let made = made.unwrap_or_else(|faults| {
                note(&pool_path(&pool.name), faults);
                None
            });
            tls.pools.push(made.map(Arc::new));
        }
        whole.then_some(tls)
    }

    /// TLS of a listener, by its place in the configuration.
    pub fn listener(&self, place: usize) -> Option<&Arc<Listener>> {
        self.listeners.get(place)?.as_ref()
    }

    /// TLS to a pool's servers, by its place in the configuration.
    pub fn pool(&self, place: usize) -> Option<&Arc<Upstream>> {
        self.pools.get(place)?.as_ref()
    }

    /// Whether there is any file to watch.
    pub fn is_empty(&self) -> bool {
        self.listeners.iter().all(Option::is_none) && self.pools.iter().all(Option::is_none)
    }

    /// Reads files that have changed (`all`: every one). It takes the time that disks take. Returns the places of the
    /// pools whose servers must be connected to in another way from now on.
    pub fn refresh(&self, all: bool) -> Vec<usize> {
        self.listeners.iter().flatten().for_each(|listener| listener.refresh(all));
        let renewed = |pool: &Option<Arc<Upstream>>| pool.as_ref().is_some_and(|pool| pool.refresh(all));
        self.pools.iter().enumerate().filter(|(_, pool)| renewed(pool)).map(|(place, _)| place).collect()
    }

    /// Has all files read again soon, changed or not.
    pub fn ask(&self) {
        self.again.notify_one();
    }

    /// Returns when somebody has asked.
    pub async fn asked(&self) {
        self.again.notified().await;
    }

    /// All certificates that are shown now.
    pub fn shown(&self) -> Vec<Shown> {
        let listeners = self.listeners.iter().flatten().flat_map(|listener| {
            let name = |certificate: Arc<Certificate>| shown(Some(listener.name.clone()), &certificate);
            listener.certificates().into_iter().map(name)
        });
        let clients = self.pools.iter().flatten().filter_map(|pool| pool.client());
        listeners.chain(clients.map(|certificate| shown(None, &certificate))).collect()
    }

    /// What works and yet is worth a look, noted with the keys that name it.
    pub(crate) fn worries(&self, config: &Config, noted: &mut Findings) {
        let mut look = |path: &[Step], certificate: &Certificate| {
            let days = certificate.days_left();
            if days < CHECK_BELOW {
                let name = certificate.name();
                noted.add_at(path, format!("the certificate for {name} is over in {days:.0} days: renew it"));
            }
        };
        let listeners = self.listeners.iter().enumerate().filter_map(|(place, made)| Some((place, made.as_ref()?)));
        for (place, listener) in listeners {
            for (number, certificate) in listener.certificates().iter().enumerate() {
                let path = [&listener_path(place)[..], &["certificates".into(), number.into(), "cert".into()]].concat();
                look(&path, certificate);
            }
        }
        for (pool, made) in config.pools.iter().zip(&self.pools) {
            if let Some(certificate) = made.as_ref().and_then(|made| made.client()) {
                look(&[&pool_path(&pool.name)[..], &["client".into(), "cert".into()]].concat(), &certificate);
            }
        }
    }
}

/// Days left below which `fairlead check` warns.
const CHECK_BELOW: f64 = 30.0;

fn shown(listener: Option<String>, certificate: &Certificate) -> Shown {
    Shown { listener, name: certificate.name(), days_left: certificate.days_left() }
}

fn listener_path(place: usize) -> [Step; 3] {
    ["listeners".into(), place.into(), "tls".into()]
}

fn pool_path(pool: &str) -> [Step; 4] {
    ["pools".into(), pool.into(), "upstream".into(), "tls".into()]
}
