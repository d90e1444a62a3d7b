//! What else may happen, and what must not.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;

use crate::Promise;
use crate::common::load::Seen;
use crate::common::{Outcome, quantile};
use crate::options::{Options, Scenario, Who};
use crate::origins::Behaviour;
use crate::proxies::{RETRIES_500, Settings};
use crate::rate;
use crate::run::{ALWAYS, Plan, Ran, run as run_plan, sorted};
use crate::trace::{Job, draw};

/// Load before a fault.
const BEFORE: Duration = Duration::from_secs(6);
/// Of that, nothing is looked at: servers are new, connections are made.
const WARM_UP: Duration = Duration::from_secs(3);
const MEAN: Duration = Duration::from_millis(20);
/// Enough that a server which is ten times slower still keeps up.
const MANY_WORKERS: usize = 32;
const FEW_WORKERS: usize = 8;
/// `retry.budget.share`, as it comes.
const BUDGET: f64 = 0.2;

/// Runs one and prints what it shows; false: a promise is broken.
pub async fn run(scenario: Scenario, options: &Options) -> Outcome<bool> {
    let name = scenario.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    println!("\n`{name}`:");
    let promises = match scenario {
        Scenario::SlowRequests => slow_requests(options).await?,
        Scenario::AllSlow => all_slow(options).await?,
        Scenario::HotKey => hot_key(options).await?,
        Scenario::AllHang => all_hang(options).await?,
        Scenario::AllFail => all_fail(options).await?,
        Scenario::SlowLoris => slow_loris(options).await?,
        Scenario::FleetRate => rate::run(options).await?,
        Scenario::TwoSpeeds => two_speeds(options).await?,
    };
    promises.iter().for_each(|promise| println!("{}", promise.line()));
    Ok(promises.iter().all(|promise| promise.holds))
}

/// Four servers as they are meant to be.
fn plan(options: &Options, workers: usize, length: Duration, change: impl Fn(&mut Job, &mut fastrand::Rng)) -> Plan {
    Plan {
        who: Who::Fairlead,
        settings: Settings::default(),
        servers: vec![(MEAN, options.workers.unwrap_or(workers)); 4],
        trace: Arc::new(draw(options.seed, options.rate(), length, change)),
        faults: Vec::new(),
        slow_clients: 0,
    }
}

/// Runs it, and says what Fairlead said.
async fn tell(plan: Plan, options: &Options) -> Outcome<(Ran, Vec<Promise>)> {
    let ran = run_plan(plan, options).await?;
    let told = ran.told.clone().unwrap_or_default();
    println!("- seen: {}. Sent late, p99: {:.1} ms", told.line(), ran.lateness());
    if !ran.seen.failures.is_empty() {
        println!("- failed: {}", ran.reasons());
    }
    let left = told.left;
    let counted = Promise { what: format!("nothing is counted in flight afterwards ({left})"), holds: left == 0 };
    Ok((ran, vec![counted]))
}

fn none_fails(ran: &Ran, when: &Range<Duration>) -> Promise {
    let (failed, of) = (ran.failures(when).len(), ran.requests(when));
    Promise { what: format!("none fails ({failed} of {of})"), holds: failed == 0 }
}

fn none_ejected(ran: &Ran) -> Promise {
    let told = ran.told.clone().unwrap_or_default();
    let seen = told.ejection.iter().any(|(_, state)| !state.is_empty());
    Promise { what: format!("nothing is ejected ({})", told.ejections), holds: told.ejections == 0.0 && !seen }
}

/// All attempts as a share of all requests.
fn attempts(ran: &Ran, when: &Range<Duration>, most: f64) -> Promise {
    let (attempts, requests) = (ran.attempts(when), ran.requests(when));
    let share = attempts as f64 / requests.max(1) as f64;
    let what = format!("attempts ≤ {most} × requests ({attempts} / {requests} = {share:.3})");
    Promise { what, holds: share <= most }
}

async fn slow_requests(options: &Options) -> Outcome<Vec<Promise>> {
    let slow = Duration::from_secs(3).as_secs_f64() / MEAN.as_secs_f64();
    let change = |job: &mut Job, random: &mut fastrand::Rng| {
        if random.f64() < 0.01 {
            job.work = slow;
        }
    };
    let (ran, mut promises) = tell(plan(options, MANY_WORKERS, Duration::from_secs(30), change), options).await?;
    promises.push(none_fails(&ran, &ALWAYS));
    let most = ran.attempts_by_request().into_iter().max().unwrap_or_default();
    let again = ran.attempts_by_request().into_iter().filter(|attempts| *attempts > 1).count();
    promises
        .push(Promise { what: format!("each is sent once (at most {most} times, {again} again)"), holds: most == 1 });
    promises.push(none_ejected(&ran));
    Ok(promises)
}

async fn all_slow(options: &Options) -> Outcome<Vec<Promise>> {
    let (lasts, after) = (Duration::from_secs(20), Duration::from_secs(12));
    let mut plan = plan(options, MANY_WORKERS, BEFORE + lasts + after, |_, _| {});
    plan.faults = vec![(BEFORE, 0..4, Behaviour::Slow), (BEFORE + lasts, 0..4, Behaviour::Fine)];
    let (ran, mut promises) = tell(plan, options).await?;
    promises.push(attempts(&ran, &(BEFORE..BEFORE + lasts), 1.05));
    promises.push(attempts(&ran, &ALWAYS, 1.05));
    let later = BEFORE + lasts + Duration::from_secs(5)..Duration::MAX;
    let p99 = |when: &Range<Duration>| quantile(&ran.latencies(when), 0.99);
    let (before, then) = (p99(&(WARM_UP..BEFORE)), p99(&later));
    let failed = ran.failures(&later).len();
    let what = format!("normal again 5 s after: p99 {then:.0} ms, {before:.0} before; {failed} failed");
    promises.push(Promise { what, holds: failed == 0 && then < 1.5 * before + 5.0 });
    println!(
        "- during: p99 {:.0} ms, {} failed",
        p99(&(BEFORE..BEFORE + lasts)),
        ran.failures(&(BEFORE..BEFORE + lasts)).len()
    );
    Ok(promises)
}

async fn hot_key(options: &Options) -> Outcome<Vec<Promise>> {
    let change = |job: &mut Job, random: &mut fastrand::Rng| {
        let hot = random.f64() < 0.1;
        job.key = Some(if hot { 0 } else { random.usize(1..1000) });
        job.work *= if hot { 10.0 } else { 1.0 };
    };
    let mut plan = plan(options, MANY_WORKERS, Duration::from_secs(30), change);
    plan.settings.pool = "balance: hash, hash: { on: { header: x-key } }, ".into();
    let (ran, mut promises) = tell(plan, options).await?;
    promises.extend([none_fails(&ran, &ALWAYS), none_ejected(&ran)]);
    Ok(promises)
}

async fn slow_loris(options: &Options) -> Outcome<Vec<Promise>> {
    const SLOW_ONES: usize = 2000;
    let length = Duration::from_secs(20);
    let (calm, mut promises) = tell(plan(options, FEW_WORKERS, length, |_, _| {}), options).await?;
    let mut plan = plan(options, FEW_WORKERS, length, |_, _| {});
    plan.slow_clients = SLOW_ONES;
    let (ran, counted) = tell(plan, options).await?;
    promises.extend(counted);
    promises.push(none_fails(&ran, &ALWAYS));
    let p99 = |ran: &Ran| quantile(&ran.latencies(&(WARM_UP..Duration::MAX)), 0.99);
    let (without, with) = (p99(&calm), p99(&ran));
    let what =
        format!("the others' p99 at most doubles ({without:.0} ms without, {with:.0} with {SLOW_ONES} slow clients)");
    promises.push(Promise { what, holds: with <= 2.0 * without });
    let more = ran.most_memory.saturating_sub(calm.most_memory) >> 10;
    let what = format!("memory is bounded: {} KiB for each ({more} in all)", more / SLOW_ONES as u64);
    promises.push(Promise { what, holds: more / SLOW_ONES as u64 <= 64 });
    let gone = ran.slow_clients.iter().flatten().count();
    let last = ran.slow_clients.iter().flatten().max().map_or(0.0, Duration::as_secs_f64);
    // `timeouts.header` is 10 s.
    let what = format!("the slow ones are gone in time ({gone} of {SLOW_ONES}, the last after {last:.1} s)");
    promises.push(Promise { what, holds: gone == SLOW_ONES && last <= 12.0 });
    Ok(promises)
}

async fn two_speeds(options: &Options) -> Outcome<Vec<Promise>> {
    let mut plan = plan(options, FEW_WORKERS, options.minutes(), |_, _| {});
    for (mean, _) in plan.servers.iter_mut().skip(2) {
        *mean = 2 * MEAN;
    }
    let (ran, mut promises) = tell(plan, options).await?;
    promises.extend([none_fails(&ran, &ALWAYS), none_ejected(&ran)]);
    Ok(promises)
}

async fn all_hang(options: &Options) -> Outcome<Vec<Promise>> {
    let (lasts, after) = (Duration::from_secs(20), Duration::from_secs(12));
    let mut plan = plan(options, FEW_WORKERS, BEFORE + lasts + after, |_, _| {});
    plan.faults = vec![(BEFORE, 0..4, Behaviour::Hang), (BEFORE + lasts, 0..4, Behaviour::Fine)];
    let (ran, mut promises) = tell(plan, options).await?;
    let (settled, heals) = (BEFORE + Duration::from_secs(2), BEFORE + lasts);
    let open = settled..heals;
    let first = BEFORE..settled;
    println!(
        "- in the first 2 s: {} of {} requests failed, {} attempts",
        ran.failures(&first).len(),
        ran.requests(&first),
        ran.attempts(&first)
    );

    let refused: Vec<_> = ran.failures(&open).into_iter().filter(|failure| failure.status == Some(503)).collect();
    let took = sorted(refused.iter().map(|failure| failure.done.saturating_sub(failure.sent)));
    let p99 = quantile(&took, 0.99);
    let what = format!(
        "after 2 s 99 % of refusals take under 5 ms ({p99:.2} ms; {} of {} requests are refused: {})",
        refused.len(),
        ran.requests(&open),
        Seen::reasons(refused)
    );
    let nearly_all = took.len() as f64 >= 0.99 * ran.requests(&open) as f64;
    promises.push(Promise { what, holds: p99 < 5.0 && nearly_all });

    let seconds = (heals - settled).as_secs_f64();
    let most = ran.arrivals.iter().map(|arrivals| arrivals.iter().filter(|(at, _)| open.contains(at)).count()).max();
    let most = most.unwrap_or_default() as f64 / seconds;
    promises.push(Promise { what: format!("attempts ≤ 1/s per server ({most:.2}/s)"), holds: most <= 1.0 });

    let last = ran.failures(&(heals..Duration::MAX)).iter().map(|failure| failure.due).max();
    let recovery = last.map_or(0.0, |last| (last - heals).as_secs_f64());
    promises
        .push(Promise {
            what: format!("recovery ≤ 2 s after they answer ({recovery:.2} s)"), holds: recovery <= 2.0
        });
    Ok(promises)
}

async fn all_fail(options: &Options) -> Outcome<Vec<Promise>> {
    let (lasts, after) = (Duration::from_secs(10), Duration::from_secs(5));
    let mut promises = Vec::new();
    for (what, behaviour, more) in [
        ("close instead of answering", Behaviour::Reset, ""),
        ("answer 500, which is retried", Behaviour::Error, RETRIES_500),
    ] {
        let mut plan = plan(options, FEW_WORKERS, BEFORE + lasts + after, |_, _| {});
        plan.settings.more = more.into();
        plan.faults = vec![(BEFORE, 0..4, behaviour), (BEFORE + lasts, 0..4, Behaviour::Fine)];
        println!("- all {what}:");
        let (ran, counted) = tell(plan, options).await?;
        let during = BEFORE..BEFORE + lasts;
        println!("- during: {} of {} failed", ran.failures(&during).len(), ran.requests(&during));
        // Requests earn retries, to be spent within a second: those of the second before count.
        let second = BEFORE - Duration::from_secs(1)..BEFORE;
        let (requests, tried) = (ran.requests(&during), ran.attempts(&during));
        let most = (1.0 + BUDGET) * requests as f64 + BUDGET * ran.requests(&second) as f64;
        let share = tried as f64 / requests.max(1) as f64;
        let what = format!(
            "all {what}: attempts ≤ {} × requests, and what the second before has earned ({tried} / {requests} = {share:.3})",
            1.0 + BUDGET
        );
        promises.push(Promise { what, holds: tried as f64 <= most });
        promises.extend(counted);
    }
    Ok(promises)
}
