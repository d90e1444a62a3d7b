//! Chromium, without a window.

use openssl::base64::encode_block;
use openssl::hash::{MessageDigest, hash};
use serde_json::{Value, json};

use crate::process::run;
use crate::site::Site;
use crate::stage::{Stage, only_pool};
use crate::support::{EchoServer, until};

/// Opens a page and waits until it is loaded. Gives the text of its element `results`, which must be JSON.
async fn results(stage: &Stage, url: &str) -> Value {
    let key = stage.pair.chain[0].public_key().unwrap().public_key_to_der().unwrap();
    let key = encode_block(&hash(MessageDigest::sha256(), &key).unwrap());
    let options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--no-first-run",
        "--no-proxy-server",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        // It would try https first, on the same port.
        "--disable-features=HttpsUpgrades,HttpsFirstBalancedModeAutoEnable",
        "--host-resolver-rules=MAP a.test 127.0.0.1",
        "--user-data-dir=profile",
        "--dump-dom",
        // It trusts this certificate only.
        &format!("--ignore-certificate-errors-spki-list={key}"),
        url,
    ];
    let ended = run(stage.dir(), "chromium", &options).await.ok();
    let page = &ended.out;
    let text = page.split_once("<pre id=\"results\">").and_then(|(_, rest)| rest.split_once("</pre>"));
    let text = text.unwrap_or_else(|| panic!("no results:\n{page}\n{}", ended.err)).0;
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {page}\n{}", ended.err))
}

#[tokio::test]
async fn a_page_that_does_a_lot() {
    let site = Site::start().await;
    let chat = EchoServer::start().await;
    let health = "health: { interval: 1h, timeout: 30s, rise: 1 }";
    let rest = format!(
        "routes:
  - {{ name: chat, match: {{ path_prefix: /chat }}, pool: chat }}
  - {{ name: rest, match: {{}}, pool: app }}
pools:
  app: {{ servers: [{}], {health} }}
  chat: {{ servers: [{}], {health} }}
",
        site.address, chat.address
    );
    let stage = Stage::start(&rest).await;
    let results = results(&stage, &stage.url("tls", "/")).await;

    let parts: Vec<String> = (0..30).map(|n| format!("part {n}")).collect();
    assert_eq!(results["parts"], json!(parts));
    let posted = json!({ "greeting": "grüße", "numbers": [1, 2, 3] });
    assert_eq!(results["json"], json!({ "status": 200, "type": "application/json", "body": posted }));
    assert_eq!(results["upload"], json!({ "length": 3_000_000, "same": true }));
    assert_eq!(results["stream"], json!({ "first": "piece 0\n", "rest": "piece 1\n" }));
    assert_eq!(results["abort"], "AbortError");
    let websocket = json!({
        "protocol": "echo",
        "echoes": ["grüße", "100000 characters", "300000 bytes, the same"],
        "code": 4001,
        "reason": "as asked",
        "wasClean": true,
    });
    assert_eq!(results["websocket"], websocket);
    assert_eq!(results["page"], "h2");
    assert_eq!(results["protocols"], json!(["h2"]));

    assert_eq!(site.visits("/").iter().filter(|visit| visit.uri == "/").count(), 1);
    for n in 0..30 {
        let visits = site.visits(&format!("/part/{n}"));
        assert_eq!(visits.iter().filter(|visit| visit.uri.path() == format!("/part/{n}")).count(), 1, "part {n}");
    }
    for visit in site.visits("/part/") {
        assert_eq!(visit.all("x-forwarded-proto"), ["https"]);
        assert_eq!(visit.all("host"), [format!("a.test:{}", stage.port("tls"))]);
        // The browser sends each in a field of its own.
        assert_eq!(visit.all("cookie"), ["first=1; second=2"]);
    }
    let posts = site.visits("/post");
    assert_eq!(posts.len(), 2);
    let post = posts.iter().find(|visit| visit.all("content-type") == ["application/json"]).unwrap();
    assert_eq!(post.method, "POST");
    assert_eq!(serde_json::from_slice::<Value>(&post.body).unwrap(), posted);
    assert_eq!(site.visits("/hang").len(), 1);
    until("the server knows that a request was given up", async || site.given_up() == 1).await;

    let handshakes = chat.handshakes();
    assert_eq!(handshakes.len(), 1);
    assert_eq!(handshakes[0].headers()["origin"], format!("https://a.test:{}", stage.port("tls")));
    assert_eq!(handshakes[0].headers()["x-forwarded-proto"], "https");
    until("the WebSocket is over", async || chat.ends() == ["4001 as asked"]).await;
    stage.fairlead.idle().await;
    let pool = stage.fairlead.pool("chat").await;
    assert_eq!(pool["servers"][0]["in_flight"]["local"], 0, "{pool}");
}

#[tokio::test]
async fn from_http_to_https() {
    let site = Site::start().await;
    let stage = Stage::start(&only_pool(&site.address.to_string())).await;
    let results = results(&stage, &stage.url("redirect", "/small?a=b&c=d")).await;
    assert_eq!(results, json!({ "href": stage.url("tls", "/small?a=b&c=d"), "protocol": "h2" }));
    let visits = site.visits("/small");
    assert_eq!(visits.len(), 1);
    assert_eq!(visits[0].all("x-forwarded-proto"), ["https"]);
}
