//! Servers with a bounded number of workers, first come first served, and the law of their service times.

use std::collections::VecDeque;

use crate::world::{MS, Nanos};

/// A request on its way.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub arrived: Nanos,
    /// The node it came to, and in which of its lives.
    pub member: usize,
    pub life: u32,
    /// Service time relative to the server's mean; drawn on arrival, so that all policies get the same work.
    pub work: f32,
}

/// How service times spread around their mean of 1.
#[derive(Clone, Copy, Debug)]
pub enum Law {
    Exponential,
    /// Nine of ten are short, one is eleven times as long.
    Bimodal,
}

impl Law {
    pub fn draw(self, rng: &mut fastrand::Rng) -> f32 {
        match self {
            Law::Exponential => exponential(rng) as f32,
            Law::Bimodal if rng.u32(0..10) == 0 => 5.5,
            Law::Bimodal => 0.5,
        }
    }
}

/// Exponential with mean 1.
pub fn exponential(rng: &mut fastrand::Rng) -> f64 {
    -(1.0 - rng.f64()).ln()
}

/// What a server is like.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    pub mean_ms: f64,
    pub workers: u32,
    pub weight: f32,
}

#[derive(Debug)]
pub struct Server {
    spec: Spec,
    busy: u32,
    queue: VecDeque<Request>,
}

impl Server {
    pub fn new(spec: Spec) -> Self {
        Self { spec, busy: 0, queue: VecDeque::new() }
    }

    /// Takes a request in; returns how long it will take if it is served at once.
    pub fn offer(&mut self, request: Request) -> Option<Nanos> {
        if self.busy < self.spec.workers {
            self.busy += 1;
            return Some(self.service(&request));
        }
        self.queue.push_back(request);
        None
    }

    /// A worker is free; returns the next request and how long it will take.
    pub fn next(&mut self) -> Option<(Request, Nanos)> {
        let next = self.queue.pop_front();
        self.busy -= u32::from(next.is_none());
        next.map(|request| (request, self.service(&request)))
    }

    fn service(&self, request: &Request) -> Nanos {
        (f64::from(request.work) * self.spec.mean_ms * MS as f64) as Nanos
    }
}
