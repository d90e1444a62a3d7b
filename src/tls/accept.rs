//! TLS towards clients: what a listener offers, and the handshake.
//!
//! Versions and ciphers follow the intermediate configuration of Mozilla's Server Side TLS guidelines
//! (<https://wiki.mozilla.org/Security/Server_Side_TLS>), without its suites of finite-field Diffie-Hellman: TLS 1.2 and
//! 1.3, forward secrecy and AEAD ciphers only. Groups are OpenSSL's own, which lead with the hybrid X25519MLKEM768.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use openssl::error::ErrorStack;
use openssl::ssl::{
    AlpnError, NameType, SniError, Ssl, SslAcceptor, SslAlert, SslContext, SslMethod, SslOptions, SslRef,
    SslVerifyMode, SslVersion, select_next_proto,
};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;
use pingora::listeners::TlsAccept;
use pingora::protocols::l4::stream::Stream as Connection;
use pingora::protocols::tls::server::{handshake, handshake_with_callback};
use pingora::protocols::{IO, Stream};

use crate::config::{Protocols, TlsVersion};
use crate::tls::client::ClientCertificate;
use crate::tls::names::Names;
use crate::tls::pem::Certificate;

/// For TLS 1.2; in the server's order, except that a client which puts ChaCha20 first gets it.
const CIPHERS: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:\
    ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:\
    ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";

/// The protocols that a listener speaks, as TLS lists them: each after its length, the best first.
fn listed(protocols: Protocols) -> &'static [u8] {
    match (protocols.h1, protocols.h2) {
        (true, true) => b"\x02h2\x08http/1.1\x08http/1.0",
        (false, true) => b"\x02h2",
        _ => b"\x08http/1.1\x08http/1.0",
    }
}

/// How a handshake ended that did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// The client does not speak TLS, or agrees to nothing that we offer, or its certificate is refused.
    Refused(String),
    /// It took too long.
    Timeout,
}

/// One generation of what a listener offers. The keys of its session tickets are its own: they end with it.
pub struct Acceptor {
    acceptor: SslAcceptor,
    asks_clients: bool,
    made: Instant,
}

/// Without what only OpenSSL understands.
impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").field("made", &self.made).finish_non_exhaustive()
    }
}

/// The authorities of clients' certificates, and whether a client without one is refused.
#[derive(Clone, Debug)]
pub struct Clients {
    /// Never empty.
    pub authorities: Vec<X509>,
    /// Whether a client without certificate is refused.
    pub required: bool,
}

impl Acceptor {
    /// From certificates (never none), by the file's order.
    ///
    /// # Errors
    /// OpenSSL does not take one of them, such as a key that is too short.
    pub fn new(
        certificates: &[Arc<Certificate>],
        clients: Option<&Clients>,
        min_version: TlsVersion,
        protocols: Protocols,
    ) -> Result<Self, ErrorStack> {
        let mut tls = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
        tls.set_cipher_list(CIPHERS)?;
        tls.set_min_proto_version(Some(match min_version {
            TlsVersion::V1_2 => SslVersion::TLS1_2,
            TlsVersion::V1_3 => SslVersion::TLS1_3,
        }))?;
        tls.set_options(
            SslOptions::CIPHER_SERVER_PREFERENCE
                | SslOptions::PRIORITIZE_CHACHA
                | SslOptions::NO_RENEGOTIATION
                // Where a message ends is HTTP's business; many clients leave without a word.
                | SslOptions::IGNORE_UNEXPECTED_EOF,
        );
        // Head and body of a record with one system call.
        tls.set_read_ahead(true);
        // Required where clients show certificates. Sessions of others cannot be read anyway: the key is not theirs.
        tls.set_session_id_context(b"fairlead")?;
        let protocols = listed(protocols);
        tls.set_alpn_select_callback(|_, offered| match select_next_proto(protocols, offered) {
            // Spoken, but not confirmed: Pingora would take it for a protocol of somebody's own, and close.
            Some(b"http/1.0") => Err(AlpnError::NOACK),
            chosen => chosen.ok_or(AlpnError::ALERT_FATAL),
        });
        if let Some(clients) = clients {
            let mut store = X509StoreBuilder::new()?;
            for authority in &clients.authorities {
                store.add_cert(authority.clone())?;
                tls.add_client_ca(authority)?;
            }
            tls.set_cert_store(store.build());
            let required = if clients.required { SslVerifyMode::FAIL_IF_NO_PEER_CERT } else { SslVerifyMode::NONE };
            tls.set_verify(SslVerifyMode::PEER | required);
        }
        let listed: Vec<_> = certificates.iter().map(|each| (each.names(), each.kind())).collect();
        let names = Names::new(&listed);
        // The default is ready in every connection, unless it comes in two kinds, whose chains one context cannot hold.
        let ready = match names.of_others() {
            [only] => certificates.get(*only),
            _ => None,
        };
        if let Some(certificate) = ready {
            let mut chain = certificate.chain().iter();
            if let Some(own) = chain.next() {
                tls.set_certificate(own)?;
            }
            for issuer in chain {
                tls.add_extra_chain_cert(issuer.clone())?;
            }
            tls.set_private_key(certificate.key())?;
        }
        let ready = ready.is_some();
        let certificates = certificates.to_vec();
        tls.set_servername_callback(move |ssl: &mut SslRef, alert: &mut SslAlert| {
            let chosen = names.find(ssl.servername(NameType::HOST_NAME));
            if ready && chosen == names.of_others() {
                return Ok(());
            }
            for certificate in chosen.iter().filter_map(|place| certificates.get(*place)) {
                show(ssl, certificate).map_err(|_| {
                    *alert = SslAlert::INTERNAL_ERROR;
                    SniError::ALERT_FATAL
                })?;
            }
            Ok(())
        });
        Ok(Acceptor { acceptor: tls.build(), asks_clients: clients.is_some(), made: Instant::now() })
    }

    /// Whether OpenSSL would show a certificate in a handshake.
    ///
    /// # Errors
    /// Why not, such as a key that is too short.
    pub fn takes(certificate: &Certificate) -> Result<(), ErrorStack> {
        let context = SslContext::builder(SslMethod::tls_server())?.build();
        let mut ssl = Ssl::new(&context)?;
        show(&mut ssl, certificate)
    }

    /// How long ago it was made.
    pub fn age(&self) -> Duration {
        self.made.elapsed()
    }

    /// Makes a client's connection a secure one.
    ///
    /// # Errors
    /// It cannot be, or not within `limit`: it is closed then.
    pub async fn accept(&self, stream: Stream, limit: Duration) -> Result<Stream, Failure> {
        let Ok(connection) = stream.into_any().downcast::<Connection>() else {
            return Err(Failure::Refused("the connection is none of the system's".to_owned()));
        };
        let secure = async {
            match self.asks_clients {
                true => handshake_with_callback(&self.acceptor, *connection, &Identify).await,
                false => handshake(&self.acceptor, *connection).await,
            }
        };
        match tokio::time::timeout(limit, secure).await {
            Ok(Ok(stream)) => Ok(Box::new(stream) as Box<dyn IO>),
            Ok(Err(error)) => Err(Failure::Refused(error.to_string())),
            Err(_) => Err(Failure::Timeout),
        }
    }
}

/// Shows this certificate in a connection. Of several with keys of different kinds OpenSSL takes what the client can use.
fn show(ssl: &mut SslRef, certificate: &Certificate) -> Result<(), ErrorStack> {
    let mut chain = certificate.chain().iter();
    if let Some(own) = chain.next() {
        ssl.set_certificate(own)?;
        ssl.set_private_key(certificate.key())?;
    }
    chain.try_for_each(|issuer| ssl.add_chain_cert(issuer.clone()))
}

/// Keeps what servers will be told about a client's certificate with its connection.
struct Identify;

#[async_trait]
impl TlsAccept for Identify {
    async fn handshake_complete_callback(&self, ssl: &SslRef) -> Option<Arc<dyn Any + Send + Sync>> {
        let certificate = ClientCertificate::of(&ssl.peer_certificate()?)?;
        Some(Arc::new(certificate))
    }
}
