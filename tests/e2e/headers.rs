//! Which headers a server and a client get to see.

use serde_json::Value;

use crate::support::{Fairlead, Origin, get, one_pool, servers, until};

/// The head that the server saw, for a request with these extra header lines.
struct Seen(Vec<(String, String)>);

impl Seen {
    /// All values of a header, joined.
    fn get(&self, name: &str) -> Option<String> {
        let values: Vec<_> =
            self.0.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    fn mentions(&self, text: &str) -> bool {
        self.0.iter().any(|(_, v)| v.contains(text))
    }
}

/// Trusts these peers, keeps an access log.
async fn start(trusted: &str) -> (Origin, Fairlead) {
    let origin = Origin::start("a");
    let rest = format!("trusted_proxies: [{trusted}]\naccess_log: {{ format: json, path: \"{{dir}}/access.log\" }}\n");
    let fairlead = Fairlead::start(&(one_pool(&servers(&[&origin]), "") + &rest)).await;
    (origin, fairlead)
}

async fn seen(fairlead: &Fairlead, headers: &str) -> Seen {
    let seen = get(fairlead.address(), "/headers", headers).await.json();
    let pairs = seen["headers"].as_array().unwrap().iter();
    let text = |v: &Value| v.as_str().unwrap().to_string();
    Seen(pairs.map(|pair| (text(&pair[0]), text(&pair[1]))).collect())
}

/// The address that the access log gives for the first request.
async fn logged_client(fairlead: &Fairlead) -> String {
    let path = fairlead.dir.path().join("access.log");
    let mut first = Value::Null;
    until("an access log line", async || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        first = text.lines().next().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
        !first.is_null()
    })
    .await;
    first["client"].as_str().unwrap().to_string()
}

const FORGED: &str = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: 6.6.6.6\r\nX-Forwarded-Port: 6666\r\n\
                      Forwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Request-Id: 6.6.6.6\r\n";

#[tokio::test]
async fn a_server_learns_who_asks() {
    let (_origin, fairlead) = start("").await;
    let seen = seen(&fairlead, "Host: shop.test:8080\r\nUser-Agent: tester\r\nX-Own: 1\r\nX-Own: 2\r\n").await;
    assert_eq!(seen.get("host").as_deref(), Some("shop.test:8080"));
    assert_eq!(seen.get("user-agent").as_deref(), Some("tester"));
    assert_eq!(seen.get("x-own").as_deref(), Some("1, 2"));
    assert_eq!(seen.get("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(seen.get("x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(seen.get("x-forwarded-host").as_deref(), Some("shop.test:8080"));
    assert!(seen.get("x-request-id").is_some_and(|id| id.len() >= 8));
    assert_eq!(seen.get("via"), None);
}

#[tokio::test]
async fn an_untrusted_peer_is_not_believed() {
    let (_origin, fairlead) = start("10.0.0.0/8").await;
    let seen = seen(&fairlead, FORGED).await;
    assert!(!seen.mentions("6.6.6.6"), "{:?}", seen.0);
    assert_eq!(seen.get("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(seen.get("x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(seen.get("x-forwarded-host").as_deref(), Some("test"));
    assert_ne!(seen.get("x-forwarded-port").as_deref(), Some("6666"));
    assert_eq!(logged_client(&fairlead).await, "127.0.0.1");
}

#[tokio::test]
async fn a_trusted_peer_is_believed() {
    let (_origin, fairlead) = start("127.0.0.0/8, 10.0.0.0/8").await;
    let headers = "X-Forwarded-For: 6.6.6.6, 203.0.113.9\r\nX-Forwarded-For: 10.1.1.1\r\nX-Forwarded-Proto: https\r\n\
                   X-Forwarded-Host: shop.example\r\nX-Request-Id: their-own-id\r\n";
    let response = get(fairlead.address(), "/", headers).await;
    assert_eq!(response.header("x-request-id"), Some("their-own-id"));
    let seen = seen(&fairlead, headers).await;
    assert_eq!(seen.get("x-forwarded-for").as_deref(), Some("6.6.6.6, 203.0.113.9, 10.1.1.1, 127.0.0.1"));
    assert_eq!(seen.get("x-forwarded-proto").as_deref(), Some("https"));
    assert_eq!(seen.get("x-forwarded-host").as_deref(), Some("shop.example"));
    assert_eq!(seen.get("x-request-id").as_deref(), Some("their-own-id"));
    assert_eq!(logged_client(&fairlead).await, "203.0.113.9", "the rightmost untrusted address");
}

#[tokio::test]
async fn a_trusted_peer_that_says_nothing_is_the_client() {
    let (_origin, fairlead) = start("127.0.0.0/8").await;
    let seen = seen(&fairlead, "").await;
    assert_eq!(seen.get("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(seen.get("x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(logged_client(&fairlead).await, "127.0.0.1");
}

#[tokio::test]
async fn nonsense_from_a_trusted_peer_is_survived() {
    let (_origin, fairlead) = start("127.0.0.0/8").await;
    let seen = seen(&fairlead, "X-Forwarded-For: unknown, , \"x\"\r\n").await;
    assert!(seen.get("x-forwarded-for").unwrap().ends_with("127.0.0.1"));
    assert_eq!(logged_client(&fairlead).await, "127.0.0.1");
}

#[tokio::test]
async fn the_request_id_is_the_same_on_both_sides_and_new_each_time() {
    let (_origin, fairlead) = start("").await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let response = get(fairlead.address(), "/headers", "X-Request-Id: 6.6.6.6\r\n").await;
        let id = response.header("x-request-id").unwrap().to_string();
        let headers = response.json()["headers"].to_string();
        assert!(headers.contains(&id) && !headers.contains("6.6.6.6"), "{id} {headers}");
        assert!(!ids.contains(&id));
        ids.push(id);
    }
}

#[tokio::test]
async fn hop_by_hop_headers_of_requests_end_here() {
    let (_origin, fairlead) = start("").await;
    let seen = seen(
        &fairlead,
        "Connection: keep-alive, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
         Proxy-Authorization: Basic eA==\r\nTE: trailers\r\nUpgrade: h2c\r\nX-Kept: 1\r\n",
    )
    .await;
    for name in ["x-secret", "keep-alive", "proxy-connection", "proxy-authorization", "te", "upgrade"] {
        assert_eq!(seen.get(name), None, "{name}");
    }
    assert!(!seen.get("connection").unwrap_or_default().to_lowercase().contains("secret"));
    assert_eq!(seen.get("x-kept").as_deref(), Some("1"));
}

#[tokio::test]
async fn headers_that_servers_rely_on_cannot_be_named_away() {
    let (_origin, fairlead) = start("").await;
    for name in ["X-Forwarded-For", "X-Forwarded-Proto", "X-Request-Id", "Host"] {
        let response = fairlead.get_with("/headers", &format!("Connection: {name}\r\n")).await;
        let kept = response.text().to_lowercase().contains(&format!("[\"{}\",", name.to_lowercase()));
        assert!(response.status == 400 || kept, "{name}: {} {}", response.status, response.text());
    }
}

#[tokio::test]
async fn hop_by_hop_headers_of_answers_end_here() {
    let (_origin, fairlead) = start("").await;
    let response = fairlead.get("/hop").await;
    assert_eq!(response.status, 200);
    for name in ["x-internal", "keep-alive", "proxy-connection", "fairlead-error"] {
        assert_eq!(response.header(name), None, "{name}");
    }
    assert!(!response.header("connection").unwrap_or_default().to_lowercase().contains("internal"));
    assert_eq!(response.header("x-public"), Some("1"));
    assert!(response.header("x-request-id").is_some());
}
