//! Pools as text. Pure.

use std::time::Duration;

use crate::cli::printable;
use crate::cli::state::{Pool, Server, Weight};

const TITLES: [&str; 11] =
    ["server", "state", "weight", "in flight", "fleet", "requests", "errors", "req/s", "p50 ms", "p99 ms", "why"];
/// Words stand at the left of their column, numbers at the right.
const WORDS: [usize; 3] = [0, 1, 10];

/// A table for each pool; rates come from what has changed since `before`, `elapsed` ago.
pub fn tables(before: &[Pool], now: &[Pool], elapsed: Duration) -> String {
    let tables: Vec<String> = now
        .iter()
        .map(|pool| {
            let past = before.iter().find(|past| past.name == pool.name);
            let past = |name: &str| past?.servers.iter().find(|past| past.name == name);
            let rows = pool.servers.iter().map(|server| row(server, past(&server.name), elapsed));
            format!("{}\n{}", head(pool), aligned(rows.collect()))
        })
        .collect();
    tables.join("\n")
}

fn head(pool: &Pool) -> String {
    let Pool { name, balance, mode, view_age_ms, nodes, .. } = pool;
    let fleet = if pool.is_alone() {
        " (no Redis)".to_owned()
    } else if pool.has_view() {
        format!("   nodes {nodes}   view {view_age_ms} ms old")
    } else {
        " (Redis is away)".to_owned()
    };
    printable(&format!("pool {name}   balance {balance}   mode {mode}{fleet}"))
}

fn row(server: &Server, past: Option<&Server>, elapsed: Duration) -> [String; 11] {
    let per_second = past.map_or("-".to_owned(), |past| {
        let more = server.requests.saturating_sub(past.requests);
        format!("{:.1}", more as f64 / elapsed.as_secs_f64().max(0.001))
    });
    let latency = |ms: f64| if ms > 0.0 { format!("{ms:.1}") } else { "-".to_owned() };
    [
        printable(&server.name),
        printable(&server.state),
        weight(server.weight),
        server.in_flight.local.to_string(),
        server.in_flight.fleet.to_string(),
        server.requests.to_string(),
        server.errors.to_string(),
        per_second,
        latency(server.p50_ms),
        latency(server.p99_ms),
        printable(&server.reason),
    ]
}

fn weight(Weight { configured, effective }: Weight) -> String {
    if (configured - effective).abs() < 0.005 {
        format!("{configured}")
    } else {
        format!("{effective:.2}/{configured}")
    }
}

fn aligned(rows: Vec<[String; 11]>) -> String {
    let length = |text: &str| text.chars().count();
    let mut widths = TITLES.map(length);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = length(cell).max(*width);
        }
    }
    let mut out = String::new();
    for row in std::iter::once(TITLES.map(str::to_owned)).chain(rows) {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let cell = if WORDS.contains(&column) { format!("  {cell:<width$}") } else { format!("  {cell:>width$}") };
            line.push_str(&cell);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::state::testing::{pool, server};

    #[test]
    fn each_pool_has_a_table() {
        let down = Server {
            state: "down".into(),
            reason: "connection refused".into(),
            weight: Weight { configured: 2.0, effective: 0.5 },
            errors: 2,
            p50_ms: 0.0,
            p99_ms: 0.0,
            ..server("b", 0, 0, 7)
        };
        let before = [pool("exact", 3, vec![server("10.0.0.1:9000", 1, 2, 1000)])];
        let other = Pool { name: "other".into(), ..pool("memory", 0, vec![server("c", 0, 0, 0)]) };
        let now = [pool("batched", 4, vec![server("10.0.0.1:9000", 3, 17, 1234), down]), other];
        let expected = "\
pool app   balance least-load   mode batched   nodes 3   view 4 ms old
  server         state  weight  in flight  fleet  requests  errors  req/s  p50 ms  p99 ms  why
  10.0.0.1:9000  up          1          3     17      1234       0  468.0     9.2    41.0
  b              down   0.50/2          0      0         7       2      -       -       -  connection refused

pool other   balance least-load   mode memory (no Redis)
  server  state  weight  in flight  fleet  requests  errors  req/s  p50 ms  p99 ms  why
  c       up          1          0      0         0       0      -     9.2    41.0
";
        assert_eq!(tables(&before, &now, Duration::from_millis(500)), expected);
    }

    #[test]
    fn redis_that_is_away_is_told() {
        let text = tables(&[], &[pool("local", 0, vec![])], Duration::ZERO);
        assert!(text.starts_with("pool app   balance least-load   mode local (Redis is away)\n"), "{text}");
    }

    #[test]
    fn a_node_that_started_again_has_no_negative_rate() {
        let (before, now) =
            ([pool("memory", 0, vec![server("a", 0, 0, 9)])], [pool("memory", 0, vec![server("a", 0, 0, 1)])]);
        assert!(tables(&before, &now, Duration::ZERO).contains("  0.0  "));
    }

    #[test]
    fn what_a_server_says_cannot_move_the_cursor() {
        let evil = Server { reason: "a\x1b[2Jb\nc".into(), ..server("s", 0, 0, 0) };
        let text = tables(&[], &[pool("memory", 0, vec![evil])], Duration::ZERO);
        assert!(text.ends_with("  a [2Jb c\n"), "{text:?}");
    }
}
