//! TLS of one listener: its certificates, and how they are replaced while it runs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use pingora::protocols::Stream;
use prometheus::IntCounter;

use crate::config::{self, CertificateFiles, Protocols, Step};
use crate::observe::metrics::Metrics;
use crate::tls::accept::{Acceptor, Clients, Failure};
use crate::tls::pem::{Certificate, Fault, authorities, reason};
use crate::tls::watch::Watched;

/// Whoever records a connection and later gets the keys of its session ticket can read it: so these do not live longer.
const TICKET_KEYS: Duration = Duration::from_secs(24 * 3600);

/// TLS of one listener.
#[derive(Debug)]
pub struct Listener {
    /// The listener's.
    pub name: String,
    config: config::ListenerTls,
    protocols: Protocols,
    /// What new connections get.
    acceptor: ArcSwap<Acceptor>,
    files: Mutex<Files>,
    handshakes: Handshakes,
}

/// `fairlead_tls_handshakes_total` by result.
#[derive(Debug)]
struct Handshakes {
    ok: IntCounter,
    failed: IntCounter,
    timeout: IntCounter,
}

/// What was last read, and is still good.
#[derive(Debug)]
struct Files {
    certificates: Vec<(Watched, Arc<Certificate>)>,
    clients: Option<(Watched, Clients)>,
}

impl Listener {
    /// Reads all files.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub(super) fn new(
        listener: &config::Listener,
        tls: &config::ListenerTls,
        metrics: &Metrics,
    ) -> Result<Self, Vec<(Vec<Step>, String)>> {
        let files = Files::read(tls)?;
        let acceptor =
            files.acceptor(tls, listener.protocols).map_err(|error| vec![(vec!["certificates".into()], error)])?;
        let handshakes = |result: &str| metrics.tls_handshakes.with_label_values(&[listener.name.as_str(), result]);
        Ok(Listener {
            name: listener.name.clone(),
            config: tls.clone(),
            protocols: listener.protocols,
            acceptor: ArcSwap::from_pointee(acceptor),
            files: Mutex::new(files),
            handshakes: Handshakes {
                ok: handshakes("ok"),
                failed: handshakes("failed"),
                timeout: handshakes("timeout"),
            },
        })
    }

    /// Makes a client's connection a secure one. None: it cannot be, and is closed.
    pub async fn accept(&self, stream: Stream, limit: Duration) -> Option<Stream> {
        let acceptor = self.acceptor.load_full();
        match acceptor.accept(stream, limit).await {
            Ok(stream) => {
                self.handshakes.ok.inc();
                return Some(stream);
            }
            // Anybody can cause these: they are counted, and told only to who wants to know.
            Err(Failure::Refused(reason)) => {
                self.handshakes.failed.inc();
                log::debug!(listener = self.name, reason = reason; "tls_handshake_failed");
            }
            Err(Failure::Timeout) => {
                self.handshakes.timeout.inc();
                log::debug!(listener = self.name; "tls_handshake_timed_out");
            }
        }
        None
    }

    /// The certificates that it shows.
    pub fn certificates(&self) -> Vec<Arc<Certificate>> {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.certificates.iter().map(|(_, certificate)| certificate.clone()).collect()
    }

    /// Reads files that have changed (`all`: every one). What cannot be used is told, and what was before stays.
    pub(super) fn refresh(&self, all: bool) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let renewed = files.refresh(&self.name, &self.config, all);
        if !renewed && self.acceptor.load().age() < TICKET_KEYS {
            return;
        }
        match files.acceptor(&self.config, self.protocols) {
            Ok(acceptor) => self.acceptor.store(Arc::new(acceptor)),
            Err(error) => return log::error!(listener = self.name, reason = error; "certificate_not_reloaded"),
        }
        if renewed {
            let names: Vec<String> = files.certificates.iter().map(|(_, each)| each.name()).collect();
            log::info!(listener = self.name, certificates = names.join(", "); "certificates_reloaded");
        }
    }
}

impl Files {
    fn read(tls: &config::ListenerTls) -> Result<Self, Vec<(Vec<Step>, String)>> {
        let mut faults = Vec::new();
        let mut certificates = Vec::new();
        for (place, pair) in tls.certificates.iter().enumerate() {
            let watched = watched(pair);
            match usable(pair) {
                Ok(certificate) => certificates.push((watched, Arc::new(certificate))),
                Err(found) => {
                    let placed =
                        |fault: Fault| (vec!["certificates".into(), place.into(), fault.file.into()], fault.text);
                    faults.extend(found.into_iter().map(placed));
                }
            }
        }
        let mut clients = None;
        if let Some(wanted) = &tls.clients {
            let watched = Watched::new(vec![wanted.ca.clone()]);
            match authorities(&wanted.ca) {
                Ok(authorities) => clients = Some((watched, Clients { authorities, required: wanted.required })),
                Err(fault) => faults.push((vec!["client_ca".into()], fault)),
            }
        }
        if faults.is_empty() { Ok(Files { certificates, clients }) } else { Err(faults) }
    }

    fn acceptor(&self, tls: &config::ListenerTls, protocols: Protocols) -> Result<Acceptor, String> {
        let certificates: Vec<_> = self.certificates.iter().map(|(_, certificate)| certificate.clone()).collect();
        let clients = self.clients.as_ref().map(|(_, clients)| clients);
        Acceptor::new(&certificates, clients, tls.min_version, protocols)
            .map_err(|error| format!("OpenSSL refuses it: {}", reason(&error)))
    }

    /// Whether anything is new.
    fn refresh(&mut self, listener: &str, tls: &config::ListenerTls, all: bool) -> bool {
        let mut renewed = false;
        for ((watched, certificate), pair) in self.certificates.iter_mut().zip(&tls.certificates) {
            if !(watched.changed() || all) {
                continue;
            }
            match usable(pair) {
                Ok(new) => {
                    renewed |= !new.is_same(certificate);
                    *certificate = Arc::new(new);
                }
                Err(faults) => {
                    let reason: Vec<String> = faults.into_iter().map(|fault| fault.text).collect();
                    log::error!(
                        listener = listener, certificate = certificate.name(), reason = reason.join("; ");
                        "certificate_not_reloaded"
                    );
                }
            }
        }
        if let (Some((watched, clients)), Some(wanted)) = (&mut self.clients, &tls.clients)
            && (watched.changed() || all)
        {
            match authorities(&wanted.ca) {
                Ok(new) => {
                    renewed |= new != clients.authorities;
                    clients.authorities = new;
                }
                Err(reason) => {
                    log::error!(listener = listener, file = wanted.ca.display().to_string(), reason = reason; "certificate_not_reloaded");
                }
            }
        }
        renewed
    }
}

/// A certificate that is in order and that OpenSSL will show.
pub(super) fn usable(pair: &CertificateFiles) -> Result<Certificate, Vec<Fault>> {
    let certificate = Certificate::read(pair)?;
    match Acceptor::takes(&certificate) {
        Ok(()) => Ok(certificate),
        Err(error) => {
            let text = format!("`{}`: OpenSSL does not take it: {}", pair.cert.display(), reason(&error));
            Err(vec![Fault { file: "cert", text }])
        }
    }
}

pub(super) fn watched(pair: &CertificateFiles) -> Watched {
    Watched::new(vec![pair.cert.clone(), pair.key.clone()])
}
