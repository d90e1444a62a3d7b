//! When a request that failed is sent again, and how long one attempt may take.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::fields::Fields;
use super::kind::{Kind, List, Parsed, whole};
use super::problem::Findings;
use super::suggest;
use super::tree::{Node, quoted};
use super::units::{percent, show, span, span_from};

/// When a request that failed is sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// After what.
    pub on: RetryOn,
    /// Requests of other methods are sent again only while nothing of them was sent.
    pub methods: Vec<Method>,
    /// At most, the first included; 1: nothing is sent again.
    pub attempts: u32,
    /// How many at a time.
    pub budget: RetryBudget,
    /// The pause before each.
    pub backoff: Backoff,
}

/// After what a request is sent again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    /// No connection could be made: nothing was sent.
    pub connect: bool,
    /// The connection broke before the response header.
    pub reset: bool,
    /// The header took too long.
    pub timeout: bool,
    /// Inclusive ranges of status codes.
    pub statuses: Vec<(u16, u16)>,
}

/// How many of a route's requests may be retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Percent of the route's requests.
    pub share: u32,
    /// So many at a time are allowed where the share comes to less.
    pub min: u32,
}

/// The pause before an attempt: random, up to a bound that doubles from one to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The bound before the second attempt.
    pub base: Duration,
    /// The bound grows up to here.
    pub max: Duration,
}

/// How long one attempt may take to its response header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PerTry {
    /// Only an attempt at a server that has fallen silent ends early, and only when another server can have the request.
    #[default]
    Adaptive,
    /// As long as the request may.
    None,
    /// Not longer than this.
    Limit(Duration),
}

impl RetryOn {
    /// Whether a response of this status is one to try again after.
    pub fn status(&self, status: u16) -> bool {
        self.statuses.iter().any(|(from, to)| (*from..=*to).contains(&status))
    }
}

impl Default for Retry {
    /// What a route has that says nothing of retries.
    fn default() -> Self {
        Retry {
            on: RetryOn { connect: true, reset: true, timeout: true, statuses: Vec::new() },
            methods: vec![Method::GET, Method::HEAD, Method::OPTIONS],
            attempts: 3,
            budget: RetryBudget { share: 20, min: 3 },
            backoff: Backoff { base: Duration::from_millis(25), max: Duration::from_millis(250) },
        }
    }
}

pub(super) fn retry(f: &mut Fields<'_>) -> Option<Retry> {
    let on = f.default(
        "on",
        "After what: `connect`, `reset`, `timeout`, and status codes from 400 on or ranges of them.",
        List { item: Cause, of: "causes such as `connect`, `reset`, `timeout` or `503`", empty: true },
        json!(["connect", "reset", "timeout"]),
    );
    let methods = f.default(
        "methods",
        "Methods of requests that may be sent twice. Where no connection could be made, any method is tried again.",
        List { item: method(), of: "methods", empty: true },
        json!(["GET", "HEAD", "OPTIONS"]),
    );
    let attempts = f.default("attempts", "At most, the first included; 1: nothing is sent again.", whole(1, 10), 3);
    let budget =
        f.section("budget", "How many of the route's requests may be retries at a time, on this node.", budget);
    let backoff =
        f.section("backoff", "The pause before an attempt: random, from nothing to a growing bound.", backoff);
    Some(Retry {
        on: RetryOn::of(on?),
        methods: methods?.into_iter().flatten().collect(),
        attempts: attempts?,
        budget: budget?,
        backoff: backoff?,
    })
}

fn budget(f: &mut Fields<'_>) -> Option<RetryBudget> {
    let share = f.default("share", "Of the route's requests.", percent(0), "20%");
    let min = f.default("min", "So many at a time are allowed where the share comes to less.", whole(0, 1_000_000), 3);
    Some(RetryBudget { share: share?, min: min? })
}

fn backoff(f: &mut Fields<'_>) -> Option<Backoff> {
    let base = f.default(
        "base",
        "The bound before the second attempt; it doubles for each further one. 0s: no pause.",
        span_from(Duration::ZERO),
        "25ms",
    );
    let max = f.default("max", "The bound grows up to here.", span_from(Duration::ZERO), "250ms");
    let (base, max) = (base?, max?);
    if base > max {
        let (key, hint) = if f.given("max") { ("max", "lengthen it") } else { ("base", "set `max` too") };
        f.problem(&[key.into()], format!("the base ({}) is longer than the max ({}): {hint}", show(base), show(max)));
    }
    Some(Backoff { base, max })
}

fn method() -> Parsed<Method> {
    Parsed {
        what: "a method such as `GET`",
        pattern: "^[A-Z]+(-[A-Z]+)*$",
        parse: |text| {
            let upper = text.to_ascii_uppercase();
            match Method::from_bytes(text.as_bytes()) {
                Ok(method) if upper == text => Ok(method),
                Ok(_) => Err(format!("is not in upper case, which counts: write `{upper}`")),
                Err(_) => Err("is no method: write one like `GET`".to_owned()),
            }
        },
    }
}

#[derive(Clone, Copy)]
enum Reason {
    Connect,
    Reset,
    Timeout,
    Status(u16, u16),
}

impl RetryOn {
    fn of(reasons: Vec<Option<Reason>>) -> Self {
        let mut on = RetryOn::default();
        for reason in reasons.into_iter().flatten() {
            match reason {
                Reason::Connect => on.connect = true,
                Reason::Reset => on.reset = true,
                Reason::Timeout => on.timeout = true,
                Reason::Status(from, to) => on.statuses.push((from, to)),
            }
        }
        on
    }
}

/// `connect`, `reset`, `timeout`, `503` or `500-599`.
struct Cause;

impl Cause {
    const WORDS: [(&'static str, Reason); 3] =
        [("connect", Reason::Connect), ("reset", Reason::Reset), ("timeout", Reason::Timeout)];
}

impl Kind for Cause {
    type Out = Reason;

    fn what(&self) -> String {
        "`connect`, `reset`, `timeout`, or a status code or range from 400 to 599 such as `503` or `500-599`".to_owned()
    }

    fn schema(&self) -> Value {
        json!({ "anyOf": [
            { "enum": Cause::WORDS.map(|(word, _)| word) },
            { "type": "integer", "minimum": 400, "maximum": 599 },
            { "type": "string", "pattern": "^[45][0-9]{2}-[45][0-9]{2}$" },
            { "$ref": "#/$defs/variable" },
        ] })
    }

    fn read(&self, node: &Node, found: &mut Findings) -> Option<Reason> {
        let (Node::Text(text) | Node::Variable(text) | Node::Number(text)) = node else {
            found.add(format!("must be {}, not {}", self.what(), node.shown()));
            return None;
        };
        if let Some((_, reason)) = Cause::WORDS.iter().find(|(word, _)| word == text) {
            return Some(*reason);
        }
        let code = |text: &str| text.parse::<u16>().ok().filter(|code| (400..=599).contains(code));
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        match (code(from), code(to)) {
            (Some(from), Some(to)) if from <= to => Some(Reason::Status(from, to)),
            _ => {
                let near = suggest::did_you_mean(text, Cause::WORDS.map(|(word, _)| word));
                found.add(format!("must be {}, not {}{near}", self.what(), quoted(text)));
                None
            }
        }
    }
}

/// `adaptive`, `none` or a duration.
pub(super) struct PerTryKind;

impl Kind for PerTryKind {
    type Out = PerTry;

    fn what(&self) -> String {
        "`adaptive`, a duration such as `2s`, or `none`".to_owned()
    }

    fn schema(&self) -> Value {
        json!({ "anyOf": [{ "enum": ["adaptive", "none"] }, span().schema()] })
    }

    fn read(&self, node: &Node, found: &mut Findings) -> Option<PerTry> {
        match node {
            Node::Text(text) | Node::Variable(text) if text == "adaptive" => Some(PerTry::Adaptive),
            Node::Text(text) | Node::Variable(text) if text == "none" => Some(PerTry::None),
            Node::Text(text) | Node::Variable(text) if !text.starts_with(|c: char| c.is_ascii_digit()) => {
                let near = suggest::did_you_mean(text, ["adaptive", "none"]);
                found.add(format!("must be {}, not {}{near}", self.what(), quoted(text)));
                None
            }
            node => span().read(node, found).map(PerTry::Limit),
        }
    }
}
