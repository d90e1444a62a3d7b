//! Connections that are one too many: told so in one write, whatever they want, and closed.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use pingora::protocols::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// All that such a client gets. Too short to need a wait: a fresh connection has room for it.
const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: 25\r\n\
fairlead-error: too-many-connections\r\nconnection: close\r\n\r\n503 too-many-connections\n";

/// How long an answer is protected.
const LINGER: Duration = Duration::from_millis(500);
/// How many are protected at once, at most: each takes a descriptor.
const MOST: usize = 64;
/// How much is read of what such a client sends.
const LIMIT: usize = 64 * 1024;

/// Those that were told and are not closed yet.
#[derive(Debug)]
pub struct TurnedAway {
    lingering: AtomicUsize,
    most: usize,
}

impl TurnedAway {
    /// With so many answers protected at once, within reason.
    pub fn new(most: usize) -> Self {
        TurnedAway { lingering: AtomicUsize::new(0), most: most.clamp(1, MOST) }
    }

    /// Answers without waiting, then closes.
    ///
    /// Where bytes come in that nobody reads, closing resets the connection, and the client's system may throw away
    /// the answer before the client has seen it. So a few are read from until the client closes, but not for long. In a
    /// flood most are just closed.
    pub async fn tell(&self, mut stream: Stream) {
        let told = poll_fn(|cx| {
            let mut stream = Pin::new(&mut stream);
            let wrote = matches!(stream.as_mut().poll_write(cx, ANSWER), Poll::Ready(Ok(n)) if n == ANSWER.len());
            // Sends what was buffered, then the end.
            let flushed = wrote && stream.as_mut().poll_flush(cx).is_ready();
            Poll::Ready(flushed && stream.as_mut().poll_shutdown(cx).is_ready())
        });
        if !told.await {
            return;
        }
        if let Some(_place) = Place::take(&self.lingering, self.most) {
            tokio::time::timeout(LINGER, drain(&mut stream)).await.ok();
        }
    }
}

/// Reads until the client has closed.
async fn drain(stream: &mut Stream) {
    let mut buffer = [0; 1024];
    let mut left = LIMIT;
    loop {
        let read = poll_fn(|cx| {
            let mut room = ReadBuf::new(&mut buffer);
            Pin::new(&mut *stream).poll_read(cx, &mut room).map_ok(|()| room.filled().len())
        });
        match read.await {
            Ok(n) if n > 0 && n < left => left -= n,
            _ => return,
        }
    }
}

struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(taken: &'a AtomicUsize, most: usize) -> Option<Self> {
        let place = Place(taken);
        (taken.fetch_add(1, Ordering::AcqRel) < most).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
