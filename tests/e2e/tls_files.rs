//! Files of certificates: what `check` and a start say of bad ones, and how renewed ones are taken in.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use nix::sys::signal::Signal::SIGHUP;
use openssl::symm::Cipher;
use tempfile::TempDir;

use crate::support::{Fairlead, Origin, Pair, Wish, config, handshake, run_to_end, servers, trusting, until};

/// A node with `a.pem`, `a.key`, `b.pem` and `b.key` of its own directory.
async fn start(origin: &Origin, a: &Pair, b: &Pair) -> Fairlead {
    let files = TempDir::new().unwrap();
    a.write(files.path(), "a");
    b.write(files.path(), "b");
    let at = files.path().display();
    let yaml = config(&format!(
        "listeners: [{{ name: public, address: \"127.0.0.1:0\", tls: {{ certificates: [{{ cert: \"{{dir}}/a.pem\", key: \"{{dir}}/a.key\" }}, \
         {{ cert: \"{{dir}}/b.pem\", key: \"{{dir}}/b.key\" }}] }} }}]\n\
         pools: {{ app: {{ servers: [{}] }} }}\n",
        servers(&[origin])
    ));
    // The files must be there before the node is.
    let mut fairlead = Fairlead::spawn_by_shell(&yaml, &format!("cp {at}/a.* {at}/b.* ."), "");
    fairlead.wait_ready().await;
    fairlead
}

async fn serial(fairlead: &Fairlead, authority: &Pair, name: &str) -> Result<String, String> {
    let secured = handshake(fairlead.address(), &trusting(authority).build(), name).await?;
    let serial = secured.certificate.serial_number().to_bn().unwrap();
    Ok(serial.to_string())
}

fn own_serial(pair: &Pair) -> String {
    pair.chain[0].serial_number().to_bn().unwrap().to_string()
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_and_no_request_fails() {
    let authority = Pair::authority("Authority");
    let issue = |name| authority.issue(Wish::names(&[name]));
    let (a, b) = (issue("a.test"), issue("b.test"));
    let origin = Origin::start("a");
    let fairlead = start(&origin, &a, &b).await;
    let address = fairlead.address();

    // Some keep their connections, some make new ones all the time.
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = tokio::task::JoinSet::new();
    for keeps in [true, true, false, false] {
        let (stop, done, authority) = (stop.clone(), done.clone(), authority.clone());
        clients.spawn(async move {
            let connector = trusting(&authority).build();
            let mut secured = handshake(address, &connector, "a.test").await.unwrap();
            while !stop.load(SeqCst) {
                if !keeps {
                    secured = handshake(address, &connector, "a.test").await.unwrap();
                }
                assert_eq!(secured.client.get("/").await.status, 200);
                done.fetch_add(1, SeqCst);
            }
        });
    }
    assert_eq!(serial(&fairlead, &authority, "a.test").await.unwrap(), own_serial(&a));
    let renewed = issue("a.test");
    renewed.write(fairlead.dir.path(), "a");
    until("the new certificate is shown", async || {
        serial(&fairlead, &authority, "a.test").await.unwrap() == own_serial(&renewed)
    })
    .await;
    assert_eq!(serial(&fairlead, &authority, "b.test").await.unwrap(), own_serial(&b));
    let before = done.load(SeqCst);
    until("requests go on", async || done.load(SeqCst) > before + 50).await;
    stop.store(true, SeqCst);
    clients.join_all().await;
    let told = fairlead.events("certificates_reloaded");
    assert_eq!((told.len(), &told[0]["listener"]), (1, &"public".into()), "{told:?}");
    assert_eq!(told[0]["certificates"], "a.test, b.test");
    assert_eq!(fairlead.events("certificate_not_reloaded").len(), 0, "{}", fairlead.log());
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_is_told_once() {
    let authority = Pair::authority("Authority");
    let issue = |name| authority.issue(Wish::names(&[name]));
    let (a, b) = (issue("a.test"), issue("b.test"));
    let origin = Origin::start("a");
    let fairlead = start(&origin, &a, &b).await;
    let broken = |name: &str| std::fs::write(fairlead.dir.path().join(name), "-----BEGIN NONSENSE-----\n").unwrap();
    broken("a.pem");
    until("told", async || !fairlead.events("certificate_not_reloaded").is_empty()).await;
    let told = &fairlead.events("certificate_not_reloaded")[0];
    assert_eq!((&told["listener"], &told["certificate"]), (&"public".into(), &"a.test".into()));
    assert!(told["reason"].as_str().unwrap().contains("a.pem` holds no certificate"), "{told}");
    assert_eq!(serial(&fairlead, &authority, "a.test").await.unwrap(), own_serial(&a));

    // The other one can still be renewed.
    let renewed = issue("b.test");
    renewed.write(fairlead.dir.path(), "b");
    until("the new certificate is shown", async || {
        serial(&fairlead, &authority, "b.test").await.unwrap() == own_serial(&renewed)
    })
    .await;
    assert_eq!(fairlead.events("certificate_not_reloaded").len(), 1, "once");
    assert_eq!(serial(&fairlead, &authority, "a.test").await.unwrap(), own_serial(&a));

    // SIGHUP reads all of them, whether changed or not.
    fairlead.signal(SIGHUP);
    until("told again", async || fairlead.events("certificate_not_reloaded").len() == 2).await;
    let renewed = issue("a.test");
    renewed.write(fairlead.dir.path(), "a");
    fairlead.signal(SIGHUP);
    until("the new certificate is shown", async || {
        serial(&fairlead, &authority, "a.test").await.unwrap() == own_serial(&renewed)
    })
    .await;
}

/// `fairlead check` of a listener with these settings: exit code, lines of standard output and of standard error.
async fn check(dir: &Path, tls: &str) -> (Option<i32>, Vec<String>, Vec<String>) {
    let yaml = format!(
        "version: 1\nlisteners:\n  - address: 127.0.0.1:0\n    tls:\n{}pools:\n  app: {{ servers: [app.test:9000] }}\n",
        tls.lines().map(|line| format!("      {line}\n")).collect::<String>()
    );
    std::fs::write(dir.join("f.yaml"), yaml).unwrap();
    let finished = run_to_end(dir, &["check", "f.yaml"]).await;
    let lines = |text: &str| text.lines().map(str::to_owned).collect();
    (finished.code, lines(&finished.out), lines(&finished.err))
}

/// Whether a line is as expected, where `{}` stands for any text.
fn is(line: &str, expected: &str) -> bool {
    let (start, end) = expected.split_once("{}").unwrap_or((expected, ""));
    if expected.contains("{}") { line.starts_with(start) && line.ends_with(end) } else { line == expected }
}

#[tokio::test]
async fn check_says_what_is_wrong_with_files() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let authority = Pair::authority("Authority");
    let between = authority.below("Between");
    let good = between.issue(Wish::names(&["good.test"]));
    good.write(dir, "good");
    let other = authority.issue(Wish::names(&["other.test"]));
    other.write(dir, "other");
    authority.issue(Wish::names(&["late.test"]).days(-10, -1)).write(dir, "late");
    authority.issue(Wish::names(&["early.test"]).days(2, 9)).write(dir, "early");
    let write = |name: &str, bytes: Vec<u8>| std::fs::write(dir.join(name), bytes).unwrap();
    let pem = |certs: &[&openssl::x509::X509]| certs.iter().flat_map(|cert| cert.to_pem().unwrap()).collect::<Vec<_>>();
    write("reverse.pem", pem(&[&good.chain[1], &good.chain[0]]));
    write("mixed.pem", pem(&[&good.chain[0], &other.chain[0]]));
    write("der.pem", good.chain[0].to_der().unwrap());
    write("der.key", good.key.private_key_to_der().unwrap());
    write("locked.key", good.key.private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), b"hush").unwrap());
    write("empty.pem", Vec::new());
    let cut = String::from_utf8(good.pem()).unwrap().replace("MII", "!!!");
    write("cut.pem", cut.into_bytes());
    std::fs::create_dir(dir.join("directory")).unwrap();
    let pairs = [
        ("good.pem", "other.key"),
        ("reverse.pem", "good.key"),
        ("mixed.pem", "good.key"),
        ("late.pem", "late.key"),
        ("early.pem", "early.key"),
        ("missing.pem", "directory"),
        ("empty.pem", "empty.pem"),
        ("good.key", "good.pem"),
        ("der.pem", "der.key"),
        ("good.pem", "locked.key"),
        ("cut.pem", "good.key"),
    ];
    let list: String = pairs.iter().map(|(cert, key)| format!("\n- {{ cert: {cert}, key: {key} }}")).collect();
    let (code, out, err) = check(dir, &format!("client_ca: good.key\ncertificates:{list}")).await;
    assert_eq!((code, out.len()), (Some(1), 0), "{out:?}");
    let expected = [
        "5: client_ca: `good.key` holds a private key and no certificate: name the certificate's file here",
        "7: certificates[0].key: `other.key` does not belong to the certificate in `good.pem`: give the key that it was requested with",
        "8: certificates[1].cert: `reverse.pem`: its certificates are not in order: number 2 (CN=good.test,O=Test\\, Inc.) did not issue number 1 (CN=Between,O=Test\\, Inc.): put the server's own first, and after each its issuer's",
        "9: certificates[2].cert: `mixed.pem`: its certificates are not in order: number 2 (CN=other.test,O=Test\\, Inc.) did not issue number 1 (CN=good.test,O=Test\\, Inc.): put the server's own first, and after each its issuer's",
        "10: certificates[3].cert: `late.pem`: the certificate for late.test expired on {} GMT: renew it",
        "11: certificates[4].cert: `early.pem`: the certificate for early.test is not valid before {} GMT: wait, or check this machine's clock",
        "12: certificates[5].cert: `missing.pem` cannot be read: there is no such file below the directory that Fairlead is started in",
        "12: certificates[5].key: `directory` cannot be read: it is a directory: name a file",
        "13: certificates[6].cert: `empty.pem` holds no certificate: give a PEM file, with `-----BEGIN CERTIFICATE-----` in it",
        "13: certificates[6].key: `empty.pem` holds no private key: give a PEM file, with `-----BEGIN PRIVATE KEY-----` in it",
        "14: certificates[7].cert: `good.key` holds a private key and no certificate: name the certificate's file here",
        "14: certificates[7].key: `good.pem` holds a certificate and no private key: name the key's file here",
        "15: certificates[8].cert: `der.pem` is in DER form: make a PEM file of it with `openssl x509 -inform der -in der.pem -out FILE`",
        "15: certificates[8].key: `der.key` is in DER form: make a PEM file of it with `openssl pkey -inform der -in der.key -out FILE`",
        "16: certificates[9].key: `locked.key` is encrypted, and nobody is there to give its password: decrypt it with `openssl pkey -in locked.key -out FILE`, and let only Fairlead's user read that",
        "17: certificates[10].cert: `cut.pem` holds a certificate that cannot be read: {}",
    ];
    assert_eq!(err.len(), expected.len(), "{err:#?}");
    for (line, expected) in err.iter().zip(expected) {
        let (number, rest) = expected.split_once(": ").unwrap();
        let expected = format!("f.yaml:{number}: listeners[0].tls.{rest}");
        assert!(is(line, &expected), "\n{line}\n{expected}");
    }

    // A start says the same.
    let finished = run_to_end(dir, &["run", "-c", "f.yaml"]).await;
    assert_eq!((finished.code, finished.err.lines().map(str::to_owned).collect::<Vec<_>>()), (Some(1), err));
}

#[tokio::test]
async fn check_finds_nothing_wrong_with_good_files_and_warns_in_time() {
    let dir = TempDir::new().unwrap();
    let authority = Pair::authority("Authority");
    authority.issue(Wish::names(&["good.test"])).write(dir.path(), "good");
    authority.issue(Wish::names(&["soon.test"]).days(-1, 20)).write(dir.path(), "soon");
    authority.write(dir.path(), "ca");
    let list = "client_ca: ca.pem\ncertificates:\n  - { cert: good.pem, key: good.key }\n  - { cert: soon.pem, key: soon.key }";
    let (code, out, err) = check(dir.path(), list).await;
    assert_eq!((code, err.len()), (Some(0), 0), "{err:?}");
    let warning = "warning: f.yaml:8: listeners[0].tls.certificates[1].cert: the certificate for soon.test is over in 20 days: renew it";
    assert_eq!(out, ["f.yaml: fine (1 listener, 0 routes, 1 pool, 1 server)", warning]);
}

#[tokio::test]
async fn check_looks_at_the_files_of_pools_too() {
    let dir = TempDir::new().unwrap();
    let authority = Pair::authority("Authority");
    authority.issue(Wish::names(&["late.test"]).days(-10, -1)).write(dir.path(), "late");
    std::fs::write(dir.path().join("nothing"), "").unwrap();
    let yaml = "version: 1\nlisteners: [{ address: 127.0.0.1:0 }]\npools:\n  app:\n    servers: [app.test:9000]\n    upstream:\n      tls:\n        \
                ca: nothing\n        client: { cert: late.pem, key: nothing }\n";
    std::fs::write(dir.path().join("f.yaml"), yaml).unwrap();
    let finished = run_to_end(dir.path(), &["check", "f.yaml"]).await;
    let lines: Vec<_> = finished.err.lines().collect();
    assert_eq!((finished.code, lines.len()), (Some(1), 2), "{lines:?}");
    assert!(lines[0].starts_with("f.yaml:8: pools.app.upstream.tls.ca: `nothing` holds no certificate"), "{lines:?}");
    assert!(
        lines[1].starts_with("f.yaml:9: pools.app.upstream.tls.client.key: `nothing` holds no private key"),
        "{lines:?}"
    );
}

#[tokio::test]
async fn what_is_almost_over_is_logged_and_measured() {
    let authority = Pair::authority("Authority");
    let origin = Origin::start("a");
    let a = authority.issue(Wish::names(&["a.test"]).days(-1, 90));
    let b = authority.issue(Wish::names(&["b.test"]).days(-1, 9));
    let fairlead = start(&origin, &a, &b).await;
    let days = async |name| {
        fairlead.metric("fairlead_certificate_expiry_days", &[("listener", "public"), ("name", name)]).await
    };
    until("measured", async || days("b.test").await > 0.0).await;
    assert!((89.9..90.1).contains(&days("a.test").await), "{}", days("a.test").await);
    assert!((8.9..9.1).contains(&days("b.test").await));
    let told = fairlead.events("certificate_expires_soon");
    assert_eq!((told.len(), &told[0]["certificate"]), (1, &"b.test".into()), "{told:?}");
    assert_eq!(told[0]["listener"], "public");

    let renewed = authority.issue(Wish::names(&["c.test"]).days(-1, 50));
    renewed.write(fairlead.dir.path(), "b");
    until("measured anew", async || days("c.test").await > 49.0).await;
    let page = fairlead.admin_get("/metrics").await.text();
    assert!(!page.contains("b.test"), "what is no longer shown is no longer measured: {page}");
}

#[tokio::test]
async fn connections_stay_open_while_files_change() {
    let authority = Pair::authority("Authority");
    let issue = |name| authority.issue(Wish::names(&[name]));
    let origin = Origin::start("a");
    let fairlead = start(&origin, &issue("a.test"), &issue("b.test")).await;
    let mut secured = handshake(fairlead.address(), &trusting(&authority).build(), "a.test").await.unwrap();
    secured.client.send_get("/pauses/30/100", "").await;
    secured.client.head().await;
    issue("a.test").write(fairlead.dir.path(), "a");
    fairlead.signal(SIGHUP);
    until("reloaded", async || !fairlead.events("certificates_reloaded").is_empty()).await;
    let mut parts = 0;
    while secured.client.chunk().await.unwrap().is_some() {
        parts += 1;
    }
    assert_eq!(parts, 30);
}
