//! The demo's table as text. Pure: rows in, text out.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use super::traffic::Sent;

/// The longest bar, in letters.
const BAR: usize = 20;
/// What a terminal shows at least.
const WIDTH: usize = 80;

/// What stays the same.
#[derive(Clone, Debug)]
pub struct Head {
    /// Where each node listens; never empty.
    pub listen: Vec<SocketAddr>,
    /// Where each node's admin listener is.
    pub admin: Vec<SocketAddr>,
    /// How a server is chosen.
    pub balance: String,
    /// The Redis that the nodes share counts through, without its password. None: there is one node, alone.
    pub redis: Option<String>,
}

/// What is seen at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Frame {
    /// The servers.
    pub rows: Vec<Row>,
    /// How the nodes that know the fleet's counts choose. None: nobody knows them.
    pub mode: Option<String>,
}

/// One server.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its name.
    pub server: String,
    /// A word: `up`, `down`, …
    pub state: String,
    /// Requests in flight on it from each node, in the order of the nodes. None: the node does not answer.
    pub in_flight: Vec<Option<u32>>,
    /// Requests in flight on it from all nodes, as a node knows them. None: no node does.
    pub fleet: Option<u32>,
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
            state: String::new(),
            in_flight: vec![None; nodes],
            fleet: None,
            per_second: 0.0,
            p50_ms: 0.0,
            p99_ms: 0.0,
        }
    }

    /// The best guess.
    fn busy(&self) -> u32 {
        self.fleet.unwrap_or_else(|| self.in_flight.iter().flatten().sum())
    }
}

/// The whole table, for a terminal.
pub fn table(head: &Head, frame: &Frame, sent: &Sent) -> String {
    let rows = &frame.rows;
    let most = rows.iter().map(Row::busy).max().unwrap_or(0);
    let titles = titles(head);
    let bar_width = WIDTH.saturating_sub(50 + titles.len()).min(BAR);
    let mut out = intro(head);
    if head.redis.is_some() {
        let _ = writeln!(out, "  {}", redis(head, frame));
    }
    let _ = writeln!(
        out,
        "\n  {:<8} {:<9}{titles}  {:<bar_width$} {:>8} {:>8} {:>8}",
        "server", "state", "", "req/s", "p50 ms", "p99 ms"
    );
    for row in rows {
        let _ = writeln!(
            out,
            "  {:<8} {:<9}{}  {:<bar_width$} {:>8.0} {:>8.1} {:>8.1}",
            row.server,
            row.state,
            counts(head, &row.in_flight, row.fleet),
            bar(row.busy(), most, bar_width),
            row.per_second,
            row.p50_ms,
            row.p99_ms,
        );
    }
    let each = |node: usize| sum(rows.iter().map(|row| row.in_flight.get(node).copied().flatten()));
    let each: Vec<_> = (0..head.listen.len()).map(each).collect();
    let all = counts(head, &each, sum(rows.iter().map(|row| row.fleet)));
    let per_second: f64 = rows.iter().map(|row| row.per_second).sum();
    let _ = writeln!(out, "  {:<8} {:<9}{all}  {:<bar_width$} {per_second:>8.0}", "all", "", "");
    let Sent { answered, failed } = sent;
    let _ = writeln!(out, "\n  traffic of the demo: {answered} answered, {failed} failed; Ctrl-C ends");
    out
}

/// What comes once before [`lines`].
pub fn head_of_lines(head: &Head) -> String {
    let mut out = intro(head);
    let _ = writeln!(out, "  Ctrl-C ends");
    let _ = writeln!(
        out,
        "\n{:>6} {:<8} {:<9}{} {:>8} {:>8} {:>8}",
        "second",
        "server",
        "state",
        titles(head),
        "req/s",
        "p50 ms",
        "p99 ms"
    );
    out
}

/// One line a server, for a pipe or file; `elapsed` since the start.
pub fn lines(head: &Head, elapsed: Duration, frame: &Frame) -> String {
    let mut out = String::new();
    for row in &frame.rows {
        let _ = writeln!(
            out,
            "{:>6} {:<8} {:<9}{} {:>8.0} {:>8.1} {:>8.1}",
            elapsed.as_secs(),
            row.server,
            row.state,
            counts(head, &row.in_flight, row.fleet),
            row.per_second,
            row.p50_ms,
            row.p99_ms,
        );
    }
    out
}

/// What comes between [`lines`] when Redis has come or gone.
pub fn redis_line(head: &Head, elapsed: Duration, frame: &Frame) -> String {
    format!("{:>6} {}\n", elapsed.as_secs(), redis(head, frame))
}

fn redis(head: &Head, frame: &Frame) -> String {
    let at = head.redis.as_deref().unwrap_or("");
    match &frame.mode {
        Some(mode) => format!("fleet: one load through {at}   mode: {mode}"),
        None => format!("fleet: Redis is away ({at}): each node counts for itself   mode: local"),
    }
}

fn intro(head: &Head) -> String {
    let Head { listen, admin, balance, .. } = head;
    let mut out = String::new();
    if let [listen] = listen.as_slice() {
        let _ = write!(out, "Fairlead on http://{listen}");
    } else {
        let _ = write!(out, "Fairlead, {} nodes, on 127.0.0.1:", listen.len());
        for (n, listen) in listen.iter().enumerate() {
            let _ = write!(out, "{}{}", if n == 0 { "" } else { ", " }, listen.port());
        }
    }
    let port = listen.first().map_or(0, SocketAddr::port);
    let _ = writeln!(out, "   try: curl localhost:{port}/gethandler");
    let _ = write!(out, "  balance: {balance}   state: ");
    match admin.as_slice() {
        [admin] => {
            let _ = writeln!(out, "curl http://{admin}/api/v1/pools");
        }
        list => {
            for (n, admin) in list.iter().enumerate() {
                let before = if n == 0 { "fairlead status --admin 127.0.0.1:" } else { ", " };
                let _ = write!(out, "{before}{}", admin.port());
            }
            out.push('\n');
        }
    }
    out
}

/// The titles of [`counts`].
fn titles(head: &Head) -> String {
    if head.redis.is_none() {
        return format!("{:>10}", "in flight");
    }
    let mut out = String::new();
    for node in 1..=head.listen.len() {
        let _ = write!(out, "{:>5}", format!("n{node}"));
    }
    let _ = write!(out, "{:>7}", "fleet");
    out
}

/// Requests in flight: one node's, or each node's and the fleet's.
fn counts(head: &Head, each: &[Option<u32>], fleet: Option<u32>) -> String {
    let word = |count: Option<u32>| count.map_or("-".to_owned(), |count| count.to_string());
    if head.redis.is_none() {
        return format!("{:>10}", word(fleet));
    }
    let mut out = String::new();
    for local in each {
        let _ = write!(out, "{:>5}", word(*local));
    }
    let _ = write!(out, "{:>7}", word(fleet));
    out
}

/// None only where nothing is known.
fn sum(counts: impl Iterator<Item = Option<u32>>) -> Option<u32> {
    counts.flatten().reduce(u32::saturating_add)
}

/// A letter for each request, until the longest would not fit; then all shrink alike. Who has any keeps one letter.
fn bar(count: u32, most: u32, width: usize) -> String {
    let (count, most) = (count as usize, most as usize);
    let length = if most <= width { count } else { (count * width).div_ceil(most) };
    "█".repeat(length.min(width))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(nodes: u16, redis: Option<&str>) -> Head {
        let places = |first: u16| (first..first + nodes).map(|port| ([127, 0, 0, 1], port).into()).collect();
        Head {
            listen: places(9091),
            admin: places(9900),
            balance: "least-load".into(),
            redis: redis.map(str::to_owned),
        }
    }

    fn row(server: &str, in_flight: &[u32], per_second: f64) -> Row {
        Row {
            state: "up".into(),
            in_flight: in_flight.iter().copied().map(Some).collect(),
            fleet: Some(in_flight.iter().sum()),
            per_second,
            p50_ms: 9.25,
            p99_ms: 41.0,
            ..Row::new(server, 1)
        }
    }

    fn frame(rows: Vec<Row>, mode: Option<&str>) -> Frame {
        Frame { rows, mode: mode.map(str::to_owned) }
    }

    fn fits(text: &str) -> bool {
        text.lines().all(|line| line.chars().count() <= WIDTH)
    }

    #[test]
    fn one_node_alone() {
        let down = Row { state: "down".into(), fleet: Some(0), ..Row::new("s2", 1) };
        let frame = frame(vec![row("s1", &[3], 106.6), down], None);
        let text = table(&head(1, None), &frame, &Sent { answered: 12, failed: 1 });
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
        assert!(fits(&text));
    }

    #[test]
    fn nodes_have_a_column_each_and_one_for_the_fleet() {
        let mut gone = row("s2", &[0, 4, 0], 5.0);
        gone.in_flight[2] = None;
        let frame = frame(vec![row("s1", &[1, 2, 0], 5.0), gone], Some("exact"));
        let text = table(&head(3, Some("redis://127.0.0.1:6379")), &frame, &Sent::default());
        let expected = "\
Fairlead, 3 nodes, on 127.0.0.1:9091, 9092, 9093   try: curl localhost:9091/gethandler
  balance: least-load   state: fairlead status --admin 127.0.0.1:9900, 9901, 9902
  fleet: one load through redis://127.0.0.1:6379   mode: exact

  server   state       n1   n2   n3  fleet              req/s   p50 ms   p99 ms
  s1       up           1    2    0      3  ███             5      9.2     41.0
  s2       up           0    4    -      4  ████            5      9.2     41.0
  all                   1    6    0      7                 10

  traffic of the demo: 0 answered, 0 failed; Ctrl-C ends
";
        assert_eq!(text, expected);
    }

    #[test]
    fn redis_that_is_away_is_told_and_bars_go_by_what_the_nodes_count() {
        let alone = Row { fleet: None, ..row("s1", &[1, 2], 5.0) };
        let frame = frame(vec![alone], None);
        let head = head(2, Some("redis://127.0.0.1:6379"));
        let text = table(&head, &frame, &Sent::default());
        assert!(text.contains("Redis is away (redis://127.0.0.1:6379)") && text.contains("mode: local"), "{text}");
        let counts: Vec<_> = text.lines().nth(5).unwrap().split_whitespace().skip(2).take(4).collect();
        assert_eq!(counts, ["1", "2", "-", "███"]);
        assert!(redis_line(&head, Duration::from_secs(3), &frame).starts_with("     3 fleet: Redis is away"));
    }

    #[test]
    fn lines_stand_under_their_titles() {
        for head in [head(1, None), head(1, Some("r")), head(8, Some("r"))] {
            let rows = vec![row("s1", &vec![3; head.listen.len()], 106.6), row("s2", &vec![0; head.listen.len()], 0.0)];
            let text = lines(&head, Duration::from_millis(61_900), &frame(rows, None));
            let titles = head_of_lines(&head);
            let width = |text: &str| text.lines().last().unwrap().len();
            assert_eq!(width(&titles), width(&text));
            assert!(titles.contains("Ctrl-C ends"));
        }
        let text = lines(&head(1, None), Duration::from_millis(61_900), &frame(vec![row("s1", &[3], 106.6)], None));
        assert_eq!(text, "    61 s1       up                3      107      9.2     41.0\n");
    }

    #[test]
    fn bars_shrink_alike_and_never_vanish() {
        let length = |count, most| bar(count, most, BAR).chars().count();
        assert_eq!((length(0, 0), length(3, 20), length(20, 20)), (0, 3, 20));
        assert_eq!((length(0, 400), length(1, 400), length(200, 400), length(400, 400)), (0, 1, 10, 20));
        assert_eq!(bar(9, 9, 0), "");
    }

    #[test]
    fn nothing_is_a_table_too() {
        assert!(table(&head(1, None), &Frame::default(), &Sent::default()).contains("in flight"));
    }
}
