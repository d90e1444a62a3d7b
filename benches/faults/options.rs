//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::origins::Behaviour;

/// What clients notice when servers go wrong.
#[derive(Debug, Parser)]
#[command(name = "faults", version = None)]
pub struct Options {
    /// What one of the four servers does, for the table [default: all].
    #[arg(long, value_enum, value_delimiter = ',')]
    kinds: Vec<Kind>,
    /// Whom the table compares [default: all that are installed].
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Who>,
    /// What else to try.
    #[arg(long, value_enum, value_delimiter = ',')]
    scenario: Vec<Scenario>,
    /// How long to measure for the table; the fault starts 3 s into it.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(4..=3600))]
    seconds: u64,
    /// How long `two-speeds` runs.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Requests per second.
    #[arg(long, default_value_t = 500.0)]
    rate: f64,
    /// Requests that each server works on at a time [default: 8; in scenarios what suits them].
    #[arg(long)]
    pub workers: Option<usize>,
    /// More of the pool's settings, such as "ejection: { max_ejected: 50% }".
    #[arg(long, default_value = "")]
    pub pool: String,
    /// The binary [default: the one that cargo has built for this program].
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_fairlead"), hide_default_value = true)]
    pub fairlead: PathBuf,
    /// Shows what the proxies have logged.
    #[arg(long)]
    pub logs: bool,
    /// What the requests are drawn from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// What `cargo bench` says to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// Whether to make the table.
    pub fn wants_table(&self) -> bool {
        self.scenario.is_empty() || !self.kinds.is_empty() || !self.only.is_empty()
    }

    /// The faults of the table.
    pub fn kinds(&self) -> Vec<Kind> {
        if self.kinds.is_empty() { Kind::value_variants().to_vec() } else { self.kinds.clone() }
    }

    /// Whom the table compares.
    pub fn who(&self) -> Vec<Who> {
        if self.only.is_empty() { Who::value_variants().to_vec() } else { self.only.clone() }
    }

    /// The scenarios.
    pub fn scenarios(&self) -> Vec<Scenario> {
        let nothing_asked = self.scenario.is_empty() && self.kinds.is_empty() && self.only.is_empty();
        if nothing_asked { Scenario::value_variants().to_vec() } else { self.scenario.clone() }
    }

    /// How long to measure for the table.
    pub fn seconds(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// How long `two-speeds` runs.
    pub fn minutes(&self) -> Duration {
        Duration::from_secs_f64(60.0 * self.minutes.clamp(0.1, 600.0))
    }

    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.rate.clamp(0.1, 100_000.0)
    }
}

/// What a bad server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Answers 500 at once.
    E500,
    /// Takes requests and never answers.
    Hang,
    /// Closes the connection instead of answering.
    Reset,
    /// Is ten times slower.
    Slow,
}

impl Kind {
    /// The word in the table.
    pub fn label(self) -> &'static str {
        match self {
            Kind::E500 => "answers 500 at once",
            Kind::Hang => "hangs",
            Kind::Reset => "closes instead of answering",
            Kind::Slow => "10 × slower",
        }
    }

    /// What the server does.
    pub fn behaviour(self) -> Behaviour {
        match self {
            Kind::E500 => Behaviour::Error,
            Kind::Hang => Behaviour::Hang,
            Kind::Reset => Behaviour::Reset,
            Kind::Slow => Behaviour::Slow,
        }
    }
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Who {
    /// Fairlead as it comes.
    Fairlead,
    /// The same with `500` in `retry.on`.
    #[value(name = "fairlead-500")]
    FairleadRetries500,
    /// HAProxy as it comes.
    Haproxy,
    /// HAProxy with checks, observation of answers, retries and redispatch.
    HaproxyTuned,
    /// nginx with its passive checks as they come.
    Nginx,
    /// nginx with shorter timeouts and retries of errors too.
    NginxTuned,
}

impl Who {
    /// The word in the table.
    pub fn label(self) -> &'static str {
        match self {
            Who::Fairlead => "Fairlead",
            Who::FairleadRetries500 => "Fairlead, `500` in `retry.on`",
            Who::Haproxy => "HAProxy",
            Who::HaproxyTuned => "HAProxy, tuned",
            Who::Nginx => "nginx",
            Who::NginxTuned => "nginx, tuned",
        }
    }
}

/// What else may happen, and what must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// One request of a hundred takes 3 s.
    SlowRequests,
    /// All servers are ten times slower for 20 s.
    AllSlow,
    /// A hash pool in which one frequent key takes ten times longer.
    HotKey,
    /// All servers hang for 20 s.
    AllHang,
    /// All servers fail for 10 s.
    AllFail,
    /// 2,000 clients that send a byte now and then, beside normal ones.
    SlowLoris,
    /// Three nodes and one rate limit; then the same while Redis stops half-way.
    FleetRate,
    /// Servers of 20 and 40 ms.
    TwoSpeeds,
}
