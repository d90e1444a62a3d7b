//! The rare scripts: arguments of `register`, `reap` and `audit`, and what they answer.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;

use super::Args;
use super::reply::{BadReply, Value};

/// What `register` does with the servers it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableOp {
    /// Put in what is missing or retired; leave the rest alone, so that nodes with different files do not fight.
    Add,
    /// Put in or change.
    Set,
    /// Retire: counted until idle, not picked, then forgotten.
    Del,
}

/// What the fleet agrees on about a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// Share of the load relative to others; 0: counted, never picked by a script.
    pub weight: f64,
    /// The most requests that a script lets it have in flight; 0: no limit.
    pub cap: u32,
}

/// Writes the arguments of `register`. Without servers it only reads (and forgets what is retired and idle).
pub fn register<'a>(op: TableOp, servers: impl IntoIterator<Item = (&'a Bytes, Terms)>, args: &mut impl Args) {
    args.text(&Bytes::from_static(match op {
        TableOp::Add => b"add",
        TableOp::Set => b"set",
        TableOp::Del => b"del",
    }));
    for (name, terms) in servers {
        args.text(name);
        // The scripts compare weights as text, so every node must write a number in one way.
        let weight = if terms.weight > 0.0 && terms.weight.is_finite() { terms.weight } else { 0.0 };
        args.text(&Bytes::from(weight.to_string()));
        args.int(terms.cap.into());
    }
}

/// Writes the arguments of `register` by which it forgets the servers that are idle and that no node has put in (by `Add` or `Set`, with
/// a weight over 0) for so long.
pub fn tidy(unclaimed: Duration, args: &mut impl Args) {
    args.text(&Bytes::from_static(b"tidy"));
    args.int(i64::try_from(unclaimed.as_millis()).unwrap_or(i64::MAX));
}

/// Reads the answer of `register`: the table's generation and its fields.
pub(super) fn registered(reply: Value) -> Result<(u64, Vec<Value>), BadReply> {
    let mut parts = reply.array("table")?.into_iter();
    let table_gen = parts.next().unwrap_or_default().int("generation")?;
    let fields = parts.next().unwrap_or_default().array("table")?;
    Ok((table_gen.try_into().unwrap_or(0), fields))
}

/// Writes the arguments of `reap`. `leave`: at once, as one's own clean end; else only if the lease has run out.
pub fn reap(who: &Bytes, leave: bool, args: &mut impl Args) {
    args.text(who);
    args.int(leave.into());
}

/// What became of a node that was to be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaped {
    /// It lives, or somebody else was faster.
    NotDead,
    /// What it held has been taken back.
    Done,
    /// The same, but its row had been deleted, or had run out: what it held may still be in the totals. Audit in full.
    WithoutRow,
}

/// Reads the answer of `reap`.
pub fn reaped(reply: &Value) -> Result<Reaped, BadReply> {
    Ok(match reply.int("reaped")? {
        0 => Reaped::NotDead,
        1 => Reaped::Done,
        _ => Reaped::WithoutRow,
    })
}

/// Writes the arguments of `audit`.
///
/// With incarnations, a full one: totals are set to the sum of the rows. Without, a quick one, which trusts the totals and reads no rows.
/// `lease_ms`: for a row whose lease is gone.
pub fn audit(incarnations: &[Bytes], lease_ms: u32, args: &mut impl Args) {
    args.text(&Bytes::from_static(match incarnations {
        [] => b"quick",
        _ => b"full",
    }));
    args.int(lease_ms.into());
    for who in incarnations {
        args.text(who);
    }
}

/// What an audit put right.
#[derive(Debug, Default, PartialEq)]
pub struct Audited {
    /// How many differences there were.
    pub differences: u64,
    /// The first 16 of them.
    pub first: Vec<Difference>,
}

/// A value that was wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// `tot`, `load` or `order`: the key.
    pub key: String,
    /// The server, or `#` and a slot that has no server, or `#length`.
    pub name: String,
    /// What it is now; empty: nothing.
    pub wanted: String,
    /// What it was; empty: nothing.
    pub found: String,
}

/// Reads the answer of `audit`.
pub fn audited(reply: Value) -> Result<Audited, BadReply> {
    let mut parts = reply.array("audit")?.into_iter();
    let differences = parts.next().unwrap_or_default().int("differences")?;
    let mut words = Vec::new();
    for word in parts.next().unwrap_or_default().array("differences")? {
        words.push(String::from_utf8_lossy(&word.bytes("difference")?).into_owned());
    }
    let first = words.chunks_exact(4).map(|word| Difference {
        key: word[0].clone(),
        name: word[1].clone(),
        wanted: word[2].clone(),
        found: word[3].clone(),
    });
    Ok(Audited { differences: differences.try_into().unwrap_or(0), first: first.collect() })
}

/// Writes the arguments of `rate`. All amounts are microseconds of rate time; each ask is what is needed (below 0: given
/// back), and what is wanted besides as far as the bucket is more than half full.
pub fn rate(common: i64, most: i64, asks: impl IntoIterator<Item = (i64, i64)>, args: &mut impl Args) {
    args.int(common);
    args.int(most);
    for (need, fill) in asks {
        args.int(need);
        args.int(fill);
    }
}

/// Reads the answer of `rate`: what each key gets.
///
/// # Errors
/// It is no list of so many numbers.
pub fn rated(reply: Value, asks: usize) -> Result<Vec<i64>, BadReply> {
    let given = reply.array("grants")?;
    match given.len() == asks {
        true => given.iter().map(|amount| amount.int("grant")).collect(),
        false => Err(BadReply("grant for each key")),
    }
}

/// For how many audits an incarnation is remembered that has no lease any more.
const REMEMBERED: u8 = 3;

/// The incarnations whose rows an audit must see: those that have a lease, and those that had one lately, so that the rows are found
/// again when somebody deletes the lease set.
#[derive(Debug, Default)]
pub struct Incarnations(HashMap<Bytes, u8>);

impl Incarnations {
    /// Takes in the members of `lease` and returns whom to pass to [`audit`], this node (`me`) always among them.
    pub fn refresh(&mut self, me: &Bytes, leased: impl IntoIterator<Item = Bytes>) -> Vec<Bytes> {
        self.0.values_mut().for_each(|rounds| *rounds -= 1);
        self.0.insert(me.clone(), REMEMBERED);
        self.0.extend(leased.into_iter().map(|who| (who, REMEMBERED)));
        self.0.retain(|_, rounds| *rounds > 0);
        self.0.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::redis::node::tests::Words;

    #[test]
    fn a_weight_is_written_in_one_way() {
        let weights = [1.0, 0.5, 0.0, -3.0, f64::NAN, 1000.0];
        let name = Bytes::from_static(b"a");
        let terms = weights.map(|weight| (&name, Terms { weight, cap: 4 }));
        let mut words = Words::default();
        register(TableOp::Set, terms, &mut words);
        assert_eq!(words.0.join(" "), "set a 1 4 a 0.5 4 a 0 4 a 0 4 a 0 4 a 1000 4");
        let mut words = Words::default();
        tidy(Duration::from_secs(180), &mut words);
        assert_eq!(words.0.join(" "), "tidy 180000");
    }

    #[test]
    fn an_audit_report_is_read() {
        let text = |text: &'static str| Value::Bytes(Bytes::from_static(text.as_bytes()));
        let list = ["tot", "a", "3", "1"].map(text).to_vec();
        let audited = audited(Value::Array(vec![Value::Int(1), Value::Array(list)])).unwrap();
        let difference = &audited.first[0];
        assert_eq!((audited.differences, difference.wanted.as_str()), (1, "3"));
        assert!(super::audited(Value::Nil).is_err());
    }

    #[test]
    fn an_incarnation_without_a_lease_is_remembered_for_a_while() {
        let [me, other] = [b"me", b"ot"].map(|name| Bytes::from_static(name));
        let mut known = Incarnations::default();
        assert_eq!(known.refresh(&me, [other.clone()]).len(), 2);
        assert_eq!(known.refresh(&me, []).len(), 2);
        assert_eq!(known.refresh(&me, []).len(), 2);
        assert_eq!(known.refresh(&me, []), [me]);
    }
}
