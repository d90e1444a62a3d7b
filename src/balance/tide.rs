//! The choice by a view of the fleet's load that comes with a delay: **tide**.
//!
//! The least of a shared, stale view is the wrong choice: until the next view every node sends its requests to that same server.
//! Instead a node reckons with the `A` picks that the others have made since its view, and assumes that they choose as it does. Poured
//! over the servers like water, these picks fill the lowest first up to one level; each server `i` takes its share `g_i` of them:
//! ```text
//! x_i = max(q_i, 0) + 1/2 - A * D_i/ΣD        load by now, but for the unseen picks
//! L   : Σ max(0, w_i L - x_i) = A             the level
//! g_i = max(0, w_i L - x_i)
//! E   = those with g_i > 0 and the least own_i / w_i;  i ∈ E is picked with probability g_i / Σ_E g
//! ```
//! With nothing unseen this is least-connections over the fleet's load. As the view ages all servers come under water, and
//! it turns into least-connections over the node's own requests.

use std::cmp::Ordering;

use smallvec::SmallVec;

use super::least::{Ratio, argmin};
use super::usable;

/// One server as a node sees it when it picks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// The server's place in its pool: what identifies it in the answer.
    pub index: u32,
    /// Effective weight, over 0.
    pub weight: f32,
    /// The fleet's requests in flight as far as known, `q = S + own - own_at`: the view's total, brought up to date with what this
    /// node did since. Below 0 counts as 0.
    pub queued: f32,
    /// This node's own requests in flight.
    pub own: u32,
    /// This node's recent completions on it, decayed; only the proportions between servers matter.
    pub completions: f32,
}

/// Below this many unseen picks the view counts as current.
const CURRENT: f32 = 0.02;

/// More unseen picks than this change nothing any more (and an infinity would).
const OCEAN: f32 = 1e9;

/// `A`: how many picks of other nodes a view cannot show, given their rate (picks per second) and the view's age (seconds).
///
/// The factor 1.5 leans to the side of caution: too many unseen picks cost a little evenness, too few make nodes herd.
#[must_use]
pub fn unseen(others_rate: f32, age: f32) -> f32 {
    1.5 * others_rate.max(0.0) * age.max(0.0)
}

/// The chosen one's position in `shares`, with `unseen` picks of other nodes that the view cannot show (see [`unseen()`]).
/// `None` when there is none whose weight and load are usable.
///
/// Whether a view is too old to be used at all is the caller's business: then the policy is least-connections.
pub fn pick(shares: &[Share], unseen: f32, rng: &mut fastrand::Rng) -> Option<usize> {
    if unseen < CURRENT {
        return argmin(shares, fleet_ratio, rng);
    }
    let (level, wet) = pour(shares, unseen);
    // The least own load among those under water, and how much water stands over those who share it.
    let own = |column: &Column| Ratio { load: f64::from(shares[column.position].own), weight: column.weight };
    let mut least = Ratio { load: f64::INFINITY, weight: 1.0 };
    let mut water = 0.0;
    for column in &wet {
        let this = own(column);
        match this.cmp(least) {
            Ordering::Less => (least, water) = (this, column.depth(level)),
            Ordering::Equal => water += column.depth(level),
            Ordering::Greater => {}
        }
    }
    let mut left = rng.f64() * water;
    let mut last = None;
    for column in &wet {
        if own(column).cmp(least) != Ordering::Equal {
            continue;
        }
        last = Some(column.position);
        let depth = column.depth(level);
        if left < depth {
            return last;
        }
        left -= depth;
    }
    // Rounding may leave a rest after the last one. Nobody at all: nobody is there, or rounding of absurd numbers hid the water.
    last.or_else(|| argmin(shares, fleet_ratio, rng))
}

/// Whether a server takes part at all.
#[inline]
fn present(share: &Share) -> bool {
    usable(share.weight) && share.queued.is_finite()
}

#[inline]
fn fleet_ratio(share: &Share) -> Option<Ratio> {
    present(share).then(|| Ratio { load: f64::from(share.queued.max(0.0)) + 1.0, weight: f64::from(share.weight) })
}

#[inline]
fn completions(share: &Share) -> f64 {
    if share.completions > 0.0 && share.completions < f32::INFINITY { f64::from(share.completions) } else { 0.0 }
}

/// A server that may stand under water.
#[derive(Clone, Copy)]
struct Column {
    /// In the slice of shares.
    position: usize,
    weight: f64,
    /// `x`: what the water stands on. May be below 0.
    ground: f64,
}

impl Column {
    /// `g`: how much water stands over it; below 0 when it is dry.
    #[inline]
    fn depth(&self, level: f64) -> f64 {
        self.weight * level - self.ground
    }
}

/// On the stack up to this many servers.
type Columns = SmallVec<[Column; 64]>;

/// The level `L`, and the columns under water. Empty only when no server is present (or numbers are absurd).
///
/// Starts as if all were under water, which puts the level too high, and takes out who is dry until nobody is: the level only falls,
/// so who is dry stays dry. No sort, and each round is shorter than the one before.
fn pour(shares: &[Share], unseen: f32) -> (f64, Columns) {
    // A NaN ends up at the cautious end.
    let volume = f64::from(if unseen < OCEAN { unseen } else { OCEAN });
    let completed: f64 = shares.iter().filter(|share| present(share)).map(completions).sum();
    // What has drained meanwhile, per completion.
    let drain = if completed > 0.0 { volume / completed } else { 0.0 };
    let mut wet = Columns::new();
    let (mut ground, mut weight) = (0.0, 0.0);
    for (position, share) in shares.iter().enumerate().filter(|(_, s)| present(s)) {
        let column = Column {
            position,
            weight: f64::from(share.weight),
            ground: f64::from(share.queued.max(0.0)) + 0.5 - drain * completions(share),
        };
        ground += column.ground;
        weight += column.weight;
        wet.push(column);
    }
    loop {
        let level = (volume + ground) / weight;
        (ground, weight) = (0.0, 0.0);
        let mut kept = 0;
        for at in 0..wet.len() {
            let column = wet[at];
            if column.depth(level) > 0.0 {
                ground += column.ground;
                weight += column.weight;
                wet[kept] = column;
                kept += 1;
            }
        }
        if kept == wet.len() || kept == 0 {
            wet.truncate(kept);
            return (level, wet);
        }
        wet.truncate(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::testing::{chi_square_is_plausible, weight};
    use crate::balance::{Candidate, Draw, Policy};
    use proptest::prelude::*;

    fn share(index: u32, weight: f32, queued: f32, own: u32, completions: f32) -> Share {
        Share { index, weight, queued, own, completions }
    }

    fn idle(n: u32) -> Vec<Share> {
        (0..n).map(|i| share(i, 1.0, 0.0, 0, 0.0)).collect()
    }

    prop_compose! {
        fn shares()(
            servers in prop::collection::vec(
                (weight(), -3_i32..60, 0_u32..6, prop_oneof![Just(0.0_f32), 0.0_f32..50.0]),
                1..40,
            ),
        ) -> Vec<Share> {
            (0_u32..)
                .zip(servers)
                .map(|(index, (weight, queued, own, completions))| {
                    share(index, weight, queued as f32, own, completions)
                })
                .collect()
        }
    }

    fn water(shares: &[Share], unseen: f32) -> (f64, Vec<f64>) {
        let (level, wet) = pour(shares, unseen);
        let mut depths = vec![0.0; shares.len()];
        for column in wet {
            depths[column.position] = column.depth(level);
        }
        (level, depths)
    }

    proptest! {
        #[test]
        fn the_water_is_all_there_and_level(shares in shares(), unseen in 0.02_f32..500.0) {
            prop_assume!(shares.iter().any(present));
            let (level, depths) = water(&shares, unseen);
            let poured: f64 = depths.iter().sum();
            prop_assert!((poured / f64::from(unseen) - 1.0).abs() < 1e-6, "{poured} of {unseen}");
            // Dry ones stand above the level, wet ones end at it: the definition, computed here by hand.
            let drained: f32 = shares.iter().filter(|s| present(s)).map(|s| s.completions).sum();
            for (s, depth) in shares.iter().zip(depths) {
                if !present(s) {
                    prop_assert_eq!(depth, 0.0);
                    continue;
                }
                let part = if drained > 0.0 { s.completions / drained } else { 0.0 };
                let ground = f64::from(s.queued.max(0.0) + 0.5 - unseen * part);
                let top = (ground + depth) / f64::from(s.weight);
                prop_assert!(top >= level - 1e-3 * (1.0 + level.abs()));
                prop_assert!(depth == 0.0 || (top - level).abs() < 1e-3 * (1.0 + level.abs()));
            }
        }

        #[test]
        fn more_water_stands_higher(shares in shares(), less in 0.02_f32..100.0, more in 0.5_f32..100.0) {
            // Without drain: with it, more unseen picks mean more that has drained, too.
            let shares: Vec<_> = shares.into_iter().map(|s| Share { completions: 0.0, ..s }).collect();
            prop_assume!(shares.iter().any(present));
            let (low, shallow) = water(&shares, less);
            let (high, deep) = water(&shares, less + more);
            prop_assert!(high > low);
            prop_assert!(shallow.iter().zip(&deep).all(|(a, b)| b >= a));
        }

        #[test]
        fn picks_among_the_wet_who_has_least_of_ours(
            shares in shares(),
            unseen in 0.02_f32..200.0,
            seed: u64,
        ) {
            let picked = pick(&shares, unseen, &mut fastrand::Rng::with_seed(seed));
            prop_assert_eq!(picked.is_some(), shares.iter().any(present));
            if let Some(at) = picked {
                let (_, depths) = water(&shares, unseen);
                prop_assert!(depths[at] > 0.0);
                let own = |s: &Share| f64::from(s.own) / f64::from(s.weight);
                for (other, depth) in shares.iter().zip(depths) {
                    prop_assert!(depth <= 0.0 || own(&shares[at]) <= own(other) * (1.0 + 1e-9));
                }
            }
        }

        #[test]
        fn one_node_alone_is_least_connections(
            servers in prop::collection::vec((weight(), 0_u32..20), 1..30),
            seed: u64,
        ) {
            let view: Vec<_> = (0..)
                .zip(&servers)
                .map(|(i, &(w, n))| share(i, w, n as f32, n, 1.0))
                .collect();
            let local: Vec<_> = (0..)
                .zip(&servers)
                .map(|(index, &(weight, in_flight))| Candidate { index, in_flight, weight })
                .collect();
            let (mut a, mut b) = (fastrand::Rng::with_seed(seed), fastrand::Rng::with_seed(seed));
            let mut draw = Draw { rng: &mut b, ticket: 0, key: 0, ring: None };
            prop_assert_eq!(
                pick(&view, super::unseen(0.0, 0.5), &mut a),
                Policy::LeastConnections.pick(&local, &mut draw)
            );
        }

        #[test]
        fn an_old_view_turns_into_local_least_connections(
            servers in prop::collection::vec((0_u32..60, 0_u32..6), 1..40),
            drain: bool,
            seed: u64,
        ) {
            let shares: Vec<_> = (0..)
                .zip(servers)
                .map(|(i, (queued, own))| share(i, 1.0, queued as f32, own, f32::from(u8::from(drain))))
                .collect();
            let least = shares.iter().map(|s| s.own).min();
            let mut rng = fastrand::Rng::with_seed(seed);
            for unseen in [1e4, 1e9, f32::INFINITY, f32::NAN] {
                let at = pick(&shares, unseen, &mut rng);
                prop_assert_eq!(at.map(|at| shares[at].own), least);
            }
        }

        #[test]
        fn nothing_breaks_it(
            odd in prop::collection::vec(
                (
                    prop::num::f32::ANY,
                    prop::num::f32::ANY,
                    any::<u32>(),
                    prop::num::f32::ANY,
                ),
                0..12,
            ),
            unseen in prop::num::f32::ANY,
            seed: u64,
        ) {
            let shares: Vec<_> = odd.into_iter().map(|(w, q, own, d)| share(0, w, q, own, d)).collect();
            let picked = pick(&shares, unseen, &mut fastrand::Rng::with_seed(seed));
            prop_assert_eq!(picked.is_some(), shares.iter().any(present));
            prop_assert!(picked.is_none_or(|at| present(&shares[at])));
        }
    }

    /// Nodes with one and the same view each send `picks` requests before the next one. Returns what each server got.
    fn nodes(view: &[Share], unseen: f32, nodes: u64, picks: u32, seed: u64) -> Vec<u32> {
        let mut got = vec![0; view.len()];
        for node in 0..nodes {
            let mut rng = fastrand::Rng::with_seed(seed * 1_000 + node);
            let mut mine = view.to_vec();
            for _ in 0..picks {
                let at = pick(&mine, unseen, &mut rng).unwrap();
                mine[at].own += 1;
                mine[at].queued += 1.0;
                got[at] += 1;
            }
        }
        got
    }

    /// One idle server, two requests on each of the others: the minimum is the same for every node.
    fn one_idle(servers: u32) -> Vec<Share> {
        let mut view = idle(servers);
        view.iter_mut().skip(1).for_each(|s| s.queued = 2.0);
        view
    }

    #[test]
    fn two_nodes_never_herd() {
        for servers in [4, 10, 50] {
            let view = one_idle(servers);
            let mut first = 0;
            for seed in 0..200 {
                let got = nodes(&view, 2.0 * servers as f32, 2, 2 * servers, seed);
                // Everybody was to come under water, and nobody gets twice the four that are due.
                assert!(got.iter().all(|n| (1..=8).contains(n)), "{got:?}");
                first += nodes(&view, 2.0 * servers as f32, 2, 1, seed)[0];
            }
            // The first picks: server 0 has a depth of (4S-2)/S of 2S. Choosing the least would send it all 400.
            let s = f64::from(servers);
            let due = 400.0 * (4.0 - 2.0 / s) / (2.0 * s);
            assert!((f64::from(first) - due).abs() < 4.0 * due.sqrt(), "{first} for {due}");
        }
    }

    #[test]
    fn many_nodes_fill_the_trough_and_no_more() {
        // 64 picks at once from 64 nodes: ideally 10 to server 0 and 8 or 7 to each other one.
        let view = one_idle(8);
        let mut sum = [0; 8];
        for seed in 0..200 {
            let got = nodes(&view, 64.0, 64, 1, seed);
            assert!(got.iter().all(|n| *n < 28), "{got:?}");
            sum.iter_mut().zip(got).for_each(|(sum, n)| *sum += n);
        }
        let mut due = [7.75; 8];
        due[0] = 9.75;
        chi_square_is_plausible(&sum, &due);
    }

    #[test]
    fn a_little_water_stays_in_the_trough() {
        // Two low servers, and too few picks to reach the others.
        let mut view = idle(6);
        view.iter_mut().skip(2).for_each(|s| s.queued = 50.0);
        let got = nodes(&view, 8.0, 2, 8, 1);
        assert_eq!(got[2..], [0; 4]);
        assert!(got[0] >= 6 && got[1] >= 6, "{got:?}");
    }

    #[test]
    fn the_odds_are_the_depths() {
        let view = [
            share(0, 1.0, 0.0, 0, 0.0),
            share(1, 2.0, 1.0, 0, 0.0),
            share(2, 1.0, 2.0, 0, 0.0),
            share(3, 1.0, 0.0, 1, 0.0),
        ];
        // Ground 0.5, 1.5, 2.5, 0.5; volume 10 → level 3: depths 2.5, 4.5, 0.5, 2.5; the last has one of ours already.
        let (level, depths) = water(&view, 10.0);
        assert!((level - 3.0).abs() < 1e-9);
        let mut rng = fastrand::Rng::with_seed(9);
        let mut seen = [0; 4];
        for _ in 0..30_000 {
            seen[pick(&view, 10.0, &mut rng).unwrap()] += 1;
        }
        assert_eq!(seen[3], 0);
        chi_square_is_plausible(&seen[..3], &depths[..3]);
    }

    #[test]
    fn picks_follow_the_weights() {
        let weights = [1.0, 2.0, 4.0, 1.0];
        let view: Vec<_> = (0..).zip(weights).map(|(i, w)| share(i, w, 0.0, 0, w)).collect();
        let got = nodes(&view, 800.0, 2, 800, 3);
        for (n, w) in got.iter().zip(weights) {
            let expected = 200.0 * w;
            assert!((*n as f32 - expected).abs() < expected * 0.05, "{got:?}");
        }
    }

    #[test]
    fn what_drains_faster_is_expected_to_be_lower() {
        // Same queue in the view, but server 1 finished all of the work lately.
        let view = [share(0, 1.0, 6.0, 0, 0.0), share(1, 1.0, 6.0, 0, 9.0)];
        let mut rng = fastrand::Rng::with_seed(2);
        assert!((0..200).all(|_| pick(&view, 6.0, &mut rng) == Some(1)));
    }

    #[test]
    fn unseen_is_rate_times_age() {
        assert_eq!(unseen(1_000.0, 0.25), 375.0);
        assert_eq!(unseen(-1.0, 1.0), 0.0);
        assert_eq!(unseen(f32::NAN, 1.0), 0.0);
    }
}
