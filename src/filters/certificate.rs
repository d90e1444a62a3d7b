//! What servers are told about a client's certificate: the header `X-Forwarded-Client-Cert`. It is ours alone: what a
//! client sends by that name is removed whoever it is.

use http::HeaderName;
use pingora::Result;
use pingora::http::RequestHeader;
use pingora::protocols::Digest;

use crate::tls::client::ClientCertificate;

const NAME: HeaderName = HeaderName::from_static(TEXT);
const TEXT: &str = "x-forwarded-client-cert";

/// Writes the certificate of a client's connection into the request that goes to a server.
///
/// # Errors
/// A value that is not a valid header, which one that was made as such cannot be.
pub fn forward(request: &mut RequestHeader, connection: Option<&Digest>) -> Result<()> {
    remove(request);
    let digest = connection.and_then(|digest| digest.ssl_digest.as_ref());
    if let Some(certificate) = digest.and_then(|digest| digest.extension.get::<ClientCertificate>()) {
        request.insert_header(NAME, certificate.header().clone())?;
    }
    Ok(())
}

/// Also where it is written with `_`, which some servers take for `-`.
fn remove(request: &mut RequestHeader) {
    let is_ours = |name: &&HeaderName| {
        let (name, ours) = (name.as_str().as_bytes(), TEXT.as_bytes());
        name.len() == ours.len() && name.iter().zip(ours).all(|(a, b)| a == b || (*a == b'_' && *b == b'-'))
    };
    while let Some(name) = request.headers.keys().find(is_ours).cloned() {
        request.remove_header(&name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_claim_is_removed_however_it_is_written() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for name in [
            "X-Forwarded-Client-Cert",
            "X_Forwarded_Client_Cert",
            "X-Forwarded_Client-Cert",
            "X-Forwarded-Client-Certs",
        ] {
            request.append_header(name, "Subject=\"CN=admin\"").unwrap();
        }
        forward(&mut request, None).unwrap();
        let left: Vec<_> = request.headers.keys().map(|name| name.as_str()).collect();
        assert_eq!(left, ["x-forwarded-client-certs"]);
    }
}
