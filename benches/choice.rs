//! What a choice costs: every policy, and the tide, at 2, 10, 100 and 1000 servers.

use divan::{Bencher, black_box};
use fairlead::balance::{Candidate, Draw, Policy, Ring, hash_key, tide};

const SERVERS: [u32; 5] = [2, 4, 10, 100, 1000];

fn main() {
    divan::main();
}

/// Busy servers, some heavier, some tied.
fn candidates(count: u32) -> Vec<Candidate> {
    let mut rng = fastrand::Rng::with_seed(u64::from(count));
    (0..count)
        .map(|index| Candidate { index, in_flight: rng.u32(0..16), weight: if index % 4 == 0 { 2.0 } else { 1.0 } })
        .collect()
}

/// A fresh ticket and key for each pick; the ring of all servers, of which the fifth of ten may be out.
fn policy(bencher: Bencher<'_, '_>, policy: Policy, count: u32, out: bool) {
    let names: Vec<String> = (0..count).map(|i| format!("10.0.0.{i}:9000")).collect();
    let ring = Ring::new(names.iter().map(|name| (name.as_str(), 1)));
    let mut candidates = candidates(count);
    if out {
        candidates.retain(|candidate| candidate.index % 10 != 5);
    }
    let mut rng = fastrand::Rng::with_seed(1);
    let mut ticket = 0_u64;
    bencher.bench_local(|| {
        ticket += 1;
        let mut draw =
            Draw { rng: &mut rng, ticket, key: ticket.wrapping_mul(0x9e37_79b9_7f4a_7c15), ring: Some(&ring) };
        policy.pick(black_box(&candidates), &mut draw)
    });
}

#[divan::bench(args = SERVERS)]
fn least_load(bencher: Bencher<'_, '_>, servers: u32) {
    policy(bencher, Policy::LeastLoad, servers, false);
}

#[divan::bench(args = SERVERS)]
fn power_of_two(bencher: Bencher<'_, '_>, servers: u32) {
    policy(bencher, Policy::PowerOfTwo, servers, false);
}

#[divan::bench(args = SERVERS)]
fn round_robin(bencher: Bencher<'_, '_>, servers: u32) {
    policy(bencher, Policy::RoundRobin, servers, false);
}

#[divan::bench(args = SERVERS)]
fn random(bencher: Bencher<'_, '_>, servers: u32) {
    policy(bencher, Policy::Random, servers, false);
}

#[divan::bench(args = SERVERS)]
fn hash(bencher: Bencher<'_, '_>, servers: u32) {
    policy(bencher, Policy::Hash, servers, false);
}

#[divan::bench(args = SERVERS)]
fn hash_with_one_in_ten_out(bencher: Bencher<'_, '_>, servers: u32) {
    policy(bencher, Policy::Hash, servers, true);
}

#[divan::bench]
fn hash_of_a_client_address(bencher: Bencher<'_, '_>) {
    bencher.bench_local(|| hash_key(black_box(b"2001:db8::1234:5678")));
}

/// The idle pool: everybody is tied.
#[divan::bench(args = SERVERS)]
fn least_load_all_tied(bencher: Bencher<'_, '_>, servers: u32) {
    let mut candidates = candidates(servers);
    for candidate in &mut candidates {
        (candidate.in_flight, candidate.weight) = (0, 1.0);
    }
    let mut rng = fastrand::Rng::with_seed(1);
    bencher.bench_local(|| {
        let mut draw = Draw { rng: &mut rng, ticket: 0, key: 0, ring: None };
        Policy::LeastLoad.pick(black_box(&candidates), &mut draw)
    });
}

/// As many unseen picks as there are servers: about half of them under water.
#[divan::bench(args = SERVERS)]
fn tide_by_servers(bencher: Bencher<'_, '_>, servers: u32) {
    let mut rng = fastrand::Rng::with_seed(1);
    let shares: Vec<tide::Share> = candidates(servers)
        .iter()
        .map(|candidate| tide::Share {
            index: candidate.index,
            weight: candidate.weight,
            queued: candidate.in_flight as f32,
            own: rng.u32(0..3),
            completions: rng.f32(),
        })
        .collect();
    bencher.bench_local(|| tide::pick(black_box(&shares), servers as f32, &mut rng));
}
