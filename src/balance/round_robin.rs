//! In turn, by weight, smoothly: a function of the ticket alone.
//!
//! The servers are split into two parts of about equal weight, `a` and `b`. Of the tickets `0, 1, 2, …` the first part
//! gets those where `floor(t·a/(a+b))` rises (a *balanced word*: as even as whole numbers allow) and numbers them anew;
//! the second part gets the others. Both parts do the same among themselves. So:
//! - every run of `W = Σ weights` consecutive tickets gives each server of whole weight exactly its weight of picks;
//! - a part of at most half the weight never gets two tickets in a row. The heaviest server is put last and the split
//!   made at or below half, so it is the only one that can be picked twice in a row;
//! - nothing depends on the scale of the weights: 2:2:4 goes as 1:1:2.
//!
//! Levels take turns between the rounding down and up: for small weights that avoids most needless repeats of the heaviest.
//! When a weight or the set of candidates changes, the order starts at an arbitrary place.

use super::{Candidate, usable};

/// Weights are counted in these parts of 1, so that a ramp is smooth. Weights below one part count as one part.
const PARTS: f32 = 256.0;

/// The position of the candidate whose turn ticket number `ticket` is.
#[inline]
pub(super) fn pick(candidates: &[Candidate], ticket: u64) -> Option<usize> {
    let count = candidates.len();
    let (mut weight, mut heaviest, mut most) = (0, 0, 0);
    for (position, candidate) in candidates.iter().enumerate() {
        let parts = parts(candidate);
        weight += parts;
        if parts > most {
            (heaviest, most) = (position, parts);
        }
    }
    if weight == 0 {
        return None;
    }
    // The candidates in order, turned so that the heaviest comes last.
    let position = |nth: usize| {
        let at = heaviest + 1 + nth;
        if at < count { at } else { at - count }
    };
    let (mut from, mut to) = (0, count);
    let mut turn = ticket % weight;
    let mut up = false;
    loop {
        // The first part: as many as stay within half of the weight, at least one.
        let (mut first, mut middle) = (0, from);
        while middle < to {
            let next = parts(&candidates[position(middle)]);
            if first > 0 && (first + next) * 2 > weight {
                break;
            }
            first += next;
            middle += 1;
        }
        if first == weight {
            // Only one of them weighs anything, and it is the last that was added or absent ones follow it.
            return (from..middle).rev().map(position).find(|&at| parts(&candidates[at]) > 0);
        }
        let before = scaled(turn, first, weight, up);
        if scaled(turn + 1, first, weight, up) > before {
            (turn, to, weight) = (before, middle, first);
        } else {
            (turn, from, weight) = (turn - before, middle, weight - first);
        }
        up = !up;
    }
}

/// A candidate's weight in whole parts; 0 when it is to be left out. At most 2^32, so that no sum overflows.
#[inline]
fn parts(candidate: &Candidate) -> u64 {
    if usable(candidate.weight) {
        // Saturates: the cast of a float never overflows.
        u64::from(((candidate.weight * PARTS + 0.5) as u32).max(1))
    } else {
        0
    }
}

/// `turn * part / whole`, rounded down or up; `part` is at most `whole` and `turn` too.
#[inline]
fn scaled(turn: u64, part: u64, whole: u64, up: bool) -> u64 {
    let rounding = if up { whole - 1 } else { 0 };
    if whole <= u64::from(u32::MAX) {
        return (turn * part + rounding) / whole;
    }
    // Absurd weights only. At most `part`, hence it fits.
    ((u128::from(turn) * u128::from(part) + u128::from(rounding)) / u128::from(whole)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::testing::of_weights;
    use proptest::prelude::*;

    fn sequence(weights: &[f32], start: u64, length: usize) -> Vec<usize> {
        let servers = of_weights(weights);
        (start..start + length as u64).map(|ticket| pick(&servers, ticket).unwrap()).collect()
    }

    #[test]
    fn is_smooth() {
        assert_eq!(sequence(&[1.0; 4], 0, 8), [3, 1, 0, 2, 3, 1, 0, 2]);
        assert_eq!(sequence(&[2.0, 1.0, 1.0], 0, 4), [0, 1, 0, 2]);
        assert_eq!(sequence(&[5.0, 1.0, 1.0], 7_000, 7), [0, 0, 0, 1, 0, 0, 2]);
        assert_eq!(sequence(&[3.0, 3.0, 2.0], 0, 8), [2, 0, 1, 2, 0, 1, 0, 1]);
        assert_eq!(sequence(&[4.0, 0.0, 8.0], 0, 3), [2, 2, 0]);
    }

    proptest! {
        #[test]
        fn each_cycle_is_exact_and_even(
            weights in prop::collection::vec(0_u32..20, 1..12),
            start in 0_u64..1 << 40,
            scale in prop::sample::select(vec![1.0_f32, 0.5, 0.25, 3.0]),
        ) {
            let cycle: u32 = weights.iter().sum();
            prop_assume!(cycle > 0);
            let scaled: Vec<f32> = weights.iter().map(|&w| w as f32 * scale).collect();
            // Any whole cycle counts, wherever it starts.
            let picks = sequence(&scaled, start, cycle as usize);
            let mut seen = vec![0; weights.len()];
            for (i, &at) in picks.iter().enumerate() {
                seen[at] += 1;
                for (server, &n) in seen.iter().enumerate() {
                    let due = (i + 1) as f64 * f64::from(weights[server]) / f64::from(cycle);
                    prop_assert!((f64::from(n) - due).abs() < 4.0, "{n} for {due}");
                }
            }
            prop_assert_eq!(&seen, &weights);
            // Nobody but (one of) the heaviest is picked twice in a row.
            let most = weights.iter().max().copied();
            for pair in picks.windows(2) {
                prop_assert!(pair[0] != pair[1] || Some(weights[pair[0]]) == most);
            }
        }

        #[test]
        fn equals_never_repeat(n in 2_usize..200, start in 0_u64..1 << 40) {
            let picks = sequence(&vec![1.0; n], start, 2 * n);
            prop_assert!(picks.windows(2).all(|pair| pair[0] != pair[1]));
        }

        #[test]
        fn odd_weights_are_followed_closely(
            weights in prop::collection::vec(0.05_f32..5.0, 2..8),
        ) {
            let total: f32 = weights.iter().sum();
            let picks = sequence(&weights, 12_345, 4_000);
            for (i, w) in weights.iter().enumerate() {
                let share = picks.iter().filter(|&&p| p == i).count() as f32 / 4_000.0;
                prop_assert!((share - w / total).abs() < 0.01);
            }
        }
    }

    #[test]
    fn absurd_weights_do_no_harm() {
        let servers = of_weights(&[f32::MAX, f32::MIN_POSITIVE, f32::MAX, f32::NAN, -1.0]);
        for ticket in [0, 1, u64::MAX - 1, u64::MAX] {
            assert!(pick(&servers, ticket).is_some_and(|at| at < 3));
        }
        assert_eq!(pick(&of_weights(&[0.0, f32::INFINITY]), 3), None);
        assert_eq!(pick(&[], 3), None);
    }
}
