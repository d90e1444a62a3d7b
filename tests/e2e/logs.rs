//! The process's log and the access log.

use std::path::PathBuf;

use serde_json::Value;

use crate::support::{Client, Fairlead, Heartbeat, Origin, Reserved, config, get, one_pool, request, servers, until};

/// One origin, and this access log.
async fn start(access_log: &str) -> (Origin, Fairlead) {
    let origin = Origin::start("a");
    let yaml = one_pool(&servers(&[&origin]), "") + &format!("access_log: {{ {access_log} }}\n");
    let fairlead = Fairlead::start(&yaml).await;
    (origin, fairlead)
}

fn path(fairlead: &Fairlead) -> PathBuf {
    fairlead.dir.path().join("access.log")
}

/// The first `n` lines of the access log file.
async fn lines(fairlead: &Fairlead, n: usize) -> Vec<String> {
    let mut lines = Vec::new();
    until("lines in the access log", async || {
        let text = std::fs::read_to_string(path(fairlead)).unwrap_or_default();
        lines = text.split_inclusive('\n').filter(|l| l.ends_with('\n')).map(|l| l.trim_end().to_string()).collect();
        lines.len() >= n
    })
    .await;
    assert_eq!(lines.len(), n, "{lines:#?}");
    lines
}

async fn json_lines(fairlead: &Fairlead, n: usize) -> Vec<Value> {
    lines(fairlead, n).await.iter().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

const JSON: &str = "format: json, path: \"{dir}/access.log\"";

#[tokio::test]
async fn a_line_of_json_a_request() {
    let (origin, fairlead) = start(JSON).await;
    let mut client = fairlead.client().await;
    client.send(request("POST", "/echo?q=1", "Host: shop.test\r\nUser-Agent: te\"st\\er\r\n", "12345")).await;
    let response = client.response().await.unwrap();
    let line = &json_lines(&fairlead, 1).await[0];
    assert_eq!(line["request_id"], response.header("x-request-id").unwrap());
    assert_eq!(line["client"], "127.0.0.1");
    assert_eq!(line["method"], "POST");
    assert_eq!(line["host"], "shop.test");
    assert!(line["path"].as_str().unwrap().starts_with("/echo"), "{line}");
    assert_eq!(line["status"], 200);
    assert!(line["error"].is_null() || line["error"] == "", "{line}");
    assert_eq!(line["pool"], "app");
    assert_eq!(line["server"], origin.server());
    assert_eq!(line["attempts"], 1);
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&Value::from(5), &Value::from(5)));
    assert_eq!(line["user_agent"], "te\"st\\er");
    assert!(line["time"].as_str().is_some_and(|t| t.contains('T') && t.ends_with('Z')), "{line}");
    assert!(line["duration_ms"].as_f64().is_some_and(|d| d > 0.0 && d < 10_000.0), "{line}");
    assert!(line["upstream_ms"].as_f64() <= line["duration_ms"].as_f64(), "{line}");
    assert!(line.get("route").is_some(), "{line}");
}

#[tokio::test]
async fn what_went_wrong_is_named() {
    let (origin, fairlead) = start(JSON).await;
    fairlead.get("/reset").await;
    let mut client = fairlead.client().await;
    client.send_get("/hang", "").await;
    until("it arrives", async || origin.in_flight() == 1).await;
    drop(client);
    let lines = json_lines(&fairlead, 2).await;
    assert_eq!((&lines[0]["status"], &lines[0]["error"]), (&Value::from(502), &Value::from("upstream-reset")));
    assert_eq!((&lines[1]["status"], &lines[1]["error"]), (&Value::from(499), &Value::from("client-gone")));
}

#[tokio::test]
async fn refusals_are_logged_without_a_server() {
    let origin = Origin::stopped("a");
    let yaml = one_pool(&servers(&[&origin]), "") + &format!("access_log: {{ {JSON} }}\n");
    let fairlead = Fairlead::start(&yaml).await;
    fairlead.get("/").await;
    let line = &json_lines(&fairlead, 1).await[0];
    assert_eq!((&line["status"], &line["error"]), (&Value::from(503), &Value::from("no-server")));
    assert!(line["server"].is_null() || line["server"] == "", "{line}");
    assert_eq!(line["attempts"], 0);
}

#[tokio::test]
async fn attempts_are_counted() {
    let (mut a, b) = (Origin::start("a"), Origin::start("b"));
    let pool = one_pool(&servers(&[&a, &b]), "balance: round-robin, health: { type: tcp, interval: 60s, timeout: 1s }");
    let fairlead = Fairlead::start(&(pool + &format!("access_log: {{ {JSON} }}\n"))).await;
    a.kill().await;
    fairlead.get("/").await;
    fairlead.get("/").await;
    let lines = json_lines(&fairlead, 2).await;
    let attempts: Vec<_> = lines.iter().map(|l| l["attempts"].as_u64().unwrap()).collect();
    assert!(attempts.contains(&2), "{lines:#?}");
    assert!(lines.iter().all(|l| l["server"] == b.server() && l["status"] == 200), "{lines:#?}");
}

#[tokio::test]
async fn the_combined_format() {
    let (_origin, fairlead) = start("format: combined, path: \"{dir}/access.log\"").await;
    fairlead.get_with("/bytes/1234?x=y", "User-Agent: agent \"7\"\r\nReferer: http://from.test/\r\n").await;
    let line = &lines(&fairlead, 1).await[0];
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    assert!(line.contains("] \"GET /bytes/1234?x=y HTTP/1.1"), "{line}");
    assert!(line.contains(" HTTP/1.1\" 200 1234 \"http://from.test/\" \"agent "), "{line}");
    let unescaped = line.replace("\\\"", "").matches('"').count();
    assert_eq!(unescaped, 6, "quotes of the client are escaped: {line}");
}

#[tokio::test]
async fn it_may_go_to_standard_output() {
    let (_origin, fairlead) = start("format: json, path: \"-\"").await;
    fairlead.get("/").await;
    until("a line on standard output", async || fairlead.output().contains("\"request_id\"")).await;
    let line: Value = serde_json::from_str(fairlead.output().lines().next().unwrap()).unwrap();
    assert_eq!(line["path"], "/");
}

#[tokio::test]
async fn lines_are_written_before_the_process_ends() {
    let (_origin, mut fairlead) = start(JSON).await;
    for _ in 0..50 {
        fairlead.get("/").await;
    }
    fairlead.signal(nix::sys::signal::Signal::SIGTERM);
    fairlead.exit(crate::support::ms(10_000)).await;
    json_lines(&fairlead, 50).await;
}

#[tokio::test]
async fn without_access_log_no_request_is_logged() {
    let origin = Origin::start("a");
    let fairlead = Fairlead::start(&one_pool(&servers(&[&origin]), "")).await;
    for _ in 0..3 {
        fairlead.get("/a-path-to-find").await;
    }
    fairlead.idle().await;
    assert_eq!(fairlead.output(), "");
    assert!(!fairlead.log().contains("a-path-to-find"));
}

#[tokio::test]
async fn the_log_is_json_with_fields() {
    let origin = Origin::start("a");
    let health = "health: { path: /heartbeat, interval: 200ms, timeout: 150ms, rise: 1, fall: 1 }";
    let mut fairlead = Fairlead::start(&one_pool(&servers(&[&origin]), health)).await;
    origin.heartbeat(Heartbeat::Answer(500, ""));
    fairlead.wait_state(&origin.server(), "down").await;
    fairlead.get("/").await;
    fairlead.signal(nix::sys::signal::Signal::SIGTERM);
    fairlead.exit(crate::support::ms(10_000)).await;
    let log = fairlead.log();
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(line["time"].is_string() && line["level"].is_string(), "{line}");
        let event = line["event"].as_str().unwrap_or_else(|| panic!("no event: {line}"));
        assert!(!event.is_empty() && event.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "a sentence: {line}");
    }
    let about: Vec<_> = fairlead.log_lines().into_iter().filter(|l| l["server"] == origin.server()).collect();
    assert!(about.iter().any(|l| l["pool"] == "app"), "a line about the server that went down: {log}");
}

#[tokio::test]
async fn the_log_may_be_text() {
    let origin = Origin::start("a");
    let yaml = one_pool(&servers(&[&origin]), "").replace("format: json", "format: text");
    let fairlead = Fairlead::spawn(&yaml);
    until("it listens", async || fairlead.log().contains(" listening ")).await;
    let log = fairlead.log();
    let line = log.lines().find(|l| l.contains(" listening ")).unwrap();
    assert!(line.contains("127.0.0.1:"), "{line}");
    assert!(!line.starts_with('{') && line.contains("public"), "{line}");
}

#[tokio::test]
async fn the_level_can_be_set() {
    let (origin, port) = (Origin::start("a"), Reserved::new());
    let listeners = format!("listeners: [{{ address: \"{}\" }}]\nlog: {{ level: error }}\n", port.address);
    let mut fairlead =
        Fairlead::spawn(&config(&format!("pools: {{ app: {{ servers: [{}] }} }}\n{listeners}", origin.server())));
    until("it listens", async || Client::try_connect(port.address).await.is_ok()).await;
    until("it serves", async || get(port.address, "/", "").await.status == 200).await;
    assert!(fairlead.runs());
    assert_eq!(fairlead.log(), "");
}
