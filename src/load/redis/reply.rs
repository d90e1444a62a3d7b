//! What Redis answers, and how the answer of `exchange` is read.

use bytes::Bytes;

/// A reply, as far as our scripts use the protocol. Independent of the client library; made from its type without copying.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// Nothing there, or something our scripts never answer.
    #[default]
    Nil,
    /// A whole number.
    Int(i64),
    /// Text or binary.
    Bytes(Bytes),
    /// A list.
    Array(Vec<Value>),
}

/// A reply that no script of ours makes: another script, or a proxy in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unexpected reply: no {0}")]
pub struct BadReply(pub &'static str);

impl From<fred::types::Value> for Value {
    fn from(value: fred::types::Value) -> Self {
        use fred::types::Value as Fred;
        match value {
            Fred::Integer(number) => Self::Int(number),
            Fred::Boolean(flag) => Self::Int(flag.into()),
            Fred::Double(number) => Self::Int(number as i64),
            Fred::String(text) => Self::Bytes(text.into_inner()),
            Fred::Bytes(bytes) => Self::Bytes(bytes),
            Fred::Array(list) => Self::Array(list.into_iter().map(Self::from).collect()),
            Fred::Null | Fred::Queued | Fred::Map(_) => Self::Nil,
        }
    }
}

impl Value {
    pub(super) fn int(&self, what: &'static str) -> Result<i64, BadReply> {
        match self {
            Self::Int(number) => Ok(*number),
            _ => Err(BadReply(what)),
        }
    }

    pub(super) fn bytes(self, what: &'static str) -> Result<Bytes, BadReply> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(BadReply(what)),
        }
    }

    pub(super) fn array(self, what: &'static str) -> Result<Vec<Self>, BadReply> {
        match self {
            Self::Array(list) => Ok(list),
            _ => Err(BadReply(what)),
        }
    }
}

/// The answer of `exchange`.
#[derive(Debug, PartialEq)]
pub(super) struct Exchanged {
    pub table_gen: u64,
    pub picks: Vec<Value>,
    /// Put right or refused; -1: the row was gone though its lease stood.
    pub off: i64,
    pub snapshot: Option<Snapshot>,
    pub own_row: Option<Packed>,
}

/// The part of the answer that tells of the whole fleet.
#[derive(Debug, PartialEq)]
pub(super) struct Snapshot {
    pub totals: Packed,
    pub live_nodes: u32,
    /// A node whose lease has run out; somebody should reap it.
    pub dead: Option<Bytes>,
    /// Redis time, ms.
    pub now_ms: i64,
}

impl Exchanged {
    /// Reads the answer to a call that asked for these parts.
    pub fn parse(reply: Value, snapshot: bool, own_row: bool) -> Result<Self, BadReply> {
        let mut parts = reply.array("answer")?.into_iter();
        let mut next = || parts.next().unwrap_or_default();
        Ok(Self {
            table_gen: next().int("gen")?.try_into().unwrap_or(0),
            picks: next().array("picks")?,
            off: next().int("off")?,
            snapshot: match snapshot {
                true => Some(Snapshot {
                    totals: Packed(next().bytes("totals")?),
                    live_nodes: next().int("live nodes")?.try_into().unwrap_or(0),
                    dead: Some(next().bytes("dead node")?).filter(|who| !who.is_empty()),
                    now_ms: next().int("time")?,
                }),
                false => None,
            },
            own_row: match own_row {
                true => Some(Packed(next().bytes("row")?)),
                false => None,
            },
        })
    }
}

/// `tot` or a row: a big-endian i64, then a big-endian u32 for each slot from 2 on.
#[derive(Debug, PartialEq)]
pub(super) struct Packed(pub Bytes);

impl Packed {
    /// The i64 in front: picks ever made, or the number of the last call.
    pub fn head(&self) -> i64 {
        self.0.first_chunk().map_or(0, |head| i64::from_be_bytes(*head))
    }

    /// The count in a slot; one beyond the end is 0.
    pub fn slot(&self, slot: u32) -> u32 {
        let at = slot as usize * 4;
        self.0.get(at..at + 4).and_then(|count| count.try_into().ok()).map_or(0, u32::from_be_bytes)
    }

    /// Whether it reaches as far as this slot.
    pub fn covers(&self, slot: u32) -> bool {
        self.0.len() >= slot as usize * 4 + 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &'static str) -> Value {
        Value::Bytes(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn an_answer_with_and_without_its_optional_parts() {
        let short = vec![Value::Int(7), Value::Array(vec![text("a")]), Value::Int(0)];
        let parsed = Exchanged::parse(Value::Array(short.clone()), false, false).unwrap();
        assert_eq!((parsed.table_gen, parsed.picks.len(), parsed.off), (7, 1, 0));
        assert_eq!((parsed.snapshot, parsed.own_row), (None, None));

        let mut long = short.clone();
        long.extend([text("tot"), Value::Int(3), text(""), Value::Int(99), text("row")]);
        let parsed = Exchanged::parse(Value::Array(long), true, true).unwrap();
        let snapshot = parsed.snapshot.unwrap();
        assert_eq!((snapshot.live_nodes, snapshot.dead, snapshot.now_ms), (3, None, 99));
        assert_eq!(parsed.own_row, Some(Packed(Bytes::from_static(b"row"))));

        let cut = Exchanged::parse(Value::Array(short), true, false);
        assert_eq!(cut, Err(BadReply("totals")));
    }

    #[test]
    fn packed_counts_are_read_by_slot_and_are_0_beyond_the_end() {
        let packed = Packed(Bytes::from_static(b"\0\0\0\0\0\0\x01\x02\0\0\0\x05\0\0\x01"));
        assert_eq!((packed.head(), packed.slot(2), packed.slot(3)), (258, 5, 0));
        assert!(packed.covers(2) && !packed.covers(3));
        assert_eq!(Packed(Bytes::new()).head(), 0);
    }

    #[test]
    fn the_client_librarys_values_are_taken_over() {
        use fred::types::Value as Fred;
        let list = Fred::Array(vec![Fred::Integer(1), "x".into(), Fred::Null]);
        let ours = Value::Array(vec![Value::Int(1), text("x"), Value::Nil]);
        assert_eq!(Value::from(list), ours);
    }
}
