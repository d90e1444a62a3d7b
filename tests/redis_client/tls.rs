//! TLS, with an authority of our own.

use std::path::{Path, PathBuf};
use std::process::Command;

use fairlead::config::RedisTls;
use fairlead::load::redis::Client;
use tempfile::TempDir;

use crate::cluster::{cluster_with, keys};
use crate::support::{Redis, at, connected, count, free_port, logged, sentinel, until};

fn openssl(dir: &Path, words: &[&str]) {
    let out = Command::new("openssl").args(words).current_dir(dir).output().expect("openssl is not installed");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// `ca.pem`, and `server.pem` with `server.key` for this name (`IP:…` or `DNS:…`).
fn certificates(dir: &Path, name: &str) {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let ca = ["req", "-x509", "-days", "2", "-subj", "/CN=test", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(dir, &[&ca[..], &key].concat());
    let request = ["req", "-subj", "/CN=redis", "-keyout", "server.key", "-out", "server.csr"];
    openssl(dir, &[&request[..], &key].concat());
    std::fs::write(dir.join("names"), format!("subjectAltName={name}")).unwrap();
    let sign = ["x509", "-req", "-days", "2", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key"];
    openssl(dir, &[&sign[..], &["-CAcreateserial", "-extfile", "names", "-out", "server.pem"]].concat());
}

/// An authority, a certificate of its own for all servers, and what these and `redis-cli` need of it.
struct Authority {
    dir: TempDir,
    server: Vec<String>,
    cli: Vec<String>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path(), name);
        let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (certificate, key, ca) = (file("server.pem"), file("server.key"), file("ca.pem"));
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let files = ["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
        let ports = ["--tls-port", "PORT", "--port", "0", "--tls-auth-clients", "no"];
        let host = name.split_once(':').unwrap().1;
        let cli = words(&["--tls", "--cacert", &ca, "-h", host]);
        Authority { server: words(&[&ports[..], &files].concat()), cli, dir }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn trusted(&self) -> Option<RedisTls> {
        Some(RedisTls { ca: Some(self.file("ca.pem")) })
    }

    /// The arguments of a server and of `redis-cli`.
    fn args<'a>(&'a self, more: &[&'a str]) -> (Vec<&'a str>, Vec<&'a str>) {
        let server = self.server.iter().map(String::as_str).chain(more.iter().copied());
        (server.collect(), self.cli.iter().map(String::as_str).collect())
    }

    fn start(&self, more: &[&str]) -> Redis {
        let (server, cli) = self.args(more);
        Redis::with_cli(&server, &cli)
    }
}

#[tokio::test]
async fn a_server_is_trusted_by_its_authority_only() {
    let authority = Authority::new("IP:127.0.0.1");
    let redis = authority.start(&[]);
    let mut config = at(&format!("rediss://127.0.0.1:{}", redis.port));
    let stranger = Client::start(&config).unwrap();
    let told = || logged(&format!(":{} with TLS ", redis.port));
    until("told", async || !told().is_empty()).await;
    assert!(told()[0].contains("redis_lost") && told()[0].contains("error=TLS: "), "{:?}", told());
    assert!(!stranger.is_up());
    stranger.close().await;

    config.tls = authority.trusted();
    let client = connected(&config).await;
    assert_eq!(count(&client, "a").await, Ok(1));

    for (ca, why) in [("missing.pem", "cannot be read"), ("names", "holds no certificate")] {
        config.tls = Some(RedisTls { ca: Some(authority.file(ca)) });
        let error = Client::start(&config).err().unwrap().to_string();
        assert!(error.starts_with("redis.tls.ca: `") && error.contains(why), "{error}");
    }
}

/// The nodes call themselves by address. Where they are given by name, their certificates are for the name.
#[tokio::test]
async fn all_nodes_of_a_cluster() {
    for (name, host) in [("IP:127.0.0.1", "127.0.0.1"), ("DNS:localhost", "localhost")] {
        let authority = Authority::new(name);
        let (server, cli) = authority.args(&["--tls-cluster", "yes"]);
        let nodes = cluster_with(&server, &cli).await;
        let mut config = at(&format!("redis-cluster://{host}:{},{host}:{}", nodes[0].port, nodes[1].port));
        config.tls = authority.trusted();
        let client = connected(&config).await;
        for (key, node) in keys().iter().zip(&nodes) {
            assert_eq!(count(&client, key).await, Ok(1), "{name}");
            assert_eq!(node.cli(&["GET", key]), "1", "{name}");
        }
    }
}

#[tokio::test]
async fn a_sentinel_and_what_it_watches() {
    let authority = Authority::new("IP:127.0.0.1");
    let mut primary = authority.start(&["--tls-replication", "yes"]);
    let of = ["--tls-replication", "yes", "--replicaof", "127.0.0.1", &primary.port.to_string()];
    let replica = authority.start(&[&of[..], &["--repl-diskless-sync-delay", "0"]].concat());
    until("a replica", async || replica.cli(&["INFO", "replication"]).contains("master_link_status:up")).await;
    let port = free_port();
    let file = |name: &str| authority.file(name).display().to_string();
    let config = format!(
        "tls-port {port}\ntls-replication yes\ntls-auth-clients no\ntls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}\n\
         sentinel monitor main 127.0.0.1 {} 1\nsentinel down-after-milliseconds main 300\nsentinel failover-timeout main 3000\n",
        file("server.pem"),
        file("server.key"),
        file("ca.pem"),
        primary.port
    );
    let _sentinel = sentinel(port, &config, replica.dir());
    let known = || {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &port.to_string(), "--tls", "--cacert", &file("ca.pem"), "SENTINEL", "REPLICAS", "main"]);
        String::from_utf8_lossy(&command.output().unwrap().stdout).contains(&replica.port.to_string())
    };
    until("the sentinel knows the replica", async || known()).await;
    let mut config = at(&format!("redis-sentinel://127.0.0.1:{port}?sentinelServiceName=main"));
    config.tls = authority.trusted();
    let client = connected(&config).await;
    assert_eq!(count(&client, "a").await, Ok(1));
    until("replicated", async || replica.cli(&["GET", "a"]) == "1").await;
    primary.stop();
    until("lost", async || !client.is_up()).await;
    until("the new primary", async || client.is_up()).await;
    assert_eq!(count(&client, "a").await, Ok(2));
    assert_eq!(replica.cli(&["GET", "a"]), "2");
}
