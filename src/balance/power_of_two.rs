//! Two different candidates, drawn by weight; the less loaded per weight of the two.

use std::cmp::Ordering;

use super::least::ratio;
use super::{Candidate, random};

#[inline]
pub(super) fn pick(candidates: &[Candidate], rng: &mut fastrand::Rng) -> Option<usize> {
    let total = random::total(candidates);
    let one = random::by_weight(candidates, total, None, rng)?;
    let rest = total - random::weight(&candidates[one]);
    let Some(two) = random::by_weight(candidates, rest, Some(one), rng) else {
        return Some(one);
    };
    let (Some(a), Some(b)) = (ratio(&candidates[one]), ratio(&candidates[two])) else {
        return Some(one);
    };
    Some(match a.cmp(b) {
        Ordering::Less => one,
        Ordering::Greater => two,
        // A coin, not the first: a heavier one tends to be drawn first.
        Ordering::Equal if rng.bool() => one,
        Ordering::Equal => two,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::testing::{chi_square_is_plausible, of_weights};

    #[test]
    fn never_the_most_loaded_of_equals() {
        let mut servers = of_weights(&[1.0; 5]);
        for (i, s) in servers.iter_mut().enumerate() {
            s.in_flight = [3, 9, 1, 4, 2][i];
        }
        let mut rng = fastrand::Rng::with_seed(5);
        let mut seen = [0_u32; 5];
        for _ in 0..40_000 {
            seen[pick(&servers, &mut rng).unwrap()] += 1;
        }
        // Of the ten pairs, a server wins those with everyone more loaded: two different ones were drawn, evenly.
        assert_eq!(seen[1], 0);
        chi_square_is_plausible(&[seen[2], seen[4], seen[0], seen[3]], &[4.0, 3.0, 2.0, 1.0]);
    }

    #[test]
    fn equals_get_equal_shares() {
        let servers = of_weights(&[2.0; 6]);
        let mut rng = fastrand::Rng::with_seed(6);
        let mut seen = [0_u32; 6];
        for _ in 0..60_000 {
            seen[pick(&servers, &mut rng).unwrap()] += 1;
        }
        chi_square_is_plausible(&seen, &[1.0; 6]);
    }

    #[test]
    fn under_load_the_picks_follow_the_weights() {
        // Requests that stay: what is in flight ends up in proportion to the weights.
        let mut servers = of_weights(&[1.0, 2.0, 4.0, 1.0]);
        let mut rng = fastrand::Rng::with_seed(8);
        for _ in 0..8_000 {
            let at = pick(&servers, &mut rng).unwrap();
            servers[at].in_flight += 1;
        }
        for s in &servers {
            let expected = 1_000.0 * f64::from(s.weight);
            assert!((f64::from(s.in_flight) - expected).abs() < expected * 0.05, "{s:?}");
        }
    }
}
