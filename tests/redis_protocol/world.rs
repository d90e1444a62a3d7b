//! What the nodes of a test share: Redis, the scripts, the configured servers, messages on their way, and counts of what happened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fairlead::load::redis::calls::{self, Reaped, TableOp, Terms};
use fairlead::load::redis::keys::Keys;
use fairlead::load::redis::{Value, scripts};

use crate::oracle;
use crate::resp::{Command, Conn, Reply, text};

pub const LEASE_MS: u32 = 30_000;
pub const PLAIN: Terms = Terms { weight: 1.0, cap: 0 };

/// The scripts as loaded, by SHA1. Some tests load changed ones.
#[derive(Clone)]
pub struct Shas {
    pub exchange: String,
    pub register: String,
    pub reap: String,
    pub audit: String,
    check: String,
}

pub struct World {
    pub socket: PathBuf,
    pub conn: Conn,
    pub side: Conn,
    pub shas: Shas,
    pub keys: Keys,
    pub conf: BTreeMap<String, Terms>,
    /// All that ever were.
    pub incarnations: Vec<Bytes>,
    /// Messages that come later, by another connection.
    pub late: Vec<Late>,
    pub happened: BTreeMap<&'static str, u64>,
    pub rng: fastrand::Rng,
}

/// A message that comes later, by another connection.
pub struct Late {
    pub message: Vec<u8>,
    /// It has come before.
    pub again: bool,
    pub reset: bool,
}

/// Which script, what text in it, what instead: to see that the test notices.
pub type Mutation = (&'static str, &'static str, &'static str);

impl World {
    pub fn new(socket: &Path, seed: u64) -> Self {
        Self::mutated(socket, seed, None)
    }

    pub fn mutated(socket: &Path, seed: u64, mutation: Option<Mutation>) -> Self {
        let mut conn = Conn::open(socket);
        conn.ask(&[b"FLUSHALL"]);
        let mut load = |script: &scripts::Script| {
            let mut source = script.source.to_owned();
            if let Some((name, what, instead)) = mutation
                && name == script.name
            {
                assert_eq!(source.matches(what).count(), 1, "in {name}: {what}");
                source = source.replacen(what, instead, 1);
            }
            if script.name == "exchange" {
                source = oracle::judged(&source);
            }
            text(conn.ask(&[b"SCRIPT", b"LOAD", source.as_bytes()]))
        };
        let shas = Shas {
            exchange: load(&scripts::EXCHANGE),
            register: load(&scripts::REGISTER),
            reap: load(&scripts::REAP),
            audit: load(&scripts::AUDIT),
            check: text(conn.ask(&[b"SCRIPT", b"LOAD", include_bytes!("check.lua")])),
        };
        let mut world = Self {
            side: Conn::open(socket),
            socket: socket.into(),
            conn,
            shas,
            keys: Keys::new("t", "p"),
            conf: (0..10).map(|i| (format!("s{i}"), PLAIN)).collect(),
            incarnations: Vec::new(),
            late: Vec::new(),
            happened: BTreeMap::new(),
            rng: fastrand::Rng::with_seed(seed),
        };
        world.register_all(TableOp::Add);
        world
    }

    /// The same for another thread: connections of its own, Redis and scripts shared.
    pub fn another(&self, seed: u64) -> Self {
        Self {
            socket: self.socket.clone(),
            conn: Conn::open(&self.socket),
            side: Conn::open(&self.socket),
            shas: self.shas.clone(),
            keys: self.keys.clone(),
            conf: self.conf.clone(),
            incarnations: Vec::new(),
            late: Vec::new(),
            happened: BTreeMap::new(),
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    pub fn hit(&mut self, what: &'static str) {
        self.hits(what, 1);
    }

    pub fn hits(&mut self, what: &'static str, times: u64) {
        *self.happened.entry(what).or_default() += times;
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        self.rng.f64() < probability
    }

    pub fn one_configured(&mut self) -> String {
        let nth = self.rng.usize(..self.conf.len());
        self.conf.keys().nth(nth).unwrap().clone()
    }

    pub fn new_incarnation(&mut self) -> Bytes {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let me = Bytes::from(format!("n{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        self.incarnations.push(me.clone());
        me
    }

    pub fn register(&mut self, op: TableOp, servers: &[(String, Terms)]) -> Value {
        let names: Vec<Bytes> = servers.iter().map(|(name, _)| Bytes::copy_from_slice(name.as_bytes())).collect();
        let terms = servers.iter().map(|(_, terms)| *terms);
        let mut command = Command::script(&self.shas.register, &self.keys.register());
        calls::register(op, names.iter().zip(terms), &mut command);
        self.conn.call(&command).unwrap()
    }

    /// Registers all that is configured.
    pub fn register_all(&mut self, op: TableOp) -> Value {
        let all: Vec<_> = self.conf.iter().map(|(name, terms)| (name.clone(), *terms)).collect();
        self.register(op, &all)
    }

    /// Reads the table, or makes it if there is none.
    pub fn read_table(&mut self) -> Value {
        let reply = self.register(TableOp::Add, &[]);
        match &reply {
            Value::Array(parts) if parts[0] == Value::Int(0) => self.register_all(TableOp::Add),
            _ => reply,
        }
    }

    /// Whether that node is forgotten now.
    pub fn reap(&mut self, who: &Bytes, leave: bool) -> bool {
        self.reaped(who, leave) != Reaped::NotDead
    }

    pub fn reaped(&mut self, who: &Bytes, leave: bool) -> Reaped {
        let mut command = Command::script(&self.shas.reap, &self.keys.reap(who));
        calls::reap(who, leave, &mut command);
        let reaped = calls::reaped(&self.conn.call(&command).unwrap()).unwrap();
        if reaped != Reaped::NotDead {
            self.rows_deleted();
        }
        reaped
    }

    pub fn flush_all(&mut self) {
        self.conn.ask(&[b"FLUSHALL"]);
        self.rows_deleted();
    }

    /// The one thing that numbers do not catch: a `RESET` that ran comes again after its row was deleted, before its node's
    /// next call. It runs again, and picks others. No connection brings a message twice, and nobody sends one twice.
    fn rows_deleted(&mut self) {
        self.late.retain(|late| !(late.again && late.reset));
    }

    pub fn audit(&mut self, incarnations: &[Bytes]) -> Reply {
        let mut command = Command::script(&self.shas.audit, &self.keys.audit(incarnations));
        calls::audit(incarnations, LEASE_MS, &mut command);
        self.conn.call(&command)
    }

    /// Moves the end of a lease into the past.
    pub fn expire(&mut self, who: &Bytes) {
        let lease = self.keys.lease.clone();
        self.conn.ask(&[b"ZADD", &lease, b"XX", b"1", who]);
    }

    /// Has all servers forgotten that are idle and that nobody has claimed for so long. Which are gone?
    pub fn tidy(&mut self, unclaimed: Duration) -> Vec<String> {
        let before = self.counts();
        let mut command = Command::script(&self.shas.register, &self.keys.register());
        calls::tidy(unclaimed, &mut command);
        self.conn.call(&command).unwrap();
        let after = self.counts();
        before.into_keys().filter(|name| !after.contains_key(name)).collect()
    }

    /// Moves the last claim of a server into the past.
    pub fn neglect(&mut self, name: &str) {
        let claims = self.keys.claims.clone();
        self.conn.ask(&[b"ZADD", &claims, b"XX", b"1", name.as_bytes()]);
    }

    /// Claims a server that the table has, and does nothing else.
    pub fn remember(&mut self, name: &str) {
        let claims = self.keys.claims.clone();
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis().to_string();
        self.conn.ask(&[b"ZADD", &claims, b"XX", now.as_bytes(), name.as_bytes()]);
    }

    /// Asserts the invariants, atomically.
    pub fn check(&mut self) -> Result<(), String> {
        let mut keys = self.keys.audit(&self.incarnations);
        keys.insert(5, self.keys.claims.clone());
        match text(self.conn.call(&Command::script(&self.shas.check, &keys))?) {
            ok if ok == "ok" => Ok(()),
            wrong => Err(wrong),
        }
    }

    /// Server → slot, total and score in `load`.
    pub fn counts(&mut self) -> BTreeMap<String, (usize, u32, Option<f64>)> {
        let [load, tot, servers] = [&self.keys.load, &self.keys.tot, &self.keys.servers].map(Bytes::clone);
        let table = crate::resp::texts(self.conn.ask(&[b"HGETALL", &servers]));
        let totals = match self.conn.ask(&[b"GET", &tot]) {
            Value::Bytes(bytes) => bytes,
            _ => Bytes::new(),
        };
        let scores = crate::resp::texts(self.conn.ask(&[b"ZRANGE", &load, b"0", b"-1", b"WITHSCORES"]));
        let score = |name: &str| {
            let pair = scores.chunks(2).find(|pair| pair[0] == name)?;
            pair[1].parse().ok()
        };
        let entry = |pair: &[String]| {
            let slot: usize = pair[1].split(' ').next().unwrap().parse().unwrap();
            let total = totals.get(4 * slot..4 * slot + 4);
            let total = total.map_or(0, |total| u32::from_be_bytes(total.try_into().unwrap()));
            (pair[0].clone(), (slot, total, score(&pair[0])))
        };
        table.chunks(2).filter(|pair| !pair[0].starts_with('#')).map(entry).collect()
    }
}
