//! TLS towards clients and towards servers. What the files hold is not looked at here: see [`crate::tls`].

use std::path::PathBuf;

use super::fields::Fields;
use super::kind::{List, Parsed, Section, ShortOr, Truth, Word, whole};
use super::pool::Server;
use super::units::host_name;

/// TLS of a listener.
#[derive(Clone, Debug)]
pub struct ListenerTls {
    /// Never empty; the first serves clients that ask for none of the names.
    pub certificates: Vec<CertificateFiles>,
    /// None: clients are not asked for certificates.
    pub clients: Option<ClientCertificates>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
}

/// Two PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, then those of its issuers up to one that the other side trusts.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What clients must show.
#[derive(Clone, Debug)]
pub struct ClientCertificates {
    /// A PEM file of the authorities whose certificates are accepted.
    pub ca: PathBuf,
    /// Whether a client without certificate is refused.
    pub required: bool,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// 1.2
    V1_2,
    /// 1.3
    V1_3,
}

/// TLS to servers.
#[derive(Clone, Debug)]
pub struct UpstreamTls {
    /// The name that servers are asked for and that their certificates must have. None: each server's own.
    pub sni: Option<String>,
    /// A PEM file of authorities, which alone are trusted. None: those of the system.
    pub ca: Option<PathBuf>,
    /// Whether certificates of servers are verified.
    pub verify: bool,
    /// Shown to servers that ask for it.
    pub client: Option<CertificateFiles>,
}

const REDIRECT: &str = "`true`, `false` or `{ port: 443 }`";
const UPSTREAM: &str = "`true`, `false`, or a mapping with any of `sni`, `ca`, `verify` and `client`";

/// The path of a file.
pub(super) fn file() -> Parsed<PathBuf> {
    Parsed {
        what: "the path of a file",
        pattern: "",
        parse: |text| match text {
            "" => Err("is no path: name a file".to_owned()),
            path if path.contains('\0') => Err("has a null character".to_owned()),
            path => Ok(PathBuf::from(path)),
        },
    }
}

pub(super) fn listener_tls(f: &mut Fields<'_>) -> Option<ListenerTls> {
    let certificates = f.required(
        "certificates",
        "Chosen by the name that a client asks for; the first serves all others.",
        List { item: Section(certificate), of: "certificates", empty: false },
    );
    let ca = f.optional(
        "client_ca",
        "A PEM file of authorities; clients must show a certificate of one. Default: clients are not asked.",
        file(),
    );
    let required = f.default(
        "client_auth",
        "With `client_ca`: `required` refuses clients without certificate, `optional` lets them in.",
        Word(&[("required", true), ("optional", false)]),
        "required",
    );
    let min_version = f.default(
        "min_version",
        "The oldest version of TLS that is spoken: 1.2 or 1.3.",
        Parsed {
            what: "`\"1.2\"` or `\"1.3\"`",
            pattern: "^1\\.[23]$",
            parse: |text| match text {
                "1.2" => Ok(TlsVersion::V1_2),
                "1.3" => Ok(TlsVersion::V1_3),
                "1.0" | "1.1" => Err("is no longer safe (RFC 8996): write `\"1.2\"` or `\"1.3\"`".to_owned()),
                _ => Err("is no version of TLS: write `\"1.2\"` or `\"1.3\"`".to_owned()),
            },
        },
        "1.2",
    );
    if f.given("client_auth") && !f.given("client_ca") {
        f.problem(&["client_auth".into()], "means nothing without `client_ca`: name the authority, or remove it");
    }
    let required = required?;
    Some(ListenerTls {
        certificates: certificates?.into_iter().flatten().collect(),
        clients: ca.map(|ca| ClientCertificates { ca, required }),
        min_version: min_version?,
    })
}

fn certificate(f: &mut Fields<'_>) -> Option<CertificateFiles> {
    let cert = f.required("cert", "A PEM file: the certificate, then those of its issuers.", file());
    let key = f.required("key", "A PEM file: its private key, not encrypted.", file());
    Some(CertificateFiles { cert: cert?, key: key? })
}

/// The port that clients are sent to.
pub(super) fn redirect_to_https(f: &mut Fields<'_>) -> Option<Option<u16>> {
    f.default(
        "redirect_to_https",
        "Answers every request with a redirect to https: `true`, or `{ port: 8443 }` where that is not 443.",
        ShortOr {
            short: Truth { what: REDIRECT, yes: || Some(443), no: || None },
            long: Section(|f: &mut Fields<'_>| {
                let port = f.default("port", "Where https is served.", whole(1, 65_535), 443);
                Some(Some(u16::try_from(port?).unwrap_or(443)))
            }),
            what: REDIRECT,
        },
        false,
    )
}

/// Some(None): servers are reached without TLS.
pub(super) fn upstream(f: &mut Fields<'_>) -> Option<Option<UpstreamTls>> {
    f.default(
        "tls",
        "TLS to the servers: `true`, or a mapping with any of its keys.",
        ShortOr {
            short: Truth { what: UPSTREAM, yes: || Some(UpstreamTls::default()), no: || None },
            long: Section(upstream_tls),
            what: UPSTREAM,
        },
        false,
    )
}

impl Default for UpstreamTls {
    fn default() -> Self {
        UpstreamTls { sni: None, ca: None, verify: true, client: None }
    }
}

fn upstream_tls(f: &mut Fields<'_>) -> Option<Option<UpstreamTls>> {
    let sni = f.optional(
        "sni",
        "The name that servers are asked for and that their certificates must have. Default: each server's own.",
        Parsed {
            what: "a name such as `app.internal`",
            pattern: "^[A-Za-z0-9_.-]+$",
            parse: |text| match host_name(text) {
                Ok(name) if name.parse::<std::net::Ipv4Addr>().is_err() => Ok(name),
                Ok(_) => Err("is an address: write a name that the servers' certificates have".to_owned()),
                Err(problem) => Err(format!("{problem}: write a name, without a port")),
            },
        },
    );
    let ca =
        f.optional("ca", "A PEM file of authorities, which alone are trusted. Default: those of the system.", file());
    let verify = f.default(
        "verify",
        "`false` accepts any certificate: whoever is on the way can read and change everything.",
        Truth { what: "`true` or `false`", yes: || true, no: || false },
        true,
    );
    let client = f.optional("client", "Shown to servers that ask for a certificate.", Section(certificate));
    let verify = verify?;
    if !verify && f.given("ca") {
        f.problem(&["ca".into()], "means nothing with `verify: false`: remove one of the two");
    }
    Some(Some(UpstreamTls { sni, ca, verify, client }))
}

/// A certificate is verified against a name; Pingora cannot verify one against an address.
pub(super) fn check_names(f: &mut Fields<'_>, tls: &UpstreamTls, servers: &[Server]) {
    if !tls.verify || tls.sni.is_some() {
        return;
    }
    let address = |server: &&Server| server.address.host.parse::<std::net::IpAddr>().is_ok();
    if let Some(server) = servers.iter().find(address) {
        f.problem(
            &["upstream".into(), "tls".into()],
            format!(
                "needs `sni`, because `{}` is an address: give the name that the servers' certificates have, such as `sni: app.internal`",
                server.address
            ),
        );
    }
}
