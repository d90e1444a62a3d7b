//! What a lease costs: taken and given back by 1, 2 and 4 threads at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use divan::{Bencher, black_box};
use fairlead::load::{Lease, Ledger};

const THREADS: [usize; 3] = [1, 2, 4];
/// Long enough, some milliseconds, that the threads really meet.
const SAMPLE: u32 = 100_000;

fn main() {
    divan::main();
}

#[derive(Default)]
struct Server(Ledger);

impl AsRef<Ledger> for Server {
    fn as_ref(&self) -> &Ledger {
        &self.0
    }
}

fn servers(count: usize) -> Vec<Arc<Server>> {
    (0..count).map(|_| Arc::new(Server::default())).collect()
}

fn all_given_back(servers: &[Arc<Server>]) -> bool {
    servers.iter().all(|server| server.0.own() == 0)
}

/// A number of its own for each thread that asks.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    NUMBER.with(|number| *number)
}

// The leases are dropped by hand: divan would drop what is returned after the clock has stopped.

/// The worst case: every thread counts on the same server.
#[divan::bench(threads = THREADS, sample_count = 30, sample_size = SAMPLE)]
fn lease_on_one_server(bencher: Bencher<'_, '_>) {
    let servers = servers(1);
    bencher.bench(|| drop(Lease::take(black_box(&servers)[0].clone())));
    assert!(all_given_back(&servers));
}

/// Every thread counts on a server of its own: as fast as one thread alone, unless servers share a cache line.
#[divan::bench(threads = THREADS, sample_count = 30, sample_size = SAMPLE)]
fn lease_on_a_server_each(bencher: Bencher<'_, '_>) {
    let servers = servers(64);
    bencher.bench(|| drop(Lease::take(black_box(&servers)[thread_number() % 64].clone())));
    assert!(all_given_back(&servers));
}

/// As a request does: the counts of four servers are read, then the least loaded is counted on.
#[divan::bench(threads = THREADS, sample_count = 30, sample_size = SAMPLE)]
fn read_four_and_lease_the_least(bencher: Bencher<'_, '_>) {
    let servers = servers(4);
    bencher.bench(|| {
        let least = black_box(&servers).iter().min_by_key(|server| server.0.own());
        drop(least.map(|server| Lease::take(server.clone())));
    });
    assert!(all_given_back(&servers));
}
