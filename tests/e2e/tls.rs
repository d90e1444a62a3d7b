//! TLS towards clients: names, versions, sessions, certificates of clients, and what a silent one gets.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Instant;

use openssl::ssl::{SslConnector, SslVersion};
use tempfile::TempDir;

use crate::support::{
    Client, Fairlead, Origin, Pair, Secured, Wish, config, get, handshake, ms, pattern, request, servers, soon,
    trusting, until,
};

/// A node whose listener `public` has these settings of `tls`, and `more` keys; files of `pairs` are in its directory.
async fn start(origin: &Origin, pairs: &[(&str, &Pair)], tls: &str, more: &str) -> (Fairlead, TempDir) {
    let files = TempDir::new().unwrap();
    for (name, pair) in pairs {
        pair.write(files.path(), name);
    }
    let yaml = config(&format!(
        "listeners: [{{ name: public, address: \"127.0.0.1:0\", tls: {{ {tls} }}, {more} }}]\n\
         pools: {{ app: {{ servers: [{}] }} }}\n",
        servers(&[origin])
    ));
    let yaml = yaml.replace("{files}", files.path().to_str().unwrap());
    (Fairlead::start(&yaml).await, files)
}

fn cert(name: &str) -> String {
    format!("{{ cert: \"{{files}}/{name}.pem\", key: \"{{files}}/{name}.key\" }}")
}

fn certs(names: &[&str]) -> String {
    format!("certificates: [{}]", names.iter().map(|name| cert(name)).collect::<Vec<_>>().join(", "))
}

async fn shown(address: SocketAddr, connector: &SslConnector, name: &str) -> String {
    handshake(address, connector, name).await.unwrap_or_else(|error| panic!("{name}: {error}")).name()
}

/// One certificate for `a.test`, and a client that trusts its authority.
async fn one(tls: &str, more: &str) -> (Origin, Fairlead, Pair, TempDir) {
    let authority = Pair::authority("Authority");
    let origin = Origin::start("a");
    let pair = authority.issue(Wish::names(&["a.test"]));
    let tls = format!("{}{tls}", certs(&["a"]));
    let (fairlead, files) = start(&origin, &[("a", &pair)], &tls, more).await;
    (origin, fairlead, authority, files)
}

#[tokio::test]
async fn the_name_that_is_asked_for_chooses_the_certificate() {
    let authority = Pair::authority("Authority");
    let between = authority.below("Between");
    let origin = Origin::start("a");
    let first = authority.issue(Wish::names(&["first.test"]));
    let wild = between.issue(Wish::names(&["*.example.test", "example.test"]));
    let www = authority.issue(Wish::names(&["www.example.test"]));
    let pairs = [("first", &first), ("wild", &wild), ("www", &www)];
    let (fairlead, _files) = start(&origin, &pairs, &certs(&["first", "wild", "www"]), "").await;
    let client = trusting(&authority).build();
    let address = fairlead.address();
    // Each handshake verifies the name and the whole chain.
    assert_eq!(shown(address, &client, "first.test").await, "first.test");
    assert_eq!(shown(address, &client, "www.example.test").await, "www.example.test");
    assert_eq!(shown(address, &client, "WWW.Example.test").await, "www.example.test");
    assert_eq!(shown(address, &client, "a.example.test").await, "*.example.test");
    assert_eq!(shown(address, &client, "example.test").await, "*.example.test");
    assert_eq!(shown(address, &client, "").await, "first.test");
    let error = handshake(address, &client, "a.b.example.test").await.err().unwrap();
    assert!(error.contains("certificate verify failed"), "the first certificate, which is for another name: {error}");
}

#[tokio::test]
async fn a_client_gets_the_kind_of_key_that_it_understands() {
    let authority = Pair::authority("Authority");
    let (left, right) = (authority.below("Left"), authority.below("Right"));
    let origin = Origin::start("a");
    let ec = left.issue(Wish::names(&["a.test"]).common("ec"));
    let rsa = right.issue(Wish::names(&["a.test"]).common("rsa").rsa());
    let (fairlead, _files) = start(&origin, &[("ec", &ec), ("rsa", &rsa)], &certs(&["ec", "rsa"]), "").await;
    for (ciphers, version, kind) in [
        ("ECDHE-RSA-AES128-GCM-SHA256", SslVersion::TLS1_2, "rsa"),
        ("ECDHE-ECDSA-AES128-GCM-SHA256", SslVersion::TLS1_2, "ec"),
        ("ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384", SslVersion::TLS1_2, "rsa"),
        ("ECDHE-RSA-CHACHA20-POLY1305", SslVersion::TLS1_2, "rsa"),
        ("DEFAULT", SslVersion::TLS1_3, "ec"),
    ] {
        for name in ["a.test", ""] {
            let mut client = trusting(&authority);
            client.set_cipher_list(ciphers).unwrap();
            client.set_max_proto_version(Some(version)).unwrap();
            let mut secured = handshake(fairlead.address(), &client.build(), name).await.unwrap();
            let subject = format!("{:?}", secured.certificate.subject_name());
            assert!(subject.contains(&format!("{kind:?}")), "{ciphers}: {subject}");
            assert_eq!(secured.client.get("/").await.text(), "a");
        }
    }
    let mut old = trusting(&authority);
    old.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    old.set_cipher_list("AES128-GCM-SHA256:ECDHE-RSA-AES128-SHA:DHE-RSA-AES128-GCM-SHA256").unwrap();
    assert!(handshake(fairlead.address(), &old.build(), "a.test").await.is_err(), "no forward secrecy, CBC, DHE");
}

#[tokio::test]
async fn requests_go_through_one_connection_and_servers_are_told_https() {
    let (origin, fairlead, authority, _files) = one("", "").await;
    let mut secured = handshake(fairlead.address(), &trusting(&authority).build(), "a.test").await.unwrap();
    let client = &mut secured.client;
    let seen = client.get("/headers").await.json();
    let header = |name: &str| {
        let all = seen["headers"].as_array().unwrap();
        all.iter().find(|pair| pair[0].as_str().unwrap().eq_ignore_ascii_case(name)).map(|pair| pair[1].to_string())
    };
    assert_eq!(header("x-forwarded-proto").as_deref(), Some("\"https\""));
    assert_eq!(header("x-forwarded-client-cert"), None);
    client.send(request("POST", "/echo", "Content-Length: 1000000\r\n", "")).await;
    client.send(pattern(1_000_000)).await;
    assert!(client.response().await.unwrap().body == pattern(1_000_000));
    // Two requests in one piece.
    client.send(request("GET", "/status/201", "", "") + &request("GET", "/status/202", "", "")).await;
    assert_eq!(client.response().await.unwrap().status, 201);
    assert_eq!(client.response().await.unwrap().status, 202);
    assert_eq!(origin.requests(), 4);
    assert_eq!(
        fairlead.metric("fairlead_tls_handshakes_total", &[("listener", "public"), ("result", "ok")]).await,
        1.0
    );
}

#[tokio::test]
async fn what_is_no_tls_is_refused_and_counted() {
    let (origin, fairlead, _authority, _files) = one("", "").await;
    let mut client = Client::connect(fairlead.address()).await;
    client.send(request("GET", "/", "", "")).await;
    client.closed().await;
    let failed = [("listener", "public"), ("result", "failed")];
    until("counted", async || fairlead.metric("fairlead_tls_handshakes_total", &failed).await == 1.0).await;
    assert_eq!(origin.requests(), 0);
}

#[tokio::test]
async fn old_versions_are_refused() {
    let (_origin, fairlead, authority, _files) = one("", "").await;
    let client = |version| {
        let mut client = trusting(&authority);
        client.set_security_level(0);
        client.set_min_proto_version(Some(SslVersion::TLS1)).unwrap();
        client.set_max_proto_version(Some(version)).unwrap();
        client.build()
    };
    for (version, shown) in [(SslVersion::TLS1_2, "TLSv1.2"), (SslVersion::TLS1_3, "TLSv1.3")] {
        assert_eq!(handshake(fairlead.address(), &client(version), "a.test").await.unwrap().version, shown);
    }
    for version in [SslVersion::TLS1, SslVersion::TLS1_1] {
        let error = handshake(fairlead.address(), &client(version), "a.test").await.err().unwrap();
        assert!(error.contains("protocol version"), "{error}");
    }
    let (_origin, fairlead, authority, _files) = one(", min_version: \"1.3\"", "").await;
    let mut client = trusting(&authority);
    client.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    let error = handshake(fairlead.address(), &client.build(), "a.test").await.err().unwrap();
    assert!(error.contains("protocol version"), "{error}");
}

#[tokio::test]
async fn a_protocol_that_is_not_spoken_is_refused() {
    let (_origin, fairlead, authority, _files) = one("", "").await;
    let client = |protocols: &[u8]| {
        let mut client = trusting(&authority);
        client.set_alpn_protos(protocols).unwrap();
        client.build()
    };
    assert!(handshake(fairlead.address(), &client(b"\x08http/1.1"), "a.test").await.is_ok());
    assert!(handshake(fairlead.address(), &client(b"\x03foo\x08http/1.1"), "a.test").await.is_ok());
    // As `curl --http1.0` does.
    let mut old = handshake(fairlead.address(), &client(b"\x08http/1.0"), "a.test").await.unwrap();
    assert_eq!(old.client.get("/").await.text(), "a");
    let error = handshake(fairlead.address(), &client(b"\x0aacme-tls/1"), "a.test").await.err().unwrap();
    assert!(error.contains("no application protocol"), "{error}");
}

#[tokio::test]
async fn a_silent_client_is_closed_in_time_and_a_slow_one_too() {
    let (_origin, fairlead, _authority, _files) = one("", "timeouts: { header: 400ms }").await;
    let began = Instant::now();
    let mut silent = Client::connect(fairlead.address()).await;
    let mut slow = Client::connect(fairlead.address()).await;
    // The limit is of the whole handshake, not of each read.
    slow.send([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).await;
    tokio::join!(silent.closed(), slow.closed());
    assert!(began.elapsed() >= ms(350) && began.elapsed() < ms(5000), "{:?}", began.elapsed());
    let timeout = [("listener", "public"), ("result", "timeout")];
    until("counted", async || fairlead.metric("fairlead_tls_handshakes_total", &timeout).await == 2.0).await;
}

/// `openssl s_client` with a request; what it prints.
async fn s_client(address: SocketAddr, path: &str, args: Vec<String>) -> String {
    let request = request("GET", path, "Host: a.test\r\nConnection: close\r\n", "");
    let run = move || {
        let mut child = Command::new("openssl")
            .args(["s_client", "-connect", &address.to_string(), "-servername", "a.test", "-ign_eof"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is not installed");
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), request.as_bytes()).unwrap();
        String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned()
    };
    soon("openssl s_client", tokio::task::spawn_blocking(run)).await.unwrap()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[tokio::test]
async fn sessions_are_resumed() {
    let (_origin, fairlead, _authority, files) = one("", "").await;
    // Five more connections, with the session of the first.
    let out = s_client(fairlead.address(), "/", words("-tls1_2 -reconnect")).await;
    let count = |part: &str| out.matches(part).count();
    assert_eq!((count("New, TLSv1.2"), count("Reused, TLSv1.2")), (1, 5), "{out}");

    let session = files.path().join("session").display().to_string();
    for version in ["-tls1_3", "-tls1_2", "-tls1_2 -no_ticket"] {
        let out = s_client(fairlead.address(), "/", words(&format!("{version} -sess_out {session}"))).await;
        assert!(out.contains("New, TLSv1") && out.contains("200 Whatever"), "{version}: {out}");
        let out = s_client(fairlead.address(), "/", words(&format!("{version} -sess_in {session}"))).await;
        assert!(out.contains("Reused, TLSv1") && out.contains("200 Whatever"), "{version}: {out}");
    }
}

/// A client with a certificate.
fn showing(trusted: &Pair, pair: &Pair) -> SslConnector {
    let mut client = trusting(trusted);
    client.set_certificate(&pair.chain[0]).unwrap();
    client.set_private_key(&pair.key).unwrap();
    client.build()
}

/// All values of the header that tells servers of a client's certificate.
async fn told(secured: &mut Secured, headers: &str) -> Vec<String> {
    secured.client.send_get("/headers", headers).await;
    let seen = secured.client.response().await.unwrap().json();
    let ours = |pair: &&serde_json::Value| {
        pair[0].as_str().unwrap().replace('_', "-").eq_ignore_ascii_case("x-forwarded-client-cert")
    };
    seen["headers"].as_array().unwrap().iter().filter(ours).map(|pair| pair[1].as_str().unwrap().to_owned()).collect()
}

const CLAIM: &str =
    "X-Forwarded-Client-Cert: Subject=\"CN=admin\"\r\nX_Forwarded_Client_Cert: Subject=\"CN=admin\"\r\n";

#[tokio::test]
async fn clients_show_certificates_and_servers_hear_of_them() {
    let (authority, clients) = (Pair::authority("Authority"), Pair::authority("Clients"));
    let origin = Origin::start("a");
    let server = authority.issue(Wish::names(&["a.test"]));
    let alice = clients.issue(Wish::names(&["spiffe://a.test/alice", "alice.test"]).common("Alice, \"A\""));
    let mallory = Pair::authority("Others").issue(Wish::names(&["alice.test"]));
    let late = clients.issue(Wish::names(&["late.test"]).days(-3, -1));
    let ca = ", client_ca: \"{files}/ca.pem\"";
    let pairs = [("a", &server), ("ca", &clients), ("alice", &alice)];
    let tls = format!("{}{ca}", certs(&["a"]));
    let (fairlead, files) = start(&origin, &pairs, &tls, "").await;

    let mut secured = handshake(fairlead.address(), &showing(&authority, &alice), "a.test").await.unwrap();
    let values = told(&mut secured, CLAIM).await;
    let digest = openssl::sha::sha256(&alice.chain[0].to_der().unwrap());
    let hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let subject = r#"CN=Alice\, \"A\",O=Test\, Inc."#;
    let expected = format!("Hash={hash};Subject=\"{subject}\";URI=spiffe://a.test/alice;DNS=alice.test");
    assert_eq!(values, std::slice::from_ref(&expected), "and not what the client claims");
    assert_eq!(told(&mut secured, "").await, [expected], "each request");

    // In TLS 1.3 the client has finished before the server has looked at its certificate.
    for (who, client) in [
        ("nobody", trusting(&authority).build()),
        ("another authority's", showing(&authority, &mallory)),
        ("over", showing(&authority, &late)),
    ] {
        if let Ok(mut secured) = handshake(fairlead.address(), &client, "a.test").await {
            secured.client.closed().await;
        }
        assert_eq!(origin.requests(), 2, "{who}");
    }

    // The session carries the certificate on.
    let at = |name: &str| files.path().join(name).display().to_string();
    for version in ["-tls1_3", "-tls1_2"] {
        let own = format!("{version} -cert {} -key {} -sess_out {}", at("alice.pem"), at("alice.key"), at("session"));
        let first = s_client(fairlead.address(), "/headers", words(&own)).await;
        let again =
            s_client(fairlead.address(), "/headers", words(&format!("{version} -sess_in {}", at("session")))).await;
        assert!(first.contains("New, TLS") && again.contains("Reused, TLS"), "{first}\n{again}");
        assert!(first.contains(&hash) && again.contains(&hash), "{again}");
    }
}

#[tokio::test]
async fn a_certificate_of_a_client_can_be_optional() {
    let (authority, clients) = (Pair::authority("Authority"), Pair::authority("Clients"));
    let origin = Origin::start("a");
    let server = authority.issue(Wish::names(&["a.test"]));
    let alice = clients.issue(Wish::names(&["alice.test"]));
    let mallory = Pair::authority("Others").issue(Wish::names(&["alice.test"]));
    let tls = format!("{}, client_ca: \"{{files}}/ca.pem\", client_auth: optional", certs(&["a"]));
    let (fairlead, _files) = start(&origin, &[("a", &server), ("ca", &clients)], &tls, "").await;
    let mut without = handshake(fairlead.address(), &trusting(&authority).build(), "a.test").await.unwrap();
    assert_eq!(told(&mut without, CLAIM).await, [""; 0]);
    let mut with = handshake(fairlead.address(), &showing(&authority, &alice), "a.test").await.unwrap();
    assert!(told(&mut with, CLAIM).await[0].contains("CN=alice.test"));
    if let Ok(mut secured) = handshake(fairlead.address(), &showing(&authority, &mallory), "a.test").await {
        secured.client.closed().await;
    }
    assert_eq!(origin.requests(), 2, "a bad certificate is worse than none");
}

#[tokio::test]
async fn what_a_trusted_proxy_claims_of_certificates_is_removed_too() {
    let origin = Origin::start("a");
    let pool = format!("pools: {{ app: {{ servers: [{}] }} }}\n", servers(&[&origin]));
    for trusted in ["[]", "[127.0.0.1]"] {
        let fairlead = Fairlead::start(&config(&format!("{pool}trusted_proxies: {trusted}\n"))).await;
        let seen = fairlead.get_with("/headers", CLAIM).await.text().to_lowercase();
        assert!(!seen.contains("admin"), "{trusted}: {seen}");
    }
}

#[tokio::test]
async fn plain_clients_are_sent_to_https() {
    let authority = Pair::authority("Authority");
    let origin = Origin::start("a");
    let files = TempDir::new().unwrap();
    authority.issue(Wish::names(&["a.test"])).write(files.path(), "a");
    let at = files.path().display();
    let yaml = config(&format!(
        "listeners:\n\
         \x20 - {{ name: secure, address: \"127.0.0.1:0\", tls: {{ certificates: [{{ cert: \"{at}/a.pem\", key: \"{at}/a.key\" }}] }} }}\n\
         \x20 - {{ name: plain, address: \"127.0.0.1:0\", redirect_to_https: true }}\n\
         \x20 - {{ name: other, address: \"127.0.0.1:0\", redirect_to_https: {{ port: 8443 }} }}\n\
         \x20 - {{ name: served, address: \"127.0.0.1:0\" }}\n\
         pools: {{ app: {{ servers: [{}] }} }}\n",
        servers(&[&origin])
    ));
    let fairlead = Fairlead::start(&yaml).await;
    let plain = fairlead.listener("plain");
    let response = get(plain, "/a%20b/c?d=e", "Host: a.test:8080\r\n").await;
    assert_eq!((response.status, response.header("location")), (301, Some("https://a.test/a%20b/c?d=e")));
    assert!(response.header("x-request-id").is_some());
    let response = get(fairlead.listener("other"), "/", "Host: [::1]:80\r\n").await;
    assert_eq!(response.header("location"), Some("https://[::1]:8443/"));
    let mut client = Client::connect(plain).await;
    client.send(request("POST", "/form", "Host: a.test\r\n", "a=b")).await;
    let response = client.response().await.unwrap();
    assert_eq!((response.status, response.header("location")), (308, Some("https://a.test/form")));
    let mut client = Client::connect(plain).await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(client.response().await.unwrap().refusal(), (400, "bad-request"), "nobody knows where to");
    let mut client = Client::connect(plain).await;
    client.send(request("OPTIONS", "*", "Host: a.test\r\n", "")).await;
    assert_eq!(client.response().await.unwrap().status, 400);
    assert_eq!(origin.requests(), 0);

    assert_eq!(get(fairlead.listener("served"), "/", "").await.text(), "a");
    let mut secured = handshake(fairlead.listener("secure"), &trusting(&authority).build(), "a.test").await.unwrap();
    assert_eq!(secured.client.get("/").await.text(), "a");
}
