//! Lines to a file, standard output or standard error that nobody ever waits for: they go through a bounded queue to a
//! thread of its own. A line that finds the queue full, or that cannot be written, is lost and counted.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvError, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use prometheus::IntCounter;

/// Lines that may wait for the writer.
const QUEUE: usize = 8192;
/// Bytes that are written at once.
const CHUNK: usize = 64 * 1024;
/// How often a full queue or a sink that would block is tried again.
const AGAIN: Duration = Duration::from_millis(5);

/// Where lines go.
#[derive(Clone, Debug)]
pub enum Sink {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file to append to, or a pipe that somebody reads.
    File(PathBuf),
}

impl Sink {
    /// The standard streams are duplicated: whoever else prints must not wait for a lock that we hold while blocked.
    fn open(&self) -> std::io::Result<File> {
        match self {
            Sink::Stdout => Ok(std::io::stdout().as_fd().try_clone_to_owned()?.into()),
            Sink::Stderr => Ok(std::io::stderr().as_fd().try_clone_to_owned()?.into()),
            Sink::File(path) => {
                // Without the flag, opening a named pipe would wait until somebody reads it.
                let flags = OFlag::O_NONBLOCK.bits();
                let file = OpenOptions::new().create(true).append(true).custom_flags(flags).open(path)?;
                fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
                Ok(file)
            }
        }
    }
}

enum Message {
    Line(Vec<u8>),
    /// Only to wake the thread up.
    Reopen,
    Flush(SyncSender<()>),
}

/// A handle to the queue. The thread ends when it is dropped.
#[derive(Debug)]
pub struct Writer {
    queue: SyncSender<Message>,
    /// A flag, so that it gets through while the queue is full.
    reopen: Arc<AtomicBool>,
    dropped: IntCounter,
}

impl Writer {
    /// Opens the sink and starts the thread `name`. A written line stays in memory for `linger` at most; `dropped`
    /// counts the lines that were lost.
    ///
    /// # Errors
    /// The sink cannot be opened (`ENXIO`: a pipe that nobody reads), or no thread can be started.
    pub fn start(name: &'static str, sink: Sink, linger: Duration, dropped: IntCounter) -> std::io::Result<Self> {
        let (queue, messages) = sync_channel(QUEUE);
        let reopen = Arc::new(AtomicBool::new(false));
        let out = Out {
            file: sink.open()?,
            name,
            sink,
            buffer: Vec::with_capacity(CHUNK),
            torn: false,
            failing: false,
            dropped: dropped.clone(),
        };
        let flag = reopen.clone();
        std::thread::Builder::new().name(name.into()).spawn(move || work(out, linger, &messages, &flag))?;
        Ok(Writer { queue, reopen, dropped })
    }

    /// Queues one line, which ends in a line feed. Never blocks.
    pub fn line(&self, line: Vec<u8>) {
        if self.queue.try_send(Message::Line(line)).is_err() {
            self.dropped.inc();
        }
    }

    /// Opens the file again before the next line is written. Never blocks.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::Release);
        self.queue.try_send(Message::Reopen).ok();
    }

    /// Waits, at most `limit`, until all that was queued is written.
    pub fn flush(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let (done, wait) = sync_channel(1);
        let mut message = Message::Flush(done);
        while let Err(TrySendError::Full(back)) = self.queue.try_send(message) {
            if Instant::now() >= until {
                return;
            }
            message = back;
            std::thread::sleep(AGAIN);
        }
        wait.recv_timeout(until.saturating_duration_since(Instant::now())).ok();
    }
}

fn work(mut out: Out, linger: Duration, messages: &Receiver<Message>, reopen: &AtomicBool) {
    // When what is in memory must be written.
    let mut due: Option<Instant> = None;
    loop {
        let message = match due {
            None => messages.recv().map_err(|RecvError| RecvTimeoutError::Disconnected),
            Some(due) => messages.recv_timeout(due.saturating_duration_since(Instant::now())),
        };
        if reopen.swap(false, Ordering::AcqRel) {
            out.reopen();
        }
        match message {
            Ok(Message::Line(line)) => {
                out.add(&line);
                due = due.or_else(|| Some(Instant::now() + linger));
            }
            Ok(Message::Reopen) => {}
            Ok(Message::Flush(done)) => {
                out.flush();
                done.try_send(()).ok();
            }
            Err(RecvTimeoutError::Timeout) => {
                out.flush();
                due = None;
            }
            Err(RecvTimeoutError::Disconnected) => return out.flush(),
        }
    }
}

/// What the thread writes to. A buffer of our own, to know which lines were lost.
struct Out {
    name: &'static str,
    sink: Sink,
    file: File,
    buffer: Vec<u8>,
    /// The last thing written is half a line.
    torn: bool,
    failing: bool,
    dropped: IntCounter,
}

impl Out {
    fn add(&mut self, line: &[u8]) {
        self.buffer.extend_from_slice(line);
        if self.buffer.len() >= CHUNK {
            self.flush();
        }
    }

    /// Writes what is there. What cannot be written is lost as a whole, so that no half line waits for better times.
    fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let ended = if self.torn { write_all(&mut self.file, b"\n").1 } else { Ok(()) };
        let (written, result) = match ended {
            Ok(()) => write_all(&mut self.file, &self.buffer),
            Err(error) => (0, Err(error)),
        };
        if written > 0 {
            self.torn = self.buffer.get(written - 1) != Some(&b'\n');
        }
        let lost = self.buffer.iter().skip(written).filter(|byte| **byte == b'\n').count();
        self.dropped.inc_by(lost as u64);
        self.buffer.clear();
        self.report(result);
    }

    /// What cannot be opened again stays as it is.
    fn reopen(&mut self) {
        self.flush();
        match self.sink.open() {
            Ok(file) => {
                self.file = file;
                self.torn = false;
            }
            Err(error) => self.report(Err(error)),
        }
    }

    /// Logs the first of several failures, unless it is the log that fails.
    fn report(&mut self, result: std::io::Result<()>) {
        let failed = result.err();
        if let Some(error) = &failed
            && !self.failing
            && !matches!(self.sink, Sink::Stderr)
        {
            log::error!(log = self.name, error = error.to_string(); "log_cannot_be_written");
        }
        self.failing = failed.is_some();
    }
}

/// How many bytes were written, and why not all of them.
fn write_all(file: &mut File, bytes: &[u8]) -> (usize, std::io::Result<()>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
            Ok(n) => written += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Whoever shares the stream with us made it so.
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(AGAIN),
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    const SOON: Duration = Duration::from_secs(5);

    fn start(path: impl Into<PathBuf>) -> std::io::Result<Writer> {
        let dropped = IntCounter::new("x", "x").unwrap();
        Writer::start("test", Sink::File(path.into()), Duration::ZERO, dropped)
    }

    fn fifo(dir: &tempfile::TempDir) -> PathBuf {
        let path = dir.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        path
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let writer = start("/dev/full").unwrap();
        for _ in 0..5 {
            writer.line(b"line\n".to_vec());
        }
        writer.flush(SOON);
        assert_eq!(writer.dropped.get(), 5);
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_refused_and_one_that_is_read_blocks_like_any() {
        let dir = tempfile::tempdir().unwrap();
        let path = fifo(&dir);
        assert_eq!(start(&path).unwrap_err().raw_os_error(), Some(nix::errno::Errno::ENXIO as i32));
        let reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let file = Sink::File(path).open().unwrap();
        let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL).unwrap());
        assert!(!flags.contains(OFlag::O_NONBLOCK) && flags.contains(OFlag::O_APPEND), "{flags:?}");
        drop(reader);
    }

    #[test]
    fn a_reader_that_hangs_blocks_nobody_and_no_line_is_torn() {
        let dir = tempfile::tempdir().unwrap();
        let path = fifo(&dir);
        let mut reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let writer = start(&path).unwrap();
        let line = [&[b'x'; 99][..], b"\n"].concat();
        let lines = 3 * QUEUE;
        let began = Instant::now();
        for _ in 0..lines {
            writer.line(line.clone());
        }
        writer.reopen();
        writer.flush(Duration::from_millis(50));
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        let dropped = writer.dropped.get() as usize;
        assert!(dropped > 0 && dropped < lines, "{dropped}");
        // Read by somebody again, it gets all that was not counted.
        let mut read = vec![0; (lines - dropped) * line.len()];
        reader.read_exact(&mut read).unwrap();
        assert!(read.chunks(line.len()).all(|chunk| chunk == line));
        assert_eq!(writer.dropped.get() as usize, dropped);
    }

    #[test]
    fn half_a_line_does_not_spoil_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut out = Out {
            name: "test",
            sink: Sink::File(path.clone()),
            file: Sink::File(path.clone()).open().unwrap(),
            buffer: Vec::new(),
            torn: true,
            failing: false,
            dropped: IntCounter::new("x", "x").unwrap(),
        };
        (&out.file).write_all(b"half").unwrap();
        out.add(b"whole\n");
        out.flush();
        out.add(b"whole\n");
        out.flush();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "half\nwhole\nwhole\n");
    }
}
