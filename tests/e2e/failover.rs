//! One of four servers dies under load.

use std::time::Duration;

use crate::support::{Fairlead, Load, Origin, ms, one_pool, servers, until, within};

#[tokio::test]
async fn only_requests_in_flight_on_a_killed_server_fail() {
    let mut origins = ["a", "b", "c", "d"].map(Origin::start);
    for origin in &origins {
        origin.delay(20);
    }
    let list = servers(&origins.each_ref());
    let fairlead = Fairlead::start(&one_pool(&list, "health: { path: /heartbeat, interval: 1s }")).await;
    let load = Load::start(fairlead.address(), 64, "/");
    until("a steady load", async || load.tally().ok > 500).await;
    assert_eq!(load.tally().failed, 0);

    let in_flight = origins[0].kill().await;
    assert!(in_flight > 0, "no request was in flight: the test shows nothing");
    tokio::time::sleep(ms(1000)).await;
    let failed = load.tally().failed;
    assert!(failed <= in_flight, "{failed} failed, {in_flight} in flight: {:?}", load.tally().failures);

    tokio::time::sleep(Duration::from_secs(3)).await;
    let tally = load.tally();
    assert_eq!(tally.failed, failed, "failures long after the death: {:?}", tally.failures);
    let server = fairlead.server(&origins[0].server()).await;
    assert_eq!((server["state"].as_str(), server["in_flight"]["local"].as_u64()), (Some("down"), Some(0)));
    let sent = server["requests"].as_u64();
    tokio::time::sleep(ms(500)).await;
    assert_eq!(fairlead.server(&origins[0].server()).await["requests"].as_u64(), sent, "requests 4 s after its death");

    let before = origins[0].requests();
    origins[0].listen();
    let took = within(ms(10_000), "it serves again", async || origins[0].requests() > before).await;
    assert!(took < ms(3_100), "back after {took:?}");
    let tally = load.stop().await;
    assert_eq!(tally.failed, failed, "failures at the return: {:?}", tally.failures);
    fairlead.idle().await;
}
