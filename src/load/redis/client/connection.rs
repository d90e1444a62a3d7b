//! One connection: how it is made, and what goes over it.

use std::time::Duration;

use bytes::Bytes;
use fred::clients::Client as Library;
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, Resp3Frame};
use fred::types::config::{Options, Server};
use fred::types::{ClusterHash, ConnectHandle, CustomCommand};
use log::debug;
use tokio::sync::mpsc;

use super::CallError;
use super::settings::{Settings, UNRESPONSIVE};
use crate::load::redis::reply::Value;
use crate::load::redis::scripts::{AUDIT, EXCHANGE, REAP, REGISTER, Script};

/// Why there is no connection: for the log.
pub(super) type Away = String;

/// How often one call is sent anew because a cluster's slot had moved: it did not run there.
const MOVES: usize = 4;

/// A connection as callers see it.
pub(super) struct Live {
    library: Library,
    clustered: bool,
    lose: mpsc::Sender<String>,
}

/// A connection as the supervisor holds it. Dropped, it is closed at once.
pub(super) struct Held {
    task: Task,
    lost: mpsc::Receiver<String>,
    /// Of the server; empty: it does not tell.
    pub(super) version: String,
}

/// The library's task, which owns the socket.
struct Task(ConnectHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connects, and finds out whether the server is fit.
pub(super) async fn open(settings: &Settings) -> Result<(Live, Held), Away> {
    let limit = settings.connect_limit;
    match tokio::time::timeout(limit, open_in_time(settings)).await {
        Ok(result) => result,
        Err(_) => Err(format!("no connection within {} ms", limit.as_millis())),
    }
}

async fn open_in_time(settings: &Settings) -> Result<(Live, Held), Away> {
    let library = Library::new(settings.config.clone(), None, Some(settings.connection.clone()), None);
    let mut task = None;
    // The first branch subscribes before the second one connects, so that no outcome is missed.
    tokio::select! {
        biased;
        connected = library.wait_for_connect() => connected.map_err(|error| away(&error))?,
        ended = async { (&mut task.insert(Task(library.connect())).0).await } => return Err(ended_by(ended)),
    }
    let Some(task) = task else { return Err("the connection did not start".to_owned()) };
    let (lose, lost) = mpsc::channel(1);
    let clustered = library.is_clustered();
    let live = Live { library, clustered, lose };
    live.refuse_read_only().await?;
    live.load_scripts().await;
    let version = live.library.server_version().map(|version| version.to_string()).unwrap_or_default();
    Ok((live, Held { task, lost, version }))
}

fn ended_by(ended: Result<Result<(), Error>, tokio::task::JoinError>) -> Away {
    match ended {
        Ok(Ok(())) => "the connection was closed".to_owned(),
        Ok(Err(error)) => away(&error),
        Err(_) => "the connection's task failed".to_owned(),
    }
}

fn away(error: &Error) -> Away {
    let reason = plain(error.details());
    match error.kind() {
        ErrorKind::Tls => format!("TLS: {reason}"),
        ErrorKind::Sentinel => format!("sentinel: {reason}"),
        _ => reason.to_owned(),
    }
}

/// The library shows errors of the system and of TLS as Rust structures: the sentence in it is what an operator wants.
fn plain(details: &str) -> &str {
    for key in ["error: \"", "message: \"", "reason: \""] {
        if let Some(at) = details.rfind(key) {
            let text = &details[at + key.len()..];
            return text.split('"').next().unwrap_or(text);
        }
    }
    details
}

impl Held {
    /// Resolves when the connection is lost or given up.
    pub(super) async fn ended(&mut self) -> Away {
        tokio::select! {
            ended = &mut self.task.0 => ended_by(ended),
            Some(reason) = self.lost.recv() => reason,
        }
    }
}

/// An answer.
enum Reply {
    Value(Value),
    /// The text of an error.
    Refused(String),
    /// A cluster has the slot elsewhere; the command did not run, and the table of slots has been renewed.
    Moved,
}

impl Live {
    /// Gives up the connection.
    pub(super) fn lose(&self, reason: &str) {
        // Full: somebody else did already.
        self.lose.try_send(reason.to_owned()).ok();
    }

    /// A command got no answer within `limit`.
    pub(super) fn overdue(&self, limit: Duration) {
        if limit >= UNRESPONSIVE {
            self.lose(&format!("no answer within {} ms", limit.as_millis()));
        }
    }

    /// Runs a script; `words` is what `EVALSHA` wants.
    pub(super) async fn script(
        &self,
        script: &Script,
        key: Option<&Bytes>,
        mut words: Vec<fred::types::Value>,
    ) -> Result<Value, CallError> {
        let again = words.clone();
        match self.command("EVALSHA", key, words).await {
            Err(CallError::Refused(text)) if text.starts_with("NOSCRIPT") => {
                words = again;
                if let Some(sha1) = words.first_mut() {
                    *sha1 = fred::types::Value::from_static_str(script.source);
                }
                self.command("EVAL", key, words).await
            }
            result => result,
        }
    }

    /// Sends a command to the server that has `key`, and anew where a cluster has moved it.
    pub(super) async fn command(
        &self,
        name: &'static str,
        key: Option<&Bytes>,
        words: Vec<fred::types::Value>,
    ) -> Result<Value, CallError> {
        let mut words = Some(words);
        for left in (0..MOVES).rev() {
            let sent = if left > 0 && self.clustered { words.clone() } else { words.take() };
            match self.send(name, key, None, sent.unwrap_or_default()).await.map_err(lost)? {
                Reply::Value(value) => return Ok(value),
                Reply::Refused(text) if read_only(&text) => {
                    self.lose(&text);
                    return Err(CallError::Lost(text));
                }
                Reply::Refused(text) => return Err(CallError::Refused(text)),
                Reply::Moved if words.is_some() => {}
                Reply::Moved => break,
            }
        }
        Err(CallError::Refused("TRYAGAIN the cluster is moving the slot".to_owned()))
    }

    async fn send(
        &self,
        name: &'static str,
        key: Option<&Bytes>,
        node: Option<&Server>,
        words: Vec<fred::types::Value>,
    ) -> Result<Reply, Error> {
        let hash = match key {
            Some(key) if self.clustered => ClusterHash::Custom(fred::util::redis_keyslot(key)),
            _ => ClusterHash::Random,
        };
        let command = CustomCommand::new_static(name, hash, false);
        // A raw answer tells an error of the server from one of the library.
        let answer = match node {
            Some(node) => {
                let options = Options { cluster_node: Some(node.clone()), ..Options::default() };
                self.library.with_options(&options).custom_raw(command, words).await
            }
            None => self.library.custom_raw(command, words).await,
        };
        match answer {
            Ok(Resp3Frame::SimpleError { data, .. }) => Ok(Reply::Refused(data.to_string())),
            Ok(Resp3Frame::BlobError { data, .. }) => Ok(Reply::Refused(String::from_utf8_lossy(&data).into_owned())),
            Ok(frame) => Ok(Reply::Value(frame.into())),
            Err(error) if *error.kind() == ErrorKind::Routing && error.details() == "Too many redirections." => {
                Ok(Reply::Moved)
            }
            Err(error) => Err(error),
        }
    }

    /// Sends a command to every server that there is a connection to.
    async fn send_to_all(&self, name: &'static str, words: Vec<fred::types::Value>) -> Result<Vec<Reply>, Error> {
        if !self.clustered {
            return Ok(vec![self.send(name, None, None, words).await?]);
        }
        let mut replies = Vec::new();
        for node in self.library.active_connections() {
            replies.push(self.send(name, None, Some(&node), words.clone()).await?);
        }
        Ok(replies)
    }

    /// A server that takes no writes would do for no call.
    async fn refuse_read_only(&self) -> Result<(), Away> {
        if self.clustered {
            return Ok(());
        }
        let replies = self.send_to_all("INFO", vec!["replication".into()]).await.map_err(|error| away(&error))?;
        for reply in replies {
            // Where the user may not ask, the first call tells.
            let Reply::Value(Value::Bytes(text)) = reply else { continue };
            if field(&text, "role").as_deref() == Some("slave")
                && field(&text, "slave_read_only").as_deref() == Some("1")
            {
                return Err("READONLY the server is a read-only replica".to_owned());
            }
        }
        Ok(())
    }

    /// Makes `NOSCRIPT` rare. Where it fails, the first call of each script brings its text.
    async fn load_scripts(&self) {
        for script in [&EXCHANGE, &REGISTER, &REAP, &AUDIT] {
            let words = vec!["LOAD".into(), fred::types::Value::from_static_str(script.source)];
            match self.send_to_all("SCRIPT", words).await {
                Ok(replies) => {
                    for reply in replies {
                        if let Reply::Refused(text) = reply {
                            debug!(script = script.name, error = text.as_str(); "redis_script_not_loaded");
                        }
                    }
                }
                Err(error) => {
                    debug!(script = script.name, error = error.details(); "redis_script_not_loaded");
                    return;
                }
            }
        }
    }

    pub(super) async fn max_memory_policy(&self) -> Option<String> {
        const NONE: &str = "noeviction";
        let mut policies = Vec::new();
        for reply in self.send_to_all("INFO", vec!["memory".into()]).await.ok()? {
            let Reply::Value(Value::Bytes(text)) = reply else { continue };
            match field(&text, "maxmemory").as_deref() {
                Some("0") => policies.push(NONE.to_owned()),
                _ => policies.extend(field(&text, "maxmemory_policy")),
            }
        }
        if policies.is_empty() {
            for reply in self.send_to_all("CONFIG", vec!["GET".into(), "maxmemory-policy".into()]).await.ok()? {
                let Reply::Value(Value::Array(pair)) = reply else { continue };
                let policy = pair.into_iter().nth(1).and_then(|value| value.bytes("policy").ok());
                policies.extend(policy.map(|policy| String::from_utf8_lossy(&policy).into_owned()));
            }
        }
        let odd = policies.iter().position(|policy| policy != NONE);
        (!policies.is_empty()).then(|| policies.swap_remove(odd.unwrap_or(0)))
    }
}

fn lost(error: Error) -> CallError {
    CallError::Lost(plain(error.details()).to_owned())
}

/// Whether a primary has become a replica. Redis 6 wraps what goes wrong in a script.
fn read_only(text: &str) -> bool {
    text.starts_with("READONLY") || text.contains("-READONLY ")
}

/// A line `name:value` of what `INFO` tells.
fn field(info: &[u8], name: &str) -> Option<String> {
    let info = String::from_utf8_lossy(info);
    let mut pairs = info.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value.trim().to_owned())
}

impl From<Resp3Frame> for Value {
    fn from(frame: Resp3Frame) -> Self {
        match frame {
            Resp3Frame::BlobString { data, .. }
            | Resp3Frame::SimpleString { data, .. }
            | Resp3Frame::VerbatimString { data, .. } => Self::Bytes(data),
            Resp3Frame::Number { data, .. } => Self::Int(data),
            Resp3Frame::Boolean { data, .. } => Self::Int(data.into()),
            Resp3Frame::Array { data, .. } => Self::Array(data.into_iter().map(Self::from).collect()),
            _ => Self::Nil,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_in_plain_words() {
        let refused = r#"Os { code: 111, kind: ConnectionRefused, message: "Connection refused" }"#;
        assert_eq!(plain(refused), "Connection refused");
        let tls = r#"Ssl(Error { code: ErrorCode(1), cause: None }, X509VerifyResult { code: 18, error: "self-signed certificate" })"#;
        assert_eq!(away(&Error::new(ErrorKind::Tls, tls)), "TLS: self-signed certificate");
        let password = "WRONGPASS invalid username-password pair";
        assert_eq!(away(&Error::new(ErrorKind::Auth, password)), password);
    }

    #[test]
    fn fields_of_info() {
        let info = b"# Replication\r\nrole:slave\r\nslave_read_only:1\r\n";
        assert_eq!(field(info, "role").as_deref(), Some("slave"));
        assert_eq!(field(info, "master"), None);
    }

    #[test]
    fn a_demoted_primary_is_known_in_both_forms() {
        assert!(read_only("READONLY You can't write against a read only replica. script: 12, on @user_script:3."));
        assert!(read_only("ERR Error running script (call to f_1): @user_script:3: -READONLY You can't write"));
        assert!(!read_only("OOM command not allowed"));
    }
}
