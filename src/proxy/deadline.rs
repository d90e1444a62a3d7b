//! Deadlines for response headers, which Pingora does not have: its read timeout is fixed when an attempt starts and
//! applies to the body too, so a short one would cut streams that pause.
//!
//! Each attempt that waits for its header is entered here with the descriptor of its connection and with what its wait
//! depends on ([`Wait`]). One thread looks over all entries every [`TICK`]; where the time is over it shuts the connection
//! down, and Pingora sees it closed.
//!
//! A descriptor is only a number: when the attempt ends on its own at the same moment, the number may already mean
//! another connection. So the thread first has the kernel duplicate it (through a pair of Unix sockets, which needs no
//! unsafe code), compares both addresses of the duplicate with those that were entered, and shuts down only the
//! duplicate. Entries are kept in shards, each with a short lock, so that worker threads do not wait for each other.
//!
//! # Why a request to a server of HTTP/2 has a connection of its own
//!
//! Shutting a connection down ends all requests on it, so there must be only one: `max_h2_streams` of Pingora stays 1.
//! What stands against more, in Pingora 0.9.1:
//!
//! - Nothing ends one stream. While a header is waited for no hook is called, and hooks see neither the stream nor its
//!   number, only the descriptor. `read_timeout` is fixed before the attempt and holds for header and body alike. To drop
//!   the request's task, as [`crate::proxy::http2::end_in`] does, resets the stream, but leaves no answer and no other
//!   attempt. (A client that cancels is no trouble: Pingora then resets that stream alone.)
//! - A connection that breaks fails each request on it, and each would count against the server: five, and
//!   `ejection.consecutive` takes it out for one reset. Failures of one connection would have to count once.
//! - A new connection is used before the server's SETTINGS are there, up to our own limit. What exceeds the server's is
//!   refused, or waits inside of h2, where nobody sees it, while it counts as in flight; only a deadline could end that.
//! - A connection's window is as large as a stream's, 8 MiB both: one client that stops reading would hold up all others
//!   on the connection. Streams would need smaller windows than it (`h2_stream_window_size`).
//!
//! The way there is a connector of our own (`custom` in Pingora's `ProxyServiceBuilder`), whose sessions end their own
//! stream when their wait is over. Limits, windows and the pool of connections are then ours as well; and Pingora refuses
//! `h2` as the name of a custom protocol, so it has to shake hands itself, too.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{self, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockaddrStorage};

use crate::proxy::per_try::{Over, Wait};

/// How late a deadline may be noticed.
pub const TICK: Duration = Duration::from_millis(20);
const SHARDS: usize = 16;

/// All attempts that wait for a response header.
#[derive(Debug)]
pub struct Deadlines {
    shards: [Shard; SHARDS],
    kernel: Mutex<Kernel>,
}

/// What it takes to have a descriptor duplicated, even when the process has none left to give.
#[derive(Debug)]
struct Kernel {
    pair: Option<(UnixDatagram, UnixDatagram)>,
    spare: Option<File>,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    slots: Vec<Option<Entry>>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Entry {
    wait: Wait,
    socket: Socket,
    over: Option<Over>,
}

/// How a wait ended.
#[derive(Debug, Default)]
pub struct End {
    /// Why the connection has been shut down; None: it has not.
    pub over: Option<Over>,
    /// The server was told of its silence.
    pub told: bool,
}

/// A connection, as it was when it was entered.
#[derive(Clone, Copy, Debug)]
pub struct Socket {
    /// Its descriptor.
    pub fd: RawFd,
    /// Our end.
    pub local: SocketAddr,
    /// The server's end.
    pub peer: SocketAddr,
}

/// The place of an entry. Must be given back with [`Deadlines::disarm`].
#[derive(Debug)]
pub struct Ticket {
    shard: usize,
    slot: usize,
}

impl Default for Deadlines {
    fn default() -> Self {
        let kernel = Kernel { pair: UnixDatagram::pair().ok(), spare: File::open("/dev/null").ok() };
        Deadlines { shards: std::array::from_fn(|_| Shard::default()), kernel: Mutex::new(kernel) }
    }
}

impl Deadlines {
    /// When the wait is over, the connection will be shut down.
    pub fn arm(&self, wait: Wait, socket: Socket) -> Ticket {
        let shard = this_thread();
        let mut entries = self.lock(shard);
        let entry = Some(Entry { wait, socket, over: None });
        let slot = match entries.free.pop() {
            Some(slot) => {
                entries.slots[slot] = entry;
                slot
            }
            None => {
                entries.slots.push(entry);
                entries.slots.len() - 1
            }
        };
        Ticket { shard, slot }
    }

    /// Changes what a wait depends on. One that is over already stays so.
    pub fn change(&self, ticket: &Ticket, change: impl FnOnce(&mut Wait)) {
        if let Some(Some(entry)) = self.lock(ticket.shard).slots.get_mut(ticket.slot) {
            change(&mut entry.wait);
        }
    }

    /// Takes the entry out.
    pub fn disarm(&self, ticket: Ticket) -> End {
        let mut entries = self.lock(ticket.shard);
        let entry = entries.slots.get_mut(ticket.slot).and_then(Option::take);
        entries.free.push(ticket.slot);
        drop(entries);
        entry.map_or_else(End::default, |entry| End { over: entry.over, told: entry.wait.told })
    }

    /// Shuts down every connection whose time is over at `now`. Makes system calls: belongs on a thread of its own.
    pub fn sweep(&self, now: Instant) {
        for shard in 0..SHARDS {
            let mut entries = self.lock(shard);
            for entry in entries.slots.iter_mut().flatten() {
                if entry.over.is_none()
                    && let Some(over) = entry.wait.is_over(now)
                {
                    // The lock is held: the attempt cannot be disarmed and its connection pooled in between. What does
                    // not work for want of resources is tried again at the next tick.
                    let done = self.kernel().shut_down(&entry.socket);
                    let gone = matches!(done, Ok(()) | Err(nix::Error::EBADF | nix::Error::ENOTCONN));
                    entry.over = gone.then_some(over);
                }
            }
        }
    }

    fn kernel(&self) -> std::sync::MutexGuard<'_, Kernel> {
        self.kernel.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn lock(&self, shard: usize) -> std::sync::MutexGuard<'_, Entries> {
        self.shards[shard % SHARDS].0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Each thread keeps to one shard.
fn this_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SHARD: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
    }
    SHARD.with(|shard| *shard)
}

impl Kernel {
    fn shut_down(&mut self, socket: &Socket) -> nix::Result<()> {
        let duplicate = match self.duplicate(socket.fd) {
            Err(nix::Error::EMFILE | nix::Error::ENFILE) => {
                self.spare = None;
                self.duplicate(socket.fd)
            }
            other => other,
        }?;
        let same = address(socket::getsockname(duplicate)) == Some(socket.local)
            && address(socket::getpeername(duplicate)) == Some(socket.peer);
        let result = if same { socket::shutdown(duplicate, Shutdown::Both) } else { Err(nix::Error::EBADF) };
        nix::unistd::close(duplicate).ok();
        if self.spare.is_none() {
            self.spare = File::open("/dev/null").ok();
        }
        result
    }

    /// A second descriptor of the same open socket, made by the kernel.
    fn duplicate(&mut self, fd: RawFd) -> nix::Result<RawFd> {
        if self.pair.is_none() {
            self.pair = UnixDatagram::pair().ok();
        }
        let Some((ours, theirs)) = &self.pair else { return Err(nix::Error::EMFILE) };
        let payload = [std::io::IoSlice::new(b"x")];
        let rights = [ControlMessage::ScmRights(&[fd])];
        socket::sendmsg::<()>(ours.as_raw_fd(), &payload, &rights, MsgFlags::MSG_DONTWAIT, None)?;
        let mut byte = [0u8; 1];
        let mut room = [std::io::IoSliceMut::new(&mut byte)];
        let mut space = nix::cmsg_space!(RawFd);
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let message = socket::recvmsg::<()>(theirs.as_raw_fd(), &mut room, Some(&mut space), flags)?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = control {
                return descriptors.first().copied().ok_or(nix::Error::EMFILE);
            }
        }
        // The kernel had no number to give: the message came without its descriptor.
        Err(nix::Error::EMFILE)
    }
}

fn address(found: nix::Result<SockaddrStorage>) -> Option<SocketAddr> {
    let found = found.ok()?;
    let v4 = found.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
    v4.or_else(|| found.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port()))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::per_try::testing;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    fn wait(until: Instant) -> Wait {
        let mut wait = testing::wait();
        wait.until = Some(until);
        wait
    }

    fn is_over(end: &End) -> bool {
        matches!(end.over, Some(Over::Response))
    }

    fn pair() -> (TcpStream, TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        let socket =
            Socket { fd: near.as_raw_fd(), local: near.local_addr().unwrap(), peer: near.peer_addr().unwrap() };
        (near, far, socket)
    }

    #[test]
    fn only_a_deadline_that_is_over_shuts_its_connection_down() {
        let deadlines = Deadlines::default();
        let now = Instant::now();
        let (mut late, _far_late, late_socket) = pair();
        let (in_time, _far_in_time, in_time_socket) = pair();
        let first = deadlines.arm(wait(now + Duration::from_secs(1)), late_socket);
        let second = deadlines.arm(wait(now + Duration::from_secs(3)), in_time_socket);
        deadlines.sweep(now + Duration::from_secs(2));
        assert_eq!(late.read(&mut [0; 8]).unwrap(), 0, "the connection is at its end");
        in_time.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        assert!((&in_time).read(&mut [0; 8]).is_err(), "the other is still open");
        assert!(is_over(&deadlines.disarm(first)));
        assert!(!is_over(&deadlines.disarm(second)));
    }

    #[test]
    fn a_postponed_deadline_waits() {
        let deadlines = Deadlines::default();
        let now = Instant::now();
        let (_near, _far, socket) = pair();
        let ticket = deadlines.arm(wait(now), socket);
        deadlines.change(&ticket, |wait| wait.until = Some(now + Duration::from_secs(5)));
        deadlines.sweep(now + Duration::from_secs(4));
        assert!(!is_over(&deadlines.disarm(ticket)));
    }

    #[test]
    fn a_descriptor_that_means_another_connection_now_is_left_alone() {
        let deadlines = Deadlines::default();
        let now = Instant::now();
        let (other, _far, other_socket) = pair();
        let (_gone, _far_gone, gone_socket) = pair();
        let ticket = deadlines.arm(wait(now), Socket { fd: other_socket.fd, ..gone_socket });
        deadlines.sweep(now);
        other.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        assert!((&other).read(&mut [0; 8]).is_err(), "still open");
        assert!(is_over(&deadlines.disarm(ticket)), "the attempt is over all the same");
        let ticket = deadlines.arm(wait(now), Socket { fd: 1_000_000, ..gone_socket });
        deadlines.sweep(now);
        assert!(is_over(&deadlines.disarm(ticket)));
    }

    #[test]
    fn slots_are_used_again() {
        let deadlines = Deadlines::default();
        let (_near, _far, socket) = pair();
        for _ in 0..100 {
            let ticket = deadlines.arm(wait(Instant::now()), socket);
            deadlines.disarm(ticket);
        }
        let slots: usize = (0..SHARDS).map(|shard| deadlines.lock(shard).slots.len()).sum();
        assert_eq!(slots, 1);
    }
}
