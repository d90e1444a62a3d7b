//! What routes change, and whom they serve.

use crate::support::{Fairlead, Origin, config};

async fn start(origin: &Origin, routes: &str) -> Fairlead {
    Fairlead::start(&config(&format!(
        "trusted_proxies: [127.0.0.1]\nroutes:\n{routes}pools: {{ app: {{ servers: [\"{}\"], health: {{ type: tcp }} }} }}\n",
        origin.server()
    )))
    .await
}

#[tokio::test]
async fn headers_are_changed_on_both_ways() {
    let a = Origin::start("a");
    let node = start(
        &a,
        "  - pool: app\n    headers:\n      request: { remove: [x-secret], set: { host: inside, x-set: new }, add: { x-set: more } }\n\
         \x20     response: { remove: [x-hop], set: { strict-transport-security: max-age=60 }, add: { x-more: \"1\" } }\n",
    )
    .await;
    let answer = node.get_with("/headers", "x-secret: 1\r\nx-set: old\r\nx-other: kept\r\n").await;
    let text = answer.text();
    for (there, what) in
        [(true, "inside"), (true, "new"), (true, "more"), (true, "kept"), (false, "x-secret"), (false, "old")]
    {
        assert_eq!(text.contains(what), there, "{what} in {text}");
    }
    assert_eq!(answer.header("strict-transport-security"), Some("max-age=60"));
    assert_eq!(answer.header("x-more"), Some("1"));
}

#[tokio::test]
async fn a_prefix_is_rewritten_for_servers_only() {
    let a = Origin::start("a");
    let node = start(&a, "  - { match: { path_prefix: /api/v1 }, pool: app, rewrite: { prefix: /v1 } }\n").await;
    for (sent, seen) in [("/api/v1/x%20y?q=%2F", "GET /v1/x%20y?q=%2F"), ("/api/v1", "GET /v1")] {
        assert_eq!(node.get(sent).await.status, 200);
        assert_eq!(a.seen().last().map(String::as_str), Some(seen));
    }
    assert_eq!(node.get("/api/v10").await.refusal(), (404, "no-route"));
    // Servers would find what stands beside the prefix.
    let before = a.requests();
    for path in ["/api/v1/../v1/x", "/api/v1/%2e%2e/v1/y", "/api/v1/x/..%2f..%5cz", "/api/v1/..;a/v1"] {
        assert_eq!(node.get(path).await.refusal(), (400, "ambiguous-path"), "{path}");
    }
    assert_eq!(a.requests(), before);
}

#[tokio::test]
async fn a_redirect_leads_elsewhere_without_a_server() {
    let a = Origin::start("a");
    let node = start(
        &a,
        "  - { match: { path_prefix: /old }, redirect: { scheme: https, host: new.example, prefix: /new, status: 301 } }\n\
         \x20 - pool: app\n",
    )
    .await;
    let answer = node.get("/old/x?y=1").await;
    assert_eq!((answer.status, answer.header("location")), (301, Some("https://new.example/new/x?y=1")));
    assert!(answer.header("x-request-id").is_some() && answer.header("fairlead-error").is_none());
    assert_eq!(a.requests(), 0);
    // The connection is fit for the next one.
    let mut client = node.client().await;
    assert_eq!(client.get("/old").await.status, 301);
    assert_eq!(client.get("/x").await.status, 200);
}

#[tokio::test]
async fn only_those_who_may_are_served() {
    let a = Origin::start("a");
    let node = start(&a, "  - { pool: app, allow: [192.0.2.0/24, 127.0.0.1], deny: [192.0.2.7] }\n").await;
    let status = async |client: &str| {
        let answer = node.get_with("/x", &format!("X-Forwarded-For: {client}\r\n")).await;
        (answer.status, answer.header("fairlead-error").map(str::to_owned))
    };
    assert_eq!(status("192.0.2.1").await.0, 200);
    assert_eq!(status("192.0.2.7").await, (403, Some("denied".into())));
    assert_eq!(status("198.51.100.1").await, (403, Some("denied".into())));
    assert_eq!(node.metric("fairlead_refused_total", &[("reason", "denied")]).await, 2.0);
    assert_eq!(a.requests(), 1);
}
