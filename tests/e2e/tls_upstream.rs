//! TLS towards servers: verified, or not connected to at all.

use std::net::SocketAddr;

use tempfile::TempDir;

use crate::support::{Fairlead, Front, Origin, Pair, Wish, config, ms, until};

/// A node with one pool of this server: `tls` are its settings, `more` further keys of the pool.
async fn start(server: SocketAddr, tls: &str, more: &str, files: &TempDir) -> Fairlead {
    let yaml = config(&format!(
        "pools: {{ app: {{ servers: [\"localhost:{}\"], upstream: {{ tls: {{ {tls} }} }}, {more} }} }}\n",
        server.port()
    ));
    Fairlead::start(&yaml.replace("{files}", files.path().to_str().unwrap())).await
}

const HTTP: &str = "health: { path: /heartbeat, interval: 1s, timeout: 1s }";
const TCP: &str = "health: { interval: 1s, timeout: 1s }";

/// The only server's name, and why it is down.
async fn why_down(fairlead: &Fairlead) -> String {
    let mut reason = String::new();
    until("the server is down", async || {
        let server = fairlead.pool("app").await["servers"][0].clone();
        reason = server["reason"].as_str().unwrap_or_default().to_owned();
        server["state"] == "down"
    })
    .await;
    reason
}

struct World {
    files: TempDir,
    authority: Pair,
    origin: Origin,
}

impl World {
    fn new() -> Self {
        let files = TempDir::new().unwrap();
        let authority = Pair::authority("Servers");
        authority.write(files.path(), "ca");
        World { files, authority, origin: Origin::start("a") }
    }

    async fn front(&self, wish: Wish) -> Front {
        Front::start(&self.authority.issue(wish), self.origin.address).await
    }
}

const CA: &str = "ca: \"{files}/ca.pem\"";

#[tokio::test]
async fn a_server_with_a_good_certificate_serves_over_kept_connections() {
    let world = World::new();
    let named = world.front(Wish::names(&["app.internal"])).await;
    let own = world.front(Wish::names(&["localhost"])).await;
    for (front, sni) in [(&named, ", sni: app.internal"), (&own, "")] {
        for health in [HTTP, TCP] {
            let fairlead = start(front.address, &format!("{CA}{sni}"), health, &world.files).await;
            let before = world.origin.connections();
            let mut client = fairlead.client().await;
            for _ in 0..3 {
                let seen = client.get("/headers").await.json().to_string();
                assert!(
                    seen.contains(r#"["X-Forwarded-Proto","http"]"#)
                        || seen.contains(r#"["x-forwarded-proto","http"]"#),
                    "{seen}"
                );
            }
            client.send_get("/bytes/1000000", "").await;
            assert_eq!(client.response().await.unwrap().body.len(), 1_000_000);
            assert_eq!(world.origin.connections() - before, 1, "kept");
        }
    }
    assert!(world.origin.checks().len() > 1, "checks go by TLS too");
}

#[tokio::test]
async fn a_server_that_cannot_be_verified_is_never_asked() {
    let world = World::new();
    let stranger = Pair::authority("Stranger").issue(Wish::names(&["localhost"]));
    let alone = Pair::authority("localhost");
    let cases = [
        (
            world.front(Wish::names(&["localhost"]).days(-9, -2)).await,
            CA,
            "the certificate of CN=localhost,O=Test\\, Inc. expired on ",
        ),
        (
            world.front(Wish::names(&["localhost"]).days(2, 9)).await,
            CA,
            "the certificate of CN=localhost,O=Test\\, Inc. is not valid before ",
        ),
        (
            world.front(Wish::names(&["other.test", "another.test"])).await,
            CA,
            "the certificate is for `other.test`, `another.test`, not for `localhost`",
        ),
        (
            Front::start(&stranger, world.origin.address).await,
            CA,
            "the certificate of CN=Stranger,O=Test\\, Inc. is signed by an authority that is not trusted (CN=Stranger,O=Test\\, Inc.): name it in `upstream.tls.ca`",
        ),
        (
            Front::start(&alone, world.origin.address).await,
            CA,
            "the certificate of CN=localhost,O=Test\\, Inc. is signed by itself: name it in `upstream.tls.ca`",
        ),
        (
            world.front(Wish::names(&["localhost"])).await,
            "",
            "the certificate of CN=Servers,O=Test\\, Inc. is signed by an authority that is not trusted (CN=Servers,O=Test\\, Inc.): name it in `upstream.tls.ca`",
        ),
    ];
    for (front, tls, expected) in &cases {
        for health in [HTTP, TCP] {
            let fairlead = start(front.address, tls, health, &world.files).await;
            let reason = why_down(&fairlead).await;
            assert!(reason.starts_with(expected), "{reason}");
            assert_eq!(fairlead.get("/").await.refusal(), (503, "no-server"));
        }
    }
    let closes = start(world.origin.address, CA, HTTP, &world.files).await;
    assert_eq!(why_down(&closes).await, "the server ended the connection during the TLS handshake");
    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = plain.local_addr().unwrap();
    let answers = tokio::spawn(async move {
        loop {
            let mut connection = plain.accept().await.unwrap().0;
            tokio::io::AsyncWriteExt::write_all(&mut connection, b"HTTP/1.1 400 Bad Request\r\n\r\n").await.ok();
        }
    });
    let plain = start(address, CA, HTTP, &world.files).await;
    let reason = why_down(&plain).await;
    assert!(reason.starts_with("the server does not speak TLS ("), "{reason}");
    answers.abort();
    assert_eq!(world.origin.requests() + world.origin.checks().len(), 0);
}

#[tokio::test]
async fn verification_can_be_turned_off() {
    let world = World::new();
    let stranger = Pair::authority("Stranger").issue(Wish::names(&["other.test"]).days(-9, -2));
    let front = Front::start(&stranger, world.origin.address).await;
    let yaml = config(&format!(
        "pools: {{ app: {{ servers: [\"{}\"], upstream: {{ tls: {{ verify: false }} }}, {HTTP} }} }}\n",
        front.address
    ));
    let fairlead = Fairlead::start(&yaml).await;
    assert_eq!(fairlead.get("/").await.text(), "a");
}

#[tokio::test]
async fn a_request_that_meets_a_bad_certificate_gets_502_and_the_log_says_why() {
    let world = World::new();
    let front = world.front(Wish::names(&["localhost"])).await;
    let health = "health: { path: /heartbeat, interval: 60s, timeout: 1s }";
    let fairlead = start(front.address, CA, health, &world.files).await;
    assert_eq!(fairlead.get("/close").await.text(), "a");
    front.show(&Pair::authority("Stranger").issue(Wish::names(&["localhost"])));
    let asked = world.origin.requests();
    assert_eq!(fairlead.get("/").await.refusal(), (502, "connect-failed"));
    for _ in 0..5 {
        // Perhaps the circuit has opened.
        assert!(matches!(fairlead.get("/").await.refusal(), (502, "connect-failed") | (503, _)));
    }
    assert_eq!(world.origin.requests(), asked);
    until("told", async || !fairlead.events("server_tls_failed").is_empty()).await;
    let told = fairlead.events("server_tls_failed");
    assert_eq!((told.len(), &told[0]["pool"]), (1, &"app".into()), "not for each request: {told:?}");
    assert!(told[0]["reason"].as_str().unwrap().contains("an authority that is not trusted (CN=Stranger"), "{told:?}");
}

#[tokio::test]
async fn pools_with_other_authorities_do_not_share_connections() {
    let world = World::new();
    let front = world.front(Wish::names(&["localhost"])).await;
    Pair::authority("Others").write(world.files.path(), "others");
    let server = format!("servers: [\"localhost:{}\"], health: {{ interval: 60s, timeout: 1s }}", front.address.port());
    let at = world.files.path().display();
    // `strict` would not trust the server, and its first check must not come before that of `good` has connected.
    let yaml = config(&format!(
        "pools:\n  good: {{ {server}, upstream: {{ tls: {{ ca: \"{at}/ca.pem\" }} }} }}\n  strict: {{ {server}, upstream: {{ tls: {{ ca: \"{at}/others.pem\" }} }} }}\n\
         routes: [{{ match: {{ path_prefix: /good }}, pool: good }}, {{ match: {{ path_prefix: /strict }}, pool: strict }}]\n"
    ));
    let fairlead = Fairlead::start(&yaml).await;
    assert_eq!(fairlead.get("/good").await.text(), "a");
    assert_eq!(fairlead.get("/strict").await.refusal(), (503, "no-server"));
    let reason = fairlead.pool("strict").await["servers"][0]["reason"].to_string();
    assert!(reason.contains("not trusted"), "{reason}");
}

#[tokio::test]
async fn servers_that_ask_get_our_certificate_and_a_renewed_one() {
    let world = World::new();
    let clients = Pair::authority("Clients");
    let server = world.authority.issue(Wish::names(&["localhost"]));
    let front = Front::asking(&server, &clients, world.origin.address).await;
    let own = clients.below("Between").issue(Wish::names(&["edge.test"]));
    own.write(world.files.path(), "edge");
    let client = "client: { cert: \"{files}/edge.pem\", key: \"{files}/edge.key\" }";
    let fairlead = start(front.address, &format!("{CA}, {client}"), HTTP, &world.files).await;
    assert_eq!(fairlead.get("/").await.text(), "a");

    let without = start(front.address, CA, HTTP, &world.files).await;
    let reason = why_down(&without).await;
    assert_eq!(reason, "the server asks for a certificate: set `upstream.tls.client` (certificate required)");

    Pair::authority("Strangers").issue(Wish::names(&["edge.test"])).write(world.files.path(), "edge");
    until("reloaded", async || !fairlead.events("certificates_reloaded").is_empty()).await;
    let reason = why_down(&fairlead).await;
    assert!(reason.starts_with("the server does not trust the authority of `upstream.tls.client`"), "{reason}");
    clients.issue(Wish::names(&["edge.test"])).write(world.files.path(), "edge");
    until("it serves again", async || fairlead.get("/").await.text() == "a").await;
}

#[tokio::test]
async fn a_server_that_is_silent_during_the_handshake_costs_no_more_than_the_time_to_connect() {
    let world = World::new();
    let front = world.front(Wish::names(&["localhost"])).await;
    let health = "health: { path: /heartbeat, interval: 60s, timeout: 5s }";
    let yaml = config(&format!(
        "pools: {{ app: {{ servers: [\"localhost:{}\"], upstream: {{ connect_timeout: 300ms, tls: {{ ca: \"{}/ca.pem\" }} }}, {health} }} }}\n",
        front.address.port(),
        world.files.path().display()
    ));
    let fairlead = Fairlead::start(&yaml).await;
    assert_eq!(fairlead.get("/close").await.text(), "a");
    front.silence();
    let began = std::time::Instant::now();
    assert_eq!(fairlead.get("/").await.refusal(), (502, "connect-failed"));
    assert!((ms(250)..ms(3000)).contains(&began.elapsed()), "{:?}", began.elapsed());
}
