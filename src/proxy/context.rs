//! What is remembered of one request while it passes through. Everything here is given back when it is dropped,
//! whatever way the request ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;

use crate::filters::client::Client;
use crate::load::Lease;
use crate::load::connections::Pass;
use crate::node::Node;
use crate::proxy::Patience;
use crate::proxy::deadline::{Socket, Ticket};
use crate::proxy::refusal::Refusal;
use crate::proxy::slow::Pace;
use crate::snapshot::{Route, Snapshot, Target};
use crate::upstream::Server;
use crate::upstream::admission::Seat;
use crate::upstream::circuit::Trial;
use crate::upstream::pool::Tried;
use crate::upstream::server::Outcome;

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
    pub route: Option<Arc<Route>>,
    /// None: no route.
    pub target: Option<Arc<Target>>,
    /// For `balance: hash`.
    pub key: u64,
    /// It asks to switch protocols.
    pub upgrade: bool,
    /// None: no limit.
    pub patience: Option<Patience>,
    /// The client is still sending its body.
    pub uploading: bool,
    /// Until when the response header must be there; none: no limit.
    pub deadline: Option<Instant>,
    /// Attempts begun.
    pub attempts: u32,
    /// Servers that cannot be connected to, by index.
    pub tried: Tried,
    /// The last server tried.
    pub server: Option<Arc<Server>>,
    /// Why the request failed, once it has.
    pub failure: Option<Refusal>,
    /// Time to the response header of the last attempt.
    pub to_header: Option<Duration>,
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
    /// The pool's circuit was not closed when it began.
    trial: Option<Trial>,
    began: Instant,
    ticket: Option<Ticket>,
    status: u16,
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
            patience: None,
            uploading: false,
            deadline: None,
            attempts: 0,
            tried: Tried::new(),
            server: None,
            failure: None,
            to_header: None,
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
    pub fn begin_attempt(&mut self, Seat { lease, trial }: Seat) {
        self.attempts += 1;
        self.to_header = None;
        self.server = Some(lease.holder().clone());
        self.attempt = Some(Attempt { lease, trial, began: Instant::now(), ticket: None, status: 0 });
    }

    /// The attempt has a connection: from now on its deadline is watched.
    pub fn watch(&mut self, socket: Socket) {
        if let (Some(attempt), Some(at)) = (&mut self.attempt, self.deadline) {
            attempt.ticket = Some(self.node.deadlines.arm(at, socket));
        }
    }

    /// The client is still sending its body: that time is its own, not the server's.
    pub fn postpone(&mut self, deadline: Instant) {
        self.deadline = Some(deadline);
        if let Some(ticket) = self.attempt.as_ref().and_then(|attempt| attempt.ticket.as_ref()) {
            self.node.deadlines.postpone(ticket, deadline);
        }
    }

    /// The final response header is there. False if it came too late and the connection is shut down.
    pub fn header_arrived(&mut self, status: u16) -> bool {
        let Some(attempt) = &mut self.attempt else { return true };
        attempt.status = status;
        self.to_header = Some(attempt.began.elapsed());
        if attempt.trial.is_some()
            && status < 500
            && let Some(target) = &self.target
        {
            target.pool.circuit.learned(true);
        }
        !self.disarm()
    }

    /// The attempt is over. Its lease goes back; `failed` says why it failed, if it did.
    pub fn end_attempt(&mut self, failed: Option<Refusal>) {
        if self.disarm() {
            self.failure = Some(Refusal::ResponseTimeout);
        }
        let Some(attempt) = self.attempt.take() else { return };
        let outcome = match failed.or(self.failure) {
            Some(refusal) => refusal.outcome(),
            None if attempt.status >= 500 => Outcome::ServerError,
            None => Outcome::Success,
        };
        attempt.lease.holder().observe_attempt(outcome, self.to_header);
        if attempt.trial.is_some()
            && outcome.is_error()
            && let Some(target) = &self.target
        {
            target.pool.circuit.learned(false);
        }
    }

    /// Stops watching the deadline. True if it was over.
    pub fn disarm(&mut self) -> bool {
        let ticket = self.attempt.as_mut().and_then(|attempt| attempt.ticket.take());
        ticket.is_some_and(|ticket| self.node.deadlines.disarm(ticket))
    }
}

/// The backstop: a panic in a hook or a task that is thrown away ends here, not in `logging`.
impl Drop for Context {
    fn drop(&mut self) {
        if self.attempt.is_some() {
            self.end_attempt(Some(Refusal::ClientGone));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
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
        ctx.begin_attempt(Seat { lease: Lease::take(server), trial: None });
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
        assert_eq!((in_flight(&node), ctx.attempts), (1, 2));
        ctx.end_attempt(None);
        ctx.end_attempt(None);
        assert_eq!(in_flight(&node), 0);
        drop(ctx);
        assert_eq!(in_flight(&node), 0);
    }
}
