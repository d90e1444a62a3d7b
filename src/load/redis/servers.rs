//! A pool's servers as the protocol sees them: by name on the wire, by slot in packed counts, by a dense local index in this process.

use std::collections::HashMap;

use bytes::Bytes;

use super::reply::{BadReply, Value};

/// A server's line in the table that the fleet shares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// Its place in rows and totals; the first is 2.
    pub slot: u32,
    /// 0: counted, never picked by a script; below 0: retired, forgotten once idle.
    pub weight: f64,
    /// The most requests that a script lets it have in flight; 0: no limit.
    pub cap: u32,
}

impl Entry {
    /// Whether it goes once nothing is in flight on it.
    pub fn retired(&self) -> bool {
        self.weight < 0.0
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(text).ok()?.split(' ');
        Some(Self {
            slot: words.next()?.parse().ok().filter(|slot| *slot >= 2)?,
            weight: words.next()?.parse().ok()?,
            cap: words.next()?.parse().ok()?,
        })
    }
}

#[derive(Debug, Default)]
struct Server {
    name: Bytes,
    entry: Option<Entry>,
    /// This process has the server, so a pick of it can be used.
    claimed: bool,
    /// What the row holds once all sent calls have run, picks of unread replies aside.
    sent: u32,
}

/// Names, indexes and slots, and what has been sent of each server. Indexes are dense; those of forgotten servers are used again.
#[derive(Debug, Default)]
pub struct Servers {
    all: Vec<Server>,
    by_name: HashMap<Bytes, usize>,
    free: Vec<usize>,
    /// Those a script might pick but this process does not have: excluded from every pick.
    foreign: Vec<usize>,
    table_gen: u64,
    top_slot: u32,
}

/// What reading the table again brought to light.
#[derive(Debug, PartialEq)]
pub(super) struct Changes {
    /// Claimed or held here, but not in the table.
    pub missing: Vec<usize>,
    /// The table was deleted and made anew: rows written by the old slots are wrong.
    pub slots_moved: bool,
}

impl Servers {
    /// One more than the highest index in use.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether no server has been seen yet.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The generation of the table that slots are decoded by; 0: none read yet.
    pub fn table_gen(&self) -> u64 {
        self.table_gen
    }

    /// The index of a server that this process, or the table, has.
    pub fn index(&self, name: &[u8]) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// A server's name; empty for an index that is not in use.
    pub fn name(&self, index: usize) -> Bytes {
        self.name_at(index).clone()
    }

    /// A server's line in the shared table, as last read.
    pub fn entry(&self, index: usize) -> Option<Entry> {
        self.all.get(index).and_then(|server| server.entry)
    }

    /// What has been published of a server, picks of unread replies aside.
    pub fn sent(&self, index: usize) -> u32 {
        self.all.get(index).map_or(0, |server| server.sent)
    }

    /// Whether this process has the server.
    pub fn claimed(&self, index: usize) -> bool {
        self.all.get(index).is_some_and(|server| server.claimed)
    }

    /// Takes a server into use; its index stays until [`Servers::release`].
    pub fn claim(&mut self, name: &[u8]) -> usize {
        let index = self.intern(name);
        self.all[index].claimed = true;
        self.foreign.retain(|other| *other != index);
        index
    }

    /// Gives up a server once its last request has ended: it is not picked any more, and the index may come to mean another.
    pub fn release(&mut self, index: usize) {
        if let Some(server) = self.all.get_mut(index) {
            server.claimed = false;
            if server.entry.is_some() && !self.foreign.contains(&index) {
                self.foreign.push(index);
            }
        }
    }

    pub(super) fn intern(&mut self, name: &[u8]) -> usize {
        if let Some(index) = self.index(name) {
            return index;
        }
        // A copy: the name may be a piece of a large reply, which it would keep alive.
        let name = Bytes::copy_from_slice(name);
        let index = self.free.pop().unwrap_or(self.all.len());
        if index == self.all.len() {
            self.all.push(Server::default());
        }
        self.all[index] = Server { name: name.clone(), ..Server::default() };
        self.by_name.insert(name, index);
        index
    }

    pub(super) fn name_at(&self, index: usize) -> &Bytes {
        static NONE: Bytes = Bytes::new();
        self.all.get(index).map_or(&NONE, |server| &server.name)
    }

    pub(super) fn foreign(&self) -> &[usize] {
        &self.foreign
    }

    pub(super) fn top_slot(&self) -> u32 {
        self.top_slot
    }

    pub(super) fn raise_sent(&mut self, index: usize) {
        if let Some(server) = self.all.get_mut(index) {
            server.sent = server.sent.saturating_add(1);
        }
    }

    /// Collects what the next call must carry, and counts it as sent: changes, or absolute counts for a reset.
    pub(super) fn collect(&mut self, reset: bool, own: impl Fn(usize) -> u32, pairs: &mut Vec<(usize, i64)>) {
        pairs.clear();
        for (index, server) in self.all.iter_mut().enumerate() {
            if server.name.is_empty() {
                continue;
            }
            let now = own(index);
            let base = if reset { 0 } else { server.sent };
            if now != base {
                pairs.push((index, i64::from(now) - i64::from(base)));
            }
            server.sent = now;
        }
    }

    /// Whether there is something to send.
    pub(super) fn changed(&self, own: impl Fn(usize) -> u32) -> bool {
        let mut all = self.all.iter().enumerate();
        all.any(|(index, server)| !server.name.is_empty() && own(index) != server.sent)
    }

    /// Takes over the table: the answer of `register`, `HGETALL` flat.
    pub(super) fn read_table(
        &mut self,
        table_gen: u64,
        fields: Vec<Value>,
        own: impl Fn(usize) -> u32,
        may_forget: bool,
    ) -> Result<Changes, BadReply> {
        let mut entries = Vec::with_capacity(fields.len() / 2);
        let mut fields = fields.into_iter();
        while let (Some(name), Some(entry)) = (fields.next(), fields.next()) {
            let (name, entry) = (name.bytes("server name")?, entry.bytes("server entry")?);
            if !name.starts_with(b"#") {
                entries.push((name, Entry::parse(&entry).ok_or(BadReply("server entry"))?));
            }
        }
        self.table_gen = table_gen;
        self.top_slot = entries.iter().map(|(_, entry)| entry.slot).max().unwrap_or(1);
        let before: Vec<Option<Entry>> = self.all.iter_mut().map(|server| server.entry.take()).collect();
        let mut slots_moved = false;
        for (name, entry) in entries {
            let index = self.intern(&name);
            self.all[index].entry = Some(entry);
            let was = before.get(index).copied().flatten();
            slots_moved |= was.is_some_and(|was| was.slot != entry.slot);
        }
        let mut missing = Vec::new();
        for index in 0..self.all.len() {
            let server = &self.all[index];
            if server.entry.is_some() || server.name.is_empty() {
                continue;
            }
            // A server is forgotten only when every row holds 0 of it.
            slots_moved |= server.sent > 0;
            if server.claimed || own(index) > 0 {
                missing.push(index);
            } else if may_forget && server.sent == 0 {
                self.forget(index);
            }
        }
        let foreign = |(index, server): (usize, &Server)| (server.entry.is_some() && !server.claimed).then_some(index);
        self.foreign = self.all.iter().enumerate().filter_map(foreign).collect();
        Ok(Changes { missing, slots_moved })
    }

    fn forget(&mut self, index: usize) {
        let server = std::mem::take(&mut self.all[index]);
        self.by_name.remove(&server.name);
        self.free.push(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(&'static str, &'static str)]) -> Vec<Value> {
        let fields = entries.iter().flat_map(|(name, entry)| [*name, *entry]);
        fields.map(|field| Value::Bytes(Bytes::from_static(field.as_bytes()))).collect()
    }

    fn read(servers: &mut Servers, table_gen: u64, fields: Vec<Value>) -> Changes {
        servers.read_table(table_gen, fields, |_| 0, true).unwrap()
    }

    #[test]
    fn the_table_gives_slots_weights_and_caps() {
        let mut servers = Servers::default();
        let a = servers.claim(b"a");
        let b = servers.claim(b"b");
        let fields = table(&[("#gen", "9"), ("a", "3 0.5 4"), ("c", "2 -1 0"), ("#", "##")]);
        let changes = read(&mut servers, 9, fields);
        assert_eq!(changes, Changes { missing: vec![b], slots_moved: false });
        assert_eq!(servers.entry(a), Some(Entry { slot: 3, weight: 0.5, cap: 4 }));
        let c = servers.index(b"c").unwrap();
        assert!(servers.entry(c).unwrap().retired());
        assert_eq!((servers.foreign(), servers.top_slot(), servers.table_gen()), (&[c][..], 3, 9));
    }

    #[test]
    fn an_index_is_used_again_only_when_nobody_needs_it() {
        let mut servers = Servers::default();
        let (a, b) = (servers.claim(b"a"), servers.claim(b"b"));
        servers.raise_sent(b);
        servers.release(a);
        servers.release(b);
        assert!(read(&mut servers, 1, Vec::new()).slots_moved, "b was published but has no slot");
        assert_eq!((servers.index(b"a"), servers.index(b"b")), (None, Some(b)));
        assert_eq!(servers.claim(b"c"), a);
    }

    #[test]
    fn a_server_in_another_slot_means_the_table_was_lost() {
        let mut servers = Servers::default();
        read(&mut servers, 1, table(&[("a", "2 1 0"), ("b", "3 1 0")]));
        let same = read(&mut servers, 2, table(&[("a", "2 7 0"), ("b", "3 1 0")]));
        assert!(!same.slots_moved);
        let swapped = read(&mut servers, 3, table(&[("a", "3 7 0"), ("b", "2 1 0")]));
        assert!(swapped.slots_moved);
    }

    #[test]
    fn a_malformed_table_is_refused_whole() {
        let mut servers = Servers::default();
        read(&mut servers, 1, table(&[("a", "2 1 0")]));
        let bad = servers.read_table(2, table(&[("a", "3 1 0"), ("b", "x")]), |_| 0, true);
        assert_eq!(bad, Err(BadReply("server entry")));
        assert_eq!((servers.table_gen(), servers.entry(0).unwrap().slot), (1, 2));
    }
}
