//! The requests of one round, drawn before it starts, so that every policy gets the same.

use std::time::Duration;

use crate::common::load;
use crate::options::{Options, Service};

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// When it is due, from the start of the load.
    pub at: Duration,
    /// Which node gets it: taken modulo their number.
    pub node: usize,
    /// Its work, as a multiple of the server's mean time.
    pub work: f64,
}

impl load::Job for Job {
    fn at(&self) -> Duration {
        self.at
    }

    fn node(&self) -> usize {
        self.node
    }

    fn path(&self) -> String {
        format!("/{:.6}", self.work)
    }
}

/// Poisson arrivals until the end of the measured time.
pub fn draw(options: &Options, round: u64) -> Vec<Job> {
    let mut random = fastrand::Rng::with_seed(options.seed.wrapping_mul(1_000_003).wrapping_add(round));
    let exponential = |random: &mut fastrand::Rng| -(1.0 - random.f64()).ln();
    let (rate, end) = (options.rate(), (options.warm_up() + options.seconds()).as_secs_f64());
    let mut jobs = Vec::new();
    let mut at = 0.0;
    loop {
        at += exponential(&mut random) / rate;
        if at >= end {
            return jobs;
        }
        let node = random.usize(..);
        let work = exponential(&mut random);
        let work = if options.service == Service::Fixed { 1.0 } else { work };
        jobs.push(Job { at: Duration::from_secs_f64(at), node, work });
    }
}
