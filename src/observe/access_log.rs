//! The log of requests. A request never waits for it: lines go through a bounded queue to a thread of its own,
//! and a line that finds the queue full is dropped and counted.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::config::{AccessFormat, AccessLog as Settings};

/// Lines that may wait for the writer.
const QUEUE: usize = 8192;
/// How long a written line may stay in memory.
const FLUSH_EVERY: Duration = Duration::from_millis(200);

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
    /// How many attempts were made.
    pub attempts: u32,
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

fn rfc3339<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}

enum Message {
    Line(Vec<u8>),
    Reopen,
    Flush(SyncSender<()>),
}

/// A handle to the writer's queue.
#[derive(Debug)]
pub struct AccessLog {
    format: AccessFormat,
    queue: SyncSender<Message>,
    dropped: prometheus::IntCounter,
}

impl AccessLog {
    /// Opens the file and starts the writer; `dropped` counts the lines that could not be queued.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or no thread can be started.
    pub fn open(settings: &Settings, dropped: prometheus::IntCounter) -> std::io::Result<Self> {
        let sink = open(settings.path.as_deref())?;
        let path = settings.path.clone();
        let (queue, messages) = sync_channel(QUEUE);
        std::thread::Builder::new().name("access-log".into()).spawn(move || write(sink, path, messages))?;
        Ok(AccessLog { format: settings.format, queue, dropped })
    }

    /// Queues one line; never blocks.
    pub fn log(&self, entry: &Entry) {
        let mut line = Vec::with_capacity(384);
        let written = match self.format {
            AccessFormat::Json => serde_json::to_writer(&mut line, entry).is_ok(),
            AccessFormat::Combined => combined(&mut line, entry).is_ok(),
        };
        line.push(b'\n');
        if !written || self.queue.try_send(Message::Line(line)).is_err() {
            self.dropped.inc();
        }
    }

    /// Opens the file again, after somebody moved it away.
    pub fn reopen(&self) {
        self.queue.try_send(Message::Reopen).ok();
    }

    /// Waits, at most `limit`, until all that was logged is written.
    pub fn flush(&self, limit: Duration) {
        let (done, wait) = sync_channel(1);
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            wait.recv_timeout(limit).ok();
        }
    }
}

fn open(path: Option<&Path>) -> std::io::Result<Box<dyn Write + Send>> {
    Ok(match path {
        None => Box::new(std::io::stdout()),
        Some(path) => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
    })
}

fn write(sink: Box<dyn Write + Send>, path: Option<PathBuf>, messages: Receiver<Message>) {
    let mut out = BufWriter::with_capacity(64 * 1024, sink);
    let mut failing = false;
    let mut report = |result: std::io::Result<()>| match result {
        Ok(()) => failing = false,
        Err(error) if !failing => {
            failing = true;
            log::error!(error = error.to_string(); "access_log_cannot_be_written");
        }
        Err(_) => {}
    };
    let mut dirty = false;
    loop {
        match messages.recv_timeout(FLUSH_EVERY) {
            Ok(Message::Line(line)) => {
                report(out.write_all(&line));
                dirty = true;
            }
            Ok(Message::Flush(done)) => {
                report(out.flush());
                done.try_send(()).ok();
            }
            Ok(Message::Reopen) => {
                report(out.flush());
                match open(path.as_deref()) {
                    Ok(sink) => out = BufWriter::with_capacity(64 * 1024, sink),
                    Err(error) => report(Err(error)),
                }
            }
            Err(RecvTimeoutError::Timeout) if dirty => {
                report(out.flush());
                dirty = false;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return report(out.flush()),
        }
    }
}

/// The line that web servers agree on. Quotes and control characters in what clients sent are escaped, so that
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
            attempts: 1,
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
    }

    #[test]
    fn combined_cannot_be_forged() {
        let mut line = Vec::new();
        combined(&mut line, &entry()).unwrap();
        assert_eq!(
            String::from_utf8(line).unwrap(),
            r#"10.0.0.1 - - [22/Nov/2026:13:44:05 +0000] "GET /a?b=\"c HTTP/1.1" 200 12 "-" "x\x0ay""#
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
