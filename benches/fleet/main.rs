//! What sharing the load is worth: a fleet of proxies before a few servers, and the tail of its latencies.
//!
//! Everything runs on this machine and ends with this program: servers with few workers, a Redis of its own, N copies of
//! each proxy, and an open loop of requests. Latency counts from the moment a request was due, so a fleet that falls
//! behind cannot hide it. All policies get the same requests: same moments, same nodes, same work.
//!
//! With `--redis-fault` the question is another: what do requests notice when Redis goes away for five seconds?
//!
//! | part | does |
//! |---|---|
//! | [`options`] | the command line |
//! | [`trace`] | draws the requests |
//! | [`origins`] | the servers |
//! | [`common`] | sends the requests and times them |
//! | [`proxies`] | starts, watches and ends the proxies |
//! | [`redis`], [`link`] | Redis and its faults |
//! | [`run`] | one policy under one trace |
//! | [`figures`], [`report`] | what came of it |

#[path = "../common/mod.rs"]
mod common;

mod figures;
mod link;
mod options;
mod origins;
mod proxies;
mod redis;
mod report;
mod run;
mod trace;

use std::process::ExitCode;

use clap::Parser;

use crate::common::{Outcome, interrupted};
use crate::options::{Fault, Options, Policy};
use crate::run::Bench;

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.to_string()),
    };
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = measure(options) => ended,
            interrupted = interrupted() => interrupted,
        }
    });
    runtime.shutdown_background();
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => failed("requests failed, see above"),
        Err(error) => failed(&error.to_string()),
    }
}

fn failed(why: &str) -> ExitCode {
    eprintln!("benches/fleet: {why}");
    ExitCode::FAILURE
}

/// All policies, round by round; false: requests failed.
async fn measure(options: Options) -> Outcome<bool> {
    let policies: Vec<Policy> = options.policies().into_iter().filter(proxies::installed).collect();
    let faults: &[Fault] = match options.redis_fault {
        Fault::None => &[Fault::None],
        ref fault => &[Fault::None, *fault],
    };
    let mut runs: Vec<(Policy, Fault)> = policies.iter().flat_map(|p| faults.iter().map(|f| (*p, *f))).collect();
    let order = runs.clone();
    let bench = Bench::start(&options).await?;
    println!("{}", report::heading(&options, policies.len()));
    let mut results = report::Results::default();
    for round in 1..=options.rounds {
        let trace = bench.trace(round);
        for (policy, fault) in &runs {
            let figures = bench.run(*policy, *fault, &trace).await?;
            eprintln!("round {round}: {}", report::line(*policy, *fault, &figures));
            results.entry((*policy, *fault)).or_default().push(figures);
        }
        // What drifts meanwhile, such as the clock of the machine, meets each as often early as late.
        runs.reverse();
    }
    println!("\n{}", report::table(&options, &order, &results));
    println!("{}", report::footing(&results));
    Ok(results.values().flatten().all(|figures| figures.failed == 0))
}
