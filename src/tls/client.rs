//! What servers are told about a client's certificate: the value of `X-Forwarded-Client-Cert`, in the form that Envoy
//! made common: `Hash=…;Subject="…";URI=…;DNS=…`.

use http::HeaderValue;
use openssl::x509::{X509, X509Ref};

use crate::tls::pem;

/// A client's certificate, as servers are told of it. Its authority was verified.
#[derive(Clone, Debug)]
pub struct ClientCertificate(HeaderValue);

impl ClientCertificate {
    /// None only for what cannot be written as a header, which nothing here can be.
    pub fn of(certificate: &X509) -> Option<Self> {
        HeaderValue::try_from(described(certificate)).ok().map(ClientCertificate)
    }

    /// The header's value.
    pub fn header(&self) -> &HeaderValue {
        &self.0
    }
}

/// SHA-256 of the certificate, its subject, and the URIs and DNS names among its alternative names.
fn described(certificate: &X509Ref) -> String {
    let mut text = format!("Hash={};Subject=\"{}\"", pem::fingerprint(certificate), pem::subject(certificate));
    for name in certificate.subject_alt_names().iter().flatten() {
        let named = name.uri().map(|uri| ("URI", uri)).or_else(|| name.dnsname().map(|dns| ("DNS", dns)));
        // One that could end its part of the header, or begin another, is nobody's honest name.
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\";,\\".contains(&byte));
        if let Some((kind, value)) = named.filter(|(_, value)| plain(value)) {
            text.push_str(&format!(";{kind}={value}"));
        }
    }
    text
}
