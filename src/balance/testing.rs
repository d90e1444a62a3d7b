//! What the tests of the policies share.

use std::ops::Range;

use proptest::prelude::*;

use super::Candidate;

/// Idle candidates of these weights, indexed in order.
pub(super) fn of_weights(weights: &[f32]) -> Vec<Candidate> {
    (0_u32..).zip(weights).map(|(index, &weight)| Candidate { index, in_flight: 0, weight }).collect()
}

/// Weights in quarters, with a few that are not usable.
pub(super) fn weight() -> impl Strategy<Value = f32> {
    prop_oneof![
        12 => (1_u32..400).prop_map(|quarters| quarters as f32 / 4.0),
        1 => prop::sample::select(vec![0.0, -1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
    ]
}

/// Any candidates, with ties and unusable ones among them.
pub(super) fn candidates(count: Range<usize>) -> impl Strategy<Value = Vec<Candidate>> {
    prop::collection::vec((0_u32..20, weight()), count).prop_map(|servers| {
        (0_u32..).zip(servers).map(|(index, (in_flight, weight))| Candidate { index, in_flight, weight }).collect()
    })
}

/// Asserts that counts follow the expected proportions: chi-square under its 99.99 % bound (Wilson and Hilferty's approximation).
#[track_caller]
pub(super) fn chi_square_is_plausible(seen: &[u32], proportions: &[f64]) {
    let n: f64 = seen.iter().map(|&count| f64::from(count)).sum();
    let whole: f64 = proportions.iter().sum();
    let chi: f64 = seen
        .iter()
        .zip(proportions)
        .map(|(&count, &p)| {
            let expected = n * p / whole;
            (f64::from(count) - expected).powi(2) / expected
        })
        .sum();
    let freedom = (seen.len() - 1) as f64;
    let spread = 2.0 / (9.0 * freedom);
    let bound = freedom * (1.0 - spread + 3.72 * spread.sqrt()).powi(3);
    assert!(chi < bound, "chi-square {chi:.1} over {bound:.1}: {seen:?}");
}
