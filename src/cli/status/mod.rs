//! `fairlead status`: the pools of a running node and who is busy.

mod table;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::remote::{self, Remote};
use super::state::{self, Pool};

/// Rates are over this long.
const BETWEEN: Duration = Duration::from_millis(500);

/// Which node, and how to show it.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    node: remote::Arguments,
    /// Print what the node tells, as JSON
    #[arg(long)]
    json: bool,
}

/// Asks and prints.
pub fn run(arguments: &Arguments) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return super::refused(error),
    };
    match arguments.node.remote().and_then(|remote| runtime.block_on(report(&remote, arguments.json))) {
        Ok(text) => {
            // Whoever closes the pipe early (`| head`) has seen enough.
            std::io::stdout().write_all(text.as_bytes()).ok();
            ExitCode::SUCCESS
        }
        Err(why) => super::refused(why),
    }
}

async fn report(remote: &Remote, json: bool) -> Result<String, String> {
    let (told, before) = sample(remote).await?;
    if json {
        return Ok(format!("{}\n", String::from_utf8_lossy(&told).trim_end()));
    }
    let at = Instant::now();
    tokio::time::sleep(BETWEEN).await;
    let (_, now) = sample(remote).await?;
    Ok(table::tables(&before, &now, at.elapsed()))
}

async fn sample(remote: &Remote) -> Result<(Bytes, Vec<Pool>), String> {
    let told = remote.get("/api/v1/pools").await?;
    let pools = state::read(&told).map_err(|error| {
        format!("what answers at {} is no Fairlead that this one understands: {error}", remote.name())
    })?;
    Ok((told, pools))
}
