//! Answers of our own: refusals, and what is told of a failure.

use pingora::proxy::{FailToProxy, Session};
use pingora::{Error, ErrorType, Result};

use crate::proxy::patience::Kind;
use crate::proxy::refusal::{self, Letterhead};
use crate::proxy::{Context, Proxy, Refusal, final_response, grpc};

impl Proxy {
    /// Answers a request that cannot be passed on.
    pub(super) async fn refuse(&self, session: &mut Session, ctx: &mut Context, refusal: Refusal) -> Result<bool> {
        self.answer(session, ctx, refusal).await?;
        Ok(true)
    }

    pub(super) async fn answer(&self, session: &mut Session, ctx: &mut Context, refusal: Refusal) -> Result<()> {
        ctx.failure = Some(refusal);
        self.node.metrics.refused.with_label_values(&[refusal.name()]).inc();
        refusal::write(session, refusal, Letterhead::of(session, ctx), &ctx.refusal_headers).await
    }

    /// Tells the client why there is no response, if it can still be told.
    pub(super) async fn tell_failure(&self, session: &mut Session, error: &Error, ctx: &mut Context) -> FailToProxy {
        let refusal = *ctx.failure.get_or_insert(Refusal::of(error));
        let has_begun = final_response(session).is_some();
        if has_begun && matches!(ctx.kind, Kind::Call(_)) && !refusal.ends_connection() {
            session.as_mut().write_response_trailers(grpc::trailers(refusal)).await.ok();
        }
        if has_begun || refusal.ends_connection() {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        // Pingora ends the connection after a failed attempt, whatever we say: the client must know, or its next request is lost.
        session.set_keepalive(None);
        self.answer(session, ctx, refusal).await.ok();
        FailToProxy { error_code: refusal.status().as_u16(), can_reuse_downstream: false }
    }
}

/// Ends a request with a refusal that `fail_to_proxy` will write.
pub(super) fn fail<T>(ctx: &mut Context, refusal: Refusal) -> Result<T> {
    ctx.failure = Some(refusal);
    Error::e_explain(ErrorType::HTTPStatus(refusal.status().as_u16()), refusal.name())
}
