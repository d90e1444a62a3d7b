//! The process's log and the access log.

use std::path::PathBuf;

use http::Request;
use serde_json::Value;

use crate::support::{
    Answer, Client, Fairlead, H2, Heartbeat, Origin, Reserved, config, get, one_pool, request, servers, soon, until,
};

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
    let attempt = &line["attempts"][0];
    assert_eq!((&attempt["server"], &attempt["result"]), (&Value::from(origin.server()), &Value::from("success")));
    assert!(attempt["ms"].as_f64() > Some(0.0) && attempt["ms"].as_f64() <= line["duration_ms"].as_f64(), "{line}");
    assert_eq!(line["attempts"].as_array().unwrap().len(), 1);
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
    assert_eq!(line["attempts"], Value::Array(Vec::new()));
}

#[tokio::test]
async fn what_cannot_be_read_is_told_too() {
    let origin = Origin::start("a");
    let listener = "listeners: [{ name: public, address: \"127.0.0.1:0\", server_header: edge }]\n";
    let pools = format!("pools: {{ app: {{ servers: [{}] }} }}\n", servers(&[&origin]));
    let fairlead = Fairlead::start(&config(&format!("{listener}{pools}access_log: {{ {JSON} }}\n"))).await;
    let mut client = fairlead.client().await;
    client.send_get("/", "").await;
    assert_eq!(client.response().await.unwrap().status, 200);
    client.send("GE(T / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let response = client.response().await.unwrap();
    assert_eq!(response.refusal(), (400, "unparsed"));
    assert_eq!((response.header("server"), response.text().as_str()), (Some("edge"), ""));
    client.closed().await;
    let lines = json_lines(&fairlead, 2).await;
    assert_eq!((&lines[1]["status"], &lines[1]["error"]), (&Value::from(400), &Value::from("unparsed")));
    assert_eq!((&lines[1]["client"], &lines[1]["method"]), (&Value::from("127.0.0.1"), &Value::from("")));
    assert_eq!(lines[1]["request_id"], response.header("x-request-id").unwrap());
    assert_eq!(fairlead.metric("fairlead_refused_total", &[("reason", "unparsed")]).await, 1.0);
    assert_eq!(fairlead.metric("fairlead_requests_total", &[("class", "4xx")]).await, 1.0);
}

#[tokio::test]
async fn connect_over_http2_is_told_too() {
    let origin = Origin::start("a");
    let listener =
        "listeners: [{ name: public, address: \"127.0.0.1:0\", protocols: [h1, h2c], server_header: edge }]\n";
    let pools = format!("pools: {{ app: {{ servers: [{}] }} }}\n", servers(&[&origin]));
    let fairlead = Fairlead::start(&config(&format!("{listener}{pools}access_log: {{ {JSON} }}\n"))).await;
    let mut client = H2::connect(fairlead.address()).await;
    let connect = Request::builder().method("CONNECT").uri("evil.test:80").body(()).unwrap();
    let (answer, _body) = client.begin(connect, false).await;
    let answer = soon("an answer", async { Answer::of(answer.await?).await }).await.unwrap();
    assert_eq!(answer.refusal(), (405, "method-not-allowed"));
    assert_eq!((answer.header("server"), answer.text().trim()), ("edge", "405 method-not-allowed"));
    // The others on the connection are not touched.
    assert_eq!(client.get("/").await.status, 200);
    let lines = json_lines(&fairlead, 2).await;
    assert_eq!((&lines[0]["status"], &lines[0]["error"]), (&Value::from(405), &Value::from("method-not-allowed")));
    assert_eq!((&lines[0]["method"], &lines[0]["host"]), (&Value::from("CONNECT"), &Value::from("evil.test:80")));
    assert_eq!(lines[0]["request_id"], answer.header("x-request-id"));
    assert_eq!(fairlead.metric("fairlead_refused_total", &[("reason", "method-not-allowed")]).await, 1.0);
}

#[tokio::test]
async fn every_attempt_is_told() {
    let (mut a, b) = (Origin::start("a"), Origin::start("b"));
    let pool = one_pool(&servers(&[&a, &b]), "balance: round-robin, health: { type: tcp, interval: 60s, timeout: 1s }");
    let fairlead = Fairlead::start(&(pool + &format!("access_log: {{ {JSON} }}\n"))).await;
    a.kill().await;
    fairlead.get("/").await;
    fairlead.get("/").await;
    let lines = json_lines(&fairlead, 2).await;
    let attempts = |line: &Value| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_string();
        let list = line["attempts"].as_array().unwrap();
        list.iter().map(|attempt| (text(&attempt["server"]), text(&attempt["result"]))).collect()
    };
    let expected = [(a.server(), "connect_failed".to_string()), (b.server(), "success".to_string())];
    assert!(lines.iter().any(|line| attempts(line) == expected), "{lines:#?}");
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
    assert!(line.ends_with("ms") && line.contains(":success:"), "the attempts: {line}");
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

#[tokio::test]
async fn a_log_that_nobody_reads_stops_nothing() {
    let (origin, public, admin) = (Origin::start("a"), Reserved::new(), Reserved::new());
    let health = "health: { path: /heartbeat, interval: 100ms, timeout: 90ms, rise: 1, fall: 1 }, slow_start: 0s";
    let listeners = format!("listeners: [{{ address: \"{}\" }}]\n", public.address);
    let admin_key = format!("admin: {{ address: \"{}\" }}\n", admin.address);
    let pools = format!("pools: {{ app: {{ servers: [{}], {health} }} }}\n", origin.server());
    // A pipe that is full from the start, and that stays open because the process itself holds its other end.
    let full = "mkfifo err; exec 3<>err; dd if=/dev/zero of=err bs=4096 count=16 2>dd";
    let mut fairlead = Fairlead::spawn_by_shell(&config(&(pools + &listeners + &admin_key)), full, "2>err");
    until("it serves", async || {
        Client::try_connect(public.address).await.is_ok() && get(public.address, "/", "").await.status == 200
    })
    .await;
    for (status, state) in [(500, "down"), (200, "up"), (500, "down"), (200, "up")] {
        origin.heartbeat(Heartbeat::Answer(status, ""));
        until("the change is noticed", async || {
            let pools = get(admin.address, "/api/v1/pools", "Host: localhost\r\n").await.json();
            pools[0]["servers"][0]["state"] == state
        })
        .await;
    }
    assert_eq!(get(public.address, "/", "").await.status, 200);
    fairlead.signal(nix::sys::signal::Signal::SIGTERM);
    let (code, took) = fairlead.exit(crate::support::ms(10_000)).await;
    assert_eq!(code, Some(0));
    assert!(took < crate::support::ms(5_000), "{took:?}");
}

#[tokio::test]
async fn lines_that_cannot_be_written_are_counted() {
    let (_origin, fairlead) = start("format: json, path: /dev/full").await;
    for _ in 0..20 {
        assert_eq!(fairlead.get("/").await.status, 200);
    }
    until("all are counted", async || fairlead.metric("fairlead_access_log_dropped_total", &[]).await == 20.0).await;
    until("it is told", async || !fairlead.events("log_cannot_be_written").is_empty()).await;
    let told = fairlead.events("log_cannot_be_written");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(fairlead.metric("fairlead_log_dropped_total", &[]).await, 0.0);
    assert!(fairlead.admin_get("/metrics").await.text().contains("fairlead_log_dropped_total"));
}

#[tokio::test]
async fn a_pipe_that_nobody_reads_is_refused() {
    let yaml = one_pool("127.0.0.1:9", "") + "access_log: { path: \"{dir}/access.log\" }\n";
    let mut fairlead = Fairlead::spawn_by_shell(&yaml, "mkfifo access.log", "");
    assert_eq!(fairlead.exit(crate::support::ms(10_000)).await.0, Some(1));
    let log = fairlead.log();
    assert!(log.contains("access.log") && log.contains("nobody reads"), "{log}");
}

#[tokio::test]
async fn the_limit_of_open_files_is_raised() {
    let yaml = one_pool("127.0.0.1:9", "");
    let fairlead = Fairlead::spawn_by_shell(&yaml, "ulimit -Sn 500", "");
    until("it tells the limit", async || !fairlead.events("open_files").is_empty()).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", fairlead.pid())).unwrap();
    let limit: Vec<_> = limits.lines().find(|l| l.starts_with("Max open files")).unwrap().split_whitespace().collect();
    assert_eq!(limit[3], limit[4], "soft and hard");
    assert_eq!(fairlead.events("open_files")[0]["limit"].to_string(), limit[4]);
}

#[tokio::test]
async fn a_low_limit_of_open_files_is_a_warning() {
    let fairlead = Fairlead::spawn_by_shell(&one_pool("127.0.0.1:9", ""), "ulimit -n 500", "");
    until("it warns", async || !fairlead.events("open_files").is_empty()).await;
    let told = &fairlead.events("open_files")[0];
    assert_eq!((told["level"].as_str(), told["limit"].as_u64()), (Some("WARN"), Some(500)), "{told}");
}
