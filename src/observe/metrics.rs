//! The metrics a node exports. Names and labels are part of the contract with operators.

use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::observe::logging;

/// All metrics of one node.
///
/// Handles of hot labels are taken once (`with_label_values`) and kept where they are used, so that a request
/// pays for an atomic addition, not for a look-up.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests by route, pool and class of status; each client request once.
    pub requests: IntCounterVec,
    /// Time from the first byte of a request to the last of its response, by route and pool.
    pub duration: HistogramVec,
    /// Attempts by pool, server and result.
    pub attempts: IntCounterVec,
    /// Attempts beyond the first, by pool and reason.
    pub retries: IntCounterVec,
    /// Retries that the budget did not allow, by pool.
    pub retries_refused: IntCounterVec,
    /// Requests that Fairlead answered itself, and connections that it refused or ended, by name of the refusal.
    pub refused: IntCounterVec,
    /// Times that a server was left out for what became of requests, by pool and server.
    pub ejections: IntCounterVec,
    /// Times that a server was found to answer far later than the others, by pool and server.
    pub slow: IntCounterVec,
    /// Clients' connections by listener; set when scraped.
    pub connections: IntGaugeVec,
    /// Requests in flight by pool, server and scope; set when scraped.
    pub in_flight: IntGaugeVec,
    /// 1 while a server may be chosen; set when scraped.
    pub server_up: IntGaugeVec,
    /// By pool: 0 closed, 1 half open, 2 open; set when scraped.
    pub circuit: IntGaugeVec,
    /// Requests that wait for room, by pool; set when scraped.
    pub queued: IntGaugeVec,
    /// Handshakes of clients, by listener and result.
    pub tls_handshakes: IntCounterVec,
    /// Days until a certificate is over, by listener (none: shown to servers) and name; below 0: it is.
    pub certificate_expiry: GaugeVec,
    /// Age of the view of the fleet by pool, -1 when there is none; set when scraped.
    pub view_age: GaugeVec,
    /// Keys that each route's rate limit remembers; set when scraped.
    pub rate_limit_keys: IntGaugeVec,
    /// Lines that the access log had to drop because its writer fell behind.
    pub access_log_dropped: IntCounter,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// Two metrics of one name: a mistake in this file.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let vec = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok(vec)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| -> Result<IntGaugeVec, prometheus::Error> {
            let vec = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok(vec)
        };
        let buckets = vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
        let duration = HistogramVec::new(
            HistogramOpts::new("fairlead_request_duration_seconds", "Time to serve a request").buckets(buckets),
            &["route", "pool"],
        )?;
        registry.register(Box::new(duration.clone()))?;
        let view_age = GaugeVec::new(
            Opts::new("fairlead_view_age_seconds", "Age of what is known of the fleet's load; -1: nothing is known"),
            &["pool"],
        )?;
        registry.register(Box::new(view_age.clone()))?;
        let certificate_expiry = GaugeVec::new(
            Opts::new("fairlead_certificate_expiry_days", "Days until a certificate is over"),
            &["listener", "name"],
        )?;
        registry.register(Box::new(certificate_expiry.clone()))?;
        let access_log_dropped =
            IntCounter::new("fairlead_access_log_dropped_total", "Access log lines that could not be written in time")?;
        registry.register(Box::new(access_log_dropped.clone()))?;
        if let Some(dropped) = logging::dropped() {
            registry.register(Box::new(dropped))?;
        }
        let metrics = Metrics {
            requests: counters("fairlead_requests_total", "Client requests", &["route", "pool", "class"])?,
            duration,
            attempts: counters("fairlead_attempts_total", "Requests sent to servers", &["pool", "server", "result"])?,
            retries: counters("fairlead_retries_total", "Attempts beyond the first", &["pool", "reason"])?,
            retries_refused: counters(
                "fairlead_retries_refused_total",
                "Retries that the budget did not allow",
                &["pool"],
            )?,
            refused: counters(
                "fairlead_refused_total",
                "Requests that Fairlead answered itself, connections that it refused",
                &["reason"],
            )?,
            ejections: counters("fairlead_ejections_total", "Times that a server was ejected", &["pool", "server"])?,
            slow: counters(
                "fairlead_slow_total",
                "Times that a server was found to answer far later than the others",
                &["pool", "server"],
            )?,
            connections: gauges("fairlead_connections", "Clients' connections", &["listener"])?,
            in_flight: gauges("fairlead_in_flight", "Requests in flight", &["pool", "server", "scope"])?,
            server_up: gauges("fairlead_server_up", "Whether a server may be chosen", &["pool", "server"])?,
            circuit: gauges("fairlead_circuit_state", "0: closed, 1: half open, 2: open", &["pool"])?,
            queued: gauges("fairlead_queued", "Requests that wait for room on a server", &["pool"])?,
            tls_handshakes: counters(
                "fairlead_tls_handshakes_total",
                "TLS handshakes of clients",
                &["listener", "result"],
            )?,
            certificate_expiry,
            view_age,
            rate_limit_keys: gauges("fairlead_rate_limit_keys", "Keys that a rate limit remembers", &["route"])?,
            access_log_dropped,
            registry: registry.clone(),
        };
        gauges("fairlead_build_info", "The version that runs", &["version"])?
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        Ok(metrics)
    }

    /// Registers one more metric.
    ///
    /// # Errors
    /// There is one of that name already.
    pub fn add<C: prometheus::core::Collector + Clone + 'static>(&self, metric: C) -> Result<C, prometheus::Error> {
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    /// Everything in the text format of Prometheus.
    ///
    /// # Errors
    /// A metric that cannot be encoded.
    pub fn encode(&self) -> Result<String, prometheus::Error> {
        let mut out = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        String::from_utf8(out).map_err(|e| prometheus::Error::Msg(e.to_string()))
    }
}

/// The class of a response for `fairlead_requests_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// 1xx, which a client sees last only when it switches protocols.
    Informational,
    /// 2xx
    Success,
    /// 3xx
    Redirect,
    /// 4xx
    ClientError,
    /// 5xx
    ServerError,
    /// The client left before the response was complete.
    Aborted,
}

impl Class {
    /// How many there are.
    pub const COUNT: usize = 6;
    /// All, in the order of their discriminants.
    pub const ALL: [Class; Class::COUNT] =
        [Class::Informational, Class::Success, Class::Redirect, Class::ClientError, Class::ServerError, Class::Aborted];

    /// The class of a status code; codes that nobody defined count as server errors.
    pub fn of(status: u16) -> Class {
        match status / 100 {
            1 => Class::Informational,
            2 => Class::Success,
            3 => Class::Redirect,
            4 => Class::ClientError,
            _ => Class::ServerError,
        }
    }

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Informational => "1xx",
            Class::Success => "2xx",
            Class::Redirect => "3xx",
            Class::ClientError => "4xx",
            Class::ServerError => "5xx",
            Class::Aborted => "aborted",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_operators_rely_on() {
        let metrics = Metrics::new().unwrap();
        metrics.requests.with_label_values(&["r", "p", Class::of(204).as_str()]).inc();
        metrics.duration.with_label_values(&["r", "p"]).observe(0.01);
        let text = metrics.encode().unwrap();
        assert!(text.contains(r#"fairlead_requests_total{class="2xx",pool="p",route="r"} 1"#), "{text}");
        assert!(text.contains("fairlead_request_duration_seconds_bucket"), "{text}");
        assert!(text.contains("fairlead_build_info"), "{text}");
    }

    #[test]
    fn classes_are_in_the_order_of_their_discriminants() {
        for (i, class) in Class::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, i);
        }
    }
}
