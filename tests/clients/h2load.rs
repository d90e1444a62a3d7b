//! h2load: a client of HTTP/2 that hurries.

use crate::process::run;
use crate::stage::{Stage, only_pool};
use crate::support::{Origin, servers};

/// `h2load` against the listener `tls`, and what it says of its requests.
async fn h2load(stage: &Stage, options: &str, path: &str) -> String {
    let to = format!("--connect-to={}", stage.address("tls"));
    let url = stage.url("tls", path);
    let mut args = vec![to.as_str(), "-t", "1"];
    args.extend(options.split_whitespace());
    args.push(&url);
    run(stage.dir(), "h2load", &args).await.ok().out
}

async fn all_succeed(options: &str, path: &str, protocol: &str, count: usize) {
    let origin = Origin::start("a");
    let stage = Stage::start(&only_pool(&servers(&[&origin]))).await;
    let said = h2load(&stage, &format!("-n {count} {options}"), path).await;
    for line in [
        format!("Application protocol: {protocol}\n"),
        format!(
            "requests: {count} total, {count} started, {count} done, {count} succeeded, 0 failed, 0 errored, 0 timeout\n"
        ),
        format!("status codes: {count} 2xx, 0 3xx, 0 4xx, 0 5xx\n"),
    ] {
        assert!(said.contains(&line), "no line {line}in:\n{said}");
    }
    assert_eq!(origin.requests(), count);
    stage.fairlead.idle().await;
    let refused = stage.fairlead.metric("fairlead_refused_total", &[]).await;
    assert_eq!(refused, 0.0);
}

#[tokio::test]
async fn many_streams() {
    all_succeed("-c 20 -m 20", "/", "h2", 5000).await;
}

#[tokio::test]
async fn by_http_1() {
    all_succeed("-c 20 --h1", "/", "http/1.1", 5000).await;
}

/// Each needs several updates of the windows of its stream and of the connection.
#[tokio::test]
async fn large_answers() {
    all_succeed("-c 5 -m 20 -w 16 -W 17", "/bytes/1000000", "h2", 200).await;
}

#[tokio::test]
async fn uploads() {
    let body = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(body.path(), [b'x'; 200_000]).unwrap();
    all_succeed(&format!("-c 5 -m 20 -d {}", body.path().display()), "/echo", "h2", 500).await;
}
