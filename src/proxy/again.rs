//! Another attempt: decided on, paid for from the budget, and prepared.

use std::time::{Duration, Instant};

use pingora::proxy::Session;

use crate::proxy::retry::{self, Facts, Fault};
use crate::proxy::{Context, Proxy, final_response};

impl Proxy {
    /// Decides on another attempt, and prepares it: true, and `upstream_peer` will be called again.
    pub(super) fn try_again(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        fault: Fault,
        retry_after: Option<Duration>,
    ) -> bool {
        let failed = ctx.server().cloned();
        let (Some(route), Some(target)) = (&ctx.route, &ctx.target) else { return false };
        let pool = &target.pool;
        ctx.tried.extend(failed.and_then(|server| pool.index_of(&server)));
        let facts = Facts {
            fault,
            method: &session.req_header().method,
            attempts: ctx.attempts(),
            replayable: !session.as_ref().retry_buffer_truncated(),
            answered: final_response(session).is_some(),
            left: ctx.left(),
            somebody: pool.has_other(&[]),
            retry_after,
            jitter: fastrand::f64(),
        };
        // That of the attempt that failed, if it was a retry itself.
        ctx.permit = None;
        let granted = ctx.granted.take();
        let Some(pause) = retry::decide(&route.retry, &facts) else { return false };
        // The first server that cannot be connected to costs no other a thing: there was no request yet.
        let free = fault == Fault::Connect && ctx.attempts() == 1 && pool.has_other(&ctx.tried);
        let labels = [pool.config.name.as_str(), fault.as_str()];
        if !free {
            ctx.permit = granted.or_else(|| route.traffic.retry());
        }
        if ctx.permit.is_none() && !free {
            self.node.metrics.retries_refused.with_label_values(&labels[..1]).inc();
            return false;
        }
        self.node.metrics.retries.with_label_values(&labels).inc();
        ctx.again = Some(Instant::now() + pause);
        true
    }
}

/// No server is tried twice while another is left. When none is, all may be, the last one only if it is the only one.
pub(super) fn prefer_untried(ctx: &mut Context) {
    let Some(target) = &ctx.target else { return };
    if target.pool.has_other(&ctx.tried) {
        return;
    }
    ctx.tried = ctx.tried.last().copied().into_iter().collect();
    if !target.pool.has_other(&ctx.tried) {
        ctx.tried.clear();
    }
}

/// Whether the request may be sent once more after a timeout, as far as the request itself goes.
pub(super) fn is_repeatable(session: &Session, ctx: &Context) -> bool {
    let Some(route) = &ctx.route else { return false };
    route.retry.on.timeout
        && ctx.attempts() < route.retry.attempts
        && route.retry.methods.contains(&session.req_header().method)
        && !session.as_ref().retry_buffer_truncated()
}
