//! TLS, with an authority of our own.

use std::path::Path;
use std::process::Command;

use fairlead::config::RedisTls;
use fairlead::load::redis::Client;

use crate::support::{Redis, at, connected, count, logged, until};

fn openssl(dir: &Path, words: &[&str]) {
    let out = Command::new("openssl").args(words).current_dir(dir).output().expect("openssl is not installed");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// `ca.pem`, and `server.pem` with `server.key` for 127.0.0.1.
fn certificates(dir: &Path) {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let ca = ["req", "-x509", "-days", "2", "-subj", "/CN=test", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(dir, &[&ca[..], &key].concat());
    let request = ["req", "-subj", "/CN=redis", "-keyout", "server.key", "-out", "server.csr"];
    openssl(dir, &[&request[..], &key].concat());
    std::fs::write(dir.join("names"), "subjectAltName=IP:127.0.0.1").unwrap();
    let sign = ["x509", "-req", "-days", "2", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key"];
    openssl(dir, &[&sign[..], &["-CAcreateserial", "-extfile", "names", "-out", "server.pem"]].concat());
}

#[tokio::test]
async fn a_server_is_trusted_by_its_authority_only() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let args = ["--tls-cert-file", &file("server.pem"), "--tls-key-file", &file("server.key")];
    let more = ["--tls-port", "PORT", "--port", "0", "--tls-auth-clients", "no", "--tls-ca-cert-file", &file("ca.pem")];
    let redis = Redis::with_cli(&[&args[..], &more].concat(), &["--tls", "--cacert", &file("ca.pem")]);

    let mut config = at(&format!("rediss://127.0.0.1:{}", redis.port));
    let stranger = Client::start(&config).unwrap();
    let told = || logged(&format!(":{} with TLS ", redis.port));
    until("told", async || !told().is_empty()).await;
    assert!(told()[0].contains("redis_lost") && told()[0].contains("error=TLS: "), "{:?}", told());
    assert!(!stranger.is_up());
    stranger.close().await;

    config.tls = Some(RedisTls { ca: Some(file("ca.pem").into()) });
    let client = connected(&config).await;
    assert_eq!(count(&client, "a").await, Ok(1));

    for (ca, why) in [("missing.pem", "cannot be read"), ("names", "holds no certificate")] {
        config.tls = Some(RedisTls { ca: Some(file(ca).into()) });
        let error = Client::start(&config).err().unwrap().to_string();
        assert!(error.starts_with("redis.tls.ca: `") && error.contains(why), "{error}");
    }
}
