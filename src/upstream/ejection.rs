//! Whether one server is left out for what became of requests sent to it, as a pure state machine over their outcomes.
//!
//! ```text
//!            a trigger, and the guard lets it go            its time is over
//!  Serving ──────────────────────────────────▶  Ejected  ───────────────────▶  Probing
//!   ▲ │  ▲                                       ▲    │                         │    │
//!   │ │  └── an urgent probe passes ─────────────┼────┘                         │    │
//!   │ │                                          └──────── a probe fails ───────┘    │
//!   │ └─ a trigger, but too many are out already: condemned (goes on serving;        │
//!   │    ejected when there is room, pardoned when a success ends the trigger)       │
//!   └───────────────────── three probes pass in a row, or an urgent one ─────────────┘
//! ```
//!
//! Triggers: failures in a row, a share of failures in the last 10 s, or answers far later than the other servers'
//! (found by [`crate::upstream::outlier`]). One probe is sent at a time; an urgent one is sent when nobody else is left, so
//! that one success is enough.
//!
//! The first ejection lasts `base`, each further one twice as long as the last, up to five minutes; each `base` of good
//! service takes one doubling back.

use std::fmt::Write;
use std::time::Duration;

use crate::config::Ejection;

/// Half of the time over which the share of failures is taken.
const HALF: Duration = Duration::from_secs(5);
/// Fewer attempts than this say nothing of a share.
const VOLUME: u64 = 20;
/// No ejection lasts longer, unless `base` itself is longer.
const LONGEST: Duration = Duration::from_secs(300);
/// Probes in a row that must pass.
const PROBES: u32 = 3;
/// So many failures without an answer are silence, where no number of failures ejects.
const SILENCE: u32 = 5;
/// Successes without which a time was not one of good service.
const GOOD_SERVICE: u64 = 10;

/// How an attempt failed by its server's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It answered with a status of 500 or above.
    Status,
    /// No connection could be made.
    Connect,
    /// The connection broke.
    Reset,
    /// It took too long, or was silent for too long.
    Timeout,
    /// What it answered is not HTTP.
    Invalid,
}

impl Kind {
    const NAMES: [(&str, &str); 5] = [
        ("status 5xx", "status 5xx"),
        ("connect failure", "connect failures"),
        ("reset", "resets"),
        ("timeout", "timeouts"),
        ("invalid answer", "invalid answers"),
    ];

    /// Whether something was answered at all.
    fn is_answer(self) -> bool {
        matches!(self, Kind::Status | Kind::Invalid)
    }
}

/// Where a server is between serving and being left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Standing {
    /// As it should.
    #[default]
    Serving,
    /// Serves, though it met a trigger: too many others are out.
    Condemned,
    /// The same, and the last requests were not answered at all.
    Silent,
    /// Left out for some time.
    Ejected,
    /// Left out, but for one request at a time.
    Probing,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is left out from now on, for this long.
    Ejected(Duration),
    /// It should be left out, but may not be.
    Condemned,
    /// Probes are sent to it.
    Probing,
    /// It serves again.
    Back,
}

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Well; the time to its first byte, where that was measured.
    Passed(Option<Duration>),
    /// Badly.
    Failed(Kind),
}

/// The moment of an event.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By any clock that goes forward.
    pub now: Duration,
    /// Attempts that this server ever answered well.
    pub good: u64,
}

/// Failures by kind.
#[derive(Clone, Copy, Debug, Default)]
struct Tally([u32; 5]);

impl Tally {
    fn add(&mut self, kind: Kind) {
        self.0[kind as usize] += 1;
    }

    fn total(&self) -> u32 {
        self.0.iter().sum()
    }

    fn plus(&self, other: &Tally) -> Tally {
        Tally(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }

    /// "3 status 5xx, 2 resets"
    fn words(&self) -> String {
        let mut out = String::new();
        for (count, (one, many)) in self.0.into_iter().zip(Kind::NAMES).filter(|(count, _)| *count > 0) {
            let comma = if out.is_empty() { "" } else { ", " };
            // Writing to a String cannot fail.
            write!(out, "{comma}{count} {}", if count == 1 { one } else { many }).ok();
        }
        out
    }
}

/// The last five to ten seconds, in two halves.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    half: u64,
    failed: [Tally; 2],
    /// What `good` was when each half began.
    good: [u64; 2],
}

impl Window {
    fn begin(at: Moment) -> Self {
        Window { half: half(at.now), failed: Default::default(), good: [at.good; 2] }
    }

    fn roll(&mut self, at: Moment) {
        match half(at.now).saturating_sub(self.half) {
            0 => {}
            1 => {
                self.half += 1;
                self.failed = [self.failed[1], Tally::default()];
                self.good = [self.good[1], at.good];
            }
            _ => *self = Window::begin(at),
        }
    }

    fn failed(&self) -> Tally {
        self.failed[0].plus(&self.failed[1])
    }

    /// Attempts in all.
    fn volume(&self, at: Moment) -> u64 {
        u64::from(self.failed().total()) + at.good.saturating_sub(self.good[0])
    }
}

fn half(now: Duration) -> u64 {
    now.as_secs() / HALF.as_secs()
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Serving,
    Ejected {
        until: Duration,
    },
    Probing {
        passed: u32,
    },
}

/// One server.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    phase: Phase,
    /// Since when it is in this phase.
    since: Duration,
    /// Failures in a row.
    row: Tally,
    /// The last ones of the row, as far as nothing was answered.
    unanswered: u32,
    /// Those are as many as would eject it.
    silent: bool,
    window: Window,
    condemned: bool,
    /// Why it is condemned or left out.
    reason: String,
    /// Ejections that good service has not made forgotten.
    level: u32,
    /// When it began to serve, or the last good service was counted.
    good_since: Moment,
    /// Ejected for its latency: a probe must not take longer than this.
    slow_above: Option<Duration>,
}

impl Default for Moment {
    fn default() -> Self {
        Moment { now: Duration::ZERO, good: 0 }
    }
}

impl Machine {
    /// Where it is.
    pub fn standing(&self) -> Standing {
        match self.phase {
            Phase::Serving if !self.condemned => Standing::Serving,
            Phase::Serving if self.silent => Standing::Silent,
            Phase::Serving => Standing::Condemned,
            Phase::Ejected { .. } => Standing::Ejected,
            Phase::Probing { .. } => Standing::Probing,
        }
    }

    /// Why it is condemned or left out; empty when it is neither.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Since when it serves, is ejected or is probed. What began before tells nothing any more.
    pub fn since(&self) -> Duration {
        self.since
    }

    /// Whether a success would change anything.
    pub fn wants_success(&self) -> bool {
        self.phase != Phase::Serving || self.condemned || self.row.total() > 0
    }

    /// Whether it is left out for answering late.
    pub fn is_out_for_latency(&self) -> bool {
        self.slow_above.is_some()
    }

    /// An attempt failed. `may_go` asks whether one more may be left out; once it has said yes, it must count this one.
    pub fn failed(
        &mut self,
        kind: Kind,
        at: Moment,
        rules: &Ejection,
        may_go: impl FnOnce() -> bool,
    ) -> Option<Change> {
        if self.phase != Phase::Serving {
            return None;
        }
        self.window.roll(at);
        self.window.failed[1].add(kind);
        self.row.add(kind);
        self.unanswered = if kind.is_answer() { 0 } else { self.unanswered + 1 };
        self.silent = self.unanswered >= rules.consecutive.unwrap_or(SILENCE);
        if self.condemned {
            // Whether it may go now is asked at the next tick, not by each failure.
            return None;
        }
        let reason = self.trigger(at, rules)?;
        self.out(reason, at, rules, may_go)
    }

    /// An attempt went well.
    pub fn succeeded(&mut self, at: Moment, rules: &Ejection) {
        if self.phase != Phase::Serving {
            return;
        }
        self.end_row();
        self.window.roll(at);
        if self.condemned && self.trigger(at, rules).is_none() {
            self.pardon();
        }
    }

    /// It answers far later than the others: left out if it may be. Its probes must be no slower than `slow_above`.
    pub fn lags(
        &mut self,
        reason: String,
        slow_above: Duration,
        at: Moment,
        rules: &Ejection,
        may_go: impl FnOnce() -> bool,
    ) -> Option<Change> {
        if self.phase != Phase::Serving || self.condemned || !may_go() {
            return None;
        }
        self.slow_above = Some(slow_above);
        Some(self.eject(reason, at, rules))
    }

    /// A probe ended; `urgent`: it was sent because nobody else is left.
    pub fn probed(&mut self, verdict: Verdict, urgent: bool, at: Moment, rules: &Ejection) -> Option<Change> {
        let passed = match self.phase {
            Phase::Serving => return None,
            // Only an urgent one comes so early, and its failure says nothing new.
            Phase::Ejected { .. } => {
                return (urgent && matches!(verdict, Verdict::Passed(_))).then(|| self.back(at));
            }
            Phase::Probing { passed } => passed,
        };
        match verdict {
            Verdict::Failed(kind) => {
                let mut tally = Tally::default();
                tally.add(kind);
                Some(self.eject(format!("a probe failed: {}", tally.words()), at, rules))
            }
            Verdict::Passed(took) => {
                let slow = took.zip(self.slow_above).filter(|(took, above)| took > above && !urgent);
                if let Some((took, above)) = slow {
                    let reason = format!("a probe took {} ms, more than {} ms", took.as_millis(), above.as_millis());
                    return Some(self.eject(reason, at, rules));
                }
                if passed + 1 >= PROBES || urgent {
                    return Some(self.back(at));
                }
                self.phase = Phase::Probing { passed: passed + 1 };
                None
            }
        }
    }

    /// Time passes; to be called several times a second.
    pub fn tick(&mut self, at: Moment, rules: &Ejection, may_go: impl FnOnce() -> bool) -> Option<Change> {
        self.window.roll(at);
        match self.phase {
            Phase::Ejected { until } if at.now >= until => {
                self.phase = Phase::Probing { passed: 0 };
                self.since = at.now;
                Some(Change::Probing)
            }
            Phase::Serving if self.condemned => match self.trigger(at, rules) {
                None => {
                    self.pardon();
                    None
                }
                Some(reason) => may_go().then(|| self.eject(reason, at, rules)),
            },
            _ => None,
        }
    }

    /// Its health checks say that it came back from being down: whatever it did before is another server's doing. True if
    /// it was left out.
    pub fn revived(&mut self, at: Moment) -> bool {
        let was_out = self.phase != Phase::Serving;
        self.back(at);
        was_out
    }

    /// Another server stands in its place: nothing is known of that one. True if the old one was left out.
    pub fn replaced(&mut self, at: Moment) -> bool {
        let was_out = self.phase != Phase::Serving;
        *self = Machine { since: at.now, good_since: at, window: Window::begin(at), ..Machine::default() };
        was_out
    }

    fn trigger(&self, at: Moment, rules: &Ejection) -> Option<String> {
        let row = self.row.total();
        if rules.consecutive.is_some_and(|limit| row >= limit) {
            return Some(format!("{row} failures in a row: {}", self.row.words()));
        }
        let (failed, volume) = (self.window.failed(), self.window.volume(at));
        let share = u64::from(failed.total()) * 100;
        let met = rules.error_rate.is_some_and(|limit| share >= u64::from(limit) * volume);
        (met && volume >= VOLUME)
            .then(|| format!("{} of {volume} requests failed within 10 s: {}", failed.total(), failed.words()))
    }

    fn out(&mut self, reason: String, at: Moment, rules: &Ejection, may_go: impl FnOnce() -> bool) -> Option<Change> {
        if may_go() {
            return Some(self.eject(reason, at, rules));
        }
        self.condemned = true;
        self.reason = reason;
        Some(Change::Condemned)
    }

    fn eject(&mut self, reason: String, at: Moment, rules: &Ejection) -> Change {
        if self.phase == Phase::Serving {
            self.level = self.level.saturating_sub(self.good_service(at, rules));
        }
        let longest = LONGEST.max(rules.base);
        let time =
            |level: u32| rules.base.saturating_mul(1_u32.checked_shl(level - 1).unwrap_or(u32::MAX)).min(longest);
        // Beyond the longest time there is nothing to remember.
        if self.level == 0 || time(self.level) < longest {
            self.level += 1;
        }
        let time = time(self.level);
        self.phase = Phase::Ejected { until: at.now + time };
        self.since = at.now;
        self.condemned = false;
        self.reason = reason;
        Change::Ejected(time)
    }

    /// How many times `base` it has served well.
    fn good_service(&self, at: Moment, rules: &Ejection) -> u32 {
        let time = at.now.saturating_sub(self.good_since.now).as_nanos() / rules.base.as_nanos().max(1);
        let served = at.good.saturating_sub(self.good_since.good) / GOOD_SERVICE;
        u32::try_from(time.min(u128::from(served))).unwrap_or(u32::MAX)
    }

    fn back(&mut self, at: Moment) -> Change {
        self.phase = Phase::Serving;
        self.since = at.now;
        self.good_since = at;
        self.window = Window::begin(at);
        self.end_row();
        self.slow_above = None;
        self.pardon();
        Change::Back
    }

    fn end_row(&mut self) {
        self.row = Tally::default();
        self.unanswered = 0;
        self.silent = false;
    }

    fn pardon(&mut self) {
        self.condemned = false;
        self.reason.clear();
    }
}

#[cfg(test)]
mod tests;
