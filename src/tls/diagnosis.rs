//! Why a server's certificate was refused. Pingora only says that it was: so the server is asked once more, by a
//! connection that is used for nothing else, and what OpenSSL finds is put in words.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::ssl::{Ssl, SslConnector, SslMethod, SslVerifyMode};
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::{X509Ref, X509StoreContextRef};
use pingora::tls::tokio_ssl::SslStream;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::tls::pem;
use crate::tls::upstream::Upstream;

/// How long what a server says after the handshake is waited for.
const AFTERWARDS: Duration = Duration::from_millis(200);

/// Why TLS to a server cannot be had. None: this time it could be, or the server cannot be reached.
pub async fn why_refused(tls: &Upstream, address: SocketAddr, host: &str) -> Option<String> {
    let name = tls.name(host);
    let found: Arc<Mutex<Option<String>>> = Arc::default();
    let connection = TcpStream::connect(address).await.ok()?;
    let ssl = match prepare(tls, name, found.clone()) {
        Ok(ssl) => ssl,
        Err(error) => return Some(pem::reason(&error)),
    };
    let mut stream = SslStream::new(ssl, connection).ok()?;
    let error = match Pin::new(&mut stream).connect().await {
        Err(error) => error,
        Ok(()) => return said_afterwards(&mut stream).await,
    };
    let refused = found.lock().unwrap_or_else(PoisonError::into_inner).take();
    Some(refused.unwrap_or_else(|| match error.ssl_error() {
        Some(stack) => in_words(&pem::reason(stack)),
        None => "the server ended the connection during the TLS handshake".to_owned(),
    }))
}

/// In TLS 1.3 a server looks at our certificate only after we are done: if it does not like it, it says so at once.
async fn said_afterwards(stream: &mut SslStream<TcpStream>) -> Option<String> {
    let read = tokio::time::timeout(AFTERWARDS, stream.read(&mut [0; 1])).await.ok()?;
    alert(&read.err()?.to_string())
}

/// As Pingora sets its connections up.
fn prepare(tls: &Upstream, name: &str, found: Arc<Mutex<Option<String>>>) -> Result<Ssl, ErrorStack> {
    let mut ssl = SslConnector::builder(SslMethod::tls_client())?.build().configure()?;
    if let Some(trusted) = tls.trusted() {
        let mut store = X509StoreBuilder::new()?;
        for authority in trusted.iter() {
            store.add_cert(authority.clone())?;
        }
        ssl.set_verify_cert_store(store.build())?;
    }
    if let Some(client) = tls.client()
        && let Some(own) = client.own()
    {
        ssl.set_certificate(own)?;
        ssl.set_private_key(client.key())?;
    }
    let wanted = name.to_owned();
    if tls.verifies() {
        ssl.set_verify_callback(SslVerifyMode::PEER, move |fine, context| {
            if !fine {
                found.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| refusal(context, &wanted));
            }
            fine
        });
    } else {
        ssl.set_verify(SslVerifyMode::NONE);
    }
    ssl.set_verify_hostname(tls.verifies());
    ssl.into_ssl(name)
}

// Of OpenSSL's x509_vfy.h; the crate has no names for these.
const NO_ISSUER: i32 = 2;
const NOT_YET: i32 = 9;
const OVER: i32 = 10;
const SELF_SIGNED: i32 = 18;
const SELF_SIGNED_CHAIN: i32 = 19;
const NO_LOCAL_ISSUER: i32 = 20;
const UNVERIFIED: i32 = 21;
const OTHER_NAME: i32 = 62;

fn refusal(context: &X509StoreContextRef, wanted: &str) -> String {
    let error = context.error();
    let Some(certificate) = context.current_cert() else { return error.error_string().to_owned() };
    let subject = pem::subject(certificate);
    match error.as_raw() {
        OVER => format!("the certificate of {subject} expired on {}", certificate.not_after()),
        NOT_YET => format!("the certificate of {subject} is not valid before {}", certificate.not_before()),
        OTHER_NAME => format!("the certificate is for {}, not for `{wanted}`", listed(certificate)),
        SELF_SIGNED => format!("the certificate of {subject} is signed by itself: name it in `upstream.tls.ca`"),
        NO_ISSUER | SELF_SIGNED_CHAIN | NO_LOCAL_ISSUER | UNVERIFIED => format!(
            "the certificate of {subject} is signed by an authority that is not trusted ({}): name it in `upstream.tls.ca`",
            pem::distinguished(certificate.issuer_name())
        ),
        _ => format!("the certificate of {subject}: {}", error.error_string()),
    }
}

fn listed(certificate: &X509Ref) -> String {
    let names = pem::names(certificate);
    if names.is_empty() { "no name".to_owned() } else { format!("`{}`", names.join("`, `")) }
}

/// What OpenSSL says when it is not about a certificate of the server's.
fn in_words(reason: &str) -> String {
    let words = [
        ("wrong version number", "the server does not speak TLS"),
        ("packet length too long", "the server does not speak TLS"),
        ("http request", "the server does not speak TLS"),
        ("certificate required", "the server asks for a certificate: set `upstream.tls.client`"),
        ("unknown ca", "the server does not trust the authority of `upstream.tls.client`"),
        ("unrecognized name", "the server does not know the name that it is asked for: set `upstream.tls.sni`"),
        ("protocol version", "the server speaks no version of TLS that is still safe"),
    ];
    match words.iter().find(|(part, _)| reason.contains(part)) {
        Some((_, words)) => format!("{words} ({reason})"),
        None => format!("the TLS handshake failed: {reason}"),
    }
}

/// What a server has said by an alert, if that is why an error came about.
pub fn alert(error: &str) -> Option<String> {
    let (_, rest) = error.split_once(" alert ")?;
    rest.find(['\n', ':']).and_then(|end| rest.get(..end)).map(in_words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_openssl_says_is_put_in_words() {
        assert_eq!(in_words("wrong version number"), "the server does not speak TLS (wrong version number)");
        let read = "ReadError context: x cause: error:0A00045C:SSL routines:ssl3_read_bytes:tlsv13 alert certificate required:a.c:9:SSL alert number 116";
        assert_eq!(
            alert(read).unwrap(),
            "the server asks for a certificate: set `upstream.tls.client` (certificate required)"
        );
        assert_eq!(alert("ReadError"), None);
        assert_eq!(in_words("bad mood"), "the TLS handshake failed: bad mood");
    }
}
