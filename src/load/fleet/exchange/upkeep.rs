//! What an exchange does seldom: read the table, take back what a dead node held, audit, leave.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{BEAT, Exchange, LEASE, Table, jittered};
use crate::load::Ledger;
use crate::load::redis::calls::{self, Reaped, TableOp, Terms};
use crate::load::redis::scripts::Script;
use crate::load::redis::{CallError, Value, scripts};

/// How many nodes of a fleet audit quickly with each beat, on average: so that one does nearly always.
const QUICK_AUDITORS: f64 = 3.0;
/// However wrong things look, no more audits than this.
const AUDIT_PAUSE: Duration = Duration::from_millis(200);

/// How often what is seldom happens.
#[derive(Clone, Copy, Debug)]
pub struct Upkeep {
    /// One of the nodes audits in full, and has the servers forgotten that nobody has.
    pub audit_every: Duration,
    /// A node says which servers it has.
    pub claim_every: Duration,
    /// So long a server stays that nobody has: its nodes may be away for a while, and come back to it.
    pub unclaimed: Duration,
}

impl Default for Upkeep {
    fn default() -> Self {
        Upkeep {
            audit_every: Duration::from_secs(10),
            claim_every: Duration::from_secs(30),
            unclaimed: Duration::from_secs(180),
        }
    }
}

/// The answer to a call that is not an exchange.
pub(super) enum Rare {
    Table(Result<Value, CallError>),
    /// The table too, for which nobody waits.
    Claimed(Result<Value, CallError>),
    Leases(Result<Vec<Bytes>, CallError>),
    Audited(Result<Value, CallError>),
    Reaped(Bytes, Result<Value, CallError>),
}

pub(super) type Pending = std::pin::Pin<Box<dyn Future<Output = Rare> + Send>>;

/// When to audit, and how.
pub(super) struct Audits {
    pub(super) in_full: bool,
    pub(super) quickly: bool,
    every: Duration,
    next_quick: Instant,
    next_full: Instant,
    not_before: Instant,
}

impl Audits {
    pub(super) fn new(every: Duration, now: Instant) -> Self {
        Audits {
            in_full: false,
            quickly: false,
            every,
            next_quick: now + BEAT,
            next_full: now + every,
            not_before: now,
        }
    }

    fn due(&self, now: Instant) -> bool {
        let wrong = (self.in_full || self.quickly) && now >= self.not_before;
        wrong || now >= self.next_quick.min(self.next_full)
    }

    /// Whether to audit now: in full (true) or quickly. By lot, so that it need not be agreed upon.
    fn draw(&mut self, now: Instant, nodes: u32) -> Option<bool> {
        let nodes = f64::from(nodes.max(1));
        let mut full = std::mem::take(&mut self.in_full);
        let mut quick = std::mem::take(&mut self.quickly);
        if now >= self.next_full {
            self.next_full = now + self.every;
            full |= fastrand::f64() * nodes < 1.0;
        }
        if now >= self.next_quick {
            self.next_quick = now + BEAT;
            quick |= fastrand::f64() * nodes < QUICK_AUDITORS;
        }
        self.not_before = now + AUDIT_PAUSE;
        (full || quick).then_some(full)
    }
}

impl<T: AsRef<Ledger> + Send + Sync + 'static> Exchange<T> {
    pub(super) fn register(&mut self) {
        self.table = Table::Reading;
        // The first time this process says what its file says; later it only adds what is missing, so that nodes with
        // different files do not fight.
        let op = if self.registered_once { TableOp::Add } else { TableOp::Set };
        self.send_register(op, &self.configured(), Rare::Table);
        self.next_claim = Instant::now() + jittered(self.settings.upkeep.claim_every);
    }

    /// Says now and then which servers this node has, for else they are forgotten once they are idle.
    pub(super) fn claim_if_due(&mut self, now: Instant) {
        if now >= self.next_claim {
            self.next_claim = now + jittered(self.settings.upkeep.claim_every);
            self.send_register(TableOp::Add, &self.configured(), Rare::Claimed);
        }
    }

    /// Has the servers forgotten that nobody has any more: their names would ride on every call of exact mode.
    fn tidy(&self) {
        let mut args = Vec::new();
        calls::tidy(self.settings.upkeep.unclaimed, &mut args);
        self.rare_call(&scripts::REGISTER, &self.keys.register(), args, Rare::Claimed);
    }

    fn configured(&self) -> Vec<(Bytes, Terms)> {
        self.settings.servers.iter().map(|(name, terms)| (Bytes::from(name.clone()), *terms)).collect()
    }

    fn send_register(&self, op: TableOp, servers: &[(Bytes, Terms)], answer: fn(Result<Value, CallError>) -> Rare) {
        let mut args = Vec::new();
        calls::register(op, servers.iter().map(|(name, terms)| (name, *terms)), &mut args);
        self.rare_call(&scripts::REGISTER, &self.keys.register(), args, answer);
    }

    /// Takes back what a dead node held. One at a time: each view names it until it is done, and other nodes see it too.
    pub(super) fn reap(&mut self, dead: Bytes) {
        if self.reaping || dead == self.node.incarnation() || !self.grace.over(Instant::now()) {
            return;
        }
        self.reaping = true;
        let mut args = Vec::new();
        calls::reap(&dead, false, &mut args);
        let keys = self.keys.reap(&dead);
        self.rare_call(&scripts::REAP, &keys, args, move |reply| Rare::Reaped(dead, reply));
    }

    /// Some nodes in the fleet, by lot, audit: with each beat quickly, whether the sorted sets agree with the totals,
    /// and each [`Upkeep::audit_every`] in full, whether the totals agree with the rows; at once where something is known to be
    /// wrong.
    pub(super) fn audit_if_due(&mut self, now: Instant) {
        if !self.rare.is_empty() || !self.audits.due(now) {
            return;
        }
        match self.audits.draw(now, self.share.nodes()) {
            Some(true) => {
                let (client, key) = (self.client.clone(), self.keys.lease.clone());
                self.rare.push(Box::pin(async move { Rare::Leases(client.zrange_members(&key).await) }));
            }
            Some(false) => self.send_audit(&[]),
            None => {}
        }
    }

    fn send_audit(&mut self, incarnations: &[Bytes]) {
        let mut args = Vec::new();
        calls::audit(incarnations, LEASE.as_millis() as u32, &mut args);
        let keys = self.keys.audit(incarnations);
        self.rare_call(&scripts::AUDIT, &keys, args, Rare::Audited);
    }

    fn rare_call(
        &self,
        script: &'static Script,
        keys: &[Bytes],
        args: Vec<fred::types::Value>,
        answer: impl FnOnce(Result<Value, CallError>) -> Rare + Send + 'static,
    ) {
        let (call, metrics) = (self.client.call(script, keys, args), self.metrics.clone());
        self.rare.push(Box::pin(async move {
            let sent = Instant::now();
            let reply = call.await;
            metrics.called(script.name, result(&reply), sent.elapsed());
            answer(reply)
        }));
    }

    pub(super) fn rare_answered(&mut self, rare: Rare) {
        match rare {
            Rare::Table(reply) => self.table_answered(reply),
            Rare::Claimed(Ok(table)) if self.table == Table::Known => self.table_answered(Ok(table)),
            // It is being read anyway.
            Rare::Claimed(Ok(_)) => {}
            Rare::Claimed(Err(error)) => self.complain(scripts::REGISTER.name, error),
            Rare::Leases(Ok(leased)) => {
                let incarnations = self.incarnations.refresh(self.node.incarnation(), leased);
                self.send_audit(&incarnations);
                self.tidy();
            }
            Rare::Audited(Ok(reply)) => match calls::audited(reply) {
                Ok(audited) if audited.differences > 0 => {
                    self.metrics.drift(&self.settings.pool, audited.differences);
                    let first = audited.first.first();
                    log::warn!(
                        pool = self.settings.pool, differences = audited.differences,
                        first = first.map(|d| format!("{} {}: {} instead of {}", d.key, d.name, d.found, d.wanted)).unwrap_or_default();
                        "fleet_totals_put_right"
                    );
                }
                Ok(_) => {}
                Err(error) => log::error!(pool = self.settings.pool, error = error.to_string(); "audit_unreadable"),
            },
            // A quick audit that is not enough, or a lease set that changed meanwhile.
            Rare::Audited(Err(CallError::Refused(text))) if text.starts_with("RETRY") => self.audits.in_full = true,
            Rare::Reaped(dead, reply) => {
                self.reaping = false;
                match reply.map(|reply| calls::reaped(&reply)) {
                    Ok(Ok(done @ (Reaped::Done | Reaped::WithoutRow))) => {
                        self.audits.in_full |= done == Reaped::WithoutRow;
                        self.metrics.reaped(&self.settings.pool);
                        let node = String::from_utf8_lossy(&dead).into_owned();
                        log::warn!(pool = self.settings.pool, node = node; "dead_node_reaped");
                    }
                    Ok(_) => {}
                    Err(error) => self.complain(scripts::REAP.name, error),
                }
            }
            // The next round tries again.
            Rare::Leases(Err(error)) => self.complain("zrange", error),
            Rare::Audited(Err(error)) => self.complain(scripts::AUDIT.name, error),
        }
    }

    fn complain(&mut self, call: &'static str, error: CallError) {
        if let CallError::Refused(text) = error {
            self.complaints.refused(call, text, Instant::now());
        }
    }

    fn table_answered(&mut self, reply: Result<Value, CallError>) {
        let now = Instant::now();
        let table = match reply {
            Ok(table) => table,
            Err(CallError::Refused(text)) => return self.refused(now, &text),
            Err(CallError::Lost(why)) => return self.give_up(now, &why),
        };
        match self.node.table_read(table, super::own(&self.share)) {
            Ok(read) if read.missing.is_empty() => {
                self.registered_once = true;
                self.table = Table::Known;
            }
            Ok(read) => {
                let missing: Vec<_> = read.missing.iter().map(|&index| self.terms_of(index)).collect();
                self.send_register(TableOp::Add, &missing, Rare::Table);
            }
            Err(error) => {
                log::error!(pool = self.settings.pool, error = error.to_string(); "table_unreadable");
                self.refused(now, "the table of servers makes no sense");
            }
        }
    }

    /// What the table should hold of a server it lacks: ours as configured, a stranger only to be counted.
    fn terms_of(&self, index: usize) -> (Bytes, Terms) {
        match self.settings.servers.get(index) {
            Some((name, terms)) => (Bytes::from(name.clone()), *terms),
            None => (self.node.servers().name(index), Terms { weight: 0.0, cap: 0 }),
        }
    }

    /// A clean end: the row goes at once, instead of when the lease runs out.
    pub(super) async fn leave(&mut self) {
        // From now on nobody waits for what will not be answered.
        self.share.abandon();
        self.queue.close();
        while self.queue.try_recv().is_ok() {}
        self.let_all_waiters_go();
        let me = self.node.incarnation().clone();
        let mut args = Vec::new();
        calls::reap(&me, true, &mut args);
        // Calls that are out run before it: one connection keeps the order.
        let sent = Instant::now();
        let reply = self.client.call(&scripts::REAP, &self.keys.reap(&me), args).await;
        self.metrics.called(scripts::REAP.name, result(&reply), sent.elapsed());
        if let Err(error) = reply {
            log::warn!(pool = self.settings.pool, error = error.to_string(); "row_left_to_its_lease");
        }
    }
}

/// A word for the metrics.
pub(super) fn result<V>(reply: &Result<V, CallError>) -> &'static str {
    match reply {
        Ok(_) => "ok",
        Err(CallError::Refused(_)) => "refused",
        Err(CallError::Lost(_)) => "lost",
    }
}
