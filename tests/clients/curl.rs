//! curl.

use serde_json::Value;

use crate::process::{Ended, run};
use crate::stage::{Stage, only_pool};
use crate::support::{Origin, pattern, servers};

/// What a transfer came to: curl's own variables, by the names of its option `--write-out`.
struct Transfer(Value);

impl Transfer {
    /// Status and version of HTTP.
    fn outcome(&self) -> (u64, &str) {
        (self.0["response_code"].as_u64().unwrap(), self.0["http_version"].as_str().unwrap())
    }
}

async fn stage() -> (Origin, Stage) {
    let origin = Origin::start("a");
    let stage = Stage::start(&only_pool(&servers(&[&origin]))).await;
    (origin, stage)
}

/// `curl` with these options, words apart, and a URL; what comes is in the file `body`.
async fn curl(stage: &Stage, options: &str, url: &str) -> Ended {
    // First of all, that it reads no configuration.
    let mut args = vec!["-q", "-sS", "--max-time", "60", "--noproxy", "*", "-o", "body", "-w", "%{json}\\n"];
    let ports = ["tls", "h2c", "plain", "redirect"].map(|listener| format!("*:{}:127.0.0.1", stage.port(listener)));
    let ports = ports.map(|port| port.replace('*', "a.test"));
    for port in &ports {
        args.extend(["--resolve", port]);
    }
    args.extend(options.split_whitespace());
    args.push(url);
    run(stage.dir(), "curl", &args).await
}

/// The same with trust in the authority; it must succeed.
async fn get(stage: &Stage, options: &str, listener: &str, path: &str) -> Transfer {
    let options = format!("--cacert authority.pem {options}");
    let ended = curl(stage, &options, &stage.url(listener, path)).await.ok();
    Transfer(serde_json::from_str(&ended.out).unwrap())
}

fn body(stage: &Stage) -> Vec<u8> {
    std::fs::read(stage.dir().join("body")).unwrap()
}

/// A header of the request that `/headers` told of.
fn header(stage: &Stage, name: &str) -> Option<String> {
    let seen: Value = serde_json::from_slice(&body(stage)).unwrap();
    let all = seen["headers"].as_array().unwrap();
    let found = all.iter().find(|pair| pair[0].as_str().unwrap().eq_ignore_ascii_case(name))?;
    Some(found[1].as_str().unwrap().to_string())
}

#[tokio::test]
async fn http_2_where_there_is_tls() {
    let (_origin, stage) = stage().await;
    assert_eq!(get(&stage, "--http2", "tls", "/headers").await.outcome(), (200, "2"));
    assert_eq!(header(&stage, "x-forwarded-proto").as_deref(), Some("https"));
    assert_eq!(header(&stage, "host"), Some(format!("a.test:{}", stage.port("tls"))));
    assert!(header(&stage, "user-agent").unwrap().starts_with("curl/"));
    assert_eq!(get(&stage, "--http2 -I", "tls", "/").await.outcome(), (200, "2"));
    assert_eq!(get(&stage, "--http2", "tls", "/status/404").await.outcome(), (404, "2"));
    assert_eq!(get(&stage, "--http2", "tls", "/pauses/5/20").await.outcome(), (200, "2"));
    assert_eq!(body(&stage), b"part 0\npart 1\npart 2\npart 3\npart 4\n");
    stage.fairlead.idle().await;
}

#[tokio::test]
async fn http_1_for_clients_that_want_it() {
    let (_origin, stage) = stage().await;
    assert_eq!(get(&stage, "--http1.1", "tls", "/headers").await.outcome(), (200, "1.1"));
    assert_eq!(header(&stage, "x-forwarded-proto").as_deref(), Some("https"));
    assert_eq!(get(&stage, "--no-alpn", "tls", "/").await.outcome(), (200, "1.1"));
    assert_eq!(get(&stage, "--http1.0", "tls", "/").await.outcome().0, 200);
    assert_eq!(get(&stage, "", "plain", "/").await.outcome(), (200, "1.1"));
}

#[tokio::test]
async fn http_2_without_tls() {
    let (_origin, stage) = stage().await;
    assert_eq!(get(&stage, "--http2-prior-knowledge", "h2c", "/headers").await.outcome(), (200, "2"));
    assert_eq!(header(&stage, "x-forwarded-proto").as_deref(), Some("http"));
    let ended = curl(&stage, "--http2-prior-knowledge", &stage.url("plain", "/")).await;
    assert_ne!(ended.code, Some(0), "a listener without HTTP/2");
    assert_eq!(get(&stage, "", "plain", "/").await.outcome(), (200, "1.1"));
}

/// What `--http2` does where there is no TLS: an upgrade that RFC 9113 has given up.
#[tokio::test]
async fn an_upgrade_to_http_2_is_neither_taken_nor_passed_on() {
    let (_origin, stage) = stage().await;
    assert_eq!(get(&stage, "--http2", "plain", "/headers").await.outcome(), (200, "1.1"));
    for name in ["upgrade", "http2-settings"] {
        assert_eq!(header(&stage, name), None, "{name}");
    }
}

#[tokio::test]
async fn uploads() {
    let (origin, stage) = stage().await;
    let large = pattern(20_000_000);
    std::fs::write(stage.dir().join("large"), &large).unwrap();
    for (options, listener, version) in [
        ("--http2 -T large", "tls", "2"),
        ("--http2 --data-binary @large", "tls", "2"),
        // curl waits for 100 Continue.
        ("--http1.1 -T large", "tls", "1.1"),
        ("--http1.1 -T large -H Transfer-Encoding:chunked", "tls", "1.1"),
        ("--http2-prior-knowledge -T large", "h2c", "2"),
        ("-T large", "plain", "1.1"),
    ] {
        assert_eq!(get(&stage, options, listener, "/echo").await.outcome(), (200, version), "{options}");
        assert!(body(&stage) == large, "{options}: {} bytes came back", body(&stage).len());
    }
    assert_eq!(origin.requests(), 6);
    stage.fairlead.idle().await;
}

#[tokio::test]
async fn many_streams_of_one_connection() {
    let (origin, stage) = stage().await;
    let options = "--cacert authority.pem --http2 --parallel --parallel-max 50";
    let ended = curl(&stage, options, &stage.url("tls", "/bytes/[1001-1100]")).await.ok();
    let transfers: Vec<Transfer> =
        ended.out.lines().map(|line| Transfer(serde_json::from_str(line).unwrap())).collect();
    assert_eq!(transfers.len(), 100);
    for transfer in &transfers {
        assert_eq!(transfer.outcome(), (200, "2"));
    }
    let connections: u64 = transfers.iter().map(|transfer| transfer.0["num_connects"].as_u64().unwrap()).sum();
    assert_eq!(connections, 1);
    let mut sizes: Vec<u64> = transfers.iter().map(|t| t.0["size_download"].as_u64().unwrap()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, (1001..=1100).collect::<Vec<u64>>());
    assert_eq!(origin.requests(), 100);
}

#[tokio::test]
async fn versions_of_tls() {
    let (origin, stage) = stage().await;
    let url = stage.url("tls", "/");
    // With all that OpenSSL has against them put aside, so that it is the server who refuses.
    let old = "--cacert authority.pem --ciphers DEFAULT@SECLEVEL=0 --tlsv1.0 --tls-max 1.1";
    let ended = curl(&stage, old, &url).await;
    assert_eq!(ended.code, Some(35), "{}", ended.err);
    assert!(ended.err.contains("alert protocol version"), "{}", ended.err);
    assert_eq!(curl(&stage, "--cacert authority.pem --tls-max 1.1", &url).await.code, Some(35));
    assert_eq!(origin.requests(), 0);
    assert_eq!(get(&stage, "--tlsv1.2 --tls-max 1.2", "tls", "/").await.outcome(), (200, "2"));
    assert_eq!(get(&stage, "--tlsv1.3", "tls", "/").await.outcome(), (200, "2"));
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_or_for_another_name() {
    let (origin, stage) = stage().await;
    let ended = curl(&stage, "--http2", &stage.url("tls", "/")).await;
    assert_eq!(ended.code, Some(60), "{}", ended.err);
    let by_address = format!("https://{}/", stage.address("tls"));
    let ended = curl(&stage, "--cacert authority.pem", &by_address).await;
    assert_eq!(ended.code, Some(60), "{}", ended.err);
    assert_eq!(origin.requests(), 0);
    let transfer = get(&stage, "--http2", "tls", "/").await;
    assert_eq!((transfer.outcome(), &transfer.0["ssl_verify_result"]), ((200, "2"), &Value::from(0)));
}

#[tokio::test]
async fn from_http_to_https() {
    let (origin, stage) = stage().await;
    let transfer = get(&stage, "--http2", "redirect", "/a?b=c").await;
    assert_eq!(transfer.0["redirect_url"], stage.url("tls", "/a?b=c"));
    assert_eq!(origin.requests(), 0);
    let transfer = get(&stage, "--http2 --location", "redirect", "/a?b=c").await;
    assert_eq!((transfer.outcome(), &transfer.0["num_redirects"]), ((200, "2"), &Value::from(1)));
    let transfer = get(&stage, "--http2 --location --data x=y", "redirect", "/echo").await;
    assert_eq!(transfer.outcome(), (200, "2"));
    assert_eq!(body(&stage), b"x=y", "the method and the body stay");
    assert_eq!(origin.seen(), ["GET /a?b=c", "POST /echo"]);
}
