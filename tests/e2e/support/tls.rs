//! Certificates made on the spot, a client that speaks TLS, and TLS in front of an origin.
//!
//! Both only carry bytes between TLS and a plain connection, so that [`Client`] and [`super::Origin`] stay as they are.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::ssl::{SslAcceptor, SslAcceptorBuilder, SslConnector, SslConnectorBuilder, SslMethod, SslVerifyMode};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};
use pingora::tls::tokio_ssl::SslStream;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::client::Client;
use super::soon;

/// A certificate with its key and what leads to its authority.
#[derive(Clone)]
pub struct Pair {
    /// Its own, then its issuers' up to the authority's.
    pub chain: Vec<X509>,
    /// Its private key.
    pub key: PKey<Private>,
}

/// What a certificate is to be.
#[derive(Clone)]
pub struct Wish {
    names: Vec<String>,
    common: String,
    days: (i64, i64),
    rsa: bool,
    authority: bool,
}

impl Wish {
    /// For these DNS names, valid since yesterday for a year, with an ECDSA key.
    pub fn names(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let common = names.first().cloned().unwrap_or_default();
        Wish { names, common, days: (-1, 365), rsa: false, authority: false }
    }

    /// With this common name.
    pub fn common(mut self, name: &str) -> Self {
        self.common = name.to_owned();
        self
    }

    /// Valid from and to, in days from now.
    pub fn days(mut self, from: i64, to: i64) -> Self {
        self.days = (from, to);
        self
    }

    /// With an RSA key.
    pub fn rsa(mut self) -> Self {
        self.rsa = true;
        self
    }

    fn authority(mut self) -> Self {
        self.authority = true;
        self
    }
}

impl Pair {
    /// An authority of this name.
    pub fn authority(name: &str) -> Self {
        make(&Wish::names(&[]).common(name).authority(), None)
    }

    /// An authority below this one.
    pub fn below(&self, name: &str) -> Self {
        make(&Wish::names(&[]).common(name).authority(), Some(self))
    }

    /// A certificate of this authority.
    pub fn issue(&self, wish: Wish) -> Self {
        make(&wish, Some(self))
    }

    /// Its own certificate, then its issuers' without the authority at the end.
    pub fn pem(&self) -> Vec<u8> {
        let shown = self.chain.len().max(2) - 1;
        self.chain.iter().take(shown).flat_map(|cert| cert.to_pem().unwrap()).collect()
    }

    /// Its private key.
    pub fn key_pem(&self) -> Vec<u8> {
        self.key.private_key_to_pem_pkcs8().unwrap()
    }

    /// Writes `NAME.pem` and `NAME.key`.
    pub fn write(&self, dir: &Path, name: &str) {
        // As tools do that renew certificates: a reader never sees half a file.
        for (file, bytes) in [(format!("{name}.pem"), self.pem()), (format!("{name}.key"), self.key_pem())] {
            std::fs::write(dir.join("new"), bytes).unwrap();
            std::fs::rename(dir.join("new"), dir.join(file)).unwrap();
        }
    }

    fn own(&self) -> &X509 {
        &self.chain[0]
    }
}

fn make(wish: &Wish, issuer: Option<&Pair>) -> Pair {
    let key = if wish.rsa {
        PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap()
    } else {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
    };
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_nid(Nid::ORGANIZATIONNAME, "Test, Inc.").unwrap();
    subject.append_entry_by_nid(Nid::COMMONNAME, &wish.common).unwrap();
    let subject = subject.build();
    let mut made = X509::builder().unwrap();
    made.set_version(2).unwrap();
    let mut serial = BigNum::new().unwrap();
    serial.rand(100, MsbOption::MAYBE_ZERO, false).unwrap();
    made.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    made.set_subject_name(&subject).unwrap();
    made.set_issuer_name(issuer.map_or(&*subject, |issuer| issuer.own().subject_name())).unwrap();
    made.set_pubkey(&key).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    let day = |days: i64| Asn1Time::from_unix(now + days * 86_400 + 60).unwrap();
    made.set_not_before(&day(wish.days.0)).unwrap();
    made.set_not_after(&day(wish.days.1)).unwrap();
    if wish.authority {
        made.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
    }
    if !wish.names.is_empty() {
        let mut names = SubjectAlternativeName::new();
        for name in &wish.names {
            match name.split_once("://") {
                Some(_) => names.uri(name),
                None => names.dns(name),
            };
        }
        let names = names.build(&made.x509v3_context(issuer.map(|issuer| &**issuer.own()), None)).unwrap();
        made.append_extension(names).unwrap();
    }
    made.sign(issuer.map_or(&key, |issuer| &issuer.key), MessageDigest::sha256()).unwrap();
    let mut chain = vec![made.build()];
    chain.extend(issuer.iter().flat_map(|issuer| issuer.chain.clone()));
    Pair { chain, key }
}

/// A connection by TLS.
pub struct Secured {
    /// What goes through it.
    pub client: Client,
    /// The server's certificate.
    pub certificate: X509,
    /// `TLSv1.3`
    pub version: String,
    carrier: JoinHandle<()>,
}

impl Secured {
    /// The first DNS name of the server's certificate.
    pub fn name(&self) -> String {
        let names = self.certificate.subject_alt_names().unwrap();
        names.iter().next().unwrap().dnsname().unwrap().to_owned()
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        self.carrier.abort();
    }
}

/// A client that trusts this authority only.
pub fn trusting(authority: &Pair) -> SslConnectorBuilder {
    let mut connector = SslConnector::builder(SslMethod::tls_client()).unwrap();
    let mut store = openssl::x509::store::X509StoreBuilder::new().unwrap();
    store.add_cert(authority.own().clone()).unwrap();
    connector.set_cert_store(store.build());
    connector
}

/// A handshake that asks for `name` (empty: for none) and verifies it. The error is OpenSSL's, as text.
pub async fn handshake(address: SocketAddr, connector: &SslConnector, name: &str) -> Result<Secured, String> {
    let mut settings = connector.configure().unwrap();
    if name.is_empty() {
        settings.set_use_server_name_indication(false);
        settings.set_verify_hostname(false);
    }
    let ssl = settings.into_ssl(name).unwrap();
    let mut stream = SslStream::new(ssl, TcpStream::connect(address).await.unwrap()).unwrap();
    soon("a handshake", Pin::new(&mut stream).connect()).await.map_err(|error| error.to_string())?;
    let certificate = stream.ssl().peer_certificate().unwrap();
    let version = stream.ssl().version_str().to_owned();
    let (mut plain, client) = pipe().await;
    let carrier = tokio::spawn(async move {
        copy_bidirectional(&mut stream, &mut plain).await.ok();
    });
    Ok(Secured { client, certificate, version, carrier })
}

async fn pipe() -> (TcpStream, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::connect(listener.local_addr().unwrap()).await;
    (listener.accept().await.unwrap().0, client)
}

/// TLS in front of an origin.
pub struct Front {
    /// Where it is.
    pub address: SocketAddr,
    /// None: new connections hear nothing.
    acceptor: Arc<Mutex<Option<SslAcceptor>>>,
    task: JoinHandle<()>,
}

impl Front {
    /// Shows this certificate and passes everything on to `to`.
    pub async fn start(pair: &Pair, to: SocketAddr) -> Self {
        Self::with(acceptor(pair), to).await
    }

    /// The same, with clients that must show a certificate of this authority.
    pub async fn asking(pair: &Pair, authority: &Pair, to: SocketAddr) -> Self {
        let mut acceptor = acceptor(pair);
        let mut store = openssl::x509::store::X509StoreBuilder::new().unwrap();
        store.add_cert(authority.own().clone()).unwrap();
        acceptor.set_cert_store(store.build());
        acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        acceptor.set_session_id_context(b"front").unwrap();
        Self::with(acceptor, to).await
    }

    async fn with(acceptor: SslAcceptorBuilder, to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = Arc::new(Mutex::new(Some(acceptor.build())));
        let shared = acceptor.clone();
        let task = tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                let ssl = shared.lock().unwrap().as_ref().map(|tls| openssl::ssl::Ssl::new(tls.context()).unwrap());
                tokio::spawn(async move {
                    let Some(ssl) = ssl else {
                        let _held = connection;
                        return std::future::pending().await;
                    };
                    let mut stream = SslStream::new(ssl, connection).unwrap();
                    if Pin::new(&mut stream).accept().await.is_ok()
                        && let Ok(mut plain) = TcpStream::connect(to).await
                    {
                        copy_bidirectional(&mut stream, &mut plain).await.ok();
                    }
                });
            }
        });
        Front { address, acceptor, task }
    }

    /// New connections see this certificate.
    pub fn show(&self, pair: &Pair) {
        *self.acceptor.lock().unwrap() = Some(acceptor(pair).build());
    }

    /// New connections are accepted, and hear nothing.
    pub fn silence(&self) {
        *self.acceptor.lock().unwrap() = None;
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn acceptor(pair: &Pair) -> SslAcceptorBuilder {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_certificate(pair.own()).unwrap();
    acceptor.set_private_key(&pair.key).unwrap();
    for issuer in &pair.chain[1..] {
        acceptor.add_extra_chain_cert(issuer.clone()).unwrap();
    }
    acceptor
}
