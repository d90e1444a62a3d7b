//! Requests that wait until a server has room: first come, first served.

use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};

/// Those at the head look again this often, called or not: room also comes from a server that is up again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A line of limited length. Only its head tries to get in, so that nobody overtakes; the others cost nothing.
#[derive(Debug)]
pub struct Queue {
    max: usize,
    waiting: AtomicUsize,
    /// Held by those at the head; handed on in the order of arrival.
    head: Semaphore,
    room: Notify,
}

/// Why a request left the line without getting in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// There was no place in the line.
    Full,
    /// It waited as long as it may.
    TooLong,
}

/// One who waits. Leaves the line when dropped.
struct Place<'q>(&'q Queue);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Queue {
    /// A line in which at most `max` may wait.
    pub fn new(max: usize) -> Self {
        Queue { max, waiting: AtomicUsize::new(0), head: Semaphore::new(1), room: Notify::new() }
    }

    /// Lets `more` try at the same time. Where each try costs a round trip, one at a time would be too slow.
    pub fn widen(&self, more: usize) {
        self.head.add_permits(more);
    }

    /// How many wait now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether nobody else may wait. A line without places is never full: there is none.
    pub fn is_full(&self) -> bool {
        self.max > 0 && self.waiting() >= self.max
    }

    /// There may be room: the first in line tries. Never blocks.
    pub fn call(&self) {
        if self.waiting() > 0 {
            self.room.notify_one();
        }
    }

    /// Waits in line for at most `limit`, and tries whenever there may be room, until `attempt` yields something.
    ///
    /// Dropping the future leaves the line.
    ///
    /// # Errors
    /// The line is full, or the time is over.
    pub async fn wait<T, A>(&self, limit: Duration, mut attempt: impl FnMut() -> A) -> Result<T, Left>
    where
        A: Future<Output = Option<T>>,
    {
        let _place = self.enter().ok_or(Left::Full)?;
        // Whoever gives room back from now on sees that somebody waits.
        fence(Ordering::SeqCst);
        let served = async {
            let Ok(_head) = self.head.acquire().await else { return std::future::pending().await };
            loop {
                if let Some(found) = attempt().await {
                    // Where there was room for one there may be room for two.
                    self.room.notify_one();
                    return found;
                }
                tokio::time::timeout(LOOK_AGAIN, self.room.notified()).await.ok();
            }
        };
        tokio::time::timeout(limit, served).await.map_err(|_| Left::TooLong)
    }

    fn enter(&self) -> Option<Place<'_>> {
        let more = |waiting: usize| (waiting < self.max).then_some(waiting + 1);
        self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Place(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;
    use std::sync::{Arc, Mutex};

    const LONG: Duration = Duration::from_secs(10);

    /// So many slots, and the order in which they were had.
    #[derive(Default)]
    struct Slots {
        free: AtomicU32,
        served: Mutex<Vec<u32>>,
    }

    impl Slots {
        async fn take(&self, who: u32) -> Option<()> {
            let less = |free: u32| free.checked_sub(1);
            self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
            self.served.lock().unwrap().push(who);
            Some(())
        }

        fn give(&self, queue: &Queue) {
            self.free.fetch_add(1, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            queue.call();
        }
    }

    async fn until(what: impl Fn() -> bool) {
        while !what() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn first_come_first_served() {
        let (queue, slots) = (Arc::new(Queue::new(10)), Arc::new(Slots::default()));
        let mut tasks = Vec::new();
        for who in 0..5 {
            let (line, slots) = (queue.clone(), slots.clone());
            tasks.push(tokio::spawn(async move { line.wait(LONG, || slots.take(who)).await }));
            until(|| queue.waiting() == who as usize + 1).await;
        }
        for _ in 0..5 {
            slots.give(&queue);
        }
        for task in tasks {
            assert_eq!(task.await.unwrap(), Ok(()));
        }
        assert_eq!(*slots.served.lock().unwrap(), [0, 1, 2, 3, 4]);
        assert_eq!(queue.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_line_has_an_end_and_patience_too() {
        let (queue, slots) = (Arc::new(Queue::new(1)), Arc::new(Slots::default()));
        assert!(!queue.is_full());
        let wait = queue.wait(Duration::from_secs(2), || slots.take(0));
        tokio::pin!(wait);
        assert!(futures_util::FutureExt::now_or_never(&mut wait).is_none());
        assert!(queue.is_full());
        assert_eq!(queue.wait(LONG, || slots.take(1)).await, Err(Left::Full));
        let began = tokio::time::Instant::now();
        assert_eq!(wait.await, Err(Left::TooLong));
        assert_eq!(began.elapsed(), Duration::from_secs(2));
        assert_eq!(queue.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_leaves_makes_room_in_line_and_takes_no_slot() {
        let (queue, slots) = (Arc::new(Queue::new(2)), Arc::new(Slots::default()));
        let mut first = Box::pin(queue.wait(LONG, || slots.take(0)));
        let mut second = Box::pin(queue.wait(LONG, || slots.take(1)));
        assert!(futures_util::FutureExt::now_or_never(&mut first).is_none());
        assert!(futures_util::FutureExt::now_or_never(&mut second).is_none());
        // Called, and gone before it could look.
        slots.give(&queue);
        drop(first);
        assert_eq!(queue.waiting(), 1);
        assert_eq!(second.await, Ok(()));
        assert_eq!(*slots.served.lock().unwrap(), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wide_head_uses_all_the_room_there_is() {
        let (queue, slots) = (Arc::new(Queue::new(10)), Arc::new(Slots::default()));
        queue.widen(3);
        let mut tasks = tokio::task::JoinSet::new();
        for who in 0..4 {
            let (line, slots) = (queue.clone(), slots.clone());
            tasks.spawn(async move { line.wait(LONG, || slots.take(who)).await });
        }
        until(|| queue.waiting() == 4).await;
        slots.free.store(4, Ordering::Relaxed);
        let began = tokio::time::Instant::now();
        queue.call();
        while let Some(done) = tasks.join_next().await {
            assert_eq!(done.unwrap(), Ok(()));
        }
        assert!(began.elapsed() < LOOK_AGAIN, "one call woke them all, one after the other");
    }
}
