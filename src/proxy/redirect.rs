//! Answers that send a client elsewhere.

use http::{Method, StatusCode};
use pingora::Result;
use pingora::proxy::Session;

use crate::config::Redirect;
use crate::filters::rules;
use crate::proxy::checks::host_of;
use crate::proxy::refusal::{self, Letterhead};
use crate::proxy::{Context, Proxy, Refusal};
use crate::routing;

impl Proxy {
    /// Sends the client elsewhere.
    pub(super) async fn redirect(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        redirect: &Redirect,
        prefix: &str,
    ) -> Result<bool> {
        let tls = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
        let request = session.req_header();
        let location = host_of(request).and_then(|host| rules::location(redirect, host, &request.uri, prefix, tls));
        let Some(location) = location else { return self.refuse(session, ctx, Refusal::BadRequest).await };
        refusal::redirect(session, redirect.status, location, Letterhead::of(session, ctx)).await?;
        Ok(true)
    }

    /// Sends the client to the same place by https, on this port.
    pub(super) async fn to_https(&self, session: &mut Session, ctx: &mut Context, port: u16) -> Result<bool> {
        let request = session.req_header();
        let host = host_of(request).map(routing::without_port).filter(|host| !host.is_empty());
        let Some(host) = host.filter(|_| request.uri.path().starts_with('/')) else {
            return self.refuse(session, ctx, Refusal::BadRequest).await;
        };
        let host = if port == 443 { host.to_owned() } else { format!("{host}:{port}") };
        // Everybody knows 301, but by custom it makes a POST a GET.
        let plain = matches!(request.method, Method::GET | Method::HEAD);
        let status = if plain { StatusCode::MOVED_PERMANENTLY } else { StatusCode::PERMANENT_REDIRECT };
        let redirect = Redirect { scheme: Some("https"), host: Some(host), prefix: None, status };
        self.redirect(session, ctx, &redirect, "/").await
    }
}
