//! When a server is left out for what becomes of requests, whatever its health checks say.

use std::time::Duration;

use super::fields::Fields;
use super::kind::{Kind, OrNone, Parsed, Section, ShortOr, Word, whole};
use super::units::{percent, span_from};

/// When a server is left out for what becomes of requests sent to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Failures in a row; None: never for that.
    pub consecutive: Option<u32>,
    /// Failed requests of all, in percent; None: never for that.
    pub error_rate: Option<u32>,
    /// What is done about a server that answers far later than the others.
    pub latency: Latency,
    /// How long the first time; doubles with each repetition.
    pub base: Duration,
    /// At most so many servers of one priority at the same time, in percent.
    pub max_ejected: u32,
}

/// What is done about a server that answers far later than the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    /// Nothing; nothing is measured either.
    Off,
    /// It is told.
    Report,
    /// It is ejected.
    Eject,
}

impl Default for Ejection {
    /// What a pool has that says nothing of ejection.
    fn default() -> Self {
        Ejection {
            consecutive: Some(5),
            error_rate: Some(50),
            latency: Latency::Eject,
            base: Duration::from_secs(10),
            max_ejected: 30,
        }
    }
}

/// `none`, or the keys of an [`Ejection`].
pub(super) fn ejection_or_none() -> impl Kind<Out = Option<Ejection>> {
    ShortOr {
        short: Parsed {
            what: "`none`",
            pattern: "^none$",
            parse: |text| match text {
                "none" => Ok(None),
                _ => Err("is neither `none` nor a mapping of keys".to_owned()),
            },
        },
        long: Section(|f| ejection(f).map(Some)),
        what: "a mapping of keys, or `none`",
    }
}

fn ejection(f: &mut Fields<'_>) -> Option<Ejection> {
    let consecutive = f.default(
        "consecutive",
        "Failures in a row (status 5xx, no connection, reset, timeout, not HTTP) that eject a server; `none`: any number.",
        OrNone(whole(1, 10_000)),
        5,
    );
    let error_rate = f.default(
        "error_rate",
        "Failed requests, of at least 20 in 10 s, that eject a server; `none`: any share.",
        OrNone(percent(1)),
        "50%",
    );
    let latency = f.default(
        "latency",
        "What is done about a server that answers 5 times later than the others, and 100 ms later.",
        Word(&[("off", Latency::Off), ("report", Latency::Report), ("eject", Latency::Eject)]),
        "eject",
    );
    let base = f.default(
        "base",
        "How long the first time; doubles with each repetition, up to 5 min.",
        span_from(Duration::from_millis(100)),
        "10s",
    );
    let max_ejected = f.default(
        "max_ejected",
        "Servers of one priority that may be ejected at the same time; rounds down, but one may always be while another serves.",
        percent(1),
        "30%",
    );
    Some(Ejection {
        consecutive: consecutive?,
        error_rate: error_rate?,
        latency: latency?,
        base: base?,
        max_ejected: max_ejected?,
    })
}
