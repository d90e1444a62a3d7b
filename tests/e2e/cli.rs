//! Commands, exit codes, messages.

use std::time::Instant;

use nix::sys::signal::Signal::SIGINT;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    Client, Fairlead, Finished, Heartbeat, Origin, Redis, Reserved, config, get, ms, one_pool, run_to_end, servers,
    until, within,
};

/// `fairlead check` of this text.
async fn check(yaml: &str) -> Finished {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("f.yaml"), yaml).unwrap();
    run_to_end(dir.path(), &["check", "f.yaml"]).await
}

async fn run(args: &[&str]) -> Finished {
    run_to_end(TempDir::new().unwrap().path(), args).await
}

const SMALL: &str = "version: 1\nlisteners: [{ address: 0.0.0.0:9090 }]\npools:\n  app: { servers: [10.0.0.1:9000, 10.0.0.2:9000], health: { path: /heartbeat } }\n";

#[tokio::test]
async fn a_good_file_passes() {
    let finished = check(SMALL).await;
    assert_eq!((finished.code, finished.err.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn the_files_in_conf_pass() {
    for file in ["conf/fairlead.yaml", "conf/reference.yaml"] {
        let finished = run_to_end(env!("CARGO_MANIFEST_DIR").as_ref(), &["check", file]).await;
        assert_eq!(finished.code, Some(0), "{file}: {}{}", finished.out, finished.err);
    }
}

#[tokio::test]
async fn a_bad_file_shows_all_problems_at_once() {
    let bad = "version: 1\nlisteners: [{ address: 0.0.0.0:9090 }]\npools:\n  app:\n    balanse: random\n    servers: [10.0.0.1:9000, 10.0.0.1:9000]\n\
               \x20   health: { interval: soon }\nthreads: ${NOT_SET_ANYWHERE}\n";
    let finished = check(bad).await;
    assert_eq!(finished.code, Some(1));
    for word in [
        "balanse",
        "did you mean `balance`?",
        "10.0.0.1:9000",
        "soon",
        "NOT_SET_ANYWHERE",
        "f.yaml:5",
        "f.yaml:6",
        "f.yaml:7",
        "f.yaml:8",
    ] {
        assert!(finished.err.contains(word), "no {word} in\n{}", finished.err);
    }
    assert!(!finished.err.contains("panicked"), "{}", finished.err);
}

#[tokio::test]
async fn run_refuses_what_check_refuses() {
    let mut fairlead = Fairlead::spawn("version: 1\nlisteners: []\nlisteners2: 1\n");
    let (code, _) = fairlead.exit(ms(10_000)).await;
    assert_eq!(code, Some(1));
    assert!(fairlead.log().contains("listeners2"), "{}", fairlead.log());
}

#[tokio::test]
async fn usage_errors_exit_with_2() {
    for args in [
        &["--no-such-option"][..],
        &["run", "--no-such-option"],
        &["no-such-command"],
        &["check"],
        &["proxy", "--listen", "x"],
        &[],
    ] {
        let finished = run(args).await;
        assert_eq!(finished.code, Some(2), "{args:?}: {}{}", finished.out, finished.err);
        assert!(!finished.err.is_empty(), "{args:?}");
    }
}

#[tokio::test]
async fn help_and_version_exit_with_0() {
    let help = run(&["--help"]).await;
    assert_eq!(help.code, Some(0));
    for command in ["run", "demo", "proxy", "check", "schema", "status"] {
        assert!(help.out.contains(command), "{}", help.out);
    }
    let version = run(&["--version"]).await;
    assert_eq!((version.code, version.out.as_str()), (Some(0), concat!("fairlead ", env!("CARGO_PKG_VERSION"))));
}

#[tokio::test]
async fn an_unreadable_file_is_named() {
    for args in [&["check", "nowhere.yaml"][..], &["run", "-c", "nowhere.yaml"], &["run"]] {
        let finished = run(args).await;
        assert_eq!(finished.code, Some(1), "{args:?}");
        let name = args.get(2).or(args.get(1)).unwrap_or(&"conf/fairlead.yaml");
        assert!(finished.err.contains(name), "{args:?}: {}", finished.err);
    }
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = Reserved::new();
    let _listener = taken.listen();
    let yaml = one_pool("127.0.0.1:9", "")
        .replace("name: public, address: \"127.0.0.1:0\"", &format!("address: \"{}\"", taken.address));
    let mut fairlead = Fairlead::spawn(&yaml);
    let (code, took) = fairlead.exit(ms(10_000)).await;
    assert_eq!(code, Some(1));
    assert!(took < ms(5_000), "{took:?}");
    let log = fairlead.log();
    assert!(log.contains(&taken.address.to_string()) && log.contains("in use") && !log.contains("panicked"), "{log}");
}

/// Two can bind one port as long as neither listens.
#[tokio::test]
async fn a_port_that_is_taken_while_servers_are_checked_is_named() {
    let (origin, taken) = (Origin::start("a"), Reserved::new());
    origin.heartbeat(Heartbeat::Hang);
    let health = "health: { path: /heartbeat, interval: 20s, timeout: 10s }";
    let listeners = format!(
        "listeners: [{{ name: free, address: \"127.0.0.1:0\" }}, {{ name: second, address: \"{}\" }}]\n",
        taken.address
    );
    let pools = format!("pools: {{ app: {{ servers: [{}], {health} }} }}\n", origin.server());
    let mut fairlead = Fairlead::spawn(&config(&(pools + &listeners)));
    until("it checks", async || !origin.checks().is_empty()).await;
    let _listener = taken.listen();
    assert_eq!(fairlead.exit(ms(10_000)).await.0, Some(1));
    let log = fairlead.log();
    for word in [&taken.address.to_string(), "second", "another process has this port"] {
        assert!(log.contains(word), "no {word}: {log}");
    }
    assert!(fairlead.events("listening").is_empty(), "{log}");
}

#[tokio::test]
async fn ipv4_and_ipv6_can_have_one_port() {
    let (four, six, port) = (Origin::start("four"), Origin::start("six"), Reserved::on("0.0.0.0:0"));
    let port = port.address.port();
    let yaml = config(&format!(
        "listeners: [{{ name: four, address: \"0.0.0.0:{port}\" }}, {{ name: six, address: \"[::]:{port}\" }}]\n\
         pools: {{ four: {{ servers: [{}] }}, six: {{ servers: [{}] }} }}\n\
         routes: [{{ match: {{ listener: four }}, pool: four }}, {{ match: {{ listener: six }}, pool: six }}]\n",
        four.server(),
        six.server()
    ));
    let _fairlead = Fairlead::start(&yaml).await;
    assert_eq!(get(([127, 0, 0, 1], port).into(), "/", "").await.text(), "four");
    assert_eq!(get((std::net::Ipv6Addr::LOCALHOST, port).into(), "/", "").await.text(), "six");
}

#[tokio::test]
async fn an_admin_port_in_use_is_named() {
    let taken = Reserved::new();
    let _listener = taken.listen();
    let yaml = one_pool("127.0.0.1:9", "")
        .replace("admin: { address: \"127.0.0.1:0\"", &format!("admin: {{ address: \"{}\"", taken.address));
    let mut fairlead = Fairlead::spawn(&yaml);
    assert_eq!(fairlead.exit(ms(10_000)).await.0, Some(1));
    let log = fairlead.log();
    assert!(log.contains(&taken.address.to_string()) && log.contains("in use") && !log.contains("panicked"), "{log}");
}

#[tokio::test]
async fn variables_are_expanded() {
    let origin = Origin::start("a");
    let yaml = one_pool("\"${NOT_SET_AT_ALL:-ORIGIN}\"", "").replace("ORIGIN", &servers(&[&origin]));
    let fairlead = Fairlead::start(&yaml.replace("threads: 2", "threads: ${NOT_SET_AT_ALL:-1}")).await;
    assert_eq!(fairlead.get("/").await.text(), "a");
}

#[tokio::test]
async fn schema_prints_a_json_schema() {
    let finished = run(&["schema"]).await;
    assert_eq!(finished.code, Some(0));
    let schema: Value = serde_json::from_str(&finished.out).unwrap();
    assert!(schema["$schema"].as_str().is_some_and(|s| s.contains("json-schema.org")));
    for key in [
        "version",
        "listeners",
        "trusted_proxies",
        "routes",
        "pools",
        "admin",
        "log",
        "access_log",
        "shutdown",
        "threads",
    ] {
        assert!(schema["properties"].get(key).is_some(), "no {key}");
    }
    assert_eq!(schema["additionalProperties"], false);
}

#[tokio::test]
async fn proxy_needs_no_file() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let (listen, admin) = (Reserved::new(), Reserved::new());
    let (listen, admin, a_at, b_at) =
        (&listen.address.to_string(), &admin.address.to_string(), &a.server(), &b.server());
    let mut fairlead =
        Fairlead::spawn_with(&["proxy", "--listen", listen, "--to", a_at, "--to", b_at, "--admin", admin]);
    let address = listen.parse().unwrap();
    until("it serves", async || {
        Client::try_connect(address).await.is_ok() && get(address, "/", "").await.status == 200
    })
    .await;
    for _ in 0..30 {
        get(address, "/", "").await;
    }
    assert!(a.requests() > 0 && b.requests() > 0, "{} {}", a.requests(), b.requests());
    let admin = admin.parse().unwrap();
    assert_eq!(get(admin, "/readyz", "Host: localhost\r\n").await.status, 200);
    let pools = get(admin, "/api/v1/pools", "Host: localhost\r\n").await.json();
    assert_eq!(pools[0]["servers"].as_array().map(Vec::len), Some(2), "{pools}");
    fairlead.signal(SIGINT);
    assert_eq!(fairlead.exit(ms(10_000)).await.0, Some(0));
}

#[tokio::test]
async fn proxy_refuses_what_cannot_be() {
    let finished = run(&["proxy", "--listen", "127.0.0.1:0", "--to", "10.0.0.1:80", "--to", "10.0.0.1:80"]).await;
    assert_eq!(finished.code, Some(1), "{}", finished.err);
    assert!(finished.err.contains("10.0.0.1:80"), "{}", finished.err);
    let finished = run(&["proxy", "--listen", "29090", "--to", "10.0.0.1:80"]).await;
    assert_eq!(finished.code, Some(2), "{}", finished.err);
    assert!(finished.err.contains("write 0.0.0.0:29090"), "{}", finished.err);
    let finished = run(&["proxy", "--listen", "127.0.0.1:0", "--to", "10.0.0.1:80", "--redis", "10.0.0.9"]).await;
    assert_eq!(finished.code, Some(1), "{}", finished.err);
    assert!(finished.err.contains("--redis"), "{}", finished.err);
}

#[tokio::test]
async fn proxy_joins_the_fleet_of_a_redis() {
    let (a, redis) = (Origin::start("a"), Redis::start().await);
    let (listen, admin) = (Reserved::new(), Reserved::new());
    let args = ["--listen", &listen.address.to_string(), "--to", &a.server(), "--admin", &admin.address.to_string()];
    let mut fairlead = Fairlead::spawn_with(&[&["proxy", "--redis", &redis.url()], &args[..]].concat());
    until("its row is there", async || redis.truth().await.holds(1, 1)).await;
    fairlead.signal(SIGINT);
    assert_eq!(fairlead.exit(ms(10_000)).await.0, Some(0));
}

#[tokio::test]
async fn a_probe_reaches_servers_and_redis() {
    let (a, mut redis) = (Origin::start("a"), Redis::start().await);
    let dir = TempDir::new().unwrap();
    let yaml = one_pool(&servers(&[&a]), "") + &format!("redis: {{ url: \"{}\" }}\n", redis.url());
    std::fs::write(dir.path().join("f.yaml"), yaml).unwrap();
    let probe = async || run_to_end(dir.path(), &["check", "--probe", "f.yaml"]).await;
    let fine = probe().await;
    assert_eq!(fine.code, Some(0), "{}{}", fine.out, fine.err);
    assert!(fine.out.contains(": up (version ") && fine.out.contains("1 server)"), "{}", fine.out);
    redis.stop();
    let away = probe().await;
    assert_eq!(away.code, Some(1), "{}{}", away.out, away.err);
    assert!(away.out.contains("redis") && away.out.contains("down"), "{}", away.out);
}

#[tokio::test]
async fn demo_shows_itself() {
    let port = Reserved::new();
    let start = Instant::now();
    let mut fairlead = Fairlead::spawn_with(&["demo", "--port", &port.address.port().to_string()]);
    let address = port.address;
    until("the proxy listens", async || Client::try_connect(address).await.is_ok()).await;
    until("/gethandler answers", async || get(address, "/gethandler", "").await.status == 200).await;
    assert!(start.elapsed() < ms(5_000), "{:?}", start.elapsed());

    let mut client = Client::connect(address).await;
    for (method, path) in [("POST", "/any/other?path=1"), ("PUT", "/x"), ("DELETE", "/"), ("PATCH", "/gethandler")] {
        client.send(crate::support::request(method, path, "", "a body")).await;
        assert_eq!(client.response().await.unwrap().status, 200, "{method} {path}");
    }
    until("a table of four servers", async || {
        let table = fairlead.output();
        table.matches("up").count() >= 4 && table.contains("p99")
    })
    .await;
    assert!(!fairlead.output().contains('\u{1b}'), "plain lines when it is not a terminal");

    fairlead.signal(SIGINT);
    let (code, took) = fairlead.exit(ms(10_000)).await;
    assert_eq!(code, Some(0));
    assert!(took < ms(1_000), "Ctrl-C took {took:?}");
}

#[tokio::test]
async fn demo_says_when_its_port_is_taken() {
    let taken = Reserved::new();
    let _listener = taken.listen();
    let port = taken.address.port().to_string();
    let mut fairlead = Fairlead::spawn_with(&["demo", "--port", &port]);
    let took = within(ms(10_000), "demo gives up", async || !fairlead.runs()).await;
    assert!(took < ms(5_000), "{took:?}");
    assert_eq!(fairlead.exit(ms(1_000)).await.0, Some(1));
    let said = fairlead.log() + &fairlead.output();
    assert!(
        said.contains(&port) && said.contains("--port") && said.contains("in use") && !said.contains("panicked"),
        "{said}"
    );
}

#[tokio::test]
async fn what_would_be_unsafe_is_refused() {
    for (keys, words) in [
        ("admin: { address: 0.0.0.0:9900 }", ["admin", "token"]),
        ("admin: { address: 10.0.0.1:9000, token: 0123456789abcdef }", ["admin", "10.0.0.1:9000"]),
    ] {
        let finished = check(&format!("{SMALL}{keys}\n")).await;
        assert_eq!(finished.code, Some(1), "{keys}");
        assert!(words.iter().all(|word| finished.err.contains(word)), "{keys}: {}", finished.err);
    }
}
