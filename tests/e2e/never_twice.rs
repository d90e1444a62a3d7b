//! A request that is not safe to repeat reaches servers once at most, unless nothing of it was sent before.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::task::JoinSet;

use crate::faults::{BLIND, Site};
use crate::support::{Client, Fairlead, Fault, Lossy, Origin, Weather, ms, one_pool, request, until};

/// Clients that each send so many requests of this method, all with paths of their own. Returns the answers' statuses, 0
/// where there was none.
async fn send(address: SocketAddr, method: &'static str, clients: usize, each: usize, size: usize) -> Vec<u16> {
    let clients: JoinSet<Vec<u16>> = (0..clients)
        .map(|client| async move {
            let mut statuses = Vec::new();
            let mut connection: Option<Client> = None;
            for n in 0..each {
                let mut open = match connection.take() {
                    Some(open) => open,
                    None => Client::connect(address).await,
                };
                let sent = open.try_send(request(method, &format!("/n/{client}-{n}."), "", &"x".repeat(size))).await;
                // An upload that nobody wants may end without an answer.
                let response = if sent.is_ok() { open.response().await.ok() } else { None };
                statuses.push(response.as_ref().map_or(0, |response| response.status));
                if response.is_some_and(|response| response.header("connection") != Some("close")) {
                    connection = Some(open);
                }
            }
            statuses
        })
        .collect();
    clients.join_all().await.concat()
}

/// How often each target of this method was seen by origins.
fn sent(origins: &[Origin], method: &str) -> BTreeMap<String, usize> {
    let mut sent = BTreeMap::new();
    let seen = origins.iter().flat_map(Origin::seen);
    for target in seen.filter(|seen| seen.starts_with(method) && seen.contains("/n/")) {
        *sent.entry(target).or_default() += 1;
    }
    sent
}

#[track_caller]
fn never_twice(origins: &[Origin], what: &str) {
    let twice: Vec<_> = sent(origins, "P").into_iter().filter(|(_, times)| *times > 1).collect();
    assert!(twice.is_empty(), "{what}: {twice:?}");
}

/// The same for requests with small bodies, large bodies (64 KiB and more cannot be replayed), and none.
async fn under(fault: Fault) {
    for size in [0, 10, 100_000] {
        let site = Site::with(
            3,
            "",
            "routes: [{ name: all, match: {}, pool: app, timeouts: { per_try: 200ms, response: 2s } }]\n",
        )
        .await;
        for origin in &site.origins[..2] {
            origin.fault(fault);
        }
        let method = if size == 10 { "PATCH" } else { "POST" };
        let statuses = send(site.fairlead.address(), method, 4, 10, size).await;
        let good = statuses.iter().filter(|status| **status == 200).count();
        never_twice(&site.origins, &format!("{fault:?}, {size} bytes"));
        // Some are lost on connections that end at the same moment.
        let sent = sent(&site.origins, method).len();
        assert!(sent >= statuses.len() / 2, "{fault:?}: {sent} of {} were sent, {good} with success", statuses.len());
        site.rests().await;
    }
}

#[tokio::test]
async fn when_servers_reset() {
    under(Fault::Reset).await;
}

#[tokio::test]
async fn when_servers_close() {
    under(Fault::Close).await;
    under(Fault::CloseInHead).await;
}

#[tokio::test]
async fn when_servers_hang() {
    under(Fault::Hang).await;
}

#[tokio::test]
async fn when_servers_answer_garbage_or_errors() {
    under(Fault::Garbage).await;
    under(Fault::Errors(100)).await;
}

#[tokio::test]
async fn when_servers_are_slow_or_drip() {
    under(Fault::Slow(300)).await;
    under(Fault::Drip).await;
}

#[tokio::test]
async fn when_servers_close_idle_connections() {
    for pause in [0, 1] {
        under(Fault::CloseIdle(pause)).await;
    }
    let site = Site::start(3).await;
    site.origins.iter().for_each(Origin::hang_up_on_reuse);
    send(site.fairlead.address(), "POST", 4, 10, 10).await;
    never_twice(&site.origins, "connections that end when used again");
    site.rests().await;
}

#[tokio::test]
async fn not_even_where_500_is_retried() {
    let site = Site::with(3, "", &Site::retry("on: [connect, reset, timeout, 500]")).await;
    site.origins.iter().for_each(|origin| origin.fault(Fault::Errors(50)));
    send(site.fairlead.address(), "POST", 4, 20, 10).await;
    never_twice(&site.origins, "retry.on 500");
    site.rests().await;
}

#[tokio::test]
async fn a_post_of_which_nothing_was_sent_goes_to_another_server() {
    let mut site = Site::start(3).await;
    site.origins[0].kill().await;
    site.origins[1].kill().await;
    let statuses = send(site.fairlead.address(), "POST", 3, 10, 1000).await;
    assert_eq!(statuses, [200; 30]);
    never_twice(&site.origins, "refused connections");
    site.rests().await;
}

#[tokio::test]
async fn when_servers_die_and_return() {
    let mut site = Site::with(3, "ejection: { base: 100ms }", "").await;
    site.origins.iter().for_each(|origin| origin.delay(5));
    let posts = tokio::spawn(send(site.fairlead.address(), "POST", 6, 60, 100));
    for round in 0..6 {
        let victim = round % 3;
        until("a request on it", async || site.origins[victim].in_flight() > 0 || posts.is_finished()).await;
        site.origins[victim].kill().await;
        tokio::time::sleep(ms(40)).await;
        site.origins[victim].listen();
        tokio::time::sleep(ms(20)).await;
    }
    posts.await.unwrap();
    never_twice(&site.origins, "deaths");
    site.rests().await;
}

#[tokio::test]
async fn over_a_bad_network() {
    let origins = ["a", "b", "c"].map(Origin::start);
    let mut networks = Vec::new();
    for origin in &origins {
        networks.push(Lossy::to(origin.address).await);
    }
    let list: Vec<String> = networks.iter().map(|network| network.address.to_string()).collect();
    let routes = "routes: [{ name: all, match: {}, pool: app, timeouts: { per_try: 200ms, response: 1s } }]\n";
    let pool = one_pool(&list.join(", "), &format!("{BLIND}, ejection: {{ base: 100ms }}"));
    let fairlead = Fairlead::start(&(pool + routes)).await;
    for network in &networks {
        network.weather(Weather { refuse: 20, lose_up: 20, lose_down: 20, stall: 10, delay: 3, within: 1500 });
    }
    let address = fairlead.address();
    send(address, "POST", 6, 20, 300).await;
    // What the network swallowed counts too: it was sent.
    for n in 0..20 {
        for client in 0..6 {
            let head = format!("POST /n/{client}-{n}. ");
            let times: usize = networks.iter().map(|network| network.heard(&head)).sum();
            assert!(times <= 1, "{head}: {times} times");
        }
    }
    never_twice(&origins, "a bad network");
    fairlead.idle().await;
    until("the origins are idle", async || origins.iter().all(|origin| origin.in_flight() == 0)).await;
}
