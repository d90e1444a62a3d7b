//! When `auto` lets Redis choose for each request.
//!
//! Redis knows best, but asking costs a round trip. It pays while the round trip is short beside the time a request
//! takes anyway, and while Redis has room for the whole fleet's requests; or while a node has so few requests that
//! asking for each costs Redis less than the exchange would. Everything here is pure; the bounds for coming and going
//! differ, so that a pool does not flap.

/// What a decision is made from, all of one pool.
#[derive(Clone, Copy, Debug)]
pub struct Signs {
    /// Round trip of late, seconds.
    pub rtt: f64,
    /// Mean time that a request is in flight, seconds; 0: unknown.
    pub service: f64,
    /// Picks per second of the whole fleet.
    pub fleet_rate: f64,
    /// Picks per second of this node.
    pub own_rate: f64,
    /// Exchanges per second that this node would make.
    pub exchange_rate: f64,
}

/// Picks per second that all pools and nodes may ask of one Redis: at about 6 µs a coalesced pick a third of a core.
pub const REDIS_ROOM: f64 = 50_000.0;
/// The round trip's share of the service time up to which asking pays.
const SHORT: f64 = 0.2;
/// How much worse it may get before the mode changes back.
const SLACK: f64 = 1.5;

/// Whether Redis should choose for each request; `exact` is whether it does now.
pub fn prefer_exact(signs: &Signs, exact: bool) -> bool {
    let slack = if exact { SLACK } else { 1.0 };
    let short = signs.service > 0.0 && signs.rtt <= SHORT * slack * signs.service;
    let room = signs.fleet_rate <= REDIS_ROOM * slack;
    let seldom = signs.own_rate <= signs.exchange_rate * slack;
    short && (room || seldom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signs() -> Signs {
        Signs { rtt: 0.0002, service: 0.02, fleet_rate: 1000.0, own_rate: 100.0, exchange_rate: 500.0 }
    }

    #[test]
    fn short_round_trips_and_room_make_it_exact() {
        assert!(prefer_exact(&signs(), false));
        assert!(!prefer_exact(&Signs { service: 0.0005, ..signs() }, false), "the round trip is too long");
        assert!(!prefer_exact(&Signs { service: 0.0, ..signs() }, false), "nothing is known yet");
        let busy = Signs { fleet_rate: 200_000.0, own_rate: 10_000.0, ..signs() };
        assert!(!prefer_exact(&busy, false), "Redis has no room");
        assert!(prefer_exact(&Signs { own_rate: 50.0, ..busy }, false), "but this node asks seldom");
    }

    #[test]
    fn it_takes_more_to_leave_than_to_enter() {
        let border = Signs { rtt: 0.005, ..signs() };
        assert!(!prefer_exact(&border, false));
        assert!(prefer_exact(&border, true));
    }
}
