//! TLS towards the servers of one pool: whom we trust, which name must stand in a certificate, and what we show.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use pingora::protocols::tls::CaType;
use pingora::upstreams::peer::HttpPeer;
use pingora::utils::tls::CertKey;

use crate::config::{self, Step};
use crate::tls::listener::{usable, watched};
use crate::tls::pem::{Certificate, Fault, authorities};
use crate::tls::watch::Watched;

/// TLS towards the servers of one pool.
#[derive(Debug)]
pub struct Upstream {
    pool: String,
    config: config::UpstreamTls,
    files: Mutex<(Option<Watched>, Option<Watched>)>,
    material: ArcSwap<Material>,
}

/// What the files hold.
#[derive(Clone, Debug, Default)]
struct Material {
    /// None: the authorities of the system.
    trusted: Option<Arc<CaType>>,
    client: Option<(Arc<Certificate>, Arc<CertKey>)>,
    /// Connections are shared only among peers of one key: Pingora itself does not look at authorities.
    group: u64,
}

impl Upstream {
    /// Reads all files.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub(super) fn new(pool: &str, config: &config::UpstreamTls) -> Result<Self, Vec<(Vec<Step>, String)>> {
        let files = (config.ca.clone().map(|ca| Watched::new(vec![ca])), config.client.as_ref().map(watched));
        let mut faults = Vec::new();
        let mut material = Material::default();
        if let Some(ca) = &config.ca {
            match authorities(ca) {
                Ok(trusted) => material.trusted = Some(Arc::new(trusted.into_boxed_slice())),
                Err(fault) => faults.push((vec!["ca".into()], fault)),
            }
        }
        if let Some(pair) = &config.client {
            match usable(pair) {
                Ok(certificate) => material.client = Some(shown(certificate)),
                Err(found) => {
                    let placed = |fault: Fault| (vec!["client".into(), fault.file.into()], fault.text);
                    faults.extend(found.into_iter().map(placed));
                }
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        material.set_group(pool);
        Ok(Upstream {
            pool: pool.to_owned(),
            config: config.clone(),
            files: Mutex::new(files),
            material: ArcSwap::from_pointee(material),
        })
    }

    /// How to connect to a server of the pool: at this address, configured as `host`.
    pub fn peer(&self, address: SocketAddr, host: &str) -> HttpPeer {
        let material = self.material.load();
        let mut peer = HttpPeer::new(address, true, self.name(host).to_owned());
        peer.options.verify_cert = self.config.verify;
        peer.options.verify_hostname = self.config.verify;
        peer.options.ca.clone_from(&material.trusted);
        peer.client_cert_key = material.client.as_ref().map(|(_, shown)| shown.clone());
        peer.group_key = material.group;
        peer
    }

    /// The name that a server is asked for. Empty, which Pingora takes as "do not verify", only where the configuration
    /// says that too.
    pub fn name<'a>(&'a self, host: &'a str) -> &'a str {
        match &self.config.sni {
            Some(name) => name,
            None if host.parse::<IpAddr>().is_ok() => "",
            None => host,
        }
    }

    /// Whether servers' certificates are verified.
    pub fn verifies(&self) -> bool {
        self.config.verify
    }

    /// Who is trusted; none: the authorities of the system.
    pub fn trusted(&self) -> Option<Arc<CaType>> {
        self.material.load().trusted.clone()
    }

    /// What we show to servers that ask for it.
    pub fn client(&self) -> Option<Arc<Certificate>> {
        self.material.load().client.as_ref().map(|(certificate, _)| certificate.clone())
    }

    /// Reads files that have changed (`all`: every one). What cannot be used is told, and what was before stays. True:
    /// peers must be made anew.
    pub(super) fn refresh(&self, all: bool) -> bool {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let (ca, client) = &mut *files;
        let mut material = Material::clone(&self.material.load());
        let before = material.group;
        if let (Some(watched), Some(path)) = (ca, &self.config.ca)
            && (watched.changed() || all)
        {
            match authorities(path) {
                Ok(trusted) => material.trusted = Some(Arc::new(trusted.into_boxed_slice())),
                Err(reason) => log::error!(pool = self.pool, reason = reason; "certificate_not_reloaded"),
            }
        }
        if let (Some(watched), Some(pair)) = (client, &self.config.client)
            && (watched.changed() || all)
        {
            match usable(pair) {
                Ok(certificate) => material.client = Some(shown(certificate)),
                Err(faults) => {
                    let reasons: Vec<String> = faults.into_iter().map(|fault| fault.text).collect();
                    log::error!(pool = self.pool, reason = reasons.join("; "); "certificate_not_reloaded");
                }
            }
        }
        material.set_group(&self.pool);
        if material.group == before {
            return false;
        }
        self.material.store(Arc::new(material));
        log::info!(pool = self.pool; "certificates_reloaded");
        true
    }
}

fn shown(certificate: Certificate) -> (Arc<Certificate>, Arc<CertKey>) {
    let pair = CertKey::new(certificate.chain().to_vec(), certificate.key().clone());
    (Arc::new(certificate), Arc::new(pair))
}

impl Material {
    fn set_group(&mut self, pool: &str) {
        let mut hasher = DefaultHasher::new();
        pool.hash(&mut hasher);
        let client = self.client.iter().flat_map(|(certificate, _)| certificate.chain());
        let trusted = self.trusted.iter().flat_map(|trusted| trusted.iter());
        let marked = trusted.map(|each| (1, each)).chain(client.map(|each| (2, each)));
        for (mark, certificate) in marked {
            (mark, certificate.to_der().unwrap_or_default()).hash(&mut hasher);
        }
        // 0 is what peers without TLS have.
        self.group = hasher.finish().max(1);
    }
}
