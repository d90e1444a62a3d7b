//! Which pool a request goes to.

use std::collections::BTreeMap;

use crate::support::{Fairlead, Origin, config, get, request};

/// Pools of one server each, named as their origins.
struct Site {
    fairlead: Fairlead,
    origins: Vec<Origin>,
}

impl Site {
    /// `routes` are flow-style entries, one a line.
    async fn start(pools: &[&str], routes: &str) -> Self {
        Self::start_with(pools, routes, "").await
    }

    async fn start_with(pools: &[&str], routes: &str, rest: &str) -> Self {
        let origins: Vec<Origin> = pools.iter().map(|name| Origin::start(name)).collect();
        let mut yaml = String::from("routes:\n");
        for route in routes.lines().map(str::trim).filter(|line| !line.is_empty()) {
            yaml += &format!("  - {route}\n");
        }
        yaml += "pools:\n";
        for (name, origin) in pools.iter().zip(&origins) {
            yaml += &format!("  {name}: {{ servers: [{}] }}\n", origin.server());
        }
        let fairlead = Fairlead::start(&config(&(yaml + rest))).await;
        Site { fairlead, origins }
    }

    /// Who answers a request: a pool's name, or the name of the refusal.
    async fn ask(&self, host: &str, path: &str, headers: &str) -> String {
        let response = self.fairlead.get_with(path, &format!("Host: {host}\r\n{headers}")).await;
        match response.refusal() {
            (200, _) => response.text(),
            (status, name) => format!("{status} {name}"),
        }
    }
}

#[tokio::test]
async fn the_most_specific_host_wins() {
    let site = Site::start(
        &["any", "suffix", "longer", "exact"],
        r#"{ name: any, match: {}, pool: any }
           { name: suffix, match: { host: ["*.example.com"] }, pool: suffix }
           { name: longer, match: { host: ["*.eu.example.com"] }, pool: longer }
           { name: exact, match: { host: [api.eu.example.com, other.test] }, pool: exact }"#,
    )
    .await;
    let expected = [
        ("api.eu.example.com", "exact"),
        ("API.EU.Example.COM:8080", "exact"),
        ("other.test", "exact"),
        ("www.eu.example.com", "longer"),
        ("a.b.eu.example.com", "longer"),
        ("www.example.com", "suffix"),
        ("eu.example.com", "suffix"),
        ("example.com", "any"),
        ("notexample.com", "any"),
        ("127.0.0.1", "any"),
    ];
    for (host, pool) in expected {
        assert_eq!(site.ask(host, "/", "").await, pool, "{host}");
    }
}

#[tokio::test]
async fn the_longest_prefix_wins_on_segment_boundaries() {
    let site = Site::start(
        &["root", "v1", "users"],
        r#"{ name: root, match: { path_prefix: / }, pool: root }
           { name: v1, match: { path_prefix: /v1 }, pool: v1 }
           { name: users, match: { path_prefix: /v1/users }, pool: users }"#,
    )
    .await;
    let expected = [
        ("/", "root"),
        ("/v1", "v1"),
        ("/v1/", "v1"),
        ("/v1?x=/v1/users", "v1"),
        ("/v10", "root"),
        ("/V1", "root"),
        ("/v1/usersx", "v1"),
        ("/v1/users", "users"),
        ("/v1/users?id=1", "users"),
        ("/v1/users/7", "users"),
        ("/x/v1/users", "root"),
    ];
    for (path, pool) in expected {
        assert_eq!(site.ask("test", path, "").await, pool, "{path}");
    }
}

#[tokio::test]
async fn a_host_counts_more_than_a_path() {
    let site = Site::start(
        &["path", "host"],
        r#"{ name: path, match: { path_prefix: /a/b/c }, pool: path }
           { name: host, match: { host: [exact.test] }, pool: host }"#,
    )
    .await;
    assert_eq!(site.ask("exact.test", "/a/b/c", "").await, "host");
    assert_eq!(site.ask("other.test", "/a/b/c", "").await, "path");
}

#[tokio::test]
async fn headers_and_cookies_select() {
    let site = Site::start(
        &["plain", "beta", "canary"],
        r#"{ name: plain, match: {}, pool: plain }
           { name: beta, match: { headers: { x-stage: beta } }, pool: beta }
           { name: canary, match: { cookies: { stage: canary } }, pool: canary }"#,
    )
    .await;
    assert_eq!(site.ask("test", "/", "").await, "plain");
    assert_eq!(site.ask("test", "/", "X-Stage: beta\r\n").await, "beta");
    assert_eq!(site.ask("test", "/", "X-Stage: betatest\r\n").await, "plain");
    assert_eq!(site.ask("test", "/", "Cookie: a=b; stage=canary\r\n").await, "canary");
    assert_eq!(site.ask("test", "/", "Cookie: xstage=canary\r\n").await, "plain");
}

#[tokio::test]
async fn a_listener_selects() {
    let site = Site::start_with(
        &["outside", "inside"],
        r#"{ name: outside, match: {}, pool: outside }
           { name: inside, match: { listener: internal }, pool: inside }"#,
        r#"listeners: [{ name: public, address: "127.0.0.1:0" }, { name: internal, address: "127.0.0.1:0" }]"#,
    )
    .await;
    assert_eq!(get(site.fairlead.listener("public"), "/", "").await.text(), "outside");
    assert_eq!(get(site.fairlead.listener("internal"), "/", "").await.text(), "inside");
}

#[tokio::test]
async fn a_split_follows_its_shares() {
    let site = Site::start(
        &["old", "new", "never"],
        "{ name: all, match: {}, split: [{ pool: old, weight: 80 }, { pool: new, weight: 20 }, { pool: never, weight: 0 }] }",
    )
    .await;
    let mut client = site.fairlead.client().await;
    let mut counts = BTreeMap::new();
    for _ in 0..500 {
        *counts.entry(client.get("/").await.text()).or_insert(0) += 1;
    }
    assert!((350..=450).contains(&counts["old"]), "{counts:?}");
    assert!(!counts.contains_key("never"), "{counts:?}");
}

#[tokio::test]
async fn without_a_route_404() {
    let site = Site::start(&["api"], "{ name: api, match: { host: [api.test], path_prefix: /v1 }, pool: api }").await;
    assert_eq!(site.ask("api.test", "/v1/x", "").await, "api");
    assert_eq!(site.ask("api.test", "/", "").await, "404 no-route");
    assert_eq!(site.ask("other.test", "/v1/x", "").await, "404 no-route");
    let response = site.fairlead.get("/").await;
    assert!(response.header("x-request-id").is_some_and(|id| !id.is_empty()));
    assert_eq!(site.fairlead.metric("fairlead_refused_total", &[("reason", "no-route")]).await, 3.0);
}

#[tokio::test]
async fn a_request_may_name_its_host_in_the_target() {
    let site = Site::start(
        &["any", "exact"],
        r#"{ name: any, match: {}, pool: any }
           { name: exact, match: { host: [exact.test] }, pool: exact }"#,
    )
    .await;
    let mut client = site.fairlead.client().await;
    client.send(request("GET", "http://exact.test/x?y", "Host: exact.test\r\n", "")).await;
    assert_eq!(client.response().await.unwrap().text(), "exact");
    assert_eq!(site.origins[1].seen(), ["GET /x?y"], "servers get the path alone");
}

#[tokio::test]
async fn a_question_about_the_whole_server_has_a_route() {
    let site = Site::start(&["any"], "{ name: any, match: {}, pool: any }").await;
    let mut client = site.fairlead.client().await;
    client.send(request("OPTIONS", "*", "Host: any.test\r\n", "")).await;
    assert_eq!(client.response().await.unwrap().status, 200);
    assert_eq!(site.origins[0].seen(), ["OPTIONS *"]);
}

#[tokio::test]
async fn a_connection_is_not_bound_to_a_route() {
    let site = Site::start(
        &["a", "b"],
        r#"{ name: a, match: { path_prefix: /a }, pool: a }
           { name: b, match: { path_prefix: /b }, pool: b }"#,
    )
    .await;
    let mut client = site.fairlead.client().await;
    for path in ["/a", "/b", "/c", "/a"] {
        let response = client.get(path).await;
        match response.status {
            200 => assert_eq!(response.text(), path[1..]),
            status => assert_eq!((status, path), (404, "/c")),
        }
        if response.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close")) {
            client = site.fairlead.client().await;
        }
    }
}
