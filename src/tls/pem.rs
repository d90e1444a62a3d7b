//! What PEM files hold, and whether it can be used: certificates in order, a key that belongs to them, authorities.

use std::cmp::Ordering;
use std::io::ErrorKind;
use std::path::Path;

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private};
use openssl::x509::{X509, X509NameRef, X509Ref, X509VerifyResult};

use crate::config::CertificateFiles;

/// A certificate that can be shown: never without one, its key belongs to it, its chain is in order, its time has come
/// and is not over.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// Its own certificate, then those of its issuers; never empty.
    chain: Vec<X509>,
    key: PKey<Private>,
    /// In lower case, as they stand in it: `example.com`, `*.example.com`.
    names: Vec<String>,
}

/// What is wrong, and in which of the two files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// `cert` or `key`, as the configuration's keys.
    pub file: &'static str,
    /// What is wrong and what to do.
    pub text: String,
}

impl Certificate {
    /// Reads and checks both files.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn read(files: &CertificateFiles) -> Result<Certificate, Vec<Fault>> {
        let chain = certificates(&files.cert).and_then(|chain| in_order(chain, &files.cert));
        let key = private_key(&files.key);
        let mut faults = Vec::new();
        if let Err(text) = &chain {
            faults.push(Fault { file: "cert", text: text.clone() });
        }
        if let Err(text) = &key {
            faults.push(Fault { file: "key", text: text.clone() });
        }
        let (Ok(chain), Ok(key)) = (chain, key) else { return Err(faults) };
        if let Some(fault) = foreign_key(&chain, &key, files) {
            faults.push(fault);
        }
        let mut places = chain.iter().enumerate();
        if let Some(text) = places.find_map(|(place, cert)| out_of_time(cert, place == 0, &files.cert)) {
            faults.push(Fault { file: "cert", text });
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let names = chain.first().map(|own| names(own)).unwrap_or_default();
        Ok(Certificate { chain, key, names })
    }

    /// Its own certificate; None never.
    pub fn own(&self) -> Option<&X509> {
        self.chain.first()
    }

    /// Its own certificate, then those of its issuers.
    pub fn chain(&self) -> &[X509] {
        &self.chain
    }

    /// Its private key.
    pub fn key(&self) -> &PKey<Private> {
        &self.key
    }

    /// The kind of its key: a client may take only one kind.
    pub fn kind(&self) -> Id {
        self.key.id()
    }

    /// The names it is for, in lower case; wildcards as `*.example.com`.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// What logs and metrics call it: its first name, else its subject.
    pub fn name(&self) -> String {
        let subject = || self.own().map(|own| subject(own)).unwrap_or_default();
        self.names.first().cloned().unwrap_or_else(subject)
    }

    /// Days until it, or one of its issuers' that goes with it, is over; less than 0: it is.
    pub fn days_left(&self) -> f64 {
        let lasting = |(place, cert): &(usize, &X509)| *place == 0 || !is_self_issued(cert);
        self.chain.iter().enumerate().filter(lasting).map(|(_, cert)| days_left(cert)).fold(f64::INFINITY, f64::min)
    }

    /// Whether it is the same certificates and key.
    pub fn is_same(&self, other: &Certificate) -> bool {
        self.chain == other.chain && self.key.public_eq(&other.key)
    }

    /// Whether it is for no name at all: no browser takes it.
    pub fn is_nameless(&self) -> bool {
        self.own().is_none_or(|own| own.subject_alt_names().is_none())
    }
}

/// Reads a file of authorities' certificates.
///
/// # Errors
/// What is wrong with it.
pub fn authorities(path: &Path) -> Result<Vec<X509>, String> {
    certificates(path)
}

fn shown(path: &Path) -> String {
    format!("`{}`", path.display())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| {
        let why = match error.kind() {
            ErrorKind::NotFound => match path.is_absolute() {
                true => "there is no such file".to_owned(),
                false => "there is no such file below the directory that Fairlead is started in".to_owned(),
            },
            ErrorKind::PermissionDenied => "permission denied: let the user that Fairlead runs as read it".to_owned(),
            ErrorKind::IsADirectory => "it is a directory: name a file".to_owned(),
            _ => error.to_string(),
        };
        format!("{} cannot be read: {why}", shown(path))
    })
}

/// Whether a PEM text has a block whose label ends like this.
fn has_block(pem: &[u8], label: &str) -> bool {
    let end = format!("{label}-----");
    pem.split(|byte| *byte == b'\n').any(|line| {
        let line = line.trim_ascii();
        line.starts_with(b"-----BEGIN ") && line.ends_with(end.as_bytes())
    })
}

fn certificates(path: &Path) -> Result<Vec<X509>, String> {
    let pem = read(path)?;
    let file = shown(path);
    let found = has_block(&pem, "CERTIFICATE");
    match X509::stack_from_pem(&pem) {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ if !found && has_block(&pem, "PRIVATE KEY") => {
            Err(format!("{file} holds a private key and no certificate: name the certificate's file here"))
        }
        _ if !found && X509::from_der(&pem).is_ok() => Err(format!(
            "{file} is in DER form: make a PEM file of it with `openssl x509 -inform der -in {} -out FILE`",
            path.display()
        )),
        _ if !found => {
            Err(format!("{file} holds no certificate: give a PEM file, with `-----BEGIN CERTIFICATE-----` in it"))
        }
        Err(error) => Err(format!("{file} holds a certificate that cannot be read: {}", reason(&error))),
        Ok(_) => Err(format!("{file} holds a certificate that cannot be read")),
    }
}

fn private_key(path: &Path) -> Result<PKey<Private>, String> {
    let pem = read(path)?;
    let file = shown(path);
    if has_block(&pem, "ENCRYPTED PRIVATE KEY") || pem.windows(9).any(|part| part == b"ENCRYPTED") {
        return Err(format!(
            "{file} is encrypted, and nobody is there to give its password: decrypt it with `openssl pkey -in {} -out FILE`, and let only Fairlead's user read that",
            path.display()
        ));
    }
    // With a password, so that OpenSSL never asks for one on the terminal.
    PKey::private_key_from_pem_passphrase(&pem, b"").map_err(|error| {
        if has_block(&pem, "PRIVATE KEY") {
            format!("{file} holds a private key that cannot be read: {}", reason(&error))
        } else if has_block(&pem, "CERTIFICATE") {
            format!("{file} holds a certificate and no private key: name the key's file here")
        } else if PKey::private_key_from_der(&pem).is_ok() {
            let path = path.display();
            format!("{file} is in DER form: make a PEM file of it with `openssl pkey -inform der -in {path} -out FILE`")
        } else {
            format!("{file} holds no private key: give a PEM file, with `-----BEGIN PRIVATE KEY-----` in it")
        }
    })
}

/// The reason that OpenSSL gives, without its places.
pub(super) fn reason(error: &openssl::error::ErrorStack) -> String {
    let reasons: Vec<&str> = error.errors().iter().filter_map(|error| error.reason()).collect();
    if reasons.is_empty() { "no reason is known".to_owned() } else { reasons.join(", ") }
}

/// Each certificate after the first must be its forerunner's issuer: clients need not sort them.
fn in_order(chain: Vec<X509>, path: &Path) -> Result<Vec<X509>, String> {
    let wrong = chain.windows(2).position(|pair| match pair {
        [cert, issuer] => issuer.issued(cert) != X509VerifyResult::OK,
        _ => false,
    });
    let Some(place) = wrong else { return Ok(chain) };
    let called = |place: usize| chain.get(place).map(|cert| subject(cert)).unwrap_or_default();
    Err(format!(
        "{}: its certificates are not in order: number {} ({}) did not issue number {} ({}): put the server's own first, and after each its issuer's",
        shown(path),
        place + 2,
        called(place + 1),
        place + 1,
        called(place),
    ))
}

fn foreign_key(chain: &[X509], key: &PKey<Private>, files: &CertificateFiles) -> Option<Fault> {
    let fits = |cert: &X509| cert.public_key().is_ok_and(|public| public.public_eq(key));
    let (cert, file) = (shown(&files.cert), shown(&files.key));
    let text = match chain.iter().position(fits) {
        Some(0) => return None,
        Some(place) => {
            format!("{file} belongs to certificate number {} in {cert}: put that one first", place + 1)
        }
        None => format!("{file} does not belong to the certificate in {cert}: give the key that it was requested with"),
    };
    Some(Fault { file: "key", text })
}

fn out_of_time(cert: &X509, own: bool, path: &Path) -> Option<String> {
    let now = Asn1Time::days_from_now(0).ok()?;
    let over = cert.not_after().compare(&now).is_ok_and(|order| order != Ordering::Greater);
    // An authority's own certificate only goes along; clients use the one that they have.
    if over && (own || !is_self_issued(cert)) {
        return Some(format!("{}: {} expired on {}: renew it", shown(path), called(cert), cert.not_after()));
    }
    if cert.not_before().compare(&now).is_ok_and(|order| order == Ordering::Greater) {
        return Some(format!(
            "{}: {} is not valid before {}: wait, or check this machine's clock",
            shown(path),
            called(cert),
            cert.not_before()
        ));
    }
    None
}

fn called(cert: &X509Ref) -> String {
    match names(cert).first() {
        Some(name) => format!("the certificate for {name}"),
        None => format!("the certificate of {}", subject(cert)),
    }
}

fn is_self_issued(cert: &X509Ref) -> bool {
    cert.issued(cert) == X509VerifyResult::OK
}

/// Days until a certificate is over.
pub fn days_left(cert: &X509Ref) -> f64 {
    days_until(cert.not_after())
}

fn days_until(time: &Asn1TimeRef) -> f64 {
    let left = Asn1Time::days_from_now(0).and_then(|now| now.diff(time));
    left.map_or(0.0, |left| f64::from(left.days) + f64::from(left.secs) / 86_400.0)
}

/// The names that a certificate is for, in lower case. Its subject counts only where it lists none (RFC 6125 §6.4.4).
pub fn names(cert: &X509Ref) -> Vec<String> {
    let listed = cert.subject_alt_names();
    let listed: Vec<String> = listed
        .iter()
        .flatten()
        .filter_map(|name| name.dnsname())
        .map(str::to_ascii_lowercase)
        .filter(|name| !name.contains(char::is_whitespace))
        .collect();
    if !listed.is_empty() {
        return listed;
    }
    let common = cert.subject_name().entries_by_nid(Nid::COMMONNAME).next();
    let common = common.and_then(|entry| entry.data().to_string().ok()).map(|name| name.to_ascii_lowercase());
    common.filter(|name| name.contains('.') && !name.contains(char::is_whitespace)).into_iter().collect()
}

/// A certificate's subject as RFC 4514 has it.
pub fn subject(cert: &X509Ref) -> String {
    distinguished(cert.subject_name())
}

/// A name as RFC 4514 has it: the last part first, and only printable ASCII.
pub fn distinguished(name: &X509NameRef) -> String {
    let mut parts: Vec<String> = name
        .entries()
        .map(|entry| {
            let kind = entry.object().nid().short_name().unwrap_or("OID");
            let value = entry.data().to_string().unwrap_or_default();
            format!("{kind}={}", escaped(&value))
        })
        .collect();
    parts.reverse();
    parts.join(",")
}

fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' | b'=' => out.extend(['\\', char::from(byte)]),
            b' ' | b'#' if at == 0 || (byte == b' ' && at == last) => out.extend(['\\', char::from(byte)]),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\{byte:02X}")),
        }
    }
    out
}

/// A fingerprint: SHA-256 in lower-case hexadecimal digits.
pub fn fingerprint(cert: &X509Ref) -> String {
    let digest = cert.digest(MessageDigest::sha256());
    digest.map(|digest| digest.iter().map(|byte| format!("{byte:02x}")).collect()).unwrap_or_default()
}
