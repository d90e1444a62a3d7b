//! What a run comes to.

use std::time::Duration;

use crate::common::load::{Sample, Seen};
use crate::common::quantile;

/// Completions are expected in each span of this length.
pub const SPAN: Duration = Duration::from_millis(100);

/// Processor time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Of all proxies together.
    pub proxies: Duration,
    /// Of Redis.
    pub redis: Duration,
}

impl Cost {
    /// What was used after `before`.
    pub fn since(self, before: Cost) -> Cost {
        Cost { proxies: self.proxies.saturating_sub(before.proxies), redis: self.redis.saturating_sub(before.redis) }
    }
}

/// How the nodes chose at some moment, counted from the start of the load.
#[derive(Clone, Debug)]
pub struct Moment {
    /// When.
    pub at: Duration,
    /// "16 exact".
    pub modes: String,
}

/// What a run comes to. Times in milliseconds unless they say otherwise.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Requests measured.
    pub n: usize,
    /// Requests that failed, in the warm-up too.
    pub failed: usize,
    /// Why, and how many.
    pub failures: String,
    /// Quantiles of latency.
    pub p50: f64,
    /// The same.
    pub p90: f64,
    /// The same.
    pub p99: f64,
    /// The same.
    pub p999: f64,
    /// The longest latency.
    pub slowest: f64,
    /// Time between sending and answer that no server had the request: 99 % had less.
    pub outside_p99: f64,
    /// The most of it.
    pub outside_max: f64,
    /// How late requests were sent: 99 % were less. This program's own noise.
    pub late_p99: f64,
    /// Longest time without a completion.
    pub gap: f64,
    /// Spans of 100 ms without a completion.
    pub empty: usize,
    /// Processor time of the proxies per request, microseconds.
    pub proxy_us: f64,
    /// Processor time of Redis per request, microseconds.
    pub redis_us: f64,
    /// How the nodes chose in the end.
    pub modes: String,
    /// How they chose around the fault.
    pub changes: String,
    /// Requests that were counted after the load had ended.
    pub left: u64,
}

impl Figures {
    /// Of what was due in `window`.
    pub fn of(seen: Seen, cost: Cost, window: (Duration, Duration)) -> Self {
        let within = |at: Duration| at >= window.0 && at < window.1;
        let samples: Vec<Sample> = seen.samples.iter().filter(|sample| within(sample.due)).copied().collect();
        let sorted = |value: fn(&Sample) -> Duration| {
            let mut values: Vec<f64> = samples.iter().map(|sample| value(sample).as_secs_f64() * 1e3).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let latency = sorted(|sample| sample.done.saturating_sub(sample.due));
        let outside = sorted(|sample| sample.done.saturating_sub(sample.sent).saturating_sub(sample.spent));
        let late = sorted(|sample| sample.sent.saturating_sub(sample.due));
        let mut done: Vec<Duration> = seen.samples.iter().map(|sample| sample.done).filter(|at| within(*at)).collect();
        done.sort();
        let per_request = |time: Duration| time.as_secs_f64() * 1e6 / samples.len().max(1) as f64;
        Figures {
            n: samples.len(),
            failed: seen.failures.len(),
            failures: Seen::reasons(&seen.failures),
            p50: quantile(&latency, 0.5),
            p90: quantile(&latency, 0.9),
            p99: quantile(&latency, 0.99),
            p999: quantile(&latency, 0.999),
            slowest: quantile(&latency, 1.0),
            outside_p99: quantile(&outside, 0.99),
            outside_max: quantile(&outside, 1.0),
            late_p99: quantile(&late, 0.99),
            gap: longest_gap(&done, window).as_secs_f64() * 1e3,
            empty: empty_spans(&done, window),
            proxy_us: per_request(cost.proxies),
            redis_us: per_request(cost.redis),
            ..Figures::default()
        }
    }

    /// Adds what the nodes said.
    pub fn with_modes(mut self, modes: String, left: u64, moments: &[Moment], fault: (Duration, Duration)) -> Self {
        self.modes = modes;
        self.left = left;
        self.changes = changes(moments, fault);
        self
    }
}

fn longest_gap(done: &[Duration], (from, to): (Duration, Duration)) -> Duration {
    let ends = done.iter().copied().chain([to]);
    let starts = [from].into_iter().chain(done.iter().copied());
    ends.zip(starts).map(|(end, start)| end.saturating_sub(start)).max().unwrap_or_default()
}

fn empty_spans(done: &[Duration], (from, to): (Duration, Duration)) -> usize {
    let spans = (to.saturating_sub(from).as_nanos() / SPAN.as_nanos()) as usize;
    let mut busy = vec![false; spans];
    for at in done {
        let span = at.saturating_sub(from).as_nanos() / SPAN.as_nanos();
        if let Some(busy) = busy.get_mut(span as usize) {
            *busy = true;
        }
    }
    busy.iter().filter(|busy| !**busy).count()
}

/// How the nodes chose from just before the fault on, and when that changed, in seconds from the fault.
fn changes(moments: &[Moment], (from, _): (Duration, Duration)) -> String {
    let mut told: Vec<String> = Vec::new();
    let mut last = None;
    let first = moments.iter().rposition(|moment| moment.at < from).unwrap_or_default();
    for moment in moments.iter().skip(first) {
        if last.replace(&moment.modes) != Some(&moment.modes) {
            told.push(format!("{:+.1} s {}", moment.at.as_secs_f64() - from.as_secs_f64(), moment.modes));
        }
    }
    told.join("; ")
}
