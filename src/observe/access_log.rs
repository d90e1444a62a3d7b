//! The log of requests: what a line looks like. A request never waits for it to be written.

use std::io::Write;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::config::{AccessFormat, AccessLog as Settings};
use crate::observe::writer::{Sink, Writer};

/// How long a line may stay in memory, for the sake of fewer writes.
const LINGER: Duration = Duration::from_millis(200);

/// Everything the access log tells of one request.
#[derive(Debug, Serialize)]
pub struct Entry<'a> {
    /// When the request was complete.
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// Its `x-request-id`.
    pub request_id: &'a str,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// As sent.
    pub method: &'a str,
    /// As sent; empty if there was none.
    pub host: &'a str,
    /// Path and query, as sent.
    pub path: &'a str,
    /// As the client saw it; 499 when it left before.
    pub status: u16,
    /// Name of the refusal or failure; empty when there was none.
    pub error: &'a str,
    /// Name of the route.
    pub route: &'a str,
    /// Name of the pool.
    pub pool: &'a str,
    /// Name of the last server tried.
    pub server: &'a str,
    /// All attempts that were made, in their order.
    pub attempts: &'a [Attempt<'a>],
    /// From the request's header to the end.
    pub duration_ms: f64,
    /// From the last attempt's start to its response header; absent when there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_ms: Option<f64>,
    /// Bytes of the request's body.
    pub bytes_in: usize,
    /// Bytes of the response's body.
    pub bytes_out: usize,
    /// As sent.
    pub user_agent: &'a str,
    /// As sent; only in the combined format.
    #[serde(skip)]
    pub referer: &'a str,
}

/// One attempt at one server.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Attempt<'a> {
    /// Name of the server.
    pub server: &'a str,
    /// How it ended, as in `fairlead_attempts_total`.
    pub result: &'a str,
    /// From its beginning to its end, the body included.
    pub ms: f64,
}

fn rfc3339<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}

/// The open access log.
#[derive(Debug)]
pub struct AccessLog {
    format: AccessFormat,
    writer: Writer,
    dropped: prometheus::IntCounter,
}

impl AccessLog {
    /// Opens the file and starts the writer; `dropped` counts the lines that could not be queued or written.
    ///
    /// # Errors
    /// The file cannot be opened for appending (`ENXIO`: a pipe that nobody reads), or no thread can be started.
    pub fn open(settings: &Settings, dropped: prometheus::IntCounter) -> std::io::Result<Self> {
        let sink = settings.path.clone().map_or(Sink::Stdout, Sink::File);
        let writer = Writer::start("access-log", sink, LINGER, dropped.clone())?;
        Ok(AccessLog { format: settings.format, writer, dropped })
    }

    /// Queues one line; never blocks.
    pub fn log(&self, entry: &Entry) {
        let mut line = Vec::with_capacity(384);
        let made = match self.format {
            AccessFormat::Json => serde_json::to_writer(&mut line, entry).is_ok(),
            AccessFormat::Combined => combined(&mut line, entry).is_ok(),
        };
        line.push(b'\n');
        if made {
            self.writer.line(line);
        } else {
            self.dropped.inc();
        }
    }

    /// Opens the file again, after somebody moved it away.
    pub fn reopen(&self) {
        self.writer.reopen();
    }

    /// Waits, at most `limit`, until all that was logged is written.
    pub fn flush(&self, limit: Duration) {
        self.writer.flush(limit);
    }
}

/// The line that web servers agree on, and at its end, where readers of that form do not look, the attempts as
/// `SERVER:RESULT:MSms,…`, or `-`. Quotes and control characters in what clients sent are escaped, so that
/// nobody can forge a line.
fn combined(out: &mut Vec<u8>, e: &Entry) -> std::io::Result<()> {
    match e.client {
        Some(client) => write!(out, "{client}")?,
        None => write!(out, "-")?,
    }
    write!(out, " - - [{}] \"", clf_time(e.time))?;
    escape(out, e.method);
    out.push(b' ');
    escape(out, e.path);
    write!(out, " HTTP/1.1\" {} {} \"", e.status, e.bytes_out)?;
    escape(out, if e.referer.is_empty() { "-" } else { e.referer });
    out.extend_from_slice(b"\" \"");
    escape(out, if e.user_agent.is_empty() { "-" } else { e.user_agent });
    out.push(b'"');
    let mut before = ' ';
    for attempt in e.attempts {
        write!(out, "{before}{}:{}:{:.0}ms", attempt.server, attempt.result, attempt.ms)?;
        before = ',';
    }
    if e.attempts.is_empty() {
        out.extend_from_slice(b" -");
    }
    Ok(())
}

fn escape(out: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..=31 | 127 => out.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
            _ => out.push(byte),
        }
    }
}

/// `22/Nov/2026:13:44:05 +0000`
fn clf_time(time: SystemTime) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let iso = humantime::format_rfc3339_seconds(time).to_string(); // 2026-11-22T13:44:05Z
    let part = |range: std::ops::Range<usize>| iso.get(range).unwrap_or("");
    let month = part(5..7).parse::<usize>().ok().and_then(|m| MONTHS.get(m.wrapping_sub(1))).unwrap_or(&"Jan");
    format!("{}/{}/{}:{} +0000", part(8..10), month, part(0..4), part(11..19))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry<'static> {
        Entry {
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_355_045),
            request_id: "abc",
            client: Some(IpAddr::from([10, 0, 0, 1])),
            method: "GET",
            host: "h",
            path: "/a?b=\"c",
            status: 200,
            error: "",
            route: "r",
            pool: "p",
            server: "s",
            attempts: &[
                Attempt { server: "10.0.0.1:9000", result: "connect_failed", ms: 3.2 },
                Attempt { server: "s", result: "success", ms: 20.0 },
            ],
            duration_ms: 1.5,
            upstream_ms: None,
            bytes_in: 0,
            bytes_out: 12,
            user_agent: "x\ny",
            referer: "",
        }
    }

    #[test]
    fn json_is_one_object() {
        let text = serde_json::to_string(&entry()).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["status"], 200);
        assert_eq!(value["client"], "10.0.0.1");
        assert_eq!(value["time"], "2026-11-22T13:44:05.000Z");
        assert!(value.get("upstream_ms").is_none());
        let first = serde_json::json!({ "server": "10.0.0.1:9000", "result": "connect_failed", "ms": 3.2 });
        assert_eq!((&value["attempts"][0], value["attempts"].as_array().unwrap().len()), (&first, 2));
    }

    #[test]
    fn combined_cannot_be_forged() {
        let mut line = Vec::new();
        combined(&mut line, &entry()).unwrap();
        assert_eq!(
            String::from_utf8(line).unwrap(),
            r#"10.0.0.1 - - [22/Nov/2026:13:44:05 +0000] "GET /a?b=\"c HTTP/1.1" 200 12 "-" "x\x0ay" 10.0.0.1:9000:connect_failed:3ms,s:success:20ms"#
        );
    }

    #[test]
    fn lines_reach_the_file_and_a_moved_file_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let dropped = prometheus::IntCounter::new("x", "x").unwrap();
        let settings = Settings { format: AccessFormat::Json, path: Some(path.clone()) };
        let log = AccessLog::open(&settings, dropped.clone()).unwrap();
        log.log(&entry());
        log.flush(Duration::from_secs(5));
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        log.reopen();
        log.log(&entry());
        log.flush(Duration::from_secs(5));
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
        assert_eq!(std::fs::read_to_string(dir.path().join("old")).unwrap().lines().count(), 1);
        assert_eq!(dropped.get(), 0);
    }
}
