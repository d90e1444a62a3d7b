//! Servers and networks that go wrong while their health checks stay fine: clients must not notice what could be
//! retried, and nothing is counted for ever.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Fairlead, Fault, Load, Lossy, Origin, Weather, ms, one_pool, servers, until, within};

/// Health checks that tell nothing, so that only traffic can.
pub const BLIND: &str = "health: { type: tcp, interval: 60s, timeout: 1s }";
const LOG: &str = "access_log: { format: json, path: \"{dir}/access.log\" }\n";

/// Origins, and Fairlead before them.
pub struct Site {
    pub origins: Vec<Origin>,
    pub fairlead: Fairlead,
}

impl Site {
    /// As Fairlead comes.
    pub async fn start(origins: usize) -> Self {
        Self::with(origins, "", "").await
    }

    /// With settings of the pool, and others as whole lines.
    pub async fn with(origins: usize, pool: &str, more: &str) -> Self {
        let origins: Vec<Origin> = ["a", "b", "c", "d"][..origins].iter().map(|name| Origin::start(name)).collect();
        let list = servers(&origins.iter().collect::<Vec<_>>());
        let yaml = one_pool(&list, &format!("{BLIND}, {pool}")) + more + LOG;
        Site { origins, fairlead: Fairlead::start(&yaml).await }
    }

    /// A route for everything with this `retry`, as a line.
    pub fn retry(settings: &str) -> String {
        format!("routes: [{{ name: all, match: {{}}, pool: app, retry: {{ {settings} }} }}]\n")
    }

    /// Requests that all origins have seen.
    pub fn arrived(&self) -> usize {
        self.origins.iter().map(Origin::requests).sum()
    }

    /// What the API says of the ejection of each server.
    pub async fn ejections(&self) -> Vec<String> {
        let pool = self.fairlead.pool("app").await;
        let servers = pool["servers"].as_array().unwrap();
        servers.iter().map(|server| server["ejection"].as_str().unwrap().to_owned()).collect()
    }

    /// Nothing has been ejected until now.
    pub async fn nothing_ejected(&self) {
        assert_eq!(self.fairlead.metric("fairlead_ejections_total", &[]).await, 0.0);
        assert!(self.ejections().await.iter().all(|ejection| ejection == "none"), "{:?}", self.ejections().await);
    }

    /// All counts return to nothing, here and at the origins.
    pub async fn rests(&self) {
        self.fairlead.idle().await;
        until("the origins are idle", async || self.origins.iter().all(|origin| origin.in_flight() == 0)).await;
        assert_eq!(self.fairlead.metric("fairlead_in_flight", &[("scope", "local")]).await, 0.0);
    }

    /// The access log's lines so far, at least `n`.
    pub async fn log(&self, n: usize) -> Vec<Value> {
        let path = self.fairlead.dir.path().join("access.log");
        let mut lines = Vec::new();
        until("lines in the access log", async || {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            lines = whole.map(|line| serde_json::from_str(line).unwrap()).collect();
            lines.len() >= n
        })
        .await;
        lines
    }
}

/// One of three servers goes wrong under a light load. `ejects`: until it is ejected. Returns how many of the requests failed.
async fn one_goes_wrong(fault: Fault, ejects: bool) -> usize {
    let site = Site::start(3).await;
    site.origins.iter().for_each(|origin| origin.delay(5));
    // No more than the retry budget allows at once, whatever the moment.
    let load = Load::start(site.fairlead.address(), 3, "/");
    until("a steady load", async || load.tally().ok > 150).await;
    assert_eq!(load.tally().failed, 0);
    site.origins[0].fault(fault);
    let since = Instant::now();
    until("much traffic with the fault", async || load.tally().ok > 600).await;
    if ejects {
        until("it is ejected", async || site.ejections().await[0] != "none").await;
    }
    let tally = load.stop().await;
    let slowest = tally.took.iter().filter(|(began, _)| *began > since).map(|(_, took)| *took).max().unwrap();
    assert!(slowest < ms(3000), "{fault:?}: a request took {slowest:?}");
    site.rests().await;
    eprintln!("{fault:?}: {:?}, slowest {slowest:?}", tally.failures);
    tally.failed
}

#[tokio::test]
async fn a_server_that_resets_costs_no_get() {
    let failed = one_goes_wrong(Fault::Reset, true).await;
    assert_eq!(failed, 0);
}

#[tokio::test]
async fn a_server_that_closes_instead_of_answering_costs_no_get() {
    let failed = one_goes_wrong(Fault::Close, true).await;
    assert_eq!(failed, 0);
}

#[tokio::test]
async fn a_server_that_closes_half_way_through_a_head_costs_no_get() {
    let failed = one_goes_wrong(Fault::CloseInHead, true).await;
    assert_eq!(failed, 0);
}

#[tokio::test]
async fn a_server_that_hangs_costs_no_get() {
    let failed = one_goes_wrong(Fault::Hang, true).await;
    assert_eq!(failed, 0);
}

#[tokio::test]
async fn a_server_that_answers_garbage_is_ejected() {
    let failed = one_goes_wrong(Fault::Garbage, true).await;
    assert!(failed <= 15, "{failed} failed");
}

#[tokio::test]
async fn a_server_that_answers_500_is_ejected_and_attracts_no_load() {
    let failed = one_goes_wrong(Fault::Errors(100), true).await;
    assert!(failed <= 15, "{failed} failed");
}

#[tokio::test]
async fn a_slow_server_costs_nothing() {
    let failed = one_goes_wrong(Fault::Slow(50), false).await;
    assert_eq!(failed, 0);
}

#[tokio::test]
async fn a_server_that_drips_its_answers_costs_nothing() {
    let failed = one_goes_wrong(Fault::Drip, false).await;
    assert_eq!(failed, 0);
}

#[tokio::test]
async fn a_server_that_closes_idle_connections_costs_nothing() {
    for pause in [0, 1, 3] {
        let failed = one_goes_wrong(Fault::CloseIdle(pause), false).await;
        assert_eq!(failed, 0);
    }
}

#[tokio::test]
async fn a_server_that_fails_now_and_then_costs_nothing_where_500_is_retried() {
    let site = Site::with(3, "", &Site::retry("on: [connect, reset, timeout, 500]")).await;
    site.origins.iter().for_each(|origin| origin.delay(3));
    let load = Load::start(site.fairlead.address(), 3, "/");
    // Requests earn retries: a node that has just begun has few.
    until("a steady load", async || load.tally().ok > 300).await;
    site.origins[0].fault(Fault::Errors(40));
    until("much traffic", async || load.tally().ok > 700).await;
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    site.rests().await;
}

#[tokio::test]
async fn a_killed_server_costs_no_get() {
    let mut site = Site::start(3).await;
    site.origins.iter().for_each(|origin| origin.delay(20));
    let load = Load::start(site.fairlead.address(), 3, "/");
    until("a steady load", async || load.tally().ok > 60).await;
    until("a request on it", async || site.origins[0].in_flight() > 0).await;
    site.origins[0].kill().await;
    let before = load.tally().ok;
    until("much traffic without it", async || load.tally().ok > before + 200).await;
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    site.rests().await;
}

#[tokio::test]
async fn a_frozen_process_costs_no_get() {
    // A second Fairlead before each origin is the server: a process that can be stopped.
    let origins = ["a", "b", "c"].map(Origin::start);
    let mut inner = Vec::new();
    for origin in &origins {
        origin.delay(5);
        inner.push(Fairlead::start(&one_pool(&origin.server(), BLIND)).await);
    }
    let list: Vec<String> = inner.iter().map(|server| server.address().to_string()).collect();
    let fairlead = Fairlead::start(&one_pool(&list.join(", "), BLIND)).await;
    let load = Load::start(fairlead.address(), 3, "/");
    until("a steady load", async || load.tally().ok > 150).await;
    inner[0].signal(Signal::SIGSTOP);
    let since = Instant::now();
    let before = load.tally().ok;
    until("much traffic without it", async || load.tally().ok > before + 300).await;
    inner[0].signal(Signal::SIGCONT);
    let before = load.tally().ok;
    until("more traffic", async || load.tally().ok > before + 100).await;
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    let slowest = tally.took.iter().filter(|(began, _)| *began > since).map(|(_, took)| *took).max().unwrap();
    assert!(slowest < ms(3000), "{slowest:?}");
    fairlead.idle().await;
    for server in &inner {
        server.idle().await;
    }
}

#[tokio::test]
async fn a_bad_network_to_one_server_costs_no_get() {
    let origins = ["a", "b", "c"].map(Origin::start);
    let bad = Lossy::to(origins[0].address).await;
    let list = format!("{}, {}, {}", bad.address, origins[1].server(), origins[2].server());
    let route = "routes: [{ name: all, match: {}, pool: app, timeouts: { per_try: 300ms } }]\n";
    let fairlead = Fairlead::start(
        &one_pool(&list, &format!("{BLIND}, ejection: {{ base: 200ms }}"))
            .replace("pools:", &(route.to_owned() + "pools:")),
    )
    .await;
    let load = Load::start(fairlead.address(), 3, "/");
    // Requests earn retries: a node that has just begun has few.
    until("a steady load", async || load.tally().ok > 300).await;
    let storms = [
        Weather { refuse: 50, ..Weather::default() },
        Weather { lose_up: 70, within: 600, ..Weather::default() },
        Weather { lose_down: 70, within: 300, ..Weather::default() },
        Weather { stall: 50, within: 300, ..Weather::default() },
        Weather { refuse: 20, lose_up: 20, lose_down: 20, stall: 20, delay: 5, within: 500 },
    ];
    for weather in storms {
        bad.weather(weather);
        let before = load.tally().ok;
        let start = Instant::now();
        until("traffic in a storm", async || load.tally().ok > before + 200 && start.elapsed() > ms(500)).await;
        let tally = load.tally();
        assert_eq!(tally.failed, 0, "{weather:?}: {:?}", tally.failures);
    }
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    fairlead.idle().await;
    until("the origins are idle", async || origins.iter().all(|origin| origin.in_flight() == 0)).await;
}

#[tokio::test]
async fn the_access_log_lists_every_attempt_and_each_failure_has_its_name() {
    let faults = [
        (Fault::Reset, 502, "upstream-reset"),
        (Fault::Close, 502, "upstream-reset"),
        (Fault::CloseInHead, 502, "upstream-reset"),
        (Fault::Garbage, 502, "upstream-invalid"),
        (Fault::Hang, 504, "per-try-timeout"),
    ];
    let routes = "routes: [{ name: all, match: {}, pool: app, timeouts: { response: 4s, per_try: 500ms } }]\n";
    for (fault, status, name) in faults {
        let site = Site::with(3, "ejection: none", routes).await;
        site.origins.iter().for_each(|origin| origin.fault(fault));
        let response = site.fairlead.get("/").await;
        assert_eq!(response.refusal(), (status, name), "{fault:?}");
        let line = &site.log(1).await[0];
        assert_eq!((&line["status"], &line["error"]), (&Value::from(status), &Value::from(name)), "{line}");
        let tries = line["attempts"].as_array().unwrap();
        assert_eq!(tries.len(), site.arrived(), "{fault:?}: {line}");
        for attempt in tries {
            let server = attempt["server"].as_str().unwrap();
            assert!(site.origins.iter().any(|origin| origin.server() == server), "{line}");
            assert!(
                attempt["result"].as_str().is_some_and(|result| !result.is_empty() && result != "success"),
                "{line}"
            );
            assert!(attempt["ms"].as_f64().is_some_and(|took| (0.0..10_000.0).contains(&took)), "{line}");
        }
        // Never the same server while another is left.
        assert!(site.origins.iter().all(|origin| origin.requests() <= 1), "{fault:?}: {line}");
        site.rests().await;
    }
}

#[tokio::test]
async fn slow_requests_are_sent_once() {
    let site = Site::start(3).await;
    let load = Load::start(site.fairlead.address(), 4, "/delay/3");
    until("a steady load", async || load.tally().ok > 300).await;
    let slow: tokio::task::JoinSet<u16> = (0..9)
        .map(|n| {
            let address = site.fairlead.address();
            async move { crate::support::get(address, &format!("/delay/1500?{n}"), "").await.status }
        })
        .collect();
    assert_eq!(slow.join_all().await, [200; 9]);
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    for n in 0..9 {
        let target = format!("GET /delay/1500?{n}");
        let sent = site.origins.iter().flat_map(Origin::seen).filter(|seen| *seen == target).count();
        assert_eq!(sent, 1, "{target}");
    }
    site.nothing_ejected().await;
    site.rests().await;
}

#[tokio::test]
async fn when_all_servers_are_slower_nothing_is_repeated() {
    let site = Site::start(3).await;
    site.origins.iter().for_each(|origin| origin.delay(10));
    let load = Load::start(site.fairlead.address(), 12, "/");
    until("a steady load", async || load.tally().ok > 600).await;
    let (requests, attempts) = (load.tally().ok, site.arrived());
    site.origins.iter().for_each(|origin| origin.delay(100));
    within(Duration::from_secs(10), "slow traffic", async || load.tally().ok > requests + 250).await;
    let tally = load.stop().await;
    let (requests, attempts) = (tally.ok - requests, site.arrived() - attempts);
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    // Some that were under way are counted on one side only.
    assert!(attempts as f64 <= 1.05 * requests as f64 + 12.0, "{attempts} attempts for {requests} requests");
    site.rests().await;
}

#[tokio::test]
async fn a_slow_server_is_ejected_for_its_latency() {
    let site = Site::start(4).await;
    site.origins.iter().for_each(|origin| origin.delay(5));
    let load = Load::start(site.fairlead.address(), 12, "/");
    until("a steady load", async || load.tally().ok > 600).await;
    site.origins[0].delay(250);
    until("it is ejected", async || site.ejections().await[0] != "none").await;
    assert!(site.ejections().await[1..].iter().all(|ejection| ejection == "none"));
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    site.rests().await;
}

#[tokio::test]
async fn a_hot_key_ejects_nothing() {
    let site = Site::with(3, "balance: hash, hash: { on: { header: x-key } }", "").await;
    let address = site.fairlead.address();
    let warm = Load::start(address, 4, "/delay/2");
    until("a steady load", async || warm.tally().ok > 300).await;
    // All over one key, ten times slower and more; the clients of `warm` have none.
    let hot: tokio::task::JoinSet<()> = (0..6)
        .map(|_| async move {
            let mut client = crate::support::Client::connect(address).await;
            for _ in 0..12 {
                client.send_get("/delay/250", "x-key: hot\r\n").await;
                assert_eq!(client.response().await.unwrap().status, 200);
            }
        })
        .collect();
    hot.join_all().await;
    let tally = warm.stop().await;
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    site.nothing_ejected().await;
    site.rests().await;
}

#[tokio::test]
async fn when_all_servers_fail_the_budget_bounds_the_attempts() {
    let retry = Site::retry("on: [connect, reset, timeout, 500], budget: { share: 20%, min: 1 }");
    // Nothing but the budget holds back.
    let site = Site::with(3, "ejection: none", &retry).await;
    site.origins.iter().for_each(|origin| {
        origin.delay(10);
        origin.fault(Fault::Errors(100));
    });
    let load = Load::start(site.fairlead.address(), 20, "/");
    until("many failures", async || load.tally().failed > 1000).await;
    let tally = load.stop().await;
    assert_eq!(tally.ok, 0);
    let (requests, attempts) = (tally.failed, site.arrived());
    assert!(attempts as f64 <= 1.2 * requests as f64 + 20.0, "{attempts} attempts for {requests} requests");
    site.rests().await;
}

#[tokio::test]
async fn a_server_that_is_well_again_is_used_again() {
    let site = Site::with(3, "ejection: { base: 500ms }", "").await;
    site.origins.iter().for_each(|origin| origin.delay(3));
    let load = Load::start(site.fairlead.address(), 3, "/");
    until("a steady load", async || load.tally().ok > 100).await;
    site.origins[0].fault(Fault::Reset);
    until("it is ejected", async || site.ejections().await[0] == "ejected").await;
    site.origins[0].fault(Fault::None);
    let before = site.origins[0].requests();
    until("it is used again", async || site.origins[0].requests() > before + 20).await;
    until("no ejection is left", async || site.ejections().await[0] == "none").await;
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    site.rests().await;
}

#[tokio::test]
async fn a_lone_server_is_never_ejected() {
    let site = Site::with(1, "", &Site::retry("on: []")).await;
    site.origins[0].fault(Fault::Errors(100));
    for _ in 0..30 {
        assert_eq!(site.fairlead.get("/").await.status, 500);
    }
    site.nothing_ejected().await;
    site.origins[0].fault(Fault::None);
    assert_eq!(site.fairlead.get("/").await.status, 200);
    site.rests().await;
}

#[tokio::test]
async fn a_client_is_told_that_its_connection_ends_with_a_failure() {
    let routes = "routes: [{ name: all, match: {}, pool: app, timeouts: { response: 300ms } }]\n";
    for fault in [Fault::Reset, Fault::Garbage, Fault::Hang, Fault::Errors(100)] {
        let site = Site::with(1, "", routes).await;
        site.origins[0].fault(fault);
        let mut client = site.fairlead.client().await;
        for _ in 0..3 {
            let response = client.get("/").await;
            assert!(response.status >= 500, "{fault:?}");
            if response.header("connection") == Some("close") {
                client.closed().await;
                client = site.fairlead.client().await;
            }
        }
        site.rests().await;
    }
}
