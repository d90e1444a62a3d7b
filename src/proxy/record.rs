//! The end of a request: its lease goes back, and metrics and access log are written.

use std::time::SystemTime;

use http::header::{HOST, REFERER, USER_AGENT};
use pingora::Error;
use pingora::proxy::Session;
use smallvec::SmallVec;

use crate::observe::access_log::{AccessLog, Attempt, Entry};
use crate::observe::metrics::Class;
use crate::proxy::patience::Kind;
use crate::proxy::{Context, Proxy, Refusal, final_response, http2, slow};

impl Proxy {
    /// Records a request that is over. Called once for each, by `logging`.
    pub(super) fn record(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Context) {
        slow::request_over();
        ctx.recorded = true;
        let failure = ctx.failure.or(error.map(Refusal::of));
        ctx.end_attempt(error.and(failure));
        if failure == Some(Refusal::ClientGone) {
            http2::cancelled();
        }
        if failure == Some(Refusal::SlowReader) {
            self.node.metrics.refused.with_label_values(&[Refusal::SlowReader.name()]).inc();
        }
        let mut status = final_response(session).map_or(0, |response| response.status.as_u16());
        if let (Kind::Call(_), Some(refusal), true) = (ctx.kind, failure, status != 0) {
            // What every other request would have got: a call is told in another way.
            status = refusal.status().as_u16();
        }
        let gone = status == 0 || failure.is_some_and(Refusal::ends_connection);
        let class = if gone { Class::Aborted } else { Class::of(status) };
        match &ctx.target {
            Some(target) => {
                target.requests[class as usize].inc();
                target.duration.observe(ctx.started.elapsed().as_secs_f64());
            }
            None => self.node.metrics.requests.with_label_values(&["", "", class.as_str()]).inc(),
        }
        if let Some(log) = &self.node.access_log {
            let status = if gone { Refusal::ClientGone.status().as_u16() } else { status };
            write(log, session, ctx, status, failure);
        }
    }
}

fn write(log: &AccessLog, session: &Session, ctx: &Context, status: u16, failure: Option<Refusal>) {
    let request = session.req_header();
    let header = |name| request.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let attempts: SmallVec<[Attempt; 4]> = ctx
        .made
        .iter()
        .map(|made| Attempt { server: &made.server.name, result: made.outcome.as_str(), ms: millis(made.took) })
        .collect();
    log.log(&Entry {
        time: SystemTime::now(),
        request_id: ctx.request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default(),
        client: ctx.client.map(|client| client.address),
        method: request.method.as_str(),
        host: request.uri.authority().map_or_else(|| header(&HOST), |authority| authority.as_str()),
        path: request.uri.path_and_query().map_or("", |path| path.as_str()),
        status,
        error: failure.map_or("", Refusal::name),
        route: ctx.route.as_ref().map_or("", |route| &route.name),
        pool: ctx.target.as_ref().map_or("", |target| &target.pool.config.name),
        server: ctx.server().map_or("", |server| &server.name),
        attempts: &attempts,
        duration_ms: millis(ctx.started.elapsed()),
        upstream_ms: ctx.to_header.map(millis),
        bytes_in: session.body_bytes_read(),
        bytes_out: session.body_bytes_sent(),
        user_agent: header(&USER_AGENT),
        referer: header(&REFERER),
    });
}

fn millis(took: std::time::Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e3
}
