//! When no server of a pool may be chosen, requests are refused at once, and servers are asked with care whether they
//! are well again.

use std::time::{Duration, Instant};

use crate::faults::Site;
use crate::support::{Fault, Load, ms, until, within};

/// Ejection that ends soon, and may eject all but one.
const QUICK: &str = "ejection: { consecutive: 3, base: 1s, max_ejected: 100% }";

async fn circuit(site: &Site) -> String {
    site.fairlead.pool("app").await["circuit"].as_str().unwrap().to_owned()
}

/// All servers go wrong under load, and are well again later.
async fn all_go_wrong(fault: Fault) {
    // Clients that wait for what hangs ask nothing meanwhile: not for too long.
    let route = "routes: [{ name: all, match: {}, pool: app, timeouts: { response: 2s } }]\n";
    let site = Site::with(3, QUICK, route).await;
    site.origins.iter().for_each(|origin| origin.delay(5));
    let load = Load::start(site.fairlead.address(), 12, "/");
    until("a steady load", async || load.tally().ok > 300).await;
    assert_eq!(circuit(&site).await, "closed");
    site.origins.iter().for_each(|origin| origin.fault(fault));
    until("the circuit is open", async || circuit(&site).await == "open").await;
    // What was under way comes to its end.
    until("refusals", async || load.tally().failures.contains_key("503 circuit-open")).await;
    tokio::time::sleep(ms(1000)).await;

    let (since, arrived, before) = (Instant::now(), site.arrived(), load.tally());
    tokio::time::sleep(ms(3000)).await;
    let (took, arrived, after) = (since.elapsed().as_secs_f64(), site.arrived() - arrived, load.tally());
    assert!(arrived as f64 <= 3.0 * (took + 1.0), "{fault:?}: {arrived} attempts at 3 servers in {took:.1} s");
    let refused = |tally: &crate::support::Tally| tally.failures.get("503 circuit-open").copied().unwrap_or_default();
    let (refused, failed) = (refused(&after) - refused(&before), after.failed - before.failed);
    assert!(refused > 100, "{fault:?}: {:?}", after.failures);
    // The others were probes, some of which were sent before.
    assert!(failed - refused <= arrived + 12, "{fault:?}: {:?}, before {:?}", after.failures, before.failures);
    assert_ne!(circuit(&site).await, "closed", "{fault:?}");

    site.origins.iter().for_each(|origin| origin.fault(Fault::None));
    let took = within(Duration::from_secs(10), "it is closed again", async || circuit(&site).await == "closed").await;
    let ok = load.tally().ok;
    until("answers again", async || load.tally().ok > ok + 200).await;
    let failed = load.tally().failed;
    until("more answers", async || load.tally().ok > ok + 600).await;
    let tally = load.stop().await;
    assert_eq!(tally.failed, failed, "{fault:?}: {:?}", tally.failures);
    eprintln!("{fault:?}: closed again after {took:?}");
    site.rests().await;
}

#[tokio::test]
async fn all_servers_hang() {
    all_go_wrong(Fault::Hang).await;
}

#[tokio::test]
async fn all_servers_reset() {
    all_go_wrong(Fault::Reset).await;
}

#[tokio::test]
async fn a_refusal_by_the_circuit_is_named_everywhere() {
    let site = Site::with(2, QUICK, "").await;
    site.origins.iter().for_each(|origin| origin.fault(Fault::Reset));
    let load = Load::start(site.fairlead.address(), 4, "/");
    until("the circuit is open", async || circuit(&site).await == "open").await;
    until("refusals", async || load.tally().failures.contains_key("503 circuit-open")).await;
    let tally = load.stop().await;
    let seen = tally.failures["503 circuit-open"];
    let lines = site.log(tally.failed).await;
    let logged: Vec<_> = lines.iter().filter(|line| line["error"] == "circuit-open").collect();
    assert_eq!(logged.len(), seen);
    assert!(logged.iter().all(|line| line["status"] == 503), "{logged:#?}");
    let counted = site.fairlead.metric("fairlead_refused_total", &[("reason", "circuit-open")]).await;
    assert_eq!(counted, seen as f64);
    assert!(site.fairlead.log().contains("circuit_opened"), "{}", site.fairlead.log());
    site.rests().await;
}
