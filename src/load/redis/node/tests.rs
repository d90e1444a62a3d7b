//! Each case that the counts must survive, as small as it can be.

use super::*;

/// Arguments as words.
#[derive(Default)]
pub(in crate::load::redis) struct Words(pub Vec<String>);

impl Args for Words {
    fn int(&mut self, number: i64) {
        self.0.push(number.to_string());
    }

    fn text(&mut self, text: &Bytes) {
        self.0.push(String::from_utf8_lossy(text).into_owned());
    }
}

const GEN: i64 = 7;
const A: usize = 0;
const B: usize = 1;

/// A node with servers a (slot 2) and b (slot 3), and its counts.
struct Rig {
    node: Node,
    own: Vec<u32>,
}

#[derive(Debug, PartialEq)]
struct Sent {
    seq: i64,
    reset: bool,
    /// As in `a+1 b-2`.
    pairs: String,
    excluded: String,
}

fn text(text: &str) -> Value {
    Value::Bytes(Bytes::copy_from_slice(text.as_bytes()))
}

fn packed(head: i64, counts: &[u32]) -> Value {
    let mut bytes = head.to_be_bytes().to_vec();
    counts.iter().for_each(|count| bytes.extend(count.to_be_bytes()));
    Value::Bytes(bytes.into())
}

fn picked(picks: &[&str]) -> Value {
    let picks = picks.iter().map(|pick| text(pick)).collect();
    Value::Array(vec![Value::Int(GEN), Value::Array(picks), Value::Int(0)])
}

fn snapshot(totals: Value) -> Value {
    let mut parts = picked(&[]).array("parts").unwrap();
    parts.extend([totals, Value::Int(2), text(""), Value::Int(1)]);
    Value::Array(parts)
}

fn table(table_gen: i64, entries: &[&str]) -> Value {
    Value::Array(vec![Value::Int(table_gen), Value::Array(entries.iter().map(|entry| text(entry)).collect())])
}

impl Rig {
    /// Before its first call.
    fn fresh() -> Self {
        let mut node = Node::new("me", 3000);
        assert_eq!((node.claim(b"a"), node.claim(b"b")), (A, B));
        let own = vec![0, 0];
        let both = table(GEN, &["a", "2 1 0", "b", "3 1 0"]);
        let read = node.table_read(both, |i| own[i]).unwrap();
        assert_eq!(read.missing, [] as [usize; 0]);
        Self { node, own }
    }

    /// After its first RESET.
    fn settled() -> Self {
        let mut rig = Self::fresh();
        let first = rig.call(0);
        assert!(first.reset);
        rig.answer(first.seq, &[]);
        rig
    }

    fn try_call(&mut self, request: Request<'_>) -> Option<Sent> {
        let mut words = Words::default();
        let own = &self.own;
        let own = |i: usize| own.get(i).copied().unwrap_or(0);
        let seq = self.node.begin(&request, own, &mut words)?;
        let words = words.0;
        assert_eq!(words[..2], ["me".to_owned(), seq.to_string()]);
        let flags: i64 = words[3].parse().unwrap();
        let n: usize = words[7].parse().unwrap();
        let (pairs, excluded) = words[8..].split_at(2 * n);
        let reset = flags & RESET != 0;
        assert!(!reset || words[2] == "3000", "a reset must renew the lease");
        let pair = |pair: &[String]| format!("{}{:+}", pair[0], pair[1].parse::<i64>().unwrap());
        let pairs = pairs.chunks(2).map(pair).collect::<Vec<_>>().join(" ");
        Some(Sent { seq, reset, pairs, excluded: excluded.join(" ") })
    }

    fn call(&mut self, picks: u32) -> Sent {
        self.try_call(Request { picks, ..Request::default() }).unwrap()
    }

    fn answer(&mut self, seq: i64, picks: &[&str]) -> Answer {
        self.take(seq, Ok(picked(picks)))
    }

    fn take(&mut self, seq: i64, reply: Result<Value, &str>) -> Answer {
        match self.node.answered(seq, reply) {
            Outcome::Done(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    /// The next call is a RESET with these counts.
    fn resets_with(&mut self, pairs: &str) -> i64 {
        let call = self.call(0);
        assert_eq!((call.reset, call.pairs.as_str()), (true, pairs));
        call.seq
    }
}

#[test]
fn the_first_call_is_a_reset_and_then_only_changes_go() {
    let mut rig = Rig::fresh();
    rig.own = vec![2, 0];
    let seq = rig.resets_with("a+2");
    rig.answer(seq, &[]);
    rig.own = vec![1, 3];
    let call = rig.call(0);
    assert_eq!((call.seq, call.reset, call.pairs.as_str()), (2, false, "a-1 b+3"));
    rig.answer(2, &[]);
    assert_eq!(rig.call(0).pairs, "");
}

#[test]
fn call_2_may_go_before_the_picks_of_call_1_are_known() {
    let mut rig = Rig::settled();
    let first = rig.call(1);
    rig.own[B] += 1;
    let second = rig.call(1);
    assert_eq!(second.pairs, "b+1", "and nothing about the pick that is still to be read");
    assert!(!rig.node.ready(), "two are out");
    rig.answer(first.seq, &["a"]);
    rig.own[A] += 1;
    rig.answer(second.seq, &["b"]);
    rig.own[B] += 1;
    assert_eq!(rig.call(0).pairs, "", "picks that requests took are in the row already");
}

#[test]
fn a_pick_that_nobody_takes_is_given_back_by_the_next_call() {
    let mut rig = Rig::settled();
    let call = rig.call(2);
    assert_eq!(rig.answer(call.seq, &["a", "b"]).picks[..], [A, B]);
    rig.own[A] += 1;
    assert_eq!(rig.call(0).pairs, "b-1");
}

#[test]
fn whatever_became_of_lost_calls_a_reset_settles_it() {
    let mut rig = Rig::settled();
    rig.own[A] = 3;
    let (first, second) = (rig.call(1), rig.call(1));
    rig.node.lost();
    let seq = rig.resets_with("a+3");
    assert!(seq > second.seq, "numbers go on, so that the lost ones are void if they come later");
    for late in [first.seq, second.seq] {
        assert_eq!(rig.node.answered(late, Ok(picked(&["b"]))), Outcome::GivenUp);
    }
    rig.answer(seq, &[]);
    assert_eq!(rig.call(0).pairs, "");
}

#[test]
fn a_reset_waits_for_what_is_outstanding() {
    let mut rig = Rig::settled();
    let (first, second) = (rig.call(1), rig.call(1));
    let gap = rig.node.answered(first.seq, Err("GAP reset first"));
    assert_eq!(gap, Outcome::Refused(Refusal::Gap));
    assert!(!rig.node.ready() && rig.try_call(Request::default()).is_none());
    rig.node.answered(second.seq, Err("GAP reset first"));
    rig.resets_with("");
}

#[test]
fn every_refusal_leads_to_a_reset_and_some_to_reading_the_table() {
    let cases = [
        ("NOLEASE reset first", Refusal::NoLease, true),
        ("GAP reset first", Refusal::Gap, false),
        ("STALE seen", Refusal::Stale, false),
        ("UNKNOWN a", Refusal::Unknown, true),
        ("OOM command not allowed", Refusal::Other, false),
        ("", Refusal::Other, false),
    ];
    for (error, refusal, read_table) in cases {
        let mut rig = Rig::settled();
        rig.own[A] = 1;
        let call = rig.call(0);
        assert_eq!(rig.node.answered(call.seq, Err(error)), Outcome::Refused(refusal));
        assert_eq!(refusal.read_table(), read_table, "{error}");
        rig.resets_with("a+1");
    }
}

#[test]
fn an_answer_that_makes_no_sense_leads_to_a_reset() {
    let mut rig = Rig::settled();
    let call = rig.call(0);
    let refused = Outcome::Refused(Refusal::Other);
    assert_eq!(rig.node.answered(call.seq, Ok(Value::Nil)), refused);
    rig.resets_with("");
}

#[test]
fn an_answer_out_of_order_gives_up_the_call_before_it() {
    let mut rig = Rig::settled();
    let (first, second) = (rig.call(1), rig.call(0));
    rig.answer(second.seq, &[]);
    assert_eq!(rig.node.answered(first.seq, Ok(picked(&["a"]))), Outcome::GivenUp);
    rig.resets_with("");
}

#[test]
fn refused_changes_and_a_differing_row_lead_to_a_reset() {
    let mut rig = Rig::settled();
    let call = rig.call(0);
    let refused = Value::Array(vec![Value::Int(GEN), Value::Array(vec![]), Value::Int(2)]);
    assert_eq!(rig.take(call.seq, Ok(refused)).refused, 2);
    let seq = rig.resets_with("");
    rig.answer(seq, &[]);

    let ask = Request { snapshot: true, own_row: true, ..Request::default() };
    let seq = rig.try_call(ask).unwrap().seq;
    let mut parts = snapshot(packed(0, &[9, 9])).array("parts").unwrap();
    parts.push(packed(seq, &[0, 4]));
    let answer = rig.take(seq, Ok(Value::Array(parts)));
    assert_eq!((answer.row_differs, rig.node.view().own_at[B]), (1, 4), "the row is the truth");
    rig.resets_with("");
}

#[test]
fn a_lost_row_and_lost_totals_call_for_an_audit() {
    let mut rig = Rig::fresh();
    let call = rig.call(0);
    let row_lost = Value::Array(vec![Value::Int(GEN), Value::Array(vec![]), Value::Int(-1)]);
    assert!(rig.take(call.seq, Ok(row_lost)).audit);

    rig.own[A] = 2;
    let ask = Request { snapshot: true, ..Request::default() };
    let mut look = |totals: Value| {
        let seq = rig.try_call(ask).unwrap().seq;
        let answer = rig.take(seq, Ok(snapshot(totals)));
        assert_ne!(answer.view, answer.audit);
        answer.audit
    };
    assert!(!look(packed(50, &[2, 0])));
    assert!(look(packed(60, &[2])), "too short");
    assert!(look(packed(70, &[1, 0])), "less than this node's own");
    assert!(!look(packed(80, &[3, 0])));
    assert!(look(packed(2, &[3, 0])), "picks ever made went back");
    assert!(!look(packed(3, &[3, 0])), "and begin anew");
}

#[test]
fn the_view_leaves_this_nodes_own_out_whatever_is_outstanding() {
    let mut rig = Rig::settled();
    rig.own = vec![2, 1];
    let ask = Request { snapshot: true, ..Request::default() };
    let first = rig.try_call(ask).unwrap();
    rig.own = vec![0, 5];
    let second = rig.call(0);
    assert_eq!(second.pairs, "a-2 b+4");
    assert!(rig.take(first.seq, Ok(snapshot(packed(9, &[7, 1])))).view);
    let view = rig.node.view();
    assert_eq!(view.own_at, [2, 1], "when the script ran, not now");
    assert_eq!((view.others(A), view.others(B)), (5, 0));
    assert_eq!((view.live_nodes, view.picks), (2, 9));
}

#[test]
fn a_snapshot_of_another_generation_is_not_decoded() {
    let mut rig = Rig::settled();
    let ask = Request { snapshot: true, ..Request::default() };
    let call = rig.try_call(ask).unwrap();
    let mut parts = snapshot(packed(9, &[7, 1])).array("parts").unwrap();
    parts[0] = Value::Int(GEN + 1);
    let answer = rig.take(call.seq, Ok(Value::Array(parts)));
    assert!(answer.read_table && !answer.view && !answer.audit);
    assert_eq!(rig.node.view().table_gen, 0);
}

#[test]
fn a_new_table_changes_nothing_about_the_counts() {
    let mut rig = Rig::settled();
    rig.own = vec![1, 1];
    let call = rig.call(0);
    let grown = table(GEN + 1, &["a", "2 5 0", "b", "3 1 0", "c", "4 1 0"]);
    rig.node.table_read(grown, |_| 0).unwrap();
    let mut parts = picked(&[]).array("parts").unwrap();
    parts[0] = Value::Int(GEN + 1);
    assert!(!rig.take(call.seq, Ok(Value::Array(parts))).read_table);
    assert_eq!(rig.call(1).excluded, "c", "this process does not have it");
}

#[test]
fn a_pick_of_a_server_that_this_process_lacks_goes_back() {
    let mut rig = Rig::settled();
    let call = rig.call(1);
    let answer = rig.answer(call.seq, &["new"]);
    assert_eq!((answer.picks.len(), answer.foreign), (0, 1));
    assert_eq!(rig.call(0).pairs, "new-1");
}

#[test]
fn slots_that_moved_lead_to_a_reset() {
    let mut rig = Rig::settled();
    rig.own = vec![1, 0];
    let swapped = table(GEN + 1, &["a", "3 1 0", "b", "2 1 0"]);
    rig.node.table_read(swapped, |_| 0).unwrap();
    rig.resets_with("a+1");
}

#[test]
fn without_a_table_all_of_ours_are_missing() {
    let mut rig = Rig::settled();
    let read = rig.node.table_read(table(0, &[]), |_| 0).unwrap();
    assert_eq!(read.missing, [A, B]);
    assert!(rig.node.table_read(Value::Nil, |_| 0).is_err());
}

#[test]
fn what_a_call_excludes_is_named() {
    let mut rig = Rig::settled();
    let request = Request { picks: 1, excluded: &[B], ..Request::default() };
    assert_eq!(rig.try_call(request).unwrap().excluded, "b");
}

#[test]
fn changed_tells_whether_a_call_is_worth_it() {
    let mut rig = Rig::fresh();
    assert!(rig.node.changed(|_| 0), "the first reset");
    let call = rig.call(0);
    rig.answer(call.seq, &[]);
    assert!(!rig.node.changed(|_| 0));
    assert!(rig.node.changed(|i| u32::from(i == A)));
}
