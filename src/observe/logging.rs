//! The process's own log: `log` and `env_logger`, one line an event, with fields instead of sentences.
//!
//! The message of a record is the name of an event; everything else is in its key-value pairs:
//! `info!(pool = "app", server = "a"; "server_up")`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, SystemTime};

use env_logger::Target;
use env_logger::fmt::Formatter;
use log::kv::{self, VisitSource};
use log::{LevelFilter, Record};
use prometheus::IntCounter;

use crate::config::{Log, LogFormat};
use crate::observe::writer::{Sink, Writer};

static WRITER: OnceLock<Writer> = OnceLock::new();

/// Lines of the process's own log that are lost, because nobody reads standard error fast enough.
pub static DROPPED: LazyLock<Option<IntCounter>> =
    LazyLock::new(|| IntCounter::new("fairlead_log_dropped_total", "Log lines that could not be written in time").ok());

/// Waits, at most `limit`, until all that was logged is written. To be called before the process ends.
pub fn flush(limit: Duration) {
    if let Some(writer) = WRITER.get() {
        writer.flush(limit);
    }
}

/// What env_logger writes to.
struct Pipe(Writer);

impl std::io::Write for Pipe {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.line(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Starts logging. A second call changes nothing.
///
/// `FAIRLEAD_LOG`, in env_logger's syntax, overrides the level for debugging.
pub fn init(config: Log) {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(config.level.min(LevelFilter::Warn)).filter_module("fairlead", config.level);
    // Pingora reports each client that goes away as an error, fred each attempt to connect to a Redis that is away; our own logs and
    // the metrics tell that better.
    let libraries = if config.level >= LevelFilter::Debug { config.level } else { LevelFilter::Off };
    for module in ["pingora_proxy", "pingora_core::apps", "pingora_core::protocols", "fred"] {
        builder.filter_module(module, libraries);
    }
    if let Ok(filter) = std::env::var("FAIRLEAD_LOG") {
        builder.parse_filters(&filter);
    }
    match config.format {
        LogFormat::Text => builder.format(text),
        LogFormat::Json => builder.format(json),
    };
    let writer = DROPPED.clone().and_then(|dropped| Writer::start("log", Sink::Stderr, dropped).ok());
    if let Some(writer) = writer {
        builder.target(Target::Pipe(Box::new(Pipe(WRITER.get_or_init(|| writer).clone()))));
    }
    if builder.try_init().is_err() {
        log::debug!("logging_already_started");
    }
}

fn now() -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_millis(SystemTime::now())
}

fn text(out: &mut Formatter, record: &Record) -> std::io::Result<()> {
    struct Pairs(String);
    impl<'kvs> VisitSource<'kvs> for Pairs {
        fn visit_pair(&mut self, key: kv::Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
            let value = value.to_string();
            let plain = !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c == '"' || c.is_control());
            let written = if plain { write!(self.0, " {key}={value}") } else { write!(self.0, " {key}={value:?}") };
            written.map_err(|_| kv::Error::msg("cannot write"))
        }
    }
    let mut pairs = Pairs(String::new());
    record.key_values().visit(&mut pairs).ok();
    writeln!(out, "{} {:<5} {}{}", now(), record.level(), one_line(&record.args().to_string()), pairs.0)
}

fn json(out: &mut Formatter, record: &Record) -> std::io::Result<()> {
    struct Fields(serde_json::Map<String, serde_json::Value>);
    impl<'kvs> VisitSource<'kvs> for Fields {
        fn visit_pair(&mut self, key: kv::Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
            let value = match (value.to_u64(), value.to_f64(), value.to_bool()) {
                (Some(n), _, _) => n.into(),
                (_, Some(n), _) => n.into(),
                (_, _, Some(b)) => b.into(),
                _ => value.to_string().into(),
            };
            self.0.insert(key.to_string(), value);
            Ok(())
        }
    }
    let mut fields = Fields(serde_json::Map::new());
    fields.0.insert("time".into(), now().to_string().into());
    fields.0.insert("level".into(), record.level().as_str().into());
    let ours = record.target().starts_with("fairlead");
    fields.0.insert("target".into(), record.target().into());
    fields.0.insert(if ours { "event" } else { "message" }.into(), record.args().to_string().into());
    record.key_values().visit(&mut fields).ok();
    writeln!(out, "{}", serde_json::Value::Object(fields.0))
}

/// A message of a library may hold line breaks; a log line may not.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}
