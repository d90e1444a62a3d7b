//! Servers of HTTP/2 that say goodbye, refuse or break: what is sent again, and what is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::support::frames::{END_HEADERS, END_STREAM, Frame, Frames, block, kind};
use crate::support::{Fairlead, config, request};

/// What a server does on its first connection; on all others it answers.
#[derive(Clone, Copy, Debug)]
enum First {
    /// GOAWAY with this last stream, then the end of the connection.
    Goodbye { last: u32 },
    /// GOAWAY with this last stream once a first request was answered: the second is too late.
    GoodbyeLater,
    /// RST_STREAM with this error.
    Reset(u32),
    /// The end of the connection.
    Close,
}

const REFUSED_STREAM: u32 = 7;
const INTERNAL_ERROR: u32 = 2;

/// A server, and how many requests it saw.
struct Server {
    address: String,
    seen: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(first: First) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(AtomicUsize::new(0));
        let counter = seen.clone();
        let task = tokio::spawn(async move {
            let mut first = Some(first);
            while let Ok((stream, _)) = listener.accept().await {
                // A check of health only connects.
                if let Some(frames) = Frames::accepted(stream).await {
                    serve(frames, first.take(), &counter).await;
                }
            }
        });
        Server { address, seen, task }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn goodbye(last: u32) -> Frame {
    Frame::new(kind::GOAWAY, 0, 0, [last.to_be_bytes(), [0; 4]].concat())
}

async fn serve(mut frames: Frames, first: Option<First>, seen: &AtomicUsize) {
    let late = matches!(first, Some(First::GoodbyeLater));
    let mut first = first.filter(|_| !late);
    while let Some(request) = frames.next_of(&[kind::HEADERS]).await {
        let number = seen.fetch_add(1, Ordering::AcqRel);
        match first.take() {
            Some(First::Goodbye { last }) => {
                frames.send(&goodbye(last)).await;
                return;
            }
            Some(First::Close) => return,
            Some(First::Reset(error)) => {
                frames.send(&Frame::new(kind::RST_STREAM, 0, request.stream, error.to_be_bytes())).await;
                continue;
            }
            Some(First::GoodbyeLater) | None => {}
        }
        if late && number == 1 {
            frames.send(&goodbye(1)).await;
            return;
        }
        let answer = block(&[(":status", "200"), ("x-seen", &number.to_string())]);
        frames.send(&Frame::new(kind::HEADERS, END_HEADERS | END_STREAM, request.stream, answer)).await;
    }
}

async fn start(first: First) -> (Server, Fairlead) {
    let server = Server::start(first).await;
    let pool = format!("{{ servers: [\"{}\"], upstream: {{ protocol: h2 }} }}", server.address);
    let fairlead = Fairlead::start(&config(&format!("pools: {{ app: {pool} }}\n"))).await;
    (server, fairlead)
}

/// The status of one request, and how often it was sent.
async fn outcome(method: &str, first: First) -> (u16, usize) {
    let (server, fairlead) = start(first).await;
    let mut client = fairlead.client().await;
    client.send(request(method, "/", "", "")).await;
    let answer = client.response().await.unwrap();
    fairlead.idle().await;
    (answer.status, server.seen.load(Ordering::Acquire))
}

#[tokio::test]
async fn what_was_not_taken_is_sent_again_whatever_its_method() {
    for method in ["GET", "POST"] {
        assert_eq!(outcome(method, First::Goodbye { last: 0 }).await, (200, 2), "{method}");
        assert_eq!(outcome(method, First::Reset(REFUSED_STREAM)).await, (200, 2), "{method}");
    }
}

#[tokio::test]
async fn what_may_have_been_taken_is_sent_again_only_where_that_is_harmless() {
    for first in [First::Goodbye { last: 1 }, First::Reset(INTERNAL_ERROR), First::Close] {
        assert_eq!(outcome("GET", first).await, (200, 2), "{first:?}");
        assert_eq!(outcome("POST", first).await, (502, 1), "{first:?}");
    }
}

#[tokio::test]
async fn a_connection_that_ends_while_it_is_used_again_costs_no_request() {
    let (server, fairlead) = start(First::GoodbyeLater).await;
    let mut client = fairlead.client().await;
    for (n, seen) in [("first", "0"), ("second", "2")] {
        client.send(request("POST", "/", "", "")).await;
        let answer = client.response().await.unwrap();
        assert_eq!((answer.status, answer.header("x-seen")), (200, Some(seen)), "the {n}");
    }
    assert_eq!(server.seen.load(Ordering::Acquire), 3);
    fairlead.idle().await;
}
