//! What is remembered of one request while it passes through. Everything here is given back when it is dropped,
//! whatever way the request ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue};
use smallvec::SmallVec;

use crate::filters::client::Client;
use crate::load::connections::Pass;
use crate::load::{Lease, Permit};
use crate::node::Node;
use crate::observe::metrics::Class;
use crate::proxy::deadline::{Socket, Ticket};
use crate::proxy::handshake::Handshake;
use crate::proxy::http2;
use crate::proxy::patience::{Kind, Patience};
use crate::proxy::per_try::{Over, Wait};
use crate::proxy::refusal::Refusal;
use crate::proxy::slow::Pace;
use crate::snapshot::{Snapshot, Target, Visit};
use crate::upstream::admission::Seat;
use crate::upstream::circuit::Trial;
use crate::upstream::pool::Tried;
use crate::upstream::server::{Ended, Outcome};
use crate::upstream::{Probe, Server};

/// How long a client of HTTP/2 may go on sending when the response is over.
const PARTING: Duration = Duration::from_secs(2);

/// One request.
#[derive(Debug)]
pub struct Context {
    /// When its header had been read.
    pub started: Instant,
    /// What it sees of the configuration, to its end.
    pub snapshot: Arc<Snapshot>,
    /// None until `request_filter`.
    pub client: Option<Client>,
    /// None until `request_filter`.
    pub request_id: Option<HeaderValue>,
    /// None: no route.
    pub route: Option<Visit>,
    /// None: no route.
    pub target: Option<Arc<Target>>,
    /// For `balance: hash`.
    pub key: u64,
    /// It asks to switch protocols.
    pub upgrade: bool,
    /// It is alike enough to others for their times to say something about it: no upgrade, no stream.
    pub comparable: bool,
    /// How it came.
    pub kind: Kind,
    /// A client that closes its own half is answered all the same.
    pub serve_half_closed: bool,
    /// None until it is known.
    patience: Option<Patience>,
    /// How long an upload may pause once the response has begun; None: not begun, or without end, or not over HTTP/2.
    pause: Option<Duration>,
    /// As the listener has it.
    pub body_timeout: Option<Duration>,
    /// The connection of the attempt, where it asks to switch protocols.
    pub handshake: Option<Handshake>,
    /// The most bytes that its body may have; none: no limit.
    pub body_limit: Option<u64>,
    /// The client is still sending its body.
    pub uploading: bool,
    /// Until when the response header must be there; none: no limit.
    pub deadline: Option<Instant>,
    /// Attempts that are over.
    pub made: SmallVec<[Made; 1]>,
    /// Servers that failed, by index.
    pub tried: Tried,
    /// Another attempt follows, not before this moment.
    pub again: Option<Instant>,
    /// Room in the budget for a retry: it waits or runs.
    pub permit: Option<Permit>,
    /// Room for the next one, taken when the wait for a silent server was ended.
    pub granted: Option<Permit>,
    /// Why the request failed, once it has.
    pub failure: Option<Refusal>,
    /// What the client is told besides.
    pub refusal_headers: Vec<(HeaderName, HeaderValue)>,
    /// Time to the response header of the last attempt.
    pub to_header: Option<Duration>,
    /// It has been counted as a request that is over.
    pub recorded: bool,
    /// How fast the client is.
    pub(super) pace: Pace,
    /// Its place among those that `max_in_flight` admits.
    place: Option<Pass>,
    node: Arc<Node>,
    attempt: Option<Attempt>,
}

/// One attempt at one server. Holds the one lease of the request.
#[derive(Debug)]
struct Attempt {
    lease: Lease<Server>,
    /// The pool's circuit was not closed when it began, and there is no answer yet.
    trial: Option<Trial>,
    /// It tries a server that was left out, and has not shown yet whether it is well.
    probe: Option<Probe>,
    began: Instant,
    /// None: the client still sends its body.
    sent: Option<Instant>,
    ticket: Option<Ticket>,
    socket: Option<Socket>,
    status: u16,
    first_byte: Option<Duration>,
    /// Its silence was counted as a failure of the server.
    told: bool,
}

/// An attempt that is over.
#[derive(Clone, Debug)]
pub struct Made {
    /// Who was asked.
    pub server: Arc<Server>,
    /// What came of it.
    pub outcome: Outcome,
    /// From its beginning to its end, the body included.
    pub took: Duration,
}

impl Context {
    /// A request of which nothing is known yet.
    pub fn new(node: &Arc<Node>) -> Self {
        Context {
            started: Instant::now(),
            snapshot: node.snapshot.load_full(),
            client: None,
            request_id: None,
            route: None,
            target: None,
            key: 0,
            upgrade: false,
            comparable: false,
            kind: Kind::Http1,
            serve_half_closed: false,
            patience: None,
            pause: None,
            body_timeout: None,
            handshake: None,
            body_limit: None,
            uploading: false,
            deadline: None,
            made: SmallVec::new(),
            tried: Tried::new(),
            again: None,
            permit: None,
            granted: None,
            failure: None,
            refusal_headers: Vec::new(),
            to_header: None,
            recorded: false,
            pace: Pace::default(),
            place: None,
            node: node.clone(),
            attempt: None,
        }
    }

    /// Counts the request on the node. False: there are too many already.
    pub fn enter(&mut self) -> bool {
        let Some(gate) = &self.node.in_flight else { return true };
        self.place = gate.enter(None).ok();
        self.place.is_some()
    }

    /// An attempt begins; the last must have ended.
    pub fn begin_attempt(&mut self, Seat { lease, trial, probe }: Seat) {
        self.to_header = None;
        let began = Instant::now();
        let sent = (!self.uploading).then_some(began);
        let (ticket, socket, first_byte, told) = (None, None, None, false);
        self.attempt = Some(Attempt { lease, trial, probe, began, sent, ticket, socket, status: 0, first_byte, told });
    }

    /// Attempts begun.
    pub fn attempts(&self) -> u32 {
        self.made.len() as u32 + u32::from(self.attempt.is_some())
    }

    /// The last server tried.
    pub fn server(&self) -> Option<&Arc<Server>> {
        let now = self.attempt.as_ref().map(|attempt| attempt.lease.holder());
        now.or_else(|| self.made.last().map(|made| &made.server))
    }

    /// Until the response header must be there; None: no limit.
    pub fn left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// The attempt has a connection: from now on its wait for a header is watched. `repeatable`: see [`Wait`].
    pub fn watch(&mut self, socket: Socket, repeatable: bool) {
        let (Some(attempt), Some(route), Some(target)) = (&mut self.attempt, &self.route, &self.target) else { return };
        let mut wait = Wait::new(attempt.lease.holder().clone(), target.clone());
        (wait.until, wait.sent, wait.repeatable) = (self.deadline, attempt.sent, repeatable);
        (wait.per_try, wait.comparable) = (route.timeouts.per_try, self.comparable);
        wait.tried.extend_from_slice(&self.tried);
        attempt.ticket = Some(self.node.deadlines.arm(wait, socket));
        attempt.socket = Some(socket);
    }

    /// From now on the response header is waited for. `uploading`: the client still sends its body.
    pub fn wait(&mut self, patience: Patience, uploading: bool) {
        self.uploading = uploading;
        self.deadline = patience.until(self.started, uploading);
        self.patience = Some(patience);
    }

    /// The response begins while the client of HTTP/2 still sends. From now on neither Pingora nor a deadline watches
    /// that it does.
    pub fn conversation_begins(&mut self) {
        let Some(route) = self.route.as_ref().filter(|_| self.uploading && self.kind != Kind::Http1) else { return };
        let body = self.body_timeout.unwrap_or_default();
        self.pause = route.timeouts.idle.map(|idle| idle.max(body) + Duration::from_secs(1));
        self.conversation_goes_on();
    }

    /// The response is over. A client of HTTP/2 that still sends has a moment to learn of it, however much it sends.
    pub fn conversation_ends(&mut self) {
        if self.pause.take().is_some() && self.uploading {
            http2::end_in(Some(PARTING));
        }
    }

    /// Something was sent either way.
    pub fn conversation_goes_on(&self) {
        if let Some(pause) = self.pause {
            http2::end_in(self.uploading.then_some(pause));
        }
    }

    /// A part of the request's body came in: that time was the client's own, not the server's. `done`: it was the last;
    /// `repeatable`: see [`Wait`].
    pub fn uploaded(&mut self, done: bool, repeatable: bool) {
        let now = Instant::now();
        self.uploading = !done;
        self.deadline = self.patience.and_then(|patience| patience.until(now, !done));
        let until = self.deadline;
        let Some(attempt) = &mut self.attempt else { return };
        attempt.sent = done.then_some(now);
        let sent = attempt.sent;
        // Once the answer has begun, only the deadline of a call is left, and stays.
        if let Some(ticket) = attempt.ticket.as_ref().filter(|_| self.to_header.is_none()) {
            self.node
                .deadlines
                .change(ticket, |wait| (wait.until, wait.sent, wait.repeatable) = (until, sent, repeatable));
        }
    }

    /// A response header is there, perhaps an interim one.
    pub fn sign_of_life(&self) {
        if let Some(attempt) = &self.attempt {
            attempt.lease.holder().answered(Instant::now());
        }
    }

    /// The final response header is there. An error if it came too late and the connection is shut down.
    pub fn header_arrived(&mut self, status: u16) -> Result<(), Refusal> {
        let Some(attempt) = &mut self.attempt else { return Ok(()) };
        let now = Instant::now();
        attempt.status = status;
        attempt.lease.holder().answered(now);
        self.to_header = Some(now.saturating_duration_since(attempt.began));
        attempt.first_byte = attempt.sent.filter(|_| self.comparable).map(|sent| now.saturating_duration_since(sent));
        if let (Some(took), Some(target)) = (attempt.first_byte, &self.target) {
            target.traffic.record(took);
        }
        if status < 500 {
            // What follows may take hours.
            let tried = attempt.trial.take().is_some();
            if tried && let Some(target) = &self.target {
                target.pool.circuit.learned(true);
            }
            if !self.comparable
                && let Some(probe) = attempt.probe.take()
            {
                attempt.lease.holder().probe_answered(&probe);
            }
        }
        self.disarm().map_or(Ok(()), Err)?;
        self.watch_call();
        Ok(())
    }

    /// The deadline of a call holds to its end.
    fn watch_call(&mut self) {
        let Some(until) = self.patience.and_then(|patience| patience.call()) else { return };
        let (Some(attempt), Some(target)) = (&mut self.attempt, &self.target) else { return };
        let Some(socket) = attempt.socket else { return };
        let mut wait = Wait::new(attempt.lease.holder().clone(), target.clone());
        wait.until = Some(until);
        attempt.ticket = Some(self.node.deadlines.arm(wait, socket));
    }

    /// The attempt is over. Its lease goes back; `failed` says why it failed, if it did.
    pub fn end_attempt(&mut self, failed: Option<Refusal>) {
        if let Some(late) = self.disarm() {
            self.failure = Some(late);
        }
        let Some(attempt) = self.attempt.take() else { return };
        let outcome = match failed.or(self.failure) {
            Some(refusal) => refusal.outcome(),
            None if attempt.status >= 500 => Outcome::ServerError,
            None => Outcome::Success,
        };
        let Attempt { began, first_byte, told, .. } = attempt;
        let now = Instant::now();
        if outcome == Outcome::Timeout
            && self.to_header.is_none()
            && self.comparable
            && let (Some(sent), Some(target)) = (attempt.sent, &self.target)
        {
            target.traffic.record(now.saturating_duration_since(sent));
        }
        let server = attempt.lease.holder();
        let ended = Ended { outcome, began, to_header: self.to_header, first_byte, told };
        server.observe_attempt(&ended, attempt.probe.as_ref());
        self.made.push(Made { server: server.clone(), outcome, took: now.saturating_duration_since(began) });
        if attempt.trial.is_some()
            && outcome.is_error()
            && let Some(target) = &self.target
        {
            target.pool.circuit.learned(false);
        }
    }

    /// Stops watching the wait for a header. Some: it was over, and the connection has been shut down.
    pub fn disarm(&mut self) -> Option<Refusal> {
        let attempt = self.attempt.as_mut()?;
        let end = self.node.deadlines.disarm(attempt.ticket.take()?);
        attempt.told |= end.told;
        match end.over? {
            Over::Response if self.kind == Kind::Http2 && self.uploading => Some(Refusal::SlowBody),
            Over::Response => Some(Refusal::ResponseTimeout),
            Over::PerTry(permit) => {
                self.granted = permit;
                Some(Refusal::PerTryTimeout)
            }
        }
    }
}

/// The backstop: a panic in a hook or a task that is thrown away ends here, not in `logging`.
impl Drop for Context {
    fn drop(&mut self) {
        if let (false, Some(target)) = (self.recorded, &self.target) {
            target.requests[Class::Aborted as usize].inc();
        }
        if self.attempt.is_some() {
            self.end_attempt(Some(Refusal::ClientGone));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::load::Lease;
    use crate::server;

    fn node() -> Arc<Node> {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config::quick(address, &[("127.0.0.1".into(), 9)], None, None).unwrap();
        server::prepare(config).unwrap().node().clone()
    }

    fn in_flight(node: &Node) -> u32 {
        node.snapshot.load().pools[0].servers[0].in_flight()
    }

    fn begin(ctx: &mut Context) {
        let server = ctx.snapshot.pools[0].servers[0].clone();
        ctx.begin_attempt(Seat { lease: Lease::take(server), trial: None, probe: None });
    }

    #[test]
    fn a_panic_in_a_hook_gives_the_count_back() {
        let node = node();
        let inner = node.clone();
        let request = std::thread::spawn(move || {
            let mut ctx = Context::new(&inner);
            begin(&mut ctx);
            assert_eq!(in_flight(&inner), 1);
            panic!("a hook went wrong");
        });
        assert!(request.join().is_err());
        assert_eq!(in_flight(&node), 0);
    }

    #[test]
    fn each_attempt_holds_one_count() {
        let node = node();
        let mut ctx = Context::new(&node);
        begin(&mut ctx);
        ctx.end_attempt(Some(Refusal::ConnectFailed));
        assert_eq!(in_flight(&node), 0);
        begin(&mut ctx);
        assert_eq!((in_flight(&node), ctx.attempts()), (1, 2));
        ctx.end_attempt(None);
        ctx.end_attempt(None);
        assert_eq!(in_flight(&node), 0);
        let outcomes: Vec<_> = ctx.made.iter().map(|made| made.outcome).collect();
        assert_eq!(outcomes, [Outcome::ConnectFailed, Outcome::Success]);
        drop(ctx);
        assert_eq!(in_flight(&node), 0);
    }

    #[test]
    fn a_request_is_live_on_its_route_until_its_end() {
        let node = node();
        let snapshot = node.snapshot.load_full();
        let route = snapshot.all_routes[0].clone();
        let mut ctx = Context::new(&node);
        ctx.route = Some(route.visit());
        assert_eq!(route.traffic.live(), 1);
        drop(ctx);
        assert_eq!(route.traffic.live(), 0);
    }
}
