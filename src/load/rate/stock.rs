//! One key of a limit that the fleet shares: what this node holds of its bucket, and what it asks for.
//!
//! All amounts are nanoseconds of rate time; times are milliseconds of the limit's clock, which may wrap around.

use super::leases::Share;

/// A key without requests for this long is put back to where it began.
const IDLE: u32 = 1000;
/// While it cannot be, this is how often it is tried.
const RETRY: u32 = 500;
/// How fast the estimate of the demand sinks, in milliseconds.
const MEMORY: f32 = 200.0;
/// What a node asks for lasts for so many rounds.
const ROUNDS: f32 = 2.0;

/// The name that the fleet knows a key by: 96 bits of its SHA-1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Name([u32; 3]);

impl Name {
    /// Of a text that no other key has.
    pub fn of(text: &str) -> Self {
        let digest = fred::util::sha1_hash(text);
        let word = |n: usize| digest.get(8 * n..8 * n + 8).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        Name([0, 1, 2].map(|n| word(n).unwrap_or_default()))
    }

    /// As it stands in the name of a key: 24 digits.
    pub fn hex(self) -> String {
        let [a, b, c] = self.0;
        format!("{a:08x}{b:08x}{c:08x}")
    }
}

/// What this node holds of one key's bucket.
#[derive(Clone, Debug)]
pub struct Stock {
    /// Of its last request.
    pub at: u32,
    /// Looked at for the last time.
    served: u32,
    /// What it may spend.
    level: i64,
    /// What it is expected to spend in the next [`ROUNDS`].
    target: f32,
    name: Name,
    /// Requests since it was looked at, and those of them that were refused.
    asked: u16,
    refused: u16,
    /// It is in the list of those that need something.
    urgent: bool,
}

/// What a request found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// There was a token.
    pub pass: bool,
    /// What is missing to the next one; 0 where there is one.
    pub missing: i64,
    /// It needs something, and that was not known yet.
    pub needs: bool,
    /// As before, and nobody has looked at it for two rounds: somebody should, now.
    pub now: bool,
}

/// What a node says of one key in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Its hash.
    pub hash: u64,
    /// Whose.
    pub name: Name,
    /// Wanted, for requests; below 0: given back.
    pub need: i64,
    /// Wanted to be where it began: only as far as the bucket is more than half full.
    pub fill: i64,
}

/// What is to be done with a key that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is as if nobody had ever asked.
    Forget,
    /// Nothing to say.
    Keep,
    /// This.
    Ask(Ask),
}

impl Stock {
    /// What every node holds of every key from the start.
    pub fn new(name: Name, share: &Share, now: u32) -> Self {
        let (level, served) = (share.standing, now.wrapping_sub(1));
        Stock { at: now, served, level, target: 0.0, name, asked: 0, refused: 0, urgent: false }
    }

    /// Without Redis the node fills its stock by itself, with its share of the rate. `since`: for how long that holds.
    pub fn fill_alone(&mut self, share: &Share, now: u32, since: u32) {
        let time = now.wrapping_sub(self.at).min(since);
        if self.level < share.alone {
            let more = i64::from(time) * 1_000_000 / i64::from(share.nodes);
            self.level = self.level.saturating_add(more).min(share.alone);
        }
    }

    /// One request. `round`: the time from one round to the next.
    pub fn take(&mut self, share: &Share, now: u32, round: u32) -> Taken {
        let token = share.token;
        let pass = self.level >= token;
        self.at = now;
        self.asked = self.asked.saturating_add(1);
        if pass {
            self.level -= token;
        } else {
            self.refused = self.refused.saturating_add(1);
        }
        // Half of what should last for two rounds: what is left until the next.
        let needs = !self.urgent && (!pass || (self.level as f32) < self.target / ROUNDS);
        self.urgent |= needs;
        let now = needs && !pass && now.wrapping_sub(self.served) > 2 * round;
        Taken { pass, missing: (token - self.level).max(0) * i64::from(!pass), needs, now }
    }

    /// Looks at it, in a round that may say something of it. `cautious`: ask for no more than this node's share of the rate.
    pub fn look(&mut self, hash: u64, share: &Share, now: u32, round: u32, cautious: bool) -> Next {
        let elapsed = now.wrapping_sub(self.served);
        let idle = now.wrapping_sub(self.at) >= IDLE;
        // Once in a round: a call that names a bucket twice would get it twice.
        if elapsed == 0 || (idle && elapsed < RETRY && !self.urgent) {
            return Next::Keep;
        }
        let spent = f32::from(self.asked) * share.token as f32;
        let target = spent / elapsed.max(round).max(1) as f32 * round as f32 * ROUNDS;
        let sinks = (elapsed as f32 / MEMORY).min(1.0);
        self.target = if target >= self.target { target } else { self.target + (target - self.target) * sinks };
        let refused = i64::from(self.refused);
        (self.asked, self.refused, self.urgent, self.served) = (0, 0, false, now);
        let mut ask = Ask { hash, name: self.name, need: 0, fill: 0 };
        let (standing, token) = (share.standing, share.token);
        if idle {
            self.target = 0.0;
            ask.need = (standing - self.level).min(0);
            ask.fill = (standing - self.level).max(0);
            if cautious {
                ask.fill = 0;
            }
            if ask.fill < 1000 && ask.need > -1000 {
                return if cautious && self.level < standing { Next::Keep } else { Next::Forget };
            }
        } else {
            let target = self.target as i64;
            let mut goal = target;
            if refused > 0 {
                goal = goal.max(refused.saturating_add(1).saturating_mul(token).min(share.common)).max(token);
            }
            let keep = standing.max(target).saturating_add(token);
            if self.level < goal {
                ask.need = goal - self.level;
                if cautious {
                    ask.need = ask.need.min(i64::from(elapsed) * 1_000_000 / i64::from(share.nodes));
                }
            } else if self.level > keep.saturating_add(target) {
                ask.need = keep - self.level;
            }
        }
        // What is given back is gone from here before anybody else can have it.
        self.level += ask.need.min(0);
        if ask.need == 0 && ask.fill == 0 { Next::Keep } else { Next::Ask(ask) }
    }

    /// Redis gave this much.
    pub fn granted(&mut self, amount: i64) {
        self.level = self.level.saturating_add(amount);
    }

    /// From when it says no more than a key that nobody knows, in nanoseconds from now: what is missing comes back with
    /// this node's share of the rate.
    pub fn rests_in(&self, share: &Share) -> u64 {
        u64::try_from(share.standing - self.level).unwrap_or(0).saturating_mul(share.nodes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::rate::Terms;

    const MS: i64 = 1_000_000;

    fn share(nodes: u32) -> Share {
        Share::new(Terms { token: 10 * MS as u64, burst: 60 }, nodes)
    }

    fn stock(share: &Share) -> Stock {
        Stock::new(Name::of("x"), share, 0)
    }

    #[test]
    fn a_pair_in_the_table_is_no_larger_than_it_may_be() {
        assert!(size_of::<(u64, Stock)>() <= 48, "{}", size_of::<(u64, Stock)>());
    }

    #[test]
    fn a_stranger_may_spend_what_stands_by_and_then_somebody_asks() {
        let share = share(3);
        let mut stock = stock(&share);
        for _ in 0..10 {
            assert!(stock.take(&share, 0, 20).pass);
        }
        let taken = stock.take(&share, 5, 20);
        assert_eq!((taken.pass, taken.missing, taken.needs, taken.now), (false, 10 * MS, true, false));
        assert!(!stock.take(&share, 5, 20).needs, "known already");
        let Next::Ask(ask) = stock.look(1, &share, 19, 20, false) else { panic!() };
        // 12 in 20 ms: as many as that in the next 40.
        assert_eq!((ask.need, ask.fill), (240 * MS, 0));
        assert_eq!(stock.look(1, &share, 19, 20, false), Next::Keep, "once in a round");
        stock.granted(50 * MS);
        assert!(stock.take(&share, 21, 20).pass);
    }

    #[test]
    fn who_was_long_alone_is_served_at_once() {
        let share = share(3);
        let mut stock = stock(&share);
        let taken: Vec<_> = (0..11).map(|_| stock.take(&share, 500, 20)).collect();
        assert!(taken[10].now && taken[..10].iter().all(|taken| !taken.now));
    }

    #[test]
    fn what_is_not_used_goes_back_and_what_was_used_comes_back() {
        let share = share(3);
        let mut stock = stock(&share);
        stock.granted(300 * MS);
        assert_eq!(stock.look(1, &share, 600, 20, false), Next::Ask(Ask { need: -290 * MS, ..ask(&stock) }));
        assert_eq!(stock.look(1, &share, 1600, 20, false), Next::Ask(Ask { need: -10 * MS, ..ask(&stock) }));
        assert!(stock.take(&share, 2000, 20).pass);
        assert_eq!(stock.look(1, &share, 2999, 20, false), Next::Keep);
        assert_eq!(stock.look(1, &share, 3500, 20, true), Next::Keep, "not now");
        assert_eq!(stock.look(1, &share, 4000, 20, false), Next::Ask(Ask { fill: 10 * MS, ..ask(&stock) }));
        stock.granted(4 * MS);
        assert_eq!(stock.look(1, &share, 4200, 20, false), Next::Keep);
        assert_eq!(stock.look(1, &share, 4500, 20, false), Next::Ask(Ask { fill: 6 * MS, ..ask(&stock) }));
        stock.granted(6 * MS);
        assert_eq!(stock.look(1, &share, 5000, 20, false), Next::Forget);
    }

    fn ask(stock: &Stock) -> Ask {
        Ask { hash: 1, name: stock.name, need: 0, fill: 0 }
    }

    #[test]
    fn alone_it_fills_with_the_share_of_one_node_up_to_its_part_of_the_burst() {
        let share = share(3);
        let mut stock = stock(&share);
        while stock.take(&share, 100, 20).pass {}
        stock.fill_alone(&share, 400, 3000);
        let passed = (0..100).filter(|_| stock.take(&share, 400, 20).pass).count();
        assert_eq!(passed, 10);
        stock.fill_alone(&share, 1000, 300);
        let passed = (0..100).filter(|_| stock.take(&share, 1000, 20).pass).count();
        assert_eq!(passed, 10, "only since it is alone");
        stock.fill_alone(&share, 60_000, 60_000);
        let passed = (0..100).filter(|_| stock.take(&share, 60_000, 20).pass).count();
        assert_eq!(passed, 20);
    }
}
