//! At random, by weight.

use super::{Candidate, usable};

#[inline]
pub(super) fn pick(candidates: &[Candidate], rng: &mut fastrand::Rng) -> Option<usize> {
    by_weight(candidates, total(candidates), None, rng)
}

/// The sum of the usable weights.
#[inline]
pub(super) fn total(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(weight).sum()
}

/// A candidate's weight, 0 when it is to be left out.
#[inline]
pub(super) fn weight(candidate: &Candidate) -> f64 {
    if usable(candidate.weight) { f64::from(candidate.weight) } else { 0.0 }
}

/// Draws one by weight out of all but `except`, whose weights sum up to `total`.
#[inline]
pub(super) fn by_weight(
    candidates: &[Candidate],
    total: f64,
    except: Option<usize>,
    rng: &mut fastrand::Rng,
) -> Option<usize> {
    let mut left = rng.f64() * total;
    let mut last = None;
    for (position, candidate) in candidates.iter().enumerate() {
        let weight = weight(candidate);
        if weight == 0.0 || except == Some(position) {
            continue;
        }
        if left < weight {
            return Some(position);
        }
        left -= weight;
        last = Some(position);
    }
    // Rounding may leave a rest after the last one.
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::testing::{chi_square_is_plausible, of_weights};

    #[test]
    fn follows_the_weights() {
        let weights = [1.0, 0.5, f32::NAN, 4.0, 2.5, 0.0];
        let servers = of_weights(&weights);
        let mut rng = fastrand::Rng::with_seed(3);
        let mut seen = [0_u32; 6];
        for _ in 0..80_000 {
            seen[pick(&servers, &mut rng).unwrap()] += 1;
        }
        assert_eq!((seen[2], seen[5]), (0, 0));
        chi_square_is_plausible(&[seen[0], seen[1], seen[3], seen[4]], &[1.0, 0.5, 4.0, 2.5]);
    }
}
