//! `fairlead status`.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Fairlead, Finished, Origin, Reserved, one_pool, run_to_end, servers};

async fn status(dir: &Path, args: &[&str]) -> Finished {
    run_to_end(dir, &[&["status"], args].concat()).await
}

#[tokio::test]
async fn it_shows_every_server_and_why_one_is_not_up() {
    let (a, gone) = (Origin::start("a"), Reserved::new());
    let list = format!(
        "{{ name: first, address: \"{}\", weight: 3 }}, {{ name: second, address: \"{}\" }}",
        a.server(),
        gone.address
    );
    let health = "health: { type: tcp, interval: 1s, timeout: 500ms, rise: 1, fall: 1 }";
    let fairlead = Fairlead::start(&one_pool(&list, health)).await;
    fairlead.wait_state("second", "down").await;
    for _ in 0..5 {
        assert_eq!(fairlead.get("/").await.status, 200);
    }
    let _held = {
        let mut client = fairlead.client().await;
        client.send_get("/hang", "").await;
        client
    };
    crate::support::until("one in flight", async || fairlead.in_flight().await == 1).await;

    let finished = status(fairlead.dir.path(), &["--admin", &format!("http://{}", fairlead.admin())]).await;
    assert_eq!((finished.code, finished.err.as_str()), (Some(0), ""));
    let lines: Vec<Vec<&str>> = finished.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..8], ["pool", "app", "balance", "least-load", "mode", "memory", "(no", "Redis)"]);
    // Name, state, weight, in flight here and in the fleet, requests that are over.
    assert_eq!(lines[2][..6], ["first", "up", "3", "1", "1", "5"], "{}", finished.out);
    assert_eq!(lines[3][..3], ["second", "down", "1"], "{}", finished.out);
    assert!(lines[3].contains(&"refused"), "why: {}", finished.out);

    let finished = status(fairlead.dir.path(), &["--json", "--admin", &fairlead.admin().to_string()]).await;
    let told: Value = serde_json::from_str(&finished.out).unwrap();
    assert_eq!(told[0]["servers"][0]["in_flight"]["local"], 1);
}

#[tokio::test]
async fn the_token_comes_from_the_environment_a_file_or_the_configuration() {
    let origin = Origin::start("a");
    let port = Reserved::new();
    let admin = format!("admin: {{ address: \"{}\", token: t0ken }}\n", port.address);
    let yaml = one_pool(&servers(&[&origin]), "").replace("admin: { address: \"127.0.0.1:0\" }\n", &admin);
    let mut fairlead = Fairlead::spawn(&yaml);
    crate::support::until("admin listens", async || {
        assert!(fairlead.runs(), "{}", fairlead.log());
        !fairlead.events("admin_listening").is_empty()
    })
    .await;
    let (dir, url) = (fairlead.dir.path(), format!("http://{}", port.address));

    let without = status(dir, &["--admin", &url]).await;
    assert_eq!(without.code, Some(1));
    assert!(without.err.contains("FAIRLEAD_TOKEN") && without.err.contains("--token-file"), "{}", without.err);

    std::fs::write(dir.join("token"), "t0ken\n").unwrap();
    std::fs::write(dir.join("wrong"), "other\n").unwrap();
    assert_eq!(status(dir, &["--admin", &url, "--token-file", "token"]).await.code, Some(0));
    let wrong = status(dir, &["--admin", &url, "--token-file", "wrong"]).await;
    assert_eq!(wrong.code, Some(1));
    assert!(wrong.err.contains("refuses the token of --token-file wrong"), "{}", wrong.err);
    assert_eq!(status(dir, &["-c", "fairlead.yaml"]).await.code, Some(0));

    let mut command = Command::new(env!("CARGO_BIN_EXE_fairlead"));
    command.arg("status").env("FAIRLEAD_ADMIN", &url).env("FAIRLEAD_TOKEN", "t0ken").stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).starts_with("pool app"), "{output:?}");
}

#[tokio::test]
async fn a_node_that_is_not_there_is_told_with_the_way_out() {
    let (nobody, dir) = (Reserved::new(), tempfile::TempDir::new().unwrap());
    let finished = status(dir.path(), &["--admin", &format!("http://{}", nobody.address)]).await;
    assert_eq!((finished.code, finished.out.as_str()), (Some(1), ""));
    for words in [&nobody.address.to_string()[..], "refused", "--admin", "-c FILE", "FAIRLEAD_ADMIN"] {
        assert!(finished.err.contains(words), "no {words} in {}", finished.err);
    }
}
