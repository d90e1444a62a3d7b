//! The admin listener.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::Value;

use crate::support::{Fairlead, Origin, config, get, one_pool, request, servers};

/// One origin behind the proxy, and these `admin` settings.
async fn start(admin: &str) -> (Origin, Fairlead) {
    let origin = Origin::start("a");
    let admin = format!("admin: {{ address: \"127.0.0.1:0\", {admin} }}\n");
    let fairlead =
        Fairlead::start(&(one_pool(&servers(&[&origin]), "").replace("admin: { address: \"127.0.0.1:0\" }\n", &admin)))
            .await;
    (origin, fairlead)
}

#[tokio::test]
async fn health_and_readiness() {
    let (_origin, fairlead) = start("").await;
    assert_eq!(fairlead.admin_get("/healthz").await.status, 200);
    assert_eq!(fairlead.admin_get("/readyz").await.status, 200);
    assert_eq!(fairlead.admin_get("/nothing").await.status, 404);
}

#[tokio::test]
async fn a_pool_shows_its_servers() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let list = format!("{}, {{ name: second, address: \"{}\", weight: 3, priority: 0 }}", a.server(), b.server());
    let fairlead = Fairlead::start(&one_pool(&list, "balance: round-robin")).await;
    let mut client = fairlead.client().await;
    for _ in 0..8 {
        client.get("/delay/5").await;
    }
    // A `GET` may be repeated when a pooled connection fails, a `POST` may not.
    client.send(request("POST", "/reset", "", "")).await;
    client.response().await.unwrap();
    fairlead.idle().await;

    let pool = fairlead.pool("app").await;
    assert_eq!(pool["name"], "app");
    assert_eq!(pool["balance"], "round-robin");
    let servers = pool["servers"].as_array().unwrap();
    assert_eq!(servers.len(), 2);
    let (first, second) = (&servers[0], &servers[1]);
    assert_eq!((&first["name"], &first["address"]), (&Value::from(a.server()), &Value::from(a.server())));
    assert_eq!((&second["name"], &second["address"]), (&Value::from("second"), &Value::from(b.server())));
    assert_eq!((&first["weight"]["configured"], &second["weight"]["configured"]), (&Value::from(1), &Value::from(3)));
    for (server, requests) in [(first, a.requests()), (second, b.requests())] {
        assert_eq!(server["state"], "up");
        assert_eq!(server["health"], "up");
        assert_eq!(server["ejection"], "none");
        assert_eq!(server["draining"], false);
        assert_eq!(server["reason"], "");
        assert_eq!(server["priority"], 0);
        assert_eq!(server["in_flight"]["local"], 0);
        let weight = |of: &str| server["weight"][of].as_f64().unwrap();
        let all = server["errors"] == 0;
        assert!(if all {
            weight("effective") == weight("configured")
        } else {
            weight("effective") < weight("configured")
        });
        assert_eq!(server["requests"], requests);
        let (p50, p99) = (server["p50_ms"].as_f64().unwrap(), server["p99_ms"].as_f64().unwrap());
        assert!((4.0..1000.0).contains(&p50) && p50 <= p99, "{server}");
    }
    assert_eq!(first["errors"].as_u64().unwrap() + second["errors"].as_u64().unwrap(), 1);
}

#[tokio::test]
async fn all_pools_are_listed() {
    let origin = Origin::start("a");
    let server = origin.server();
    let fairlead = Fairlead::start(&config(&format!(
        "routes: [{{ name: all, match: {{}}, pool: one }}]\npools: {{ one: {{ servers: [{server}] }}, two: {{ servers: [{server}] }} }}\n"
    )))
    .await;
    let response = fairlead.admin_get("/api/v1/pools").await;
    assert_eq!(response.header("content-type"), Some("application/json"));
    let list = response.json();
    let names: Vec<&str> = list.as_array().expect("an array").iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["one", "two"]);
    assert_eq!(list[0], fairlead.pool("one").await);
    assert_eq!(fairlead.admin_get("/api/v1/pools/three").await.status, 404);
}

#[tokio::test]
async fn metrics_count() {
    let (origin, fairlead) = start("").await;
    let server = origin.server();
    let mut client = fairlead.client().await;
    for path in ["/", "/", "/status/404", "/status/500", "/reset"] {
        client.send(request("POST", path, "", "")).await;
        client.response().await.unwrap();
    }
    fairlead.idle().await;
    let requests = async |class| fairlead.metric("fairlead_requests_total", &[("pool", "app"), ("class", class)]).await;
    assert_eq!((requests("2xx").await, requests("4xx").await, requests("5xx").await), (2.0, 1.0, 2.0));
    let pool_and_server = [("pool", "app"), ("server", server.as_str())];
    assert_eq!(fairlead.metric("fairlead_attempts_total", &pool_and_server).await, 5.0);
    assert_eq!(fairlead.metric("fairlead_request_duration_seconds_count", &[("pool", "app")]).await, 5.0);
    assert_eq!(fairlead.metric("fairlead_server_up", &pool_and_server).await, 1.0);
    assert_eq!(fairlead.metric("fairlead_refused_total", &[("reason", "upstream-reset")]).await, 1.0);
    assert_eq!(fairlead.metric("fairlead_build_info", &[]).await, 1.0);
}

#[tokio::test]
async fn metrics_have_the_promised_names_and_labels() {
    let (_origin, fairlead) = start("").await;
    fairlead.get("/").await;
    fairlead.idle().await;
    let page = fairlead.admin_get("/metrics").await;
    assert!(page.header("content-type").is_some_and(|v| v.starts_with("text/plain")));
    let text = page.text();
    for (name, labels) in [
        ("fairlead_requests_total", &["route", "pool", "class"][..]),
        ("fairlead_attempts_total", &["pool", "server", "result"]),
        ("fairlead_request_duration_seconds_bucket", &["route", "pool", "le"]),
        ("fairlead_in_flight", &["pool", "server", "scope"]),
        ("fairlead_server_up", &["pool", "server"]),
    ] {
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{name}{{")))
            .unwrap_or_else(|| panic!("no {name} in\n{text}"));
        let inside = line.split(['{', '}']).nth(1).unwrap();
        let found: BTreeSet<&str> = inside.split("\",").map(|l| l.split('=').next().unwrap()).collect();
        assert_eq!(found, labels.iter().copied().collect(), "{line}");
    }
    assert!(text.lines().all(|line| !line.contains("redis")), "no Redis, no figures of it");
}

const BEARER: &str = "Authorization: Bearer s3cret-token\r\n";

/// Statuses of an admin page without a token, with a wrong one, with the right one.
async fn statuses(fairlead: &Fairlead, path: &str) -> [u16; 3] {
    let host = format!("Host: {}\r\n", fairlead.admin());
    let wrong = format!("{host}Authorization: Bearer s3cret-tokem\r\n");
    let right = format!("{host}{BEARER}");
    let mut statuses = [0; 3];
    for (status, headers) in statuses.iter_mut().zip([&host, &wrong, &right]) {
        *status = get(fairlead.admin(), path, headers).await.status;
    }
    statuses
}

#[tokio::test]
async fn a_token_guards_all_but_health_and_open_metrics() {
    let (_origin, fairlead) = start("token: s3cret-token, metrics: open").await;
    assert_eq!(statuses(&fairlead, "/healthz").await, [200; 3]);
    assert_eq!(statuses(&fairlead, "/readyz").await, [200; 3]);
    assert_eq!(statuses(&fairlead, "/metrics").await, [200; 3]);
    assert_eq!(statuses(&fairlead, "/api/v1/pools").await, [401, 401, 200]);
    assert_eq!(statuses(&fairlead, "/api/v1/pools/app").await, [401, 401, 200]);
    assert_eq!(statuses(&fairlead, "/api/v1/pools/none").await, [401, 401, 404]);
}

#[tokio::test]
async fn a_token_may_guard_metrics() {
    let (_origin, fairlead) = start("token: s3cret-token, metrics: token").await;
    assert_eq!(statuses(&fairlead, "/metrics").await, [401, 401, 200]);
    assert_eq!(statuses(&fairlead, "/readyz").await, [200; 3]);
}

#[tokio::test]
async fn a_foreign_host_is_refused() {
    let (_origin, fairlead) = start("hosts: [edge1.example.com]").await;
    let port = fairlead.admin().port();
    let status = async |host: &str| get(fairlead.admin(), "/api/v1/pools", &format!("Host: {host}\r\n")).await.status;
    for host in
        [format!("127.0.0.1:{port}"), format!("localhost:{port}"), "localhost".into(), "edge1.example.com".into()]
    {
        assert_eq!(status(&host).await, 200, "{host}");
    }
    for host in ["evil.example.com", "127.0.0.1.evil.example.com", "edge1.example.com.evil", "localhost.evil:80"] {
        assert!(matches!(status(host).await, 421 | 403), "{host}");
    }
}

/// Addresses on which a process listens.
fn listening(pid: u32) -> Vec<SocketAddr> {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|e| std::fs::read_link(e.unwrap().path()).ok());
    let inodes: BTreeSet<String> =
        links.filter_map(|l| Some(l.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_string())).collect();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut found = Vec::new();
    for line in table.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words[3] == "0A" && inodes.contains(words[9]) {
            let (ip, port) = words[1].split_once(':').unwrap();
            let ip = u32::from_str_radix(ip, 16).unwrap().to_ne_bytes();
            found.push(SocketAddr::from((ip, u16::from_str_radix(port, 16).unwrap())));
        }
    }
    found
}

#[tokio::test]
async fn without_admin_there_is_no_admin_listener() {
    let origin = Origin::start("a");
    let yaml = one_pool(&servers(&[&origin]), "").replace("admin: { address: \"127.0.0.1:0\" }\n", "");
    assert!(!yaml.contains("admin"));
    let fairlead = Fairlead::start(&yaml).await;
    crate::support::until("it serves", async || fairlead.get("/").await.status == 200).await;
    assert_eq!(listening(fairlead.pid()), [fairlead.address()]);
    assert!(fairlead.events("admin_listening").is_empty());
}

#[tokio::test]
async fn with_admin_there_are_two_listeners() {
    let (_origin, fairlead) = start("").await;
    let found: BTreeSet<_> = listening(fairlead.pid()).into_iter().collect();
    assert_eq!(found, BTreeSet::from([fairlead.address(), fairlead.admin()]));
}
