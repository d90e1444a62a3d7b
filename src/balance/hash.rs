//! The same key, the same server: a ring of points over all servers of a pool.
//!
//! The points come from a server's *name* and weight, not from its address, so that the ring stays as it is when a name resolves
//! elsewhere, and every node of a fleet builds the same one, in whatever order its servers are listed.

use smallvec::SmallVec;
use xxhash_rust::xxh64::xxh64;

use super::{Candidate, usable};

/// Points per unit of weight, as libketama and nginx have it.
const POINTS_PER_UNIT: f64 = 160.0;

/// About the most points of a ring (12 bytes each): 1000 servers of one unit. Heavier pools get fewer points per unit.
const MAX_POINTS: f64 = 160_000.0;

/// The key of a request, from the bytes that identify its client. The same in every process and version (xxHash64, seed 0).
#[must_use]
pub fn hash_key(bytes: &[u8]) -> u64 {
    xxh64(bytes, 0)
}

/// The points of all servers of a pool, whether they may be chosen now or not.
///
/// Adding one of n equal servers moves about 1/n of the keys, all to the new one. Above about 160,000 points in total the
/// points per unit of weight shrink with each server added, which moves up to as many keys again.
#[derive(Clone, Debug)]
pub struct Ring {
    /// Ascending.
    points: Box<[u64]>,
    /// Whose point it is, for each.
    owners: Box<[u32]>,
    servers: u32,
}

impl Ring {
    /// The ring of servers by (name, configured weight); a server's place in the iteration is its [`Candidate::index`].
    /// Weight 0 has no points. Slow (a sort): for when the pool's table changes, not for a request.
    #[must_use]
    pub fn new<'a>(servers: impl Iterator<Item = (&'a str, u32)>) -> Ring {
        let servers: Vec<(&str, u32)> = servers.collect();
        let total: f64 = servers.iter().map(|&(_, weight)| f64::from(weight)).sum();
        let per_unit = POINTS_PER_UNIT.min(MAX_POINTS / total);
        let mut points = Vec::new();
        for (index, &(name, weight)) in (0_u32..).zip(&servers) {
            if weight == 0 {
                continue;
            }
            // The n-th point of a name is always the same, so that another scale or weight only adds or removes some.
            let count = (f64::from(weight) * per_unit).round().max(1.0) as u64;
            points.extend((1..=count).map(|nth| (xxh64(name.as_bytes(), nth), index)));
        }
        // Two points on one spot are all but impossible; if so, the name decides, not the order in the file.
        let name = |index: u32| servers.get(index as usize).map(|server| server.0);
        points.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| name(a.1).cmp(&name(b.1))));
        Ring {
            points: points.iter().map(|point| point.0).collect(),
            owners: points.iter().map(|point| point.1).collect(),
            servers: u32::try_from(servers.len()).unwrap_or(u32::MAX),
        }
    }

    /// Clockwise from the key to the first point whose owner is a candidate.
    fn pick(&self, key: u64, candidates: &[Candidate]) -> Option<usize> {
        let start = self.points.partition_point(|&point| point < key);
        let (before, after) = self.owners.split_at(start);
        let mut walk = after.iter().chain(before).copied();
        let first = position(candidates, walk.next()?);
        if first.is_some() {
            return first;
        }
        // The key's own server is not to be had: mark who is, then walk on. One bit per server, on the stack up to 1024.
        let mut present: SmallVec<[u64; 16]> = SmallVec::from_elem(0, self.servers.div_ceil(64) as usize);
        for candidate in candidates.iter().filter(|c| usable(c.weight)) {
            if let Some(word) = present.get_mut(candidate.index as usize / 64) {
                *word |= 1 << (candidate.index % 64);
            }
        }
        if present.iter().all(|&word| word == 0) {
            return None;
        }
        let owner =
            walk.find(|&owner| present.get(owner as usize / 64).is_some_and(|word| word >> (owner % 64) & 1 == 1))?;
        position(candidates, owner)
    }
}

/// Where the server of this index stands among the candidates. Mostly they are all there, in order.
fn position(candidates: &[Candidate], index: u32) -> Option<usize> {
    let here = |candidate: &Candidate| candidate.index == index && usable(candidate.weight);
    if candidates.get(index as usize).is_some_and(here) {
        return Some(index as usize);
    }
    candidates.iter().position(here)
}

#[inline]
pub(super) fn pick(candidates: &[Candidate], key: u64, ring: Option<&Ring>) -> Option<usize> {
    // Without a ring, or with candidates that it does not know, the key still decides.
    ring.and_then(|ring| ring.pick(key, candidates)).or_else(|| spread(candidates, key))
}

/// The key over the candidates as they are, evenly.
fn spread(candidates: &[Candidate], key: u64) -> Option<usize> {
    let live = || candidates.iter().enumerate().filter(|(_, candidate)| usable(candidate.weight));
    let nth = key.checked_rem(live().count() as u64)?;
    live().nth(nth as usize).map(|(position, _)| position)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::testing::of_weights;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("10.0.0.{i}:9000")).collect()
    }

    fn ring(servers: &[(String, u32)]) -> Ring {
        Ring::new(servers.iter().map(|(name, weight)| (name.as_str(), *weight)))
    }

    fn equal(n: usize) -> Ring {
        ring(&names(n).into_iter().map(|name| (name, 1)).collect::<Vec<_>>())
    }

    fn keys(n: u32) -> impl Iterator<Item = u64> {
        (0..n).map(|i| hash_key(&i.to_le_bytes()))
    }

    fn owner(ring: &Ring, key: u64, servers: &[Candidate]) -> u32 {
        servers[pick(servers, key, Some(ring)).unwrap()].index
    }

    #[test]
    fn keys_are_the_same_for_ever() {
        // The published test vectors of xxHash64: a change here would send every client elsewhere.
        assert_eq!(hash_key(b""), 0xef46_db37_51d8_e999);
        assert_eq!(hash_key(b"a"), 0xd24e_c4f1_a98c_6e5b);
        assert_eq!(hash_key(b"abc"), 0x44bc_2cf5_ad77_0999);
    }

    #[test]
    fn the_order_of_the_servers_is_of_no_account() {
        let there: Vec<_> = names(7).into_iter().zip(1..).collect();
        let mut back = there.clone();
        back.reverse();
        let (a, b) = (ring(&there), ring(&back));
        let all = of_weights(&[1.0; 7]);
        for key in keys(2_000) {
            assert_eq!(owner(&a, key, &all), 6 - owner(&b, key, &all));
        }
    }

    #[test]
    fn shares_follow_the_weights() {
        let weights = [1, 2, 4, 1, 2];
        let servers: Vec<_> = names(5).into_iter().zip(weights).collect();
        let all = of_weights(&[1.0; 5]);
        let ring = ring(&servers);
        let mut seen = [0_u32; 5];
        for key in keys(50_000) {
            seen[owner(&ring, key, &all) as usize] += 1;
        }
        for (n, w) in seen.iter().zip(weights) {
            let expected = f64::from(w) * 5_000.0;
            assert!((f64::from(*n) - expected).abs() < expected * 0.25, "{seen:?}");
        }
    }

    #[test]
    fn a_server_more_takes_its_share_and_moves_nothing_else() {
        let (ten, eleven) = (equal(10), equal(11));
        let (few, more) = (of_weights(&[1.0; 10]), of_weights(&[1.0; 11]));
        let mut moved = 0;
        for key in keys(20_000) {
            let (old, new) = (owner(&ten, key, &few), owner(&eleven, key, &more));
            if old != new {
                assert_eq!(new, 10, "a key may only move to the new server");
                moved += 1;
            }
        }
        assert!((900..2_700).contains(&moved), "{moved} of 20000 moved");
    }

    #[test]
    fn an_ineligible_server_moves_only_its_own_keys_to_several_others() {
        let ring = equal(10);
        let all = of_weights(&[1.0; 10]);
        let mut some = all.clone();
        some.remove(4);
        let mut heirs = [0_u32; 10];
        for key in keys(20_000) {
            let (old, new) = (owner(&ring, key, &all), owner(&ring, key, &some));
            if old == 4 {
                heirs[new as usize] += 1;
            } else {
                assert_eq!(old, new);
            }
        }
        assert_eq!(heirs[4], 0);
        assert!(heirs.iter().filter(|&&n| n > 0).count() == 9, "{heirs:?}");
        // A weight that is not usable is as good as absence.
        let mut zero = all.clone();
        zero[4].weight = 0.0;
        for key in keys(2_000) {
            assert_eq!(owner(&ring, key, &some), owner(&ring, key, &zero));
        }
    }

    #[test]
    fn a_heavy_pool_has_a_bounded_ring_that_still_hardly_moves() {
        let servers: Vec<_> = names(1_000).into_iter().map(|name| (name, 1_000)).collect();
        let (whole, less) = (ring(&servers), ring(&servers[..999]));
        assert_eq!(whole.points.len(), 160_000);
        let (all, fewer) = (of_weights(&[1.0; 1_000]), of_weights(&[1.0; 999]));
        let moved = keys(20_000).filter(|&key| owner(&whole, key, &all) != owner(&less, key, &fewer)).count();
        assert!(moved < 80, "{moved} of 20000 moved");
    }

    #[test]
    fn candidates_in_any_order_and_far_fewer_than_servers() {
        let ring = equal(200);
        let mut all = of_weights(&[1.0; 200]);
        fastrand::Rng::with_seed(4).shuffle(&mut all);
        let three = &all[..3];
        for key in keys(1_000) {
            // The first of the three in the walk, found the slow way.
            let start = ring.points.partition_point(|&p| p < key);
            let expected = (0..ring.points.len())
                .map(|i| ring.owners[(start + i) % ring.points.len()])
                .find(|o| three.iter().any(|c| c.index == *o));
            assert_eq!(Some(owner(&ring, key, three)), expected);
        }
    }

    #[test]
    fn without_a_useful_ring_the_key_decides() {
        let mut servers = of_weights(&[1.0, f32::NAN, 1.0]);
        servers.iter_mut().for_each(|c| c.index += 1_000);
        let empty = Ring::new(std::iter::empty());
        for ring in [None, Some(&empty), Some(&equal(3))] {
            let mut seen = [0; 3];
            for key in keys(100) {
                let at = pick(&servers, key, ring).unwrap();
                assert_eq!(pick(&servers, key, ring), Some(at));
                seen[at] += 1;
            }
            assert!(seen[0] > 20 && seen[1] == 0 && seen[2] > 20, "{seen:?}");
        }
        assert_eq!(pick(&[], 1, None), None);
    }
}
