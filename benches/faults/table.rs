//! One of four servers goes wrong: what clients notice, beside other proxies.

use std::sync::Arc;
use std::time::Duration;

use crate::Promise;
use crate::common::{Outcome, quantile};
use crate::options::{Kind, Options, Who};
use crate::proxies::{Settings, installed};
use crate::run::{Plan, Ran, run as run_plan};
use crate::trace::draw;

/// Load before anything is measured.
const WARM_UP: Duration = Duration::from_secs(3);
/// From the start of the measurement to the fault.
const FINE: Duration = Duration::from_secs(3);
/// Servers, their mean time, and how many requests each works on at a time.
const SERVERS: usize = 4;
const MEAN: Duration = Duration::from_millis(20);
const WORKERS: usize = 8;
/// Requests may be sent so late, in milliseconds; a load generator that is later measures the machine.
const NOISE: f64 = 3.0;

/// One row. Times in milliseconds.
struct Figures {
    n: usize,
    failed: usize,
    p50: f64,
    p99: f64,
    p999: f64,
    /// Attempts at the bad server from its fault on.
    bad: usize,
    late: f64,
    left: u64,
}

/// Makes the table; false: Fairlead does worse than it promises.
pub async fn run(options: &Options) -> Outcome<bool> {
    let who: Vec<Who> = options.who().into_iter().filter(|who| installed(*who)).collect();
    let (seconds, workers) = (options.seconds(), options.workers.unwrap_or(WORKERS));
    println!(
        "\nOne of {SERVERS} servers of {workers} workers and {} ms (exponential) goes wrong {} s into {} s of measurement, and \
         stays so; open loop, {:.0} requests/s, one proxy of one thread. Its `/heartbeat` goes on answering 200.\n",
        MEAN.as_millis(),
        FINE.as_secs(),
        seconds.as_secs(),
        options.rate(),
    );
    let trace = Arc::new(draw(options.seed, options.rate(), WARM_UP + seconds, |_, _| {}));
    let (mut rows, mut promises) = (Vec::new(), Vec::new());
    for kind in options.kinds() {
        for who in &who {
            let plan = Plan {
                who: *who,
                settings: Settings::default(),
                servers: vec![(MEAN, workers); SERVERS],
                trace: trace.clone(),
                faults: vec![(WARM_UP + FINE, 0..1, kind.behaviour())],
                slow_clients: 0,
            };
            let ran = run_plan(plan, options).await?;
            let figures = figures(&ran, WARM_UP..WARM_UP + seconds);
            let told = ran.told.as_ref().map(|told| told.line()).unwrap_or_default();
            eprintln!("{}, {}: {} {told}", kind.label(), who.label(), ran.reasons());
            promises.extend(promise(kind, *who, &figures));
            rows.push(row(kind, *who, &figures));
        }
    }
    println!(
        "| one server | proxy | failed | p50 ms | p99 ms | p99.9 ms | attempts at the bad server | sent late, p99 ms |"
    );
    println!("|---|---|--:|--:|--:|--:|--:|--:|");
    rows.iter().for_each(|row| println!("{row}"));
    println!();
    promises.iter().for_each(|promise| println!("{}", promise.line()));
    Ok(promises.iter().all(|promise| promise.holds))
}

fn figures(ran: &Ran, window: std::ops::Range<Duration>) -> Figures {
    let latencies = ran.latencies(&window);
    let fault = WARM_UP + FINE;
    Figures {
        n: ran.requests(&window),
        failed: ran.failures(&window).len(),
        p50: quantile(&latencies, 0.5),
        p99: quantile(&latencies, 0.99),
        p999: quantile(&latencies, 0.999),
        bad: ran.arrivals.first().into_iter().flatten().filter(|(at, _)| *at >= fault).count(),
        late: ran.lateness(),
        left: ran.told.as_ref().map_or(0, |told| told.left),
    }
}

fn row(kind: Kind, who: Who, figures: &Figures) -> String {
    let Figures { n, failed, p50, p99, p999, bad, late, .. } = figures;
    format!(
        "| {} | {} | {failed} of {n} | {p50:.1} | {p99:.0} | {p999:.0} | {bad} | {late:.1} |",
        kind.label(),
        who.label()
    )
}

/// What Fairlead promises.
fn promise(kind: Kind, who: Who, figures: &Figures) -> Vec<Promise> {
    let Figures { failed, p99, p999, late, left, .. } = *figures;
    let (what, holds) = match (who, kind) {
        (Who::Fairlead, Kind::E500) => (format!("at most 15 fail ({failed})"), failed <= 15),
        (Who::FairleadRetries500, Kind::E500) => (format!("none fails ({failed})"), failed == 0),
        (Who::Fairlead | Who::FairleadRetries500, Kind::Hang) => {
            (format!("none fails ({failed}), p99.9 under 600 ms ({p999:.0})"), failed == 0 && p999 < 600.0)
        }
        (Who::Fairlead | Who::FairleadRetries500, Kind::Reset) => (format!("none fails ({failed})"), failed == 0),
        (Who::Fairlead | Who::FairleadRetries500, Kind::Slow) => {
            (format!("none fails ({failed}), p99 under 150 ms ({p99:.0})"), failed == 0 && p99 < 150.0)
        }
        (Who::Haproxy | Who::HaproxyTuned | Who::Nginx | Who::NginxTuned, _) => return Vec::new(),
    };
    let noise = if late > NOISE {
        format!("; the machine was busy, requests were sent {late:.0} ms late")
    } else {
        String::new()
    };
    let name = format!("{}, one server {}", who.label(), kind.label());
    vec![
        Promise { what: format!("{name}: {what}{noise}"), holds },
        Promise { what: format!("{name}: nothing is counted in flight afterwards ({left})"), holds: left == 0 },
    ]
}
