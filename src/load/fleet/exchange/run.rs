//! The loop itself: what wakes it, and what becomes of it when it fails.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::stream::StreamExt;

use super::{Command, Exchange, Table};
use crate::load::Ledger;

/// The loop wakes at least this often.
const AWAKE_EVERY: Duration = Duration::from_millis(250);
/// The pause after a failure, and the longest after one that comes again and again.
const FIRST_RESTART: Duration = Duration::from_secs(1);
const LONGEST_RESTART: Duration = Duration::from_secs(30);

impl<T: AsRef<Ledger> + Send + Sync + 'static> Exchange<T> {
    /// Runs until it is told to leave. A panic, which only a mistake in here makes, ends what it did, and it begins anew.
    pub async fn run(mut self) {
        let mut pause = FIRST_RESTART;
        loop {
            let begun = Instant::now();
            if AssertUnwindSafe(self.rounds()).catch_unwind().await.is_ok() {
                return;
            }
            if begun.elapsed() >= 2 * LONGEST_RESTART {
                pause = FIRST_RESTART;
            }
            let again_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            log::error!(pool = self.settings.pool, again_ms = again_ms; "exchange_failed");
            self = self.anew();
            if self.rests(pause).await {
                return;
            }
            pause = (2 * pause).min(LONGEST_RESTART);
        }
    }

    /// The same, of which nothing is known but who it is and what it works with.
    fn anew(self) -> Self {
        self.share.abandon();
        let Exchange { settings, client, share, queue, commands, first_view, metrics, node, refused, .. } = self;
        let node = node.successor();
        Exchange { refused, ..Self::with(settings, client, share, queue, commands, first_view, metrics, node) }
    }

    /// Does nothing for a while; whether it was told to leave meanwhile.
    async fn rests(&mut self, pause: Duration) -> bool {
        let sleep = tokio::time::sleep(pause);
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                () = &mut sleep => return false,
                command = self.commands.recv() => return self.obey(command).await,
                // It chooses locally.
                Some(_) = self.queue.recv() => {}
            }
        }
    }

    /// Whether that was the end.
    async fn obey(&mut self, command: Option<Command>) -> bool {
        if let Some(Command::Leave(done)) = command {
            self.leave().await;
            done.send(()).ok();
        }
        true
    }

    async fn rounds(&mut self) {
        let client = self.client.clone();
        let link = client.changed(self.link);
        let sleep = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(link, sleep);
        loop {
            let now = Instant::now();
            self.let_go_of_the_overdue(now);
            self.start_what_may_start(now);
            self.show_mode();
            let due = tokio::time::Instant::from_std(self.next_due(now));
            if sleep.deadline() != due {
                sleep.as_mut().reset(due);
            }
            tokio::select! {
                biased;
                new = &mut link => {
                    self.linked(new);
                    link.set(client.changed(new));
                }
                Some((seq, reply)) = self.calls.next(), if !self.calls.is_empty() => self.answered(seq, reply),
                Some(rare) = self.rare.next(), if !self.rare.is_empty() => self.rare_answered(rare),
                command = self.commands.recv() => {
                    self.obey(command).await;
                    return;
                }
                Some(waiter) = self.queue.recv() => {
                    self.waiting.push_back(waiter);
                    while let Ok(waiter) = self.queue.try_recv() {
                        self.waiting.push_back(waiter);
                    }
                }
                () = &mut sleep => {}
            }
        }
    }

    fn next_due(&self, now: Instant) -> Instant {
        let first_wait = self.out.iter().flat_map(|out| out.waiters.front()).chain(self.waiting.front());
        let wait = first_wait.map(|waiter| waiter.since + self.settings.timeout).min();
        let call = match self.table {
            _ if !self.link.up || !self.out.is_empty() => None,
            _ if now < self.not_before => Some(self.not_before),
            Table::Needed | Table::Reading => None,
            Table::Known => Some(self.next_call.min(self.next_beat)),
        };
        [wait, call].into_iter().flatten().fold(now + AWAKE_EVERY, Instant::min)
    }
}
