//! What the Lua scripts do, on plain data: gate, reset, publish, picks, snapshot, leases, reap, register, audit.
//!
//! Kept to the letter of `src/load/redis/scripts` where counts are concerned, with an oracle: `check`. Two liberties: what a sorted set
//! holds stands with its server's line in the table, and `order` is not stored but computed, as it follows from totals and table.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use fairlead::load::redis::{Args, Value};

/// An argument of a script.
#[derive(Clone, Debug)]
pub enum Word {
    Int(i64),
    Text(Bytes),
}

impl Word {
    fn int(&self) -> i64 {
        match self {
            Word::Int(number) => *number,
            Word::Text(text) => std::str::from_utf8(text).unwrap().parse().unwrap(),
        }
    }

    fn text(&self) -> &Bytes {
        match self {
            Word::Text(text) => text,
            Word::Int(number) => panic!("{number} is no text"),
        }
    }
}

/// The arguments of a call.
#[derive(Clone, Debug, Default)]
pub struct Words(pub Vec<Word>);

impl Args for Words {
    fn int(&mut self, number: i64) {
        self.0.push(Word::Int(number));
    }

    fn text(&mut self, text: &Bytes) {
        self.0.push(Word::Text(text.clone()));
    }
}

/// A row, or `tot`: a number in front, then counts. Only as long as somebody wrote.
#[derive(Clone, Debug, Default)]
struct Packed {
    head: i64,
    counts: Vec<u32>,
}

impl Packed {
    fn get(&self, slot: usize) -> u32 {
        self.counts.get(slot).copied().unwrap_or(0)
    }

    fn at(&mut self, slot: usize) -> &mut u32 {
        if self.counts.len() <= slot {
            self.counts.resize(slot + 1, 0);
        }
        &mut self.counts[slot]
    }

    fn bytes(&self) -> Value {
        let mut bytes = Vec::with_capacity(8 + 4 * self.counts.len());
        bytes.extend_from_slice(&self.head.to_be_bytes());
        self.counts.iter().for_each(|count| bytes.extend_from_slice(&count.to_be_bytes()));
        Value::Bytes(bytes.into())
    }
}

/// A server's line in the table, and its score in `load`; none when that key was deleted.
#[derive(Clone, Debug)]
struct Entry {
    name: Bytes,
    weight: f64,
    cap: u32,
    load: Option<u32>,
}

#[derive(Clone, Debug, Default)]
struct Table {
    table_gen: i64,
    weighted: bool,
    /// By slot; the wire's slot is 2 more. None: the server that was there is forgotten.
    entries: Vec<Option<Entry>>,
    slots: HashMap<Bytes, usize>,
}

/// A key that somebody deletes by hand.
#[derive(Clone, Copy, Debug)]
pub enum Key {
    Load,
    Tot,
    Servers,
    Lease,
    Claims,
    /// Of a node that has one, at random.
    Row,
}

/// All that the keys of a pool hold.
#[derive(Clone, Debug, Default)]
pub struct Data {
    table: Option<Table>,
    tot: Option<Packed>,
    rows: BTreeMap<Bytes, Packed>,
    /// Expiry, ms.
    leases: BTreeMap<Bytes, i64>,
    /// When a server was claimed last, ms.
    claims: BTreeMap<Bytes, i64>,
    /// Somebody deleted a key: totals are off until the next audit.
    damaged: bool,
    /// Rows that the last audit did not know of, so that totals do not have them.
    left_out: BTreeSet<Bytes>,
    /// The table was deleted: rows stand by old slots until their nodes know.
    slots_may_move: bool,
}

/// Redis, as far as Fairlead uses it.
#[derive(Debug)]
pub struct Store {
    pub data: Data,
    rng: fastrand::Rng,
    /// Changes that a row did not bear. Only a bug does that, or a table made anew.
    refused: u64,
    pub seen: BTreeMap<&'static str, u64>,
}

type Reply = Result<Value, String>;

fn refuse(error: &str) -> Reply {
    Err(error.to_owned())
}

impl Store {
    pub fn new(seed: u64) -> Self {
        Self { data: Data::default(), rng: fastrand::Rng::with_seed(seed), refused: 0, seen: BTreeMap::new() }
    }

    fn see(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// The hot script. `now`: Redis time, ms.
    pub fn exchange(&mut self, words: &[Word], now: i64) -> Reply {
        let me = words[0].text();
        let [seq, ttl, flags, made, k] = [1, 2, 3, 4, 5].map(|at| words[at].int());
        let (pairs, excluded) = words[8..].split_at(2 * words[7].int() as usize);
        let reset = flags & 1 != 0;
        let last = self.data.rows.get(me).map_or(0, |row| row.head);
        let mut off = 0;
        if reset {
            if seq <= last {
                self.see("reset STALE");
                return refuse("STALE seen");
            }
            if last == 0 && self.data.leases.contains_key(me) {
                off = -1;
            }
        } else if last == 0 {
            self.see("NOLEASE");
            return refuse("NOLEASE reset first");
        } else if seq <= last {
            self.see("STALE");
            return refuse("STALE seen");
        } else if seq != last + 1 {
            self.see("GAP");
            return refuse("GAP reset first");
        }
        let Some(table) = &mut self.data.table else {
            self.see("UNKNOWN");
            return refuse("UNKNOWN table");
        };
        let mut changes = Vec::with_capacity(pairs.len() / 2);
        for pair in pairs.chunks_exact(2) {
            match table.slots.get(pair[0].text()) {
                Some(slot) => changes.push((*slot, pair[1].int())),
                None => return refuse("UNKNOWN server"),
            }
        }
        self.data.damaged |= self.data.left_out.remove(me);
        let row = self.data.rows.entry(me.clone()).or_default();
        let tot = self.data.tot.get_or_insert_default();
        if reset {
            *self.seen.entry("RESET").or_default() += 1;
            let row_lost = off < 0;
            let mut listed = vec![false; row.counts.len()];
            for (slot, change) in &mut changes {
                if let Some(listed) = listed.get_mut(*slot) {
                    *listed = true;
                }
                *change -= i64::from(row.get(*slot));
                off += change.abs();
            }
            for (slot, listed) in listed.into_iter().enumerate() {
                if !listed && row.get(slot) > 0 {
                    off += i64::from(row.get(slot));
                    changes.push((slot, -i64::from(row.get(slot))));
                }
            }
            if row_lost {
                off = -1;
            }
        }
        // A row never goes below 0; the total is then left alone too.
        row.head = seq;
        tot.head += made;
        for (slot, change) in changes {
            let Ok(count) = u32::try_from(i64::from(row.get(slot)) + change) else {
                off += i64::from(!reset);
                self.refused += u64::from(!self.data.slots_may_move);
                continue;
            };
            *row.at(slot) = count;
            let total = tot.at(slot);
            *total = (i64::from(*total) + change).clamp(0, u32::MAX.into()) as u32;
            if let Some(entry) = table.entry(slot) {
                entry.load = Some(*total);
            }
        }
        let mut picks = Vec::new();
        for _ in 0..k {
            let Some(slot) = table.least(tot, excluded, &mut self.rng) else { break };
            *row.at(slot) += 1;
            *tot.at(slot) += 1;
            let weighted = table.weighted;
            let entry = table.entry(slot).unwrap();
            entry.load = Some(if weighted { tot.get(slot) } else { entry.load.unwrap_or(0) + 1 });
            picks.push(Value::Bytes(entry.name.clone()));
        }
        tot.head += picks.len() as i64;
        if ttl > 0 {
            self.data.leases.insert(me.clone(), now + ttl);
        }
        let mut reply = vec![Value::Int(table.table_gen), Value::Array(picks), Value::Int(off)];
        if flags & 2 != 0 {
            let live = self.data.leases.values().filter(|expiry| **expiry >= now).count();
            let dead = self.data.leases.iter().filter(|lease| *lease.1 < now).min_by_key(|lease| *lease.1);
            let dead = dead.map_or(Bytes::new(), |lease| lease.0.clone());
            reply.extend([tot.bytes(), Value::Int(live as i64), Value::Bytes(dead), Value::Int(now)]);
        }
        if flags & 4 != 0 {
            reply.push(row.bytes());
        }
        Ok(Value::Array(reply))
    }

    pub fn reap(&mut self, words: &[Word], now: i64) -> Reply {
        let (who, leave) = (words[0].text(), words[1].int() == 1);
        if !leave && self.data.leases.get(who).is_none_or(|expiry| *expiry >= now) {
            return Ok(Value::Int(0));
        }
        let row = self.data.rows.remove(who).unwrap_or_default();
        for (slot, count) in row.counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            let total = self.data.tot.get_or_insert_default().at(slot);
            *total = total.saturating_sub(count);
            if let Some(entry) = self.data.table.as_mut().and_then(|table| table.entry(slot)) {
                entry.load = Some(*total);
            }
        }
        self.data.leases.remove(who);
        self.see("reaped");
        Ok(Value::Int(1))
    }

    /// Only what nodes use by themselves: to read, to add, and to tidy.
    pub fn register(&mut self, words: &[Word], now: i64) -> Reply {
        let changed = match &words[0].text()[..] {
            b"add" => self.add(&words[1..], now),
            b"tidy" => self.tidy(words[1].int(), now),
            other => panic!("{other:?}"),
        };
        let Some(table) = &mut self.data.table else {
            return Ok(Value::Array(vec![Value::Int(0), Value::Array(Vec::new())]));
        };
        if changed {
            table.table_gen = (table.table_gen + 1).max(now * 1000);
            let first = table.entries.iter().flatten().next().map_or(1.0, |entry| entry.weight);
            let mut entries = table.entries.iter().flatten();
            table.weighted = entries.any(|e| e.weight != first || e.weight <= 0.0 || e.cap > 0);
            let tot = self.data.tot.get_or_insert_default();
            tot.at(table.entries.len().max(1) - 1);
            for (slot, entry) in table.filled_mut() {
                entry.load = Some(tot.get(slot));
            }
            self.data.claims.retain(|name, _| table.slots.contains_key(name));
        }
        let mut fields = vec![text("#gen"), text(&table.table_gen.to_string())];
        for (slot, entry) in table.filled() {
            fields.push(Value::Bytes(entry.name.clone()));
            fields.push(text(&format!("{} {} {}", slot + 2, entry.weight, entry.cap)));
        }
        Ok(Value::Array(vec![Value::Int(table.table_gen), Value::Array(fields)]))
    }

    fn add(&mut self, triples: &[Word], now: i64) -> bool {
        let mut changed = false;
        for triple in triples.chunks_exact(3) {
            let table = self.data.table.get_or_insert_default();
            let name = triple[0].text();
            let weight = std::str::from_utf8(triple[1].text()).unwrap().parse().unwrap();
            if !table.slots.contains_key(name) {
                let free = table.entries.iter().position(Option::is_none).unwrap_or(table.entries.len());
                table.entries.resize_with(table.entries.len().max(free + 1), || None);
                table.slots.insert(name.clone(), free);
                table.entries[free] =
                    Some(Entry { name: name.clone(), weight, cap: triple[2].int() as u32, load: None });
                changed = true;
            }
            if weight > 0.0 {
                self.data.claims.insert(name.clone(), now);
            }
        }
        changed
    }

    /// Forgets what is idle and has been claimed by nobody for so long.
    fn tidy(&mut self, unclaimed: i64, now: i64) -> bool {
        let Some(table) = &mut self.data.table else { return false };
        let nothing = Packed::default();
        let tot = self.data.tot.as_ref().unwrap_or(&nothing);
        let mut gone = Vec::new();
        for (slot, entry) in table.filled() {
            match self.data.claims.get(&entry.name) {
                None => _ = self.data.claims.insert(entry.name.clone(), now),
                Some(at) if *at < now - unclaimed && tot.get(slot) == 0 => gone.push(slot),
                Some(_) => {}
            }
        }
        for slot in &gone {
            let entry = table.entries[*slot].take().unwrap();
            table.slots.remove(&entry.name);
            *self.seen.entry("forgotten").or_default() += 1;
        }
        !gone.is_empty()
    }

    /// The members of `lease`, before an audit.
    pub fn leased(&self) -> Reply {
        Ok(Value::Array(self.data.leases.keys().cloned().map(Value::Bytes).collect()))
    }

    /// The full one.
    pub fn audit(&mut self, words: &[Word], now: i64) -> Reply {
        assert_eq!(words[0].text(), "full");
        let ttl = words[1].int();
        let Some(table) = &mut self.data.table else { return refuse("UNKNOWN table") };
        let passed: Vec<&Bytes> = words[2..].iter().map(Word::text).collect();
        if self.data.leases.keys().any(|who| !passed.contains(&who)) {
            return refuse("RETRY the lease set changed");
        }
        let tot = self.data.tot.get_or_insert_default();
        let mut wanted = vec![0; table.entries.len().max(tot.counts.len())];
        // The lease set was deleted, and nobody knew of these. If they live, the next audit has them; else only the key is left over.
        self.data.left_out = self.data.rows.keys().filter(|who| !passed.contains(who)).cloned().collect();
        for who in passed {
            let Some(row) = self.data.rows.get(who) else { continue };
            wanted.resize(wanted.len().max(row.counts.len()), 0);
            row.counts.iter().zip(&mut wanted).for_each(|(count, sum)| *sum += count);
            self.data.leases.entry(who.clone()).or_insert(now + ttl);
        }
        let differences = wanted.iter().enumerate().filter(|(slot, sum)| tot.get(*slot) != **sum).count();
        tot.counts = wanted;
        for (slot, entry) in table.filled_mut() {
            entry.load = Some(tot.get(slot));
        }
        self.data.damaged = false;
        self.see(if self.data.left_out.is_empty() { "audit" } else { "audit that missed a row" });
        Ok(Value::Array(vec![Value::Int(differences as i64), Value::Array(Vec::new())]))
    }

    pub fn flush_all(&mut self) {
        self.data = Data::default();
        self.see("FLUSHALL");
    }

    /// A replica takes over that had this, and not yet what came after.
    pub fn fail_over(&mut self, behind: Data) {
        self.data = behind;
        self.see("failover");
    }

    pub fn delete(&mut self, key: Key) {
        match key {
            Key::Load => {
                self.data.table.iter_mut().flat_map(Table::filled_mut).for_each(|(_, entry)| entry.load = None)
            }
            Key::Tot => self.data.tot = None,
            Key::Servers => self.data.table = None,
            Key::Lease => self.data.leases.clear(),
            Key::Claims => self.data.claims.clear(),
            Key::Row => {
                let all: Vec<_> = self.data.rows.keys().cloned().collect();
                self.rng.choice(all).map(|who| self.data.rows.remove(&who));
            }
        }
        self.data.slots_may_move |= matches!(key, Key::Servers);
        self.data.damaged |= matches!(key, Key::Load | Key::Tot | Key::Row);
        self.see("DEL");
    }

    /// What must hold after every step: total = load = sum of all rows. (Never negative: the types see to
    /// it, and `refused` tells whether they had to.)
    pub fn check(&self) {
        assert_eq!(self.refused, 0, "a row was to go below 0");
        if self.data.damaged {
            return;
        }
        let nothing = Packed::default();
        let tot = self.data.tot.as_ref().unwrap_or(&nothing);
        let mut sums = vec![0; tot.counts.len()];
        for (_, row) in self.data.rows.iter().filter(|row| !self.data.left_out.contains(row.0)) {
            for (slot, count) in row.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                assert!(slot < sums.len(), "a row reaches beyond the totals");
                sums[slot] += count;
            }
        }
        assert_eq!(tot.counts, sums, "total = sum of the rows");
        if let Some(table) = self.data.table.as_ref().filter(|_| !self.data.slots_may_move) {
            for (slot, count) in sums.iter().enumerate().filter(|(_, count)| **count > 0) {
                assert!(
                    matches!(table.entries.get(slot), Some(Some(_))),
                    "{count} requests on a slot that is nobody's"
                );
            }
        }
        for (slot, entry) in self.data.table.iter().flat_map(Table::filled) {
            assert_eq!(entry.load, Some(tot.get(slot)), "load = total of {:?}", entry.name);
        }
    }

    /// Requests in flight in the fleet, by server name.
    pub fn total(&self, name: &[u8]) -> u32 {
        let slot = self.data.table.as_ref().and_then(|table| table.slots.get(name));
        slot.zip(self.data.tot.as_ref()).map_or(0, |(slot, tot)| tot.get(*slot))
    }

    pub fn damaged(&self) -> bool {
        self.data.damaged
    }

    /// Who has a row.
    pub fn rows(&self) -> impl Iterator<Item = &Bytes> {
        self.data.rows.keys()
    }
}

impl Table {
    fn entry(&mut self, slot: usize) -> Option<&mut Entry> {
        self.entries.get_mut(slot)?.as_mut()
    }

    fn filled(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.entries.iter().enumerate().filter_map(|(slot, entry)| Some((slot, entry.as_ref()?)))
    }

    fn filled_mut(&mut self) -> impl Iterator<Item = (usize, &mut Entry)> {
        self.entries.iter_mut().enumerate().filter_map(|(slot, entry)| Some((slot, entry.as_mut()?)))
    }

    /// The slot with the least (n+1)/weight, at random among ties.
    fn least(&self, tot: &Packed, excluded: &[Word], rng: &mut fastrand::Rng) -> Option<usize> {
        let (mut best, mut score, mut ties) = (None, f64::INFINITY, 0);
        for (slot, entry) in self.filled() {
            let this = match (self.weighted, entry.load) {
                (false, Some(load)) => f64::from(load),
                (true, _) if entry.weight > 0.0 && (entry.cap == 0 || tot.get(slot) < entry.cap) => {
                    f64::from(tot.get(slot) + 1) / entry.weight
                }
                _ => continue,
            };
            if this > score || excluded.iter().any(|name| *name.text() == entry.name) {
                continue;
            }
            ties = if this < score { 1 } else { ties + 1 };
            if ties == 1 || rng.u32(0..ties) == 0 {
                best = Some(slot);
            }
            score = this;
        }
        best
    }
}

fn text(text: &str) -> Value {
    Value::Bytes(Bytes::copy_from_slice(text.as_bytes()))
}
