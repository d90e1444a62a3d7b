//! The requests of a run, drawn before it starts, so that every proxy gets the same.

use std::time::Duration;

use crate::common::load;

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// When it is due, from the start of the load.
    pub at: Duration,
    /// Its number, from 0.
    pub number: usize,
    /// Its work, as a multiple of the server's mean time.
    pub work: f64,
    /// What `x-key` says; none: there is none.
    pub key: Option<usize>,
}

impl load::Job for Job {
    fn at(&self) -> Duration {
        self.at
    }

    fn node(&self) -> usize {
        self.number
    }

    fn path(&self) -> String {
        format!("/{:.6}/{}", self.work, self.number)
    }

    fn headers(&self) -> String {
        self.key.map_or_else(String::new, |key| format!("x-key: {key}\r\n"))
    }
}

/// Poisson arrivals for so long, exponential work, which `change` may alter.
pub fn draw(seed: u64, rate: f64, length: Duration, change: impl Fn(&mut Job, &mut fastrand::Rng)) -> Vec<Job> {
    let mut random = fastrand::Rng::with_seed(seed);
    let exponential = |random: &mut fastrand::Rng| -(1.0 - random.f64()).ln();
    let mut jobs = Vec::new();
    let mut at = 0.0;
    loop {
        at += exponential(&mut random) / rate;
        if at >= length.as_secs_f64() {
            return jobs;
        }
        let work = exponential(&mut random);
        let mut job = Job { at: Duration::from_secs_f64(at), number: jobs.len(), work, key: None };
        change(&mut job, &mut random);
        jobs.push(job);
    }
}
