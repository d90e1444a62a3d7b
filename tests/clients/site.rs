//! A web site whose pages test the way to it. The path says what is answered:
//!
//! | path | answer |
//! |---|---|
//! | `/` | the page with the script, and two cookies |
//! | `/small` | a page that tells its own address |
//! | `/part/N` | `part N` |
//! | `/post` | the body of the request, with its type |
//! | `/stream` | a piece, and once `/more` was asked for another |
//! | `/hang` | none |
//! | `/wait.png` | 404, once `/finished` was asked for: so long the page is not loaded |

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::{Html, IntoResponse, Response};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, SET_COOKIE};
use http::{HeaderMap, Method, StatusCode, Uri};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// A request as the server got it.
#[derive(Clone, Debug)]
pub struct Visit {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Visit {
    /// All values of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }
}

#[derive(Default)]
struct Seen {
    visits: Mutex<Vec<Visit>>,
    more: Notify,
    finished: Notify,
    given_up: AtomicUsize,
}

/// The server.
pub struct Site {
    pub address: SocketAddr,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

impl Site {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let router = Router::new().fallback(answer).with_state(seen.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Site { address, seen, task }
    }

    /// All requests for paths that begin so.
    pub fn visits(&self, path: &str) -> Vec<Visit> {
        let visits = self.seen.visits.lock().unwrap();
        visits.iter().filter(|visit| visit.uri.path().starts_with(path)).cloned().collect()
    }

    /// Requests for `/hang` whose client went away.
    pub fn given_up(&self) -> usize {
        self.seen.given_up.load(SeqCst)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Counts when the answer is no longer waited for.
struct Hanging(Arc<Seen>);

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.given_up.fetch_add(1, SeqCst);
    }
}

async fn answer(State(seen): State<Arc<Seen>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let path = head.uri.path().to_string();
    let kind = head.headers.get(CONTENT_TYPE).cloned();
    seen.visits.lock().unwrap().push(Visit {
        method: head.method,
        uri: head.uri,
        headers: head.headers,
        body: body.clone(),
    });
    match path.as_str() {
        "/" => {
            let mut page = Html(include_str!("page.html")).into_response();
            for cookie in ["first=1; Secure; HttpOnly", "second=2; Secure; SameSite=Strict"] {
                page.headers_mut().append(SET_COOKIE, cookie.parse().unwrap());
            }
            page
        }
        "/small" => Html(include_str!("small.html")).into_response(),
        "/post" => {
            let mut echo = body.into_response();
            if let Some(kind) = kind {
                echo.headers_mut().insert(CONTENT_TYPE, kind);
            }
            echo
        }
        "/stream" => {
            let pieces = futures_util::stream::unfold(0, move |sent| {
                let seen = seen.clone();
                async move {
                    match sent {
                        0 => {}
                        1 => seen.more.notified().await,
                        _ => return None,
                    }
                    Some((Ok::<_, Infallible>(format!("piece {sent}\n")), sent + 1))
                }
            });
            Body::from_stream(pieces).into_response()
        }
        "/more" => {
            seen.more.notify_one();
            StatusCode::NO_CONTENT.into_response()
        }
        "/hang" => {
            let _hanging = Hanging(seen);
            std::future::pending().await
        }
        "/wait.png" => {
            seen.finished.notified().await;
            StatusCode::NOT_FOUND.into_response()
        }
        "/finished" => {
            seen.finished.notify_one();
            StatusCode::NO_CONTENT.into_response()
        }
        _ => match path.strip_prefix("/part/") {
            Some(n) => format!("part {n}").into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        },
    }
}
