//! What clients notice when servers go wrong: failed requests, the tail of the latencies, and how much still goes to the
//! bad server.
//!
//! Everything runs on this machine and ends with this program: servers, one proxy of one thread, and an open loop of
//! requests. Latency counts from the moment a request was due. All proxies get the same requests. `/heartbeat` stays fine
//! throughout, so that only traffic can tell.
//!
//! Without arguments it makes the table and runs all scenarios; `--kinds` and `--only` choose from the table,
//! `--scenario` from the scenarios. Ends with failure where a figure is worse than Fairlead promises.
//!
//! | part | does |
//! |---|---|
//! | [`options`] | the command line |
//! | [`trace`] | draws the requests |
//! | [`origins`] | the servers and their faults |
//! | [`common`] | sends the requests and times them |
//! | [`proxies`] | starts a proxy |
//! | [`watch`] | asks Fairlead what it thinks |
//! | [`run`] | one proxy under one trace |
//! | [`table`] | one of four servers goes wrong |
//! | [`scenarios`], [`loris`], [`rate`] | what else may happen, and what must not |

#[path = "../common/mod.rs"]
mod common;

mod loris;
mod options;
mod origins;
mod proxies;
mod rate;
mod run;
mod scenarios;
mod table;
mod trace;
mod watch;

use std::process::ExitCode;

use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::common::{Outcome, interrupted, load_average, machine};
use crate::options::Options;

/// What a run must show, and whether it did.
pub struct Promise {
    /// In words, with what was seen.
    pub what: String,
    /// Whether it holds.
    pub holds: bool,
}

impl Promise {
    /// For the reader.
    pub fn line(&self) -> String {
        format!("- {}: {}", if self.holds { "holds" } else { "**BROKEN**" }, self.what)
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    // A server that hangs collects connections.
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        setrlimit(Resource::RLIMIT_NOFILE, most, most).ok();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.to_string()),
    };
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = measure(&options) => ended,
            interrupted = interrupted() => interrupted,
        }
    });
    runtime.shutdown_background();
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => failed("a promise is broken, see above"),
        Err(error) => failed(&error.to_string()),
    }
}

fn failed(why: &str) -> ExitCode {
    eprintln!("benches/faults: {why}");
    ExitCode::FAILURE
}

/// All that was asked for; false: a promise is broken.
async fn measure(options: &Options) -> Outcome<bool> {
    println!("{}, load average {} before.", machine(), load_average());
    let mut kept = true;
    if options.wants_table() {
        kept &= table::run(options).await?;
    }
    for scenario in options.scenarios() {
        kept &= scenarios::run(scenario, options).await?;
    }
    println!("\nLoad average {} after.", load_average());
    Ok(kept)
}
