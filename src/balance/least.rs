//! The least `(in flight + 1) / weight`, at random among the tied.

use std::cmp::Ordering;

use super::{Candidate, usable};

/// A load and the weight that carries it. Compared as a ratio by cross products, so that no division rounds a tie away:
/// 32-bit counts times 24-bit mantissas are exact in an `f64` up to 2^29 requests in flight.
#[derive(Clone, Copy)]
pub(super) struct Ratio {
    pub(super) load: f64,
    pub(super) weight: f64,
}

impl Ratio {
    #[inline]
    pub(super) fn cmp(self, other: Ratio) -> Ordering {
        let (a, b) = (self.load * other.weight, other.load * self.weight);
        // Never NaN: the callers let finite loads and usable weights in only.
        a.partial_cmp(&b).unwrap_or(Ordering::Equal)
    }
}

#[inline]
pub(super) fn pick(candidates: &[Candidate], rng: &mut fastrand::Rng) -> Option<usize> {
    argmin(candidates, ratio, rng)
}

/// What one more request would make of a candidate's load; `None` when it is to be left out.
#[inline]
pub(super) fn ratio(candidate: &Candidate) -> Option<Ratio> {
    usable(candidate.weight)
        .then(|| Ratio { load: f64::from(candidate.in_flight) + 1.0, weight: f64::from(candidate.weight) })
}

/// The position of the least ratio; each of the tied is equally likely.
///
/// One pass finds the minimum and counts its ties; only a tie costs a random number and a second, shorter pass.
#[inline]
pub(super) fn argmin<T>(items: &[T], ratio: impl Fn(&T) -> Option<Ratio>, rng: &mut fastrand::Rng) -> Option<usize> {
    // Everything finite is less than this.
    let mut least = Ratio { load: f64::INFINITY, weight: 1.0 };
    let (mut first, mut ties) = (0, 0_u32);
    for (position, item) in items.iter().enumerate() {
        let Some(this) = ratio(item) else { continue };
        match this.cmp(least) {
            Ordering::Less => (least, first, ties) = (this, position, 1),
            Ordering::Equal => ties += 1,
            Ordering::Greater => {}
        }
    }
    if ties == 0 {
        return None;
    }
    if ties == 1 {
        return Some(first);
    }
    let nth = rng.u32(0..ties);
    // None of the tied stands before the first.
    items
        .iter()
        .enumerate()
        .skip(first)
        .filter(|(_, item)| ratio(item).is_some_and(|r| r.cmp(least) == Ordering::Equal))
        .nth(nth as usize)
        .map(|(position, _)| position)
        .or(Some(first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::testing::{candidates, chi_square_is_plausible};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn is_the_argmin(servers in candidates(1..40), seed: u64) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let chosen = pick(&servers, &mut rng);
            let live: Vec<_> = servers.iter().filter(|c| usable(c.weight)).collect();
            prop_assert_eq!(chosen.is_some(), !live.is_empty());
            if let Some(at) = chosen {
                let c = servers[at];
                prop_assert!(usable(c.weight));
                for o in live {
                    // In whole numbers of quarters: no rounding in the oracle.
                    let (cw, ow) = ((c.weight * 4.0) as u64, (o.weight * 4.0) as u64);
                    prop_assert!(
                        (u64::from(c.in_flight) + 1) * ow <= (u64::from(o.in_flight) + 1) * cw
                    );
                }
            }
        }
    }

    #[test]
    fn ties_are_uniform() {
        // Tied at 2: positions 0, 2, 3 and 6; by different counts and weights, unevenly apart.
        let loads = [(1, 1.0), (5, 1.0), (3, 2.0), (5, 3.0), (9, 2.0), (7, 0.5), (0, 0.5)];
        let servers: Vec<_> = loads
            .iter()
            .enumerate()
            .map(|(i, &(in_flight, weight))| Candidate { index: i as u32, in_flight, weight })
            .collect();
        let mut rng = fastrand::Rng::with_seed(7);
        let mut seen = [0_u32; 7];
        for _ in 0..40_000 {
            seen[pick(&servers, &mut rng).unwrap()] += 1;
        }
        assert_eq!((seen[1], seen[4], seen[5]), (0, 0, 0));
        chi_square_is_plausible(&[seen[0], seen[2], seen[3], seen[6]], &[1.0; 4]);
    }

    #[test]
    fn thirds_tie_exactly() {
        // 1/3 and 2/6 differ in some roundings of a quotient; as products they are equal.
        let servers =
            [(0, 3.0), (1, 6.0), (6, 21.0)].map(|(in_flight, weight)| Candidate { index: 0, in_flight, weight });
        let mut rng = fastrand::Rng::with_seed(1);
        let mut seen = [0_u32; 3];
        for _ in 0..3_000 {
            seen[pick(&servers, &mut rng).unwrap()] += 1;
        }
        chi_square_is_plausible(&seen, &[1.0; 3]);
    }

    #[test]
    fn an_idle_heavy_server_goes_before_an_idle_light_one() {
        let servers = [1.0, 4.0, 2.0].map(|weight| Candidate { index: 0, in_flight: 0, weight });
        let mut rng = fastrand::Rng::with_seed(1);
        assert_eq!(pick(&servers, &mut rng), Some(1));
    }
}
