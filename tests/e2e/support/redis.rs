//! A real Redis of one test, and what stands in it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::ports::Reserved;
use super::{soon, until};

/// What Redis answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Nothing.
    Nil,
    /// A number.
    Int(i64),
    /// A status or a string.
    Bytes(Vec<u8>),
    /// An error.
    Error(String),
    /// A list.
    List(Vec<Reply>),
}

impl Reply {
    /// As text, whatever it is.
    pub fn text(&self) -> String {
        match self {
            Reply::Nil => String::new(),
            Reply::Int(number) => number.to_string(),
            Reply::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Reply::Error(text) => text.clone(),
            Reply::List(list) => list.iter().map(Reply::text).collect::<Vec<_>>().join(" "),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Reply::Bytes(bytes) => bytes,
            _ => &[],
        }
    }

    fn list(&self) -> &[Reply] {
        match self {
            Reply::List(list) => list,
            other => panic!("not a list: {other:?}"),
        }
    }
}

/// A `redis-server` (or what `REDIS_SERVER` names) on a port of its own. Killed when dropped.
pub struct Redis {
    /// Where it is, also while it is stopped.
    pub address: SocketAddr,
    _port: Reserved,
    dir: TempDir,
    config: Option<String>,
    args: Vec<String>,
    child: Option<Child>,
}

impl Redis {
    /// An empty one that answers.
    pub async fn start() -> Self {
        let mut redis = Self::stopped(&[]);
        redis.run().await;
        redis
    }

    /// One that refuses connections until [`Redis::run`].
    pub fn stopped(args: &[&str]) -> Self {
        let port = Reserved::new();
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let dir = TempDir::new().unwrap();
        Redis { address: port.address, _port: port, dir, config: None, args, child: None }
    }

    /// A sentinel that watches `primary` under the name `main`, and finds it down soon.
    pub async fn sentinel(primary: &Redis) -> Self {
        let mut sentinel = Self::stopped(&["--sentinel"]);
        sentinel.config = Some(format!(
            "sentinel monitor main 127.0.0.1 {} 1\nsentinel down-after-milliseconds main 300\nsentinel failover-timeout main 3000\n",
            primary.address.port()
        ));
        sentinel.run().await;
        sentinel
    }

    /// Starts (again), empty.
    pub async fn run(&mut self) {
        let program = std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        let mut command = Command::new(program);
        if let Some(config) = &self.config {
            let file = self.dir.path().join("redis.conf");
            std::fs::write(&file, config).unwrap();
            command.arg(file);
        }
        command.args(["--bind", "127.0.0.1", "--port", &self.address.port().to_string()]);
        command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(self.dir.path()).args(&self.args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("redis-server is not installed: apt-get install redis-server"));
        let address = self.address;
        until("redis-server answers", async || match TcpStream::connect(address).await {
            Ok(stream) => talk(stream, &[&["PING"]]).await[0].text() == "PONG",
            Err(_) => false,
        })
        .await;
    }

    /// Dies, and forgets everything.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a redis-server that runs");
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
    }

    /// For a configuration.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// The answer to one command.
    pub async fn ask(&self, words: &[&str]) -> Reply {
        self.ask_all(&[words]).await.remove(0)
    }

    /// The answers to commands over one connection.
    pub async fn ask_all(&self, commands: &[&[&str]]) -> Vec<Reply> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        soon("redis answers", talk(stream, commands)).await
    }

    /// What it holds of the pool `app`, at one moment.
    pub async fn truth(&self) -> Truth {
        Truth::of(&self.ask(&["EVAL", TRUTH, "0"]).await)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Everything about one pool. Reads keys it was not given: only for tests.
const TRUTH: &str = r"
local p, rows = 'fairlead:{default/app}:', {}
for _, key in ipairs(redis.call('KEYS', 'fairlead:{default/app}:row:*')) do
  rows[#rows + 1] = key; rows[#rows + 1] = redis.call('GET', key)
end
return {redis.call('ZRANGE', p .. 'load', 0, -1, 'WITHSCORES'), redis.call('GET', p .. 'tot') or '',
  redis.call('HGETALL', p .. 'servers'), rows, redis.call('ZRANGE', p .. 'lease', 0, -1), redis.call('ZRANGE', p .. 'order', 0, -1, 'WITHSCORES')}";

/// What Redis holds of a pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Truth {
    /// Requests in flight by server, as an operator sees them.
    pub load: BTreeMap<String, i64>,
    /// The same, from the totals.
    pub totals: BTreeMap<String, i64>,
    /// The same, by incarnation.
    pub rows: BTreeMap<String, BTreeMap<String, i64>>,
    /// Incarnations that have a lease.
    pub leases: Vec<String>,
    /// What Redis picks by where weights differ, as it is and as it should be.
    pub order: [BTreeMap<String, f64>; 2],
}

impl Truth {
    fn of(reply: &Reply) -> Self {
        let [load, totals, table, rows, leases, order] = reply.list() else { panic!("{reply:?}") };
        let mut names = Vec::new();
        let mut terms = Vec::new();
        let mut weighted = false;
        for pair in table.list().chunks(2) {
            let entry = pair[1].text();
            weighted |= pair[0].text() == "#weighted" && entry == "1";
            if let [slot, weight, cap] = entry.split(' ').collect::<Vec<_>>()[..] {
                names.push((pair[0].text(), slot.parse::<usize>().unwrap()));
                terms.push((pair[0].text(), weight.parse::<f64>().unwrap(), cap.parse::<i64>().unwrap()));
            }
        }
        let unpack = |packed: &[u8]| -> BTreeMap<String, i64> {
            let at = |slot: &usize| packed.get(4 * slot..4 * slot + 4).map_or([0; 4], |b| b.try_into().unwrap());
            names.iter().map(|(name, slot)| (name.clone(), i64::from(u32::from_be_bytes(at(slot))))).collect()
        };
        let load = load.list().chunks(2).map(|pair| (pair[0].text(), pair[1].text().parse().unwrap()));
        let who = |key: &Reply| key.text().rsplit_once(":row:").unwrap().1.to_owned();
        let totals = unpack(totals.bytes());
        let wanted = terms.into_iter().filter(|_| weighted).filter_map(|(name, weight, cap)| {
            let n = totals[&name];
            (weight > 0.0 && (cap == 0 || n < cap)).then(|| (name, (n + 1) as f64 / weight))
        });
        let order = order.list().chunks(2).map(|pair| (pair[0].text(), pair[1].text().parse().unwrap()));
        Truth {
            load: load.collect(),
            order: [order.collect(), wanted.collect()],
            totals,
            rows: rows.list().chunks(2).map(|pair| (who(&pair[0]), unpack(pair[1].bytes()))).collect(),
            leases: leases.list().iter().map(Reply::text).collect(),
        }
    }

    /// Requests in flight in all.
    pub fn sum(&self) -> i64 {
        self.load.values().sum()
    }

    /// Whether all that it says of the totals is one and the same, with this many rows and servers.
    pub fn holds(&self, rows: usize, servers: usize) -> bool {
        let sum = |name: &String| self.rows.values().filter_map(|row| row.get(name)).sum::<i64>();
        let leases = self.rows.keys().all(|who| self.leases.contains(who));
        let mut load = self.load.iter();
        let same = load.all(|(name, n)| self.totals.get(name) == Some(n) && sum(name) == *n);
        leases
            && same
            && self.order[0] == self.order[1]
            && self.rows.len() == rows
            && self.load.len() == servers
            && self.totals.len() == servers
    }
}

async fn talk(stream: TcpStream, commands: &[&[&str]]) -> Vec<Reply> {
    let mut stream = BufReader::new(stream);
    let mut replies = Vec::new();
    for words in commands {
        let mut out = format!("*{}\r\n", words.len());
        for word in *words {
            out.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        let sent = stream.get_mut().write_all(out.as_bytes()).await;
        let reply = match sent {
            Ok(()) => read(&mut stream).await,
            Err(error) => Err(error),
        };
        replies.push(reply.unwrap_or_else(|error| Reply::Error(error.to_string())));
    }
    replies
}

async fn read(stream: &mut BufReader<TcpStream>) -> std::io::Result<Reply> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let line = line.trim_end();
    let Some(kind) = line.chars().next() else { return Err(std::io::ErrorKind::UnexpectedEof.into()) };
    let rest = &line[1..];
    let number = || rest.parse::<i64>().unwrap();
    Ok(match kind {
        '+' => Reply::Bytes(rest.as_bytes().to_vec()),
        '-' => Reply::Error(rest.to_owned()),
        ':' => Reply::Int(number()),
        '$' if number() < 0 => Reply::Nil,
        '$' => {
            let mut bytes = vec![0; number() as usize + 2];
            stream.read_exact(&mut bytes).await?;
            bytes.truncate(bytes.len() - 2);
            Reply::Bytes(bytes)
        }
        '*' => {
            let mut list = Vec::new();
            for _ in 0..number().max(0) {
                list.push(Box::pin(read(stream)).await?);
            }
            Reply::List(list)
        }
        _ => panic!("not an answer of Redis: {line}"),
    })
}

/// A long way to somewhere: everything arrives later than it was sent.
pub struct LongWay {
    /// The near end.
    pub address: SocketAddr,
    delay: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl LongWay {
    /// A way without delay.
    pub async fn to(far: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let delay = Arc::new(AtomicU64::new(0));
        let delays = delay.clone();
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let delay = delays.clone();
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(far).await else { return };
                    near.set_nodelay(true).unwrap();
                    far.set_nodelay(true).unwrap();
                    let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
                    tokio::join!(carry(from_near, to_far, None), carry(from_far, to_near, Some(delay)));
                });
            }
        });
        LongWay { address, delay, task }
    }

    /// What answers take from now on, besides.
    pub fn delay(&self, delay: Duration) {
        self.delay.store(delay.as_millis() as u64, SeqCst);
    }
}

impl Drop for LongWay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    delay: Option<Arc<AtomicU64>>,
) {
    let (on_the_way, mut arriving) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let reading = async move {
        let mut buffer = vec![0; 65536];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            let delay = delay.as_ref().map_or(0, |delay| delay.load(SeqCst));
            on_the_way.send((Instant::now() + Duration::from_millis(delay), buffer[..n].to_vec())).ok();
        }
    };
    let writing = async move {
        while let Some((at, bytes)) = arriving.recv().await {
            tokio::time::sleep_until(at.into()).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reading, writing);
}
