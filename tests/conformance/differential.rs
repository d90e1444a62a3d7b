//! The table's requests, and some that were made to be taken differently, before servers of different make: nginx,
//! Node, and Python's gunicorn and uvicorn. Behind each message comes a marked request. Proxy and server must agree
//! where the message ends, or the proxy must refuse it and close.
//!
//! Every answer of a server tells which request it is for, and the server notes each that it has served. So:
//!
//! - the answers that the client gets are for the requests that the server has served, one by one: so none that is
//!   hidden in another has been served;
//! - after a refusal of the proxy's the connection ends, and what stands behind it is not served;
//! - the next request over the same connections to the server gets its own answer.
//!
//! Not part of `cargo test`, as it needs these servers: `make test-differential` installs and runs it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code)]
mod case;
#[allow(dead_code)]
mod client;
#[allow(dead_code)]
mod origin;
mod servers;
mod smuggling;
#[path = "../e2e/support/mod.rs"]
#[allow(dead_code, unused_imports)]
mod support;

mod bodies;
mod connections;
mod framing;
mod headers;
mod hosts;
mod methods;
mod targets;

use std::time::Duration;

use client::{Answer, Client};
use servers::Server;
use support::{Fairlead, one_pool};

#[tokio::test]
async fn nginx() {
    agree_on_everything(Server::nginx()).await;
}

#[tokio::test]
async fn node() {
    agree_on_everything(Server::node()).await;
}

#[tokio::test]
async fn gunicorn() {
    agree_on_everything(Server::gunicorn()).await;
}

#[tokio::test]
async fn uvicorn() {
    agree_on_everything(Server::uvicorn()).await;
}

/// All messages: those of the table that a client sends in one piece, and the others.
fn messages() -> Vec<(&'static str, Vec<u8>)> {
    let topics = [
        bodies::cases(),
        connections::cases(),
        framing::cases(),
        headers::cases(),
        hosts::cases(),
        methods::cases(),
        targets::cases(),
    ];
    let whole = topics.into_iter().flatten().filter(|case| {
        case.listener == "plain" && case.sends.len() == 1 && !case.finish && case.script.reply.is_none()
    });
    whole.map(|mut case| (case.name, case.sends.remove(0))).chain(smuggling::messages()).collect()
}

async fn agree_on_everything(mut server: Server) {
    server.wait_ready().await;
    let fairlead =
        Fairlead::start(&one_pool(&server.address.to_string(), "health: { interval: 1h, timeout: 5s, rise: 1 }")).await;
    let messages = messages();
    assert!(messages.len() > 250, "only {}", messages.len());
    let mut failed = Vec::new();
    let mut passed = 0;
    for (name, message) in &messages {
        match agree(&server, &fairlead, message).await {
            Ok(served) => passed += usize::from(served),
            Err(why) => failed
                .push(format!("{name}: {:?}\n    {why}", String::from_utf8_lossy(&message[..message.len().min(300)]))),
        }
    }
    println!("{}: {} messages, {passed} of them reached it", server.name, messages.len());
    assert!(passed > 50, "only {passed} messages reached the server");
    assert!(failed.is_empty(), "{} of {} messages:\n\n{}\n", failed.len(), messages.len(), failed.join("\n\n"));
}

const SECOND: &str = "GET /second HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";

/// Sends a message with a second request behind it. Whether the server has served the message.
async fn agree(server: &Server, fairlead: &Fairlead, message: &[u8]) -> Result<bool, String> {
    server.seen();
    let mut client = Client::connect(fairlead.address(), message.starts_with(b"HEAD ")).await;
    client.send(message).await;
    client.send(SECOND.as_bytes()).await;
    let mut answers = Vec::new();
    loop {
        match tokio::time::timeout(Duration::from_millis(1500), client.answer()).await {
            Ok(Ok(answer)) => {
                if answer.status >= 200 {
                    client.is_head = false;
                    answers.push(answer);
                }
            }
            Ok(Err(end)) if end == "the end after \"\"" => break,
            Ok(Err(broken)) => return Err(format!("the client got {answers:?}, then {broken}")),
            // The message waits for more; so the second request is a part of it.
            Err(_) => {
                client.finish().await;
                client.closed().await.ok();
                break;
            }
        }
    }
    let refused = answers.iter().position(|answer| answer.status == 400 && is_ours(answer));
    if refused.is_some_and(|refused| refused + 1 < answers.len()) {
        return Err(format!("more answers after a refusal: {answers:?}"));
    }
    let mut after = Client::connect(fairlead.address(), false).await;
    after.send(b"GET /after HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await;
    let after = after.answer().await?;
    if after.all("x-saw").as_deref() != Some("GET /after 0") {
        return Err(format!("the next request got {after:?}"));
    }
    let mut seen = server.seen_to("GET /after 0").await?;
    seen.pop();
    let told: Vec<String> = answers.iter().filter_map(|answer| answer.all("x-saw")).collect();
    if told != seen {
        return Err(format!("the client got answers for {told:?}, the server has served {seen:?}"));
    }
    if refused.is_some() && seen.iter().any(|request| request.contains("/second")) {
        return Err("the server has served what came behind a refusal".to_string());
    }
    Ok(!seen.is_empty())
}

/// The proxy's own.
fn is_ours(answer: &Answer) -> bool {
    answer.all("fairlead-error").is_some()
}
