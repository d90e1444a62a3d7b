//! The demo's table as text. Pure: rows in, text out.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use super::traffic::Sent;

/// The longest bar, in letters.
const BAR: usize = 20;

/// What stays the same.
#[derive(Clone, Debug)]
pub struct Head {
    /// Where the proxy listens.
    pub listen: SocketAddr,
    /// Where the admin listener is.
    pub admin: SocketAddr,
    /// How a server is chosen.
    pub balance: &'static str,
}

/// One server.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its name.
    pub server: String,
    /// A word: `up`, `down`, …
    pub state: &'static str,
    /// Requests in flight on it from each node, in the order of the nodes.
    pub in_flight: Vec<u32>,
    /// Requests in flight on it from all nodes.
    pub fleet: u32,
    /// Requests it gets in a second.
    pub per_second: f64,
    /// Half of its answers took no longer.
    pub p50_ms: f64,
    /// 99 % of its answers took no longer.
    pub p99_ms: f64,
}

impl Row {
    /// A server of which `nodes` nodes have told nothing yet.
    pub fn new(server: &str, nodes: usize) -> Self {
        Row {
            server: server.to_owned(),
            state: "",
            in_flight: vec![0; nodes],
            fleet: 0,
            per_second: 0.0,
            p50_ms: 0.0,
            p99_ms: 0.0,
        }
    }
}

/// The whole table, for a terminal.
pub fn table(head: &Head, rows: &[Row], sent: &Sent) -> String {
    let nodes = rows.first().map_or(1, |row| row.in_flight.len());
    let most = rows.iter().map(|row| row.fleet).max().unwrap_or(0);
    let mut out = intro(head);
    let counts = titles(nodes);
    let _ = writeln!(
        out,
        "\n  {:<8} {:<9}{counts}  {:<BAR$} {:>8} {:>8} {:>8}",
        "server", "state", "", "req/s", "p50 ms", "p99 ms"
    );
    for row in rows {
        let _ = writeln!(
            out,
            "  {:<8} {:<9}{}  {:<BAR$} {:>8.0} {:>8.1} {:>8.1}",
            row.server,
            row.state,
            counts_of(&row.in_flight, row.fleet),
            bar(row.fleet, most),
            row.per_second,
            row.p50_ms,
            row.p99_ms,
        );
    }
    let each: Vec<u32> = (0..nodes).map(|n| rows.iter().filter_map(|row| row.in_flight.get(n)).sum()).collect();
    let all = counts_of(&each, rows.iter().map(|row| row.fleet).sum());
    let per_second: f64 = rows.iter().map(|row| row.per_second).sum();
    let _ = writeln!(out, "  {:<8} {:<9}{all}  {:<BAR$} {per_second:>8.0}", "all", "", "");
    let Sent { answered, failed } = sent;
    let _ = writeln!(out, "\n  traffic of the demo: {answered} answered, {failed} failed; Ctrl-C ends");
    out
}

/// What comes once before [`lines`].
pub fn head_of_lines(head: &Head, nodes: usize) -> String {
    let mut out = intro(head);
    let _ = writeln!(out, "  Ctrl-C ends");
    let counts = titles(nodes);
    let _ = writeln!(
        out,
        "\n{:>6} {:<8} {:<9}{counts} {:>8} {:>8} {:>8}",
        "second", "server", "state", "req/s", "p50 ms", "p99 ms"
    );
    out
}

/// One line a server, for a pipe or file; `elapsed` since the start.
pub fn lines(elapsed: Duration, rows: &[Row]) -> String {
    let mut out = String::new();
    for row in rows {
        let _ = writeln!(
            out,
            "{:>6} {:<8} {:<9}{} {:>8.0} {:>8.1} {:>8.1}",
            elapsed.as_secs(),
            row.server,
            row.state,
            counts_of(&row.in_flight, row.fleet),
            row.per_second,
            row.p50_ms,
            row.p99_ms,
        );
    }
    out
}

fn intro(head: &Head) -> String {
    let Head { listen, admin, balance } = head;
    format!(
        "Fairlead on http://{listen}   try: curl localhost:{}/gethandler\n  balance: {balance}   state: curl http://{admin}/api/v1/pools\n",
        listen.port()
    )
}

/// The titles of [`counts_of`].
fn titles(nodes: usize) -> String {
    if nodes <= 1 {
        return format!("{:>10}", "in flight");
    }
    let mut out = String::new();
    for node in 1..=nodes {
        let _ = write!(out, "{:>6}", format!("n{node}"));
    }
    let _ = write!(out, "{:>7}", "fleet");
    out
}

/// Requests in flight: one node's, or each node's and the fleet's.
fn counts_of(each: &[u32], fleet: u32) -> String {
    if each.len() <= 1 {
        return format!("{fleet:>10}");
    }
    let mut out = String::new();
    for local in each {
        let _ = write!(out, "{local:>6}");
    }
    let _ = write!(out, "{fleet:>7}");
    out
}

/// A letter for each request, until the longest would not fit; then all shrink alike. Who has any keeps one letter.
fn bar(count: u32, most: u32) -> String {
    let (count, most) = (count as usize, most as usize);
    let length = if most <= BAR { count } else { (count * BAR).div_ceil(most) };
    "█".repeat(length.min(BAR))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            listen: "127.0.0.1:9091".parse().unwrap(),
            admin: "127.0.0.1:9900".parse().unwrap(),
            balance: "least-load",
        }
    }

    fn row(server: &str, in_flight: &[u32], per_second: f64) -> Row {
        let fleet = in_flight.iter().sum();
        Row {
            state: "up",
            in_flight: in_flight.to_vec(),
            fleet,
            per_second,
            p50_ms: 9.25,
            p99_ms: 41.0,
            ..Row::new(server, 1)
        }
    }

    #[test]
    fn one_node() {
        let down = Row { state: "down", ..Row::new("s2", 1) };
        let text = table(&head(), &[row("s1", &[3], 106.6), down], &Sent { answered: 12, failed: 1 });
        let expected = "\
Fairlead on http://127.0.0.1:9091   try: curl localhost:9091/gethandler
  balance: least-load   state: curl http://127.0.0.1:9900/api/v1/pools

  server   state     in flight                          req/s   p50 ms   p99 ms
  s1       up                3  ███                       107      9.2     41.0
  s2       down              0                              0      0.0      0.0
  all                        3                            107

  traffic of the demo: 12 answered, 1 failed; Ctrl-C ends
";
        assert_eq!(text, expected);
        assert!(text.lines().all(|line| line.chars().count() < 80), "fits a terminal");
    }

    #[test]
    fn several_nodes_have_a_column_each_and_one_for_the_fleet() {
        let text = table(&head(), &[row("s1", &[1, 2], 5.0), row("s2", &[0, 4], 5.0)], &Sent::default());
        let counts: Vec<Vec<&str>> =
            text.lines().skip(3).take(4).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(counts[0][2..5], ["n1", "n2", "fleet"]);
        assert_eq!(counts[1][2..6], ["1", "2", "3", "███"]);
        assert_eq!(counts[3][1..4], ["1", "6", "7"]);
    }

    #[test]
    fn lines_stand_under_their_titles() {
        let head = head_of_lines(&head(), 1);
        let text = lines(Duration::from_millis(61_900), &[row("s1", &[3], 106.6), row("s2", &[0], 0.0)]);
        assert_eq!(text.lines().next().unwrap(), "    61 s1       up                3      107      9.2     41.0");
        let width = |text: &str| text.lines().last().unwrap().len();
        assert_eq!(width(&head), width(&text));
        assert!(head.contains("Ctrl-C ends"));
    }

    #[test]
    fn bars_shrink_alike_and_never_vanish() {
        let length = |count, most| bar(count, most).chars().count();
        assert_eq!((length(0, 0), length(3, 20), length(20, 20)), (0, 3, 20));
        assert_eq!((length(0, 400), length(1, 400), length(200, 400), length(400, 400)), (0, 1, 10, 20));
    }

    #[test]
    fn nothing_is_a_table_too() {
        assert!(table(&head(), &[], &Sent::default()).contains("in flight"));
    }
}
