//! What holds for every policy.

use proptest::prelude::*;

use super::testing::candidates;
use super::*;

const ALL: [Policy; 6] =
    [Policy::LeastLoad, Policy::LeastConnections, Policy::PowerOfTwo, Policy::RoundRobin, Policy::Random, Policy::Hash];

proptest! {
    #[test]
    fn never_picks_what_is_not_there(
        servers in candidates(0..30),
        seed: u64,
        ticket: u64,
        key: u64,
        gone in 0_usize..30,
    ) {
        let names: Vec<String> = servers.iter().map(|c| c.index.to_string()).collect();
        let ring = Ring::new(names.iter().map(|name| (name.as_str(), 1)));
        let mut servers = servers;
        if gone < servers.len() {
            servers.swap_remove(gone);
        }
        let any = servers.iter().any(|c| usable(c.weight));
        let mut rng = fastrand::Rng::with_seed(seed);
        for policy in ALL {
            let mut draw = Draw { rng: &mut rng, ticket, key, ring: Some(&ring) };
            let picked = policy.pick(&servers, &mut draw);
            prop_assert_eq!(picked.is_some(), any);
            prop_assert!(picked.is_none_or(|at| usable(servers[at].weight)));
        }
    }

    #[test]
    fn the_only_one_takes_all(weight in 0.01_f32..1000.0, in_flight: u32, seed: u64) {
        let servers = [Candidate { index: 3, in_flight, weight }];
        let mut rng = fastrand::Rng::with_seed(seed);
        for policy in ALL {
            let mut draw = Draw { rng: &mut rng, ticket: seed, key: seed, ring: None };
            prop_assert_eq!(policy.pick(&servers, &mut draw), Some(0));
        }
    }
}
