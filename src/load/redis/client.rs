//! The way to Redis: one connection (in a cluster one to each primary), made in the background and made again for ever.
//!
//! | part | does |
//! |---|---|
//! | [`Client`] | what the exchange loop calls; never waits for a connection |
//! | `settings` | from our configuration to the library's |
//! | `connection` | makes one connection, says whether it is fit, sends commands and reads answers |
//! | `supervisor` | connects, notices the end, waits, connects again |
//! | `standing` | whether Redis is of use; the log |
//!
//! The library's own reconnection is not used: it would replay commands, and stop at what it thinks fatal. Each connection is a
//! library client of its own, so whatever was outstanding when it ends, ends with it.

mod connection;
mod settings;
mod standing;
mod supervisor;

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::reply::Value;
use super::scripts::Script;
use crate::config;
use connection::Live;
use settings::Settings;
use standing::Standing;

/// How long the end of a connection's tasks is waited for when the client is closed.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// Why a call brought no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Redis answered with an error: its text, whose first word tells. The call did not run, or a script stopped half way.
    #[error("refused: {0}")]
    Refused(String),
    /// Nobody knows whether it ran: the connection was lost, time ran out, or the client failed.
    #[error("lost: {0}")]
    Lost(String),
}

/// Why a client cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no runtime to connect in.
    #[error("there is no tokio runtime here")]
    NoRuntime,
    /// The file of certificates cannot be used.
    #[error("redis.tls.ca: `{path}` {reason}")]
    Certificates {
        /// The file, as configured.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS cannot be set up.
    #[error("redis.tls: {0}")]
    Tls(String),
}

/// Whether there is a connection, and which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Rises with each new connection; 0: there was none yet. What was outstanding under an older one is lost.
    pub epoch: u64,
    /// Whether it stands.
    pub up: bool,
}

/// A client of Redis. A clone shares the connection; when the last one is dropped, it is closed.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    /// None once closed.
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

/// What the supervisor and the callers share.
struct Shared {
    /// None while there is no connection: calls fail at once.
    live: ArcSwapOption<Live>,
    link: watch::Sender<Link>,
    standing: Standing,
    command_timeout: Duration,
}

impl Client {
    /// Starts to connect and returns at once. Must be called inside the runtime that will use the client.
    ///
    /// A lost connection is made again for ever; the pause between two attempts grows to about 0.7 s.
    ///
    /// # Errors
    /// TLS cannot be set up, or there is no runtime. That Redis is away is no error.
    pub fn start(config: &config::Redis) -> Result<Self, StartError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        let settings = Settings::new(config)?;
        let shared = Arc::new(Shared {
            live: ArcSwapOption::empty(),
            link: watch::Sender::new(Link::default()),
            standing: Standing::new(settings.servers.clone()),
            command_timeout: config.command_timeout,
        });
        let supervisor = runtime.spawn(supervisor::run(shared.clone(), settings));
        Ok(Self { inner: Arc::new(Inner { shared, supervisor: Mutex::new(Some(supervisor)) }) })
    }

    /// Makes one connection, to see whether it can be had, and returns the version of the server.
    ///
    /// # Errors
    /// Why it cannot, in words.
    pub async fn probe(config: &config::Redis) -> Result<String, String> {
        let settings = Settings::new(config).map_err(|error| error.to_string())?;
        connection::open(&settings).await.map(|(_, held)| held.version.clone())
    }

    /// Whether a client can start, short of a runtime: for whoever must know it before.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn check(config: &config::Redis) -> Result<(), StartError> {
        Settings::new(config).map(drop)
    }

    /// Runs a script: `EVALSHA`, and `EVAL` where Redis does not know it.
    ///
    /// Never sent twice when it may have run. Fails at once while there is no connection, else within `command_timeout`. Calls
    /// made by one task, each polled once before the next one is made, go out in that order (all over one connection, where their
    /// keys share a hash tag), unless Redis does not know the script or a cluster moves its slot.
    ///
    /// The future resolves to [`CallError::Refused`] when Redis answered with an error, else to [`CallError::Lost`].
    pub fn call(
        &self,
        script: &'static Script,
        keys: &[Bytes],
        args: Vec<fred::types::Value>,
    ) -> impl Future<Output = Result<Value, CallError>> + Send + 'static + use<> {
        let mut words = Vec::with_capacity(2 + keys.len() + args.len());
        words.push(script.sha1.as_str().into());
        words.push(fred::types::Value::Integer(i64::try_from(keys.len()).unwrap_or(i64::MAX)));
        words.extend(keys.iter().map(|key| fred::types::Value::Bytes(key.clone())));
        words.extend(args);
        let key = keys.first().cloned();
        self.bounded(move |live| async move { live.script(script, key.as_ref(), words).await })
    }

    /// The members of a sorted set.
    ///
    /// # Errors
    /// As of [`Client::call`].
    pub async fn zrange_members(&self, key: &Bytes) -> Result<Vec<Bytes>, CallError> {
        let key = key.clone();
        let words = vec![fred::types::Value::Bytes(key.clone()), 0.into(), (-1).into()];
        let reply = self.bounded(|live| async move { live.command("ZRANGE", Some(&key), words).await }).await?;
        let Value::Array(members) = reply else {
            return Err(CallError::Refused("ERR ZRANGE answered with no list".to_owned()));
        };
        Ok(members.into_iter().filter_map(|member| member.bytes("member").ok()).collect())
    }

    /// What Redis does when its memory is full: `noeviction` also where it has no limit, and in a cluster the first node's answer
    /// that is another. None: Redis does not tell, or there is no connection.
    pub async fn max_memory_policy(&self) -> Option<String> {
        self.bounded(|live| async move { Ok(live.max_memory_policy().await) }).await.ok().flatten()
    }

    /// Whether there is a connection.
    pub fn is_up(&self) -> bool {
        self.link().up
    }

    /// Whether there is a connection, and which.
    pub fn link(&self) -> Link {
        *self.inner.shared.link.borrow()
    }

    /// Whether Redis is of use: there is a connection, and it refuses the calls of no pool.
    pub fn well(&self) -> watch::Receiver<bool> {
        self.inner.shared.standing.well()
    }

    /// To be told by a pool whose calls Redis refuses, so that for it Redis is lost; the log says so once.
    pub fn refused(&self, pool: &str, error: &str) {
        self.inner.shared.standing.refused(pool, error);
    }

    /// To be told by a pool whose calls Redis does not refuse, or not any more.
    pub fn answers_again(&self, pool: &str) {
        self.inner.shared.standing.answers_again(pool);
    }

    /// Resolves to the present link as soon as it is another than `seen`: nothing is missed between two calls.
    pub async fn changed(&self, seen: Link) -> Link {
        let mut link = self.inner.shared.link.subscribe();
        match link.wait_for(|link| *link != seen).await {
            Ok(link) => *link,
            // The sender lives as long as this client.
            Err(_) => seen,
        }
    }

    /// Closes the connection for good. What is outstanding is lost; later calls fail at once.
    pub async fn close(&self) {
        let supervisor = self.inner.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(supervisor) = supervisor {
            supervisor.abort();
            tokio::time::timeout(CLOSE_WAIT, supervisor).await.ok();
        }
        self.inner.shared.down();
        self.inner.shared.standing.closed();
    }

    /// Runs `work` on the present connection, within `command_timeout`.
    fn bounded<T, F, W>(&self, work: W) -> impl Future<Output = Result<T, CallError>> + Send + use<T, F, W>
    where
        F: Future<Output = Result<T, CallError>> + Send,
        W: FnOnce(Arc<Live>) -> F,
    {
        let live = self.inner.shared.live.load_full();
        let work = live.map(|live| (live.clone(), work(live)));
        let limit = self.inner.shared.command_timeout;
        async move {
            let Some((live, work)) = work else {
                return Err(CallError::Lost("there is no connection".to_owned()));
            };
            match tokio::time::timeout(limit, work).await {
                Ok(result) => result,
                Err(_) => {
                    live.overdue(limit);
                    Err(CallError::Lost(format!("no answer within {} ms", limit.as_millis())))
                }
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(supervisor) = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take() {
            supervisor.abort();
        }
    }
}

impl Shared {
    fn up(&self, live: Live) {
        self.live.store(Some(Arc::new(live)));
        self.link.send_modify(|link| *link = Link { epoch: link.epoch + 1, up: true });
    }

    fn down(&self) {
        self.live.store(None);
        self.link.send_if_modified(|link| std::mem::replace(&mut link.up, false));
    }
}
