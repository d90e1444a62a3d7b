//! One small server behind the demo's proxy.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http_body_util::BodyExt;

/// So many requests at once make a server take twice as long: it shows who is loaded.
const DOUBLES_AT: f64 = 50.0;

/// A server that is bound to a free port of this machine.
pub struct Origin {
    /// What its pages call it.
    pub name: String,
    /// Where it is.
    pub address: SocketAddr,
    listener: TcpListener,
    delay: Duration,
}

struct Shared {
    name: String,
    delay: Duration,
    in_flight: AtomicU32,
}

/// One request being served.
struct Serving<'a>(&'a Shared);

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Origin {
    /// Binds a server whose answers take `delay` in the mean.
    ///
    /// # Errors
    /// No port is free.
    pub fn bind(name: String, delay: Duration) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        Ok(Origin { name, address: listener.local_addr()?, listener, delay })
    }

    /// Serves until the task is dropped.
    pub async fn serve(self) {
        let served = async {
            let listener = tokio::net::TcpListener::from_std(self.listener)?;
            axum::serve(listener, router(self.name, self.delay)).await
        };
        if let Err(error) = served.await {
            log::error!(error = error.to_string(); "demo_server_stopped");
        }
    }
}

fn router(name: String, delay: Duration) -> Router {
    let shared = Shared { name, delay, in_flight: AtomicU32::new(0) };
    Router::new().route("/heartbeat", any(|| async { "ok\n" })).fallback(page).with_state(Arc::new(shared))
}

async fn page(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let others = shared.in_flight.fetch_add(1, Ordering::Relaxed);
    let _serving = Serving(&shared);
    let (parts, mut body) = request.into_parts();
    let mut received: u64 = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return (StatusCode::BAD_REQUEST, "the body broke off\n").into_response();
        };
        received += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    tokio::time::sleep(delay(shared.delay, others, fastrand::f64())).await;
    format!("{}\n{} {}\n{received} bytes of body received\n", shared.name, parts.method, parts.uri).into_response()
}

/// Mostly shorter than the mean and sometimes far longer, as real servers are; `chance` is from 0 to 1.
fn delay(mean: Duration, others: u32, chance: f64) -> Duration {
    let exponential = -(1.0 - chance).max(f64::MIN_POSITIVE).ln();
    let loaded = 1.0 + f64::from(others) / DOUBLES_AT;
    mean.mul_f64((0.3 + 0.7 * exponential).min(5.0) * loaded)
}

#[cfg(test)]
mod tests {
    use super::super::traffic;
    use super::*;

    #[test]
    fn delays_have_the_mean_a_bound_and_grow_with_load() {
        let mean = Duration::from_millis(100);
        let sum: Duration = (0..1000).map(|i| delay(mean, 0, (f64::from(i) + 0.5) / 1000.0)).sum();
        assert!((95..=105).contains(&(sum / 1000).as_millis()), "{:?}", sum / 1000);
        assert_eq!(delay(mean, 0, 1.0), Duration::from_millis(500));
        assert_eq!(delay(mean, 50, 0.5).as_millis(), (2 * delay(mean, 0, 0.5)).as_millis());
        assert_eq!(delay(Duration::ZERO, 9, 0.5), Duration::ZERO);
    }

    #[tokio::test]
    async fn every_path_method_and_body_gets_a_page() {
        let origin = Origin::bind("s3".into(), Duration::from_millis(1)).unwrap();
        let address = origin.address;
        let serving = tokio::spawn(origin.serve());
        for (method, path, body, expected) in [
            ("GET", "/gethandler", "", "s3\nGET /gethandler\n0 bytes of body received\n"),
            ("POST", "/any/path?q=1", "hello", "s3\nPOST /any/path?q=1\n5 bytes of body received\n"),
            ("BREW", "/", "", "s3\nBREW /\n0 bytes of body received\n"),
            ("GET", "/heartbeat", "", "ok\n"),
        ] {
            let mut connection = traffic::connect(address).await.unwrap();
            let request = Request::builder().method(method).uri(path).header("host", "demo");
            let answer = connection.send_request(request.body(body.to_owned()).unwrap()).await.unwrap();
            assert_eq!(answer.status(), 200);
            let bytes = answer.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(std::str::from_utf8(&bytes).unwrap(), expected);
        }
        serving.abort();
    }
}
