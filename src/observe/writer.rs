//! Lines on their way to a file: through a bounded queue to a thread of its own, so that whoever writes never waits
//! for a disk or for somebody who does not read. A line that finds the queue full, or cannot be written, is dropped
//! and counted.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use prometheus::IntCounter;

/// Lines that may wait for the thread.
const QUEUE: usize = 8192;
const BUFFER: usize = 64 * 1024;
/// How long a written line may stay in memory.
const FLUSH_EVERY: Duration = Duration::from_millis(200);

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, appended to.
    File(PathBuf),
}

enum Message {
    Line(Vec<u8>),
    Reopen,
    Flush(SyncSender<()>),
}

/// A handle to the queue; a clone feeds the same one.
#[derive(Clone, Debug)]
pub struct Writer {
    queue: SyncSender<Message>,
    dropped: IntCounter,
}

impl Writer {
    /// Opens the sink and starts the thread; `dropped` counts the lines that are lost.
    ///
    /// # Errors
    /// The file cannot be opened for appending (a pipe without a reader neither), or no thread can be started.
    pub fn start(name: &str, sink: Sink, dropped: IntCounter) -> std::io::Result<Self> {
        let out = open(&sink)?;
        let (queue, messages) = sync_channel(QUEUE);
        let lost = dropped.clone();
        let run = move || Thread { sink, out: BufWriter::with_capacity(BUFFER, out), unflushed: 0, lost }.run(messages);
        std::thread::Builder::new().name(name.into()).spawn(run)?;
        Ok(Writer { queue, dropped })
    }

    /// Queues one line, which must end with a line break; never blocks.
    pub fn line(&self, line: Vec<u8>) {
        if self.queue.try_send(Message::Line(line)).is_err() {
            self.dropped.inc();
        }
    }

    /// Counts a line that could not even be made.
    pub fn lost(&self) {
        self.dropped.inc();
    }

    /// Opens the file again, after somebody moved it away.
    pub fn reopen(&self) {
        self.queue.try_send(Message::Reopen).ok();
    }

    /// Waits, at most `limit`, until all that was queued is written.
    pub fn flush(&self, limit: Duration) {
        let (done, wait) = sync_channel(1);
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            wait.recv_timeout(limit).ok();
        }
    }
}

fn open(sink: &Sink) -> std::io::Result<Box<dyn Write + Send>> {
    Ok(match sink {
        Sink::Stdout => Box::new(std::io::stdout()),
        Sink::Stderr => Box::new(std::io::stderr()),
        Sink::File(path) => Box::new(open_file(path)?),
    })
}

/// Without waiting for somebody to read, should the file be a pipe.
fn open_file(path: &Path) -> std::io::Result<std::fs::File> {
    let flag = OFlag::O_NONBLOCK;
    let file = OpenOptions::new().create(true).append(true).custom_flags(flag.bits()).open(path)?;
    let flags = OFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GETFL)?);
    fcntl(&file, FcntlArg::F_SETFL(flags - flag))?;
    Ok(file)
}

struct Thread {
    sink: Sink,
    out: BufWriter<Box<dyn Write + Send>>,
    /// Lines that may be lost if the next flush fails.
    unflushed: u64,
    lost: IntCounter,
}

impl Thread {
    fn run(mut self, messages: Receiver<Message>) {
        loop {
            // Whoever watches the process's own log sees an event when it happens.
            let now = self.sink == Sink::Stderr && self.unflushed > 0;
            match messages.recv_timeout(if now { Duration::ZERO } else { FLUSH_EVERY }) {
                Ok(Message::Line(line)) => {
                    self.unflushed += 1;
                    if let Err(error) = self.out.write_all(&line) {
                        self.give_up(&error);
                    }
                }
                Ok(Message::Flush(done)) => {
                    self.flush();
                    done.try_send(()).ok();
                }
                Ok(Message::Reopen) => {
                    self.flush();
                    match open(&self.sink) {
                        Ok(out) => self.out = BufWriter::with_capacity(BUFFER, out),
                        Err(error) => self.give_up(&error),
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.flush(),
                Err(RecvTimeoutError::Disconnected) => return self.flush(),
            }
        }
    }

    fn flush(&mut self) {
        if self.unflushed > 0 {
            match self.out.flush() {
                Ok(()) => self.unflushed = 0,
                Err(error) => self.give_up(&error),
            }
        }
    }

    /// Counts what is lost, and starts with an empty buffer, so that no half line is written later.
    fn give_up(&mut self, error: &std::io::Error) {
        self.lost.inc_by(self.unflushed);
        self.unflushed = 0;
        let empty: Box<dyn Write + Send> = Box::new(std::io::sink());
        let (out, _) = std::mem::replace(&mut self.out, BufWriter::new(empty)).into_parts();
        self.out = BufWriter::with_capacity(BUFFER, out);
        // The process's own log cannot tell of itself.
        if self.sink != Sink::Stderr {
            log::error!(error = error.to_string(); "access_log_cannot_be_written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter() -> IntCounter {
        IntCounter::new("x", "x").unwrap()
    }

    #[test]
    fn lines_reach_the_file_and_a_moved_file_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("log"), dir.path().join("old"));
        let lost = counter();
        let writer = Writer::start("test", Sink::File(path.clone()), lost.clone()).unwrap();
        writer.line(b"one\n".to_vec());
        writer.flush(Duration::from_secs(5));
        std::fs::rename(&path, &old).unwrap();
        writer.reopen();
        writer.line(b"two\n".to_vec());
        writer.flush(Duration::from_secs(5));
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "one\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(lost.get(), 0);
    }

    #[test]
    fn a_full_disk_loses_lines_and_counts_them() {
        let lost = counter();
        let writer = Writer::start("test", Sink::File("/dev/full".into()), lost.clone()).unwrap();
        for _ in 0..10 {
            writer.line(b"line\n".to_vec());
        }
        writer.flush(Duration::from_secs(5));
        assert_eq!(lost.get(), 10);
    }

    #[test]
    fn nobody_waits_for_a_reader_that_is_stuck() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _stuck = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path).unwrap();
        let lost = counter();
        let writer = Writer::start("test", Sink::File(path), lost.clone()).unwrap();
        for _ in 0..2 * QUEUE {
            writer.line(vec![b'x'; 100]);
        }
        assert!(lost.get() > 0, "the pipe takes 64 KiB and the queue no more than it holds");
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(Writer::start("test", Sink::File(path), counter()).is_err());
    }
}
