//! What the requests themselves tell about one server: feeds the state machine of [`crate::upstream::ejection`], asks the
//! guard, and keeps what a choice must know in atomics, so that a request which went well takes no lock.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{Ejection, Latency};
use crate::upstream::clock;
use crate::upstream::ejection::{Change, Kind, Machine, Moment, Standing, Verdict};
use crate::upstream::guard::Guard;
use crate::upstream::outlier::{Outlier, SAMPLES, Times};
use crate::upstream::strain::{Presence, Ramp, Strain};

/// A server that was found to be slow is told of again only after it was not for this long.
const EPISODE: Duration = Duration::from_secs(10);

/// A probe that takes longer makes room for another: it may be a long upload, or a download.
const OVERDUE: Duration = Duration::from_secs(5);

/// What requests tell about one server.
#[derive(Debug)]
pub struct Conduct {
    server: String,
    guard: Arc<Guard>,
    place: usize,
    /// A [`Standing`].
    standing: AtomicU8,
    /// Since when it is condemned for its silence; nanoseconds, meaningless while it is not.
    silent_since: AtomicU64,
    strain: Strain,
    ramp: Ramp,
    /// Whether the machine wants to be told of successes.
    wants_success: AtomicBool,
    machine: Mutex<Machine>,
    /// Attempts that went well.
    good: AtomicU64,
    probe: AtomicBool,
    /// When the last probe began; nanoseconds, 0: never.
    probe_began: AtomicU64,
    times: Times,
    /// When it was last found to be slow; nanoseconds, 0: never.
    slow_at: AtomicU64,
    /// How many times it had taken, and one, when it was first found to be slow, and has been since; 0: it was not.
    suspected: AtomicU64,
}

/// How an attempt ended, as far as it tells of the server.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    /// Well; the time to the first byte, where requests are alike enough to compare.
    Good(Option<Duration>),
    /// Badly.
    Bad(Kind),
    /// In a way that tells nothing.
    Neither,
}

impl Conduct {
    /// Of a server of which nothing is known.
    pub fn new(server: &str, priority: u32, guard: &Arc<Guard>) -> Self {
        Conduct {
            server: server.to_owned(),
            place: guard.join(priority),
            guard: guard.clone(),
            standing: AtomicU8::new(Standing::Serving as u8),
            silent_since: AtomicU64::new(0),
            strain: Strain::default(),
            ramp: Ramp::default(),
            wants_success: AtomicBool::new(false),
            machine: Mutex::default(),
            good: AtomicU64::new(0),
            probe: AtomicBool::new(false),
            probe_began: AtomicU64::new(0),
            times: Times::default(),
            slow_at: AtomicU64::new(0),
            suspected: AtomicU64::new(0),
        }
    }

    /// Whether it serves, and if not, what it waits for.
    #[inline]
    pub fn standing(&self) -> Standing {
        match self.standing.load(Ordering::Relaxed) {
            0 => Standing::Serving,
            1 => Standing::Condemned,
            2 => Standing::Silent,
            3 => Standing::Ejected,
            _ => Standing::Probing,
        }
    }

    /// For how long it has been condemned for its silence; None: it is not.
    pub fn silent_for(&self) -> Option<Duration> {
        if self.standing.load(Ordering::Acquire) != Standing::Silent as u8 {
            return None;
        }
        Some(clock::now().saturating_sub(Duration::from_nanos(self.silent_since.load(Ordering::Relaxed))))
    }

    /// Why it is condemned or left out; empty when it is neither.
    pub fn reason(&self) -> String {
        self.machine().reason().to_owned()
    }

    /// How much of it is to be had.
    #[inline]
    pub fn presence(&self) -> Presence {
        if self.strain.is_none() && self.ramp.is_none() {
            return Presence::FULL;
        }
        let now = clock::now();
        Presence::new(self.strain.share(now), self.ramp.height(now, self.guard.slow_start))
    }

    /// Whether its share is still growing.
    pub fn is_starting(&self) -> bool {
        !self.ramp.is_none() && self.ramp.height(clock::now(), self.guard.slow_start) < 1.0
    }

    /// Attempts that went well.
    pub fn good(&self) -> u64 {
        self.good.load(Ordering::Relaxed)
    }

    /// An attempt that is no probe is over. `told`: its failure was counted already, when its silence was noticed.
    pub fn ended(&self, ending: Ending, began: Instant, told: bool) {
        match ending {
            Ending::Good(took) => {
                self.good.fetch_add(1, Ordering::Relaxed);
                self.strain.count(false, clock::now);
                self.measured(took);
                if self.wants_success.load(Ordering::Relaxed) {
                    self.with_machine(|machine, at, rules| {
                        if clock::of(began) >= machine.since() {
                            machine.succeeded(at, rules);
                        }
                        None
                    });
                }
            }
            Ending::Bad(kind) if !told => self.failed(kind, began),
            Ending::Bad(_) | Ending::Neither => {}
        }
    }

    /// An attempt has waited for long while nothing was answered at all: a failure, counted as soon as it is noticed.
    pub fn fell_silent(&self, began: Instant) {
        let probe_began = self.probe_began.load(Ordering::Relaxed);
        if self.probe.load(Ordering::Relaxed) && clock::nanos(clock::of(began)) >= probe_began {
            self.probed(Ending::Bad(Kind::Timeout), false);
        } else {
            self.failed(Kind::Timeout, began);
        }
    }

    /// A probe is over. `urgent` as in [`Machine::probed`].
    pub fn probed(&self, ending: Ending, urgent: bool) {
        let verdict = match ending {
            Ending::Good(took) => Verdict::Passed(took),
            Ending::Bad(kind) => Verdict::Failed(kind),
            Ending::Neither => return,
        };
        if let Verdict::Passed(_) = verdict {
            self.good.fetch_add(1, Ordering::Relaxed);
        }
        self.judge(verdict, urgent);
    }

    /// A probe has an answer, and goes on for long.
    pub fn probe_answered(&self, urgent: bool) {
        self.judge(Verdict::Passed(None), urgent);
    }

    fn judge(&self, verdict: Verdict, urgent: bool) {
        self.with_machine(|machine, at, rules| match (machine.standing(), verdict) {
            (Standing::Ejected | Standing::Probing, _) => machine.probed(verdict, urgent, at, rules),
            (_, Verdict::Passed(_)) => {
                machine.succeeded(at, rules);
                None
            }
            (_, Verdict::Failed(kind)) => machine.failed(kind, at, rules, || self.guard.may_eject(self.place)),
        });
    }

    /// Takes the one place of a probe. It must be given back by [`Conduct::end_probe`], with the number that this
    /// returns.
    pub fn begin_probe(&self) -> Option<u64> {
        if self.probe.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return self.begin_urgent_probe(Instant::now(), OVERDUE);
        }
        let now = clock::nanos(clock::now());
        self.probe_began.store(now, Ordering::Relaxed);
        Some(now)
    }

    /// The same where nobody else is left, if the last probe began at least `every` ago: even if that one still waits
    /// for its answer. Of several at once one gets it.
    pub fn begin_urgent_probe(&self, now: Instant, every: Duration) -> Option<u64> {
        let last = self.probe_began.load(Ordering::Relaxed);
        let now = clock::nanos(clock::of(now));
        if last != 0 && now.saturating_sub(last) < clock::nanos(every) {
            return None;
        }
        let now = now.max(last + 1);
        self.probe_began.compare_exchange(last, now, Ordering::Acquire, Ordering::Relaxed).ok()?;
        self.probe.store(true, Ordering::Relaxed);
        Some(now)
    }

    /// Whether the place of a probe is to be had.
    pub fn probe_is_free(&self) -> bool {
        let overdue = || clock::nanos(clock::now()).saturating_sub(self.probe_began.load(Ordering::Relaxed));
        !self.probe.load(Ordering::Relaxed) || overdue() >= clock::nanos(OVERDUE)
    }

    /// Gives the place of a probe back, unless a later one has it.
    pub fn end_probe(&self, number: u64) {
        if self.probe_began.load(Ordering::Relaxed) == number {
            self.probe.store(false, Ordering::Release);
        }
    }

    /// What the health checks found. `returns`: it was down before, or elsewhere.
    pub fn set_up(&self, up: bool, returns: bool) {
        self.guard.set_up(self.place, up);
        if up && returns {
            self.start_anew(Machine::revived);
            self.ramp.begin(clock::now(), self.guard.slow_start);
        }
    }

    /// Another server stands in its place from now on.
    pub fn replaced(&self) {
        self.guard.set_up(self.place, false);
        self.ramp.end();
        self.start_anew(Machine::replaced);
    }

    fn start_anew(&self, begin: fn(&mut Machine, Moment) -> bool) {
        let mut machine = self.machine();
        let before = machine.standing();
        if begin(&mut machine, self.moment()) {
            self.guard.let_back(self.place);
        }
        self.strain.clear();
        self.times.clear();
        self.publish(before, &machine);
    }

    /// Time passes; to be called several times a second.
    pub fn tick(&self) {
        let now = clock::now();
        self.strain.tidy(now);
        self.ramp.tidy(now);
        self.with_machine(|machine, at, rules| machine.tick(at, rules, || self.guard.may_eject(self.place)));
    }

    /// The median of its last times to first byte, while it serves.
    pub fn median(&self) -> Option<Duration> {
        matches!(self.standing(), Standing::Serving | Standing::Condemned).then(|| self.times.median(clock::now()))?
    }

    /// Whether it is left out for answering late.
    pub fn is_out_for_latency(&self) -> bool {
        matches!(self.standing(), Standing::Ejected | Standing::Probing) && self.machine().is_out_for_latency()
    }

    /// It does not answer far later than the others.
    pub fn is_not_slow(&self) {
        if self.suspected.load(Ordering::Relaxed) != 0 {
            self.suspected.store(0, Ordering::Relaxed);
        }
    }

    /// It answers far later than the others. Where it has done so for as many times as make a median, it is left out if
    /// `may_eject`, if the rules say so and if the guard lets it go.
    pub fn is_slow(&self, outlier: &Outlier, may_eject: bool) {
        let Outlier { median, others, limit, .. } = *outlier;
        // With ten looks a second, one median that lies far out by chance is found soon.
        let taken = self.times.taken();
        match self.suspected.load(Ordering::Relaxed) {
            0 => return self.suspected.store(u64::from(taken) + 1, Ordering::Relaxed),
            first if (taken.wrapping_sub((first - 1) as u32) as usize) < SAMPLES => return,
            _ => {}
        }
        let now = clock::nanos(clock::now());
        let last = self.slow_at.swap(now, Ordering::Relaxed);
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        if last == 0 || now.saturating_sub(last) > clock::nanos(EPISODE) {
            self.guard.slow.with_label_values(&[self.guard.pool.as_str(), self.server.as_str()]).inc();
            log::warn!(
                pool = self.guard.pool, server = self.server, median_ms = ms(median), others_ms = ms(others);
                "server_slow"
            );
        }
        if may_eject && self.guard.latency() == Latency::Eject {
            let reason = format!("half of its answers take {} ms, those of the others {} ms", ms(median), ms(others));
            self.with_machine(|machine, at, rules| {
                machine.lags(reason, limit, at, rules, || self.guard.may_eject(self.place))
            });
        }
    }

    fn measured(&self, took: Option<Duration>) {
        if let Some(took) = took
            && self.guard.latency() != Latency::Off
        {
            self.times.record(took, clock::now());
        }
    }

    fn failed(&self, kind: Kind, began: Instant) {
        let mut counts = true;
        self.with_machine(|machine, at, rules| {
            counts = clock::of(began) >= machine.since();
            let may_go = || self.guard.may_eject(self.place);
            counts.then(|| machine.failed(kind, at, rules, may_go)).flatten()
        });
        if counts {
            self.strain.count(true, clock::now);
        }
    }

    /// Lets `change` change the machine, and does what follows from it.
    fn with_machine(&self, change: impl FnOnce(&mut Machine, Moment, &Ejection) -> Option<Change>) {
        let Some(rules) = &self.guard.rules else { return };
        let mut machine = self.machine();
        let before = machine.standing();
        let changed = change(&mut machine, self.moment(), rules);
        if changed == Some(Change::Back) {
            self.guard.let_back(self.place);
            self.strain.clear();
            self.times.clear();
            self.ramp.begin(clock::now(), self.guard.slow_start);
        }
        self.publish(before, &machine);
        let reason = changed.as_ref().map(|_| machine.reason().to_owned());
        drop(machine);
        if let (Some(changed), Some(reason)) = (changed, reason) {
            self.tell(&changed, &reason);
        }
    }

    /// What choices read. Only while the machine is held, so that the last word is the right one.
    fn publish(&self, before: Standing, machine: &Machine) {
        let standing = machine.standing();
        let waits = |standing| matches!(standing, Standing::Probing | Standing::Silent);
        match (waits(before), waits(standing)) {
            (false, true) => self.guard.add_probing(),
            (true, false) => self.guard.less_probing(),
            _ => {}
        }
        if standing == Standing::Silent && before != standing {
            self.silent_since.store(clock::nanos(clock::now()), Ordering::Relaxed);
        }
        self.standing.store(standing as u8, Ordering::Release);
        self.wants_success.store(machine.wants_success(), Ordering::Relaxed);
    }

    fn tell(&self, change: &Change, reason: &str) {
        let (pool, server) = (&self.guard.pool, &self.server);
        match change {
            Change::Ejected(time) => {
                self.guard.ejections.with_label_values(&[pool, server]).inc();
                let for_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                log::warn!(pool = pool, server = server, reason = reason, for_ms = for_ms; "server_ejected");
            }
            Change::Condemned => {
                log::warn!(
                    pool = pool, server = server, reason = reason,
                    hint = "not ejected: too few others serve, or `ejection.max_ejected` are out";
                    "server_condemned"
                );
            }
            Change::Probing => log::info!(pool = pool, server = server; "server_probing"),
            Change::Back => log::info!(pool = pool, server = server; "server_back"),
        }
    }

    fn moment(&self) -> Moment {
        Moment { now: clock::now(), good: self.good() }
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
