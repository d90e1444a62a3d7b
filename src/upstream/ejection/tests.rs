use super::*;
use proptest::prelude::*;

const RULES: Ejection = Ejection {
    consecutive: Some(5),
    error_rate: Some(50),
    latency: crate::config::Latency::Eject,
    base: Duration::from_secs(10),
    max_ejected: 30,
};

/// A machine with a clock and a count of good attempts.
#[derive(Default)]
struct Rig {
    machine: Machine,
    at: Moment,
    /// Whether the guard lets it go.
    free: bool,
}

impl Rig {
    fn new() -> Self {
        Rig { free: true, ..Rig::default() }
    }

    fn fail(&mut self, kind: Kind) -> Option<Change> {
        self.machine.failed(kind, self.at, &RULES, || self.free)
    }

    fn succeed(&mut self) {
        self.at.good += 1;
        self.machine.succeeded(self.at, &RULES);
    }

    fn probe(&mut self, verdict: Verdict) -> Option<Change> {
        self.machine.probed(verdict, false, self.at, &RULES)
    }

    fn later(&mut self, seconds: f64) -> Option<Change> {
        self.at.now += Duration::from_secs_f64(seconds);
        self.machine.tick(self.at, &RULES, || self.free)
    }

    /// Fails until it is out, and returns for how long.
    fn eject(&mut self) -> u64 {
        loop {
            if let Some(change) = self.fail(Kind::Reset) {
                let Change::Ejected(time) = change else { panic!("{change:?}") };
                return time.as_secs();
            }
        }
    }

    /// Waits for the probes, and passes them.
    fn come_back(&mut self, seconds: u64) {
        assert_eq!(self.later(seconds as f64), Some(Change::Probing));
        assert_eq!(self.probe(PASSED), None);
        assert_eq!(self.probe(PASSED), None);
        assert_eq!(self.probe(PASSED), Some(Change::Back));
    }
}

const PASSED: Verdict = Verdict::Passed(None);

#[test]
fn failures_in_a_row_eject_and_the_reason_tells_them_apart() {
    let mut rig = Rig::new();
    for kind in [Kind::Status, Kind::Status, Kind::Reset, Kind::Status] {
        assert_eq!(rig.fail(kind), None);
    }
    assert_eq!(rig.fail(Kind::Reset), Some(Change::Ejected(RULES.base)));
    assert_eq!(rig.machine.standing(), Standing::Ejected);
    assert_eq!(rig.machine.reason(), "5 failures in a row: 3 status 5xx, 2 resets");
    assert_eq!(rig.fail(Kind::Status), None, "what was on its way");
}

#[test]
fn a_success_ends_a_row() {
    let mut rig = Rig::new();
    for _ in 0..20 {
        for _ in 0..5 {
            rig.succeed();
        }
        for _ in 0..4 {
            assert_eq!(rig.fail(Kind::Status), None);
        }
        assert!(rig.machine.wants_success());
    }
    assert_eq!(rig.machine.standing(), Standing::Serving);
}

#[test]
fn half_of_at_least_twenty_eject() {
    let mut rig = Rig::new();
    for n in 1..=9 {
        rig.succeed();
        assert_eq!(rig.fail(Kind::Timeout), None, "{n}");
    }
    rig.succeed();
    assert_eq!(rig.fail(Kind::Timeout), Some(Change::Ejected(RULES.base)));
    assert_eq!(rig.machine.reason(), "10 of 20 requests failed within 10 s: 10 timeouts");
}

#[test]
fn what_was_long_ago_does_not_count() {
    let mut rig = Rig::new();
    for _ in 0..9 {
        rig.succeed();
        rig.fail(Kind::Status);
    }
    rig.later(10.0);
    for _ in 0..5 {
        rig.succeed();
        assert_eq!(rig.fail(Kind::Status), None);
    }
    // Good ones of the last seconds do count, though nothing failed meanwhile.
    let mut rig = Rig::new();
    for _ in 0..100 {
        rig.at.good += 10;
        rig.later(0.1);
    }
    for _ in 0..30 {
        rig.fail(Kind::Status);
        rig.succeed();
    }
    assert_eq!(rig.machine.standing(), Standing::Serving, "30 of 500 or more");
}

#[test]
fn it_comes_back_by_three_probes_in_a_row() {
    let mut rig = Rig::new();
    rig.eject();
    assert_eq!(rig.later(9.9), None);
    assert_eq!(rig.probe(PASSED), None, "no probe was due");
    assert_eq!(rig.later(0.2), Some(Change::Probing));
    rig.probe(PASSED);
    rig.probe(PASSED);
    assert_eq!(rig.probe(Verdict::Failed(Kind::Invalid)), Some(Change::Ejected(2 * RULES.base)));
    assert_eq!(rig.machine.reason(), "a probe failed: 1 invalid answer");
    rig.come_back(20);
    assert_eq!((rig.machine.standing(), rig.machine.reason()), (Standing::Serving, ""));
}

#[test]
fn the_time_doubles_to_five_minutes_and_good_service_takes_it_back() {
    let mut rig = Rig::new();
    let mut times = Vec::new();
    for _ in 0..8 {
        let time = rig.eject();
        times.push(time);
        rig.come_back(time);
    }
    assert_eq!(times, [10, 20, 40, 80, 160, 300, 300, 300]);
    // Time alone is no good service.
    rig.later(1000.0);
    assert_eq!(rig.eject(), 300);
    rig.come_back(300);
    rig.at.good += 1000;
    rig.later(25.0);
    assert_eq!(rig.eject(), 160, "two of six taken back, one more");
    rig.come_back(160);
    rig.at.good += 1000;
    rig.later(1000.0);
    assert_eq!(rig.eject(), 10, "all is forgotten");
}

#[test]
fn who_may_not_go_is_condemned_until_it_may_or_does_well() {
    let mut rig = Rig { free: false, ..Rig::new() };
    for _ in 0..4 {
        rig.fail(Kind::Status);
    }
    assert_eq!(rig.fail(Kind::Status), Some(Change::Condemned));
    assert_eq!(rig.fail(Kind::Status), None, "told once");
    assert_eq!(rig.machine.standing(), Standing::Condemned);
    assert!(rig.machine.reason().starts_with("5 failures in a row"));
    assert_eq!(rig.later(1.0), None);
    rig.succeed();
    assert_eq!((rig.machine.standing(), rig.machine.reason()), (Standing::Serving, ""));
    for _ in 0..5 {
        rig.fail(Kind::Status);
    }
    rig.free = true;
    assert_eq!(rig.later(1.0), Some(Change::Ejected(RULES.base)));
}

#[test]
fn silence_is_told_from_answers() {
    let mut rig = Rig { free: false, ..Rig::new() };
    for _ in 0..5 {
        rig.fail(Kind::Status);
    }
    for _ in 0..4 {
        rig.fail(Kind::Timeout);
    }
    assert_eq!(rig.machine.standing(), Standing::Condemned);
    rig.fail(Kind::Connect);
    assert_eq!(rig.machine.standing(), Standing::Silent);
    rig.fail(Kind::Status);
    assert_eq!(rig.machine.standing(), Standing::Condemned);
    for _ in 0..4 {
        rig.fail(Kind::Timeout);
        rig.later(1.0);
    }
    assert_eq!(rig.machine.standing(), Standing::Condemned, "not enough of it");
    rig.fail(Kind::Timeout);
    assert_eq!(rig.machine.standing(), Standing::Silent);
    rig.succeed();
    assert_ne!(rig.machine.standing(), Standing::Silent);
}

#[test]
fn a_probe_of_a_slow_server_must_be_fast() {
    let ms = Duration::from_millis;
    let mut rig = Rig::new();
    let lags = |rig: &mut Rig| rig.machine.lags("late".into(), ms(120), rig.at, &RULES, || rig.free);
    assert_eq!(lags(&mut rig), Some(Change::Ejected(RULES.base)));
    rig.later(10.0);
    assert_eq!(rig.probe(Verdict::Passed(Some(ms(200)))), Some(Change::Ejected(2 * RULES.base)));
    assert_eq!(rig.machine.reason(), "a probe took 200 ms, more than 120 ms");
    assert!(rig.machine.is_out_for_latency());
    rig.later(20.0);
    rig.probe(Verdict::Passed(Some(ms(20))));
    rig.probe(PASSED);
    assert_eq!(rig.probe(Verdict::Passed(Some(ms(20)))), Some(Change::Back));
    assert!(!rig.machine.is_out_for_latency());
    // Once for another reason it may be as slow as it likes.
    rig.eject();
    rig.later(1000.0);
    assert_eq!(rig.probe(Verdict::Passed(Some(ms(2000)))), None);
    rig.free = false;
    let mut other = Rig { free: false, ..Rig::new() };
    assert_eq!(lags(&mut other), None);
    assert_eq!(other.machine.standing(), Standing::Serving, "slow is no crime");
}

#[test]
fn one_urgent_success_is_enough_and_an_urgent_failure_changes_nothing() {
    let mut rig = Rig::new();
    rig.eject();
    rig.later(1.0);
    assert_eq!(rig.machine.probed(Verdict::Failed(Kind::Timeout), true, rig.at, &RULES), None);
    assert_eq!(rig.machine.standing(), Standing::Ejected);
    assert_eq!(rig.machine.probed(PASSED, true, rig.at, &RULES), Some(Change::Back));
    assert_eq!(rig.eject(), 20, "it was out all the same");
}

#[test]
fn who_was_down_or_moved_begins_anew() {
    let mut rig = Rig::new();
    rig.eject();
    rig.at.now += Duration::from_secs(3);
    assert!(rig.machine.revived(rig.at));
    assert_eq!((rig.machine.standing(), rig.machine.since()), (Standing::Serving, rig.at.now));
    assert_eq!(rig.eject(), 20, "the level stays");
    assert!(rig.machine.replaced(rig.at));
    assert!(!rig.machine.replaced(rig.at));
    assert_eq!(rig.eject(), 10);
}

#[test]
fn what_is_switched_off_does_not_eject() {
    let rules = Ejection { consecutive: None, error_rate: None, ..RULES };
    let mut machine = Machine::default();
    for _ in 0..1000 {
        assert_eq!(machine.failed(Kind::Status, Moment::default(), &rules, || true), None);
    }
}

#[derive(Clone, Debug)]
enum Event {
    Fail(Kind),
    Succeed(u64),
    Probe(bool),
    Urgent(bool),
    Lag,
    Later(u64),
    Guard(bool),
    Revive,
}

fn event() -> impl Strategy<Value = Event> {
    let kind = prop_oneof![
        Just(Kind::Status),
        Just(Kind::Connect),
        Just(Kind::Reset),
        Just(Kind::Timeout),
        Just(Kind::Invalid)
    ];
    prop_oneof![
        8 => kind.prop_map(Event::Fail),
        4 => (1_u64..30).prop_map(Event::Succeed),
        4 => prop::bool::weighted(0.7).prop_map(Event::Probe),
        1 => any::<bool>().prop_map(Event::Urgent),
        1 => Just(Event::Lag),
        4 => (0_u64..25_000).prop_map(Event::Later),
        1 => prop::bool::weighted(0.7).prop_map(Event::Guard),
        1 => Just(Event::Revive),
    ]
}

proptest! {
    #[test]
    fn whatever_happens(events in prop::collection::vec(event(), 1..400)) {
        let mut rig = Rig::new();
        // The test's own count of what matters.
        let (mut row, mut attempts, mut passed) = (0, 0_u64, 0);
        let mut out_until = Duration::ZERO;
        let mut last_time = RULES.base;
        for event in events {
            let before = rig.machine.standing();
            let serves = matches!(before, Standing::Serving | Standing::Condemned | Standing::Silent);
            let change = match event {
                Event::Fail(kind) => {
                    if serves { row += 1; attempts += 1; }
                    rig.fail(kind)
                }
                Event::Succeed(count) => {
                    for _ in 0..count { rig.succeed(); }
                    if serves { row = 0; attempts += count; }
                    None
                }
                Event::Probe(well) => {
                    passed = if well { passed + 1 } else { 0 };
                    rig.probe(if well { PASSED } else { Verdict::Failed(Kind::Reset) })
                }
                Event::Urgent(well) => {
                    let verdict = if well { PASSED } else { Verdict::Failed(Kind::Reset) };
                    rig.machine.probed(verdict, true, rig.at, &RULES)
                }
                Event::Lag => rig.machine.lags("late".into(), Duration::from_secs(1), rig.at, &RULES, || rig.free),
                Event::Later(ms) => rig.later(ms as f64 / 1000.0),
                Event::Guard(free) => { rig.free = free; None }
                Event::Revive => { rig.machine.revived(rig.at); row = 0; attempts = 0; None }
            };
            let after = rig.machine.standing();
            let serving = matches!(after, Standing::Serving | Standing::Condemned | Standing::Silent);
            match change {
                Some(Change::Ejected(time)) => {
                    // Only the guard lets a serving one go, and only for a reason.
                    prop_assert!(before == Standing::Probing || rig.free);
                    prop_assert_eq!(after, Standing::Ejected);
                    prop_assert!(matches!(event, Event::Lag) || before == Standing::Probing || row >= 5 || attempts >= 20);
                    prop_assert!(time >= RULES.base && time <= LONGEST);
                    prop_assert!(before != Standing::Probing || time >= last_time, "a failed probe never shortens it");
                    (out_until, last_time) = (rig.at.now + time, time);
                    (row, attempts, passed) = (0, 0, 0);
                }
                Some(Change::Condemned) => {
                    prop_assert!(!rig.free && serving);
                    prop_assert!(row >= 5 || attempts >= 20);
                }
                Some(Change::Probing) => {
                    prop_assert!(before == Standing::Ejected && rig.at.now >= out_until);
                    passed = 0;
                }
                Some(Change::Back) => {
                    prop_assert!(!serves && serving);
                    let urgent = matches!(event, Event::Urgent(true));
                    prop_assert!(urgent || (before == Standing::Probing && passed >= PROBES));
                    (row, attempts) = (0, 0);
                }
                None => {
                    // Nobody leaves or returns without a word, but for who was down.
                    prop_assert!(serves == serving || matches!(event, Event::Revive));
                }
            }
            // Five in a row always have consequences.
            if serving && row >= 5 {
                prop_assert_ne!(after, Standing::Serving);
            }
            // And whoever is accused or out has a reason.
            prop_assert_eq!(after == Standing::Serving, rig.machine.reason().is_empty());
        }
    }
}
