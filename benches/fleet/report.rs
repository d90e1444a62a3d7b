//! Tables, in Markdown.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::common::{load_average, machine};
use crate::figures::Figures;
use crate::options::{Fault, Options, Policy, Service};
use crate::run::FAULT;

/// A load generator that is late by more, in milliseconds, measures the machine.
const NOISE: f64 = 3.0;

/// All runs, by what was measured.
pub type Results = BTreeMap<(Policy, Fault), Vec<Figures>>;

/// What is measured, and on what.
pub fn heading(options: &Options, policies: usize) -> String {
    let servers: Vec<String> =
        options.servers.iter().map(|s| format!("{}:{}", s.mean.as_secs_f64() * 1e3, s.workers)).collect();
    let service = if options.service == Service::Fixed { "fixed" } else { "exponential" };
    let rounds = if options.rounds == 1 { "one round".into() } else { format!("{} rounds", options.rounds) };
    format!(
        "{}, load average {} before.\n\
         {} nodes before servers of {} (mean ms:workers, {service}); open loop, {:.0} requests/s ({:.2} of capacity); \
         {rounds} of {} s after {} s of warm-up, {policies} policies, seed {}.",
        machine(),
        load_average(),
        options.nodes,
        servers.join(" "),
        options.rate(),
        options.rate() / options.capacity(),
        options.seconds().as_secs(),
        options.warm_up().as_secs(),
        options.seed,
    )
}

/// One run, for those who wait.
pub fn line(policy: Policy, fault: Fault, figures: &Figures) -> String {
    let Figures { n, failed, p50, p99, slowest, gap, .. } = figures;
    let mut text = format!("{:18}", policy.label());
    if policy.mode().is_some() {
        write!(text, " Redis {:17}", fault.label()).ok();
    }
    write!(text, " n {n} failed {failed} p50 {p50:.1} p99 {p99:.1} slowest {slowest:.1} gap {gap:.1} ms").ok();
    for (name, value) in [("modes", &figures.modes), ("changes", &figures.changes), ("failures", &figures.failures)] {
        if !value.is_empty() {
            write!(text, "\n    {name}: {value}").ok();
        }
    }
    if figures.left > 0 {
        write!(text, "\n    still counted after the load: {}", figures.left).ok();
    }
    text
}

/// All runs.
pub fn table(options: &Options, order: &[(Policy, Fault)], results: &Results) -> String {
    let runs = order.iter().filter_map(|key| results.get(key).map(|runs| (key.0, key.1, runs.as_slice())));
    if options.redis_fault == Fault::None { tails(runs) } else { faults(runs) }
}

fn tails<'a>(runs: impl Iterator<Item = (Policy, Fault, &'a [Figures])>) -> String {
    let mut text = String::from(
        "| policy | n | failed | p50 ms | p90 ms | p99 ms | p99.9 ms | outside servers, p99 ms | sent late, p99 ms | CPU µs/request | Redis CPU µs/request | chose in the end |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|\n",
    );
    for (policy, _, runs) in runs {
        let at = |value: fn(&Figures) -> f64| median(runs, value);
        let redis = if policy.mode().is_some() { format!("{:.1}", at(|f| f.redis_us)) } else { String::new() };
        writeln!(
            text,
            "| {} | {} | {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.2} | {:.2} | {:.0} | {redis} | {} |",
            policy.label(),
            runs.iter().map(|f| f.n).sum::<usize>(),
            runs.iter().map(|f| f.failed).sum::<usize>(),
            at(|f| f.p50),
            at(|f| f.p90),
            at(|f| f.p99),
            at(|f| f.p999),
            at(|f| f.outside_p99),
            at(|f| f.late_p99),
            at(|f| f.proxy_us),
            runs.last().map_or("", |f| &f.modes),
        )
        .ok();
    }
    text
}

fn faults<'a>(runs: impl Iterator<Item = (Policy, Fault, &'a [Figures])>) -> String {
    let mut text = format!(
        "Redis had its fault for {} s in the middle.\n\n\
         | policy | Redis | n | failed | p50 ms | p99 ms | slowest ms | outside servers, p99 ms | outside servers, most ms \
         | longest gap ms | spans of 100 ms without completion | sent late, p99 ms |\n\
         |---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        FAULT.as_secs()
    );
    for (policy, fault, runs) in runs {
        let most = |value: fn(&Figures) -> f64| runs.iter().map(value).fold(f64::NAN, f64::max);
        writeln!(
            text,
            "| {} | {} | {} | {} | {:.1} | {:.1} | {:.1} | {:.2} | {:.2} | {:.1} | {} | {:.2} |",
            policy.label(),
            fault.label(),
            runs.iter().map(|f| f.n).sum::<usize>(),
            runs.iter().map(|f| f.failed).sum::<usize>(),
            most(|f| f.p50),
            most(|f| f.p99),
            most(|f| f.slowest),
            most(|f| f.outside_p99),
            most(|f| f.outside_max),
            most(|f| f.gap),
            runs.iter().map(|f| f.empty).sum::<usize>(),
            most(|f| f.late_p99),
        )
        .ok();
    }
    text
}

/// How far the figures can be trusted.
pub fn footing(results: &Results) -> String {
    let late = results.values().flatten().map(|figures| figures.late_p99).fold(0.0, f64::max);
    let left: u64 = results.values().flatten().map(|figures| figures.left).sum();
    let mut text = format!("Load average {} after.", load_average());
    if late > NOISE {
        write!(
            text,
            " Requests were sent up to {late:.0} ms late (p99): the machine was busy, and those rows say little."
        )
        .ok();
    }
    if left > 0 {
        write!(text, " {left} requests were still counted as in flight after the load had ended.").ok();
    }
    text
}

fn median(runs: &[Figures], value: fn(&Figures) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    let middle = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    (middle(values.len().saturating_sub(1) / 2) + middle(values.len() / 2)) / 2.0
}
