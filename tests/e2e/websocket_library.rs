//! WebSockets with a real library at both ends.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::support::{
    EchoServer, Fairlead, Pair, Socket, Wish, config, end_of, exchange, ms, pattern, secure_websocket, soon, trusting,
    until, websocket,
};

/// Many at once take their time in a build for tests.
const LONG: Duration = Duration::from_secs(60);

/// A pool with the server alone; `rest` are more keys of the configuration.
fn yaml(server: &EchoServer, rest: &str) -> String {
    // No check of health comes in between, and none fails because the machine is busy.
    let pool = format!("servers: [{}], health: {{ interval: 1h, timeout: 30s, rise: 1 }}", server.address);
    config(&format!("{rest}\npools: {{ app: {{ {pool}, upstream: {{ connect_timeout: 10s }} }} }}\n"))
}

/// Both ends of the connections through the proxy are this process's.
fn need_files(needed: u64) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(hard >= needed, "the system allows {hard} open files, this needs {needed}");
    if soft < needed {
        setrlimit(Resource::RLIMIT_NOFILE, needed, hard).unwrap();
    }
}

fn text(length: usize) -> Message {
    Message::text("grüße ".repeat(length / 8 + 1))
}

fn binary(length: usize) -> Message {
    Message::binary(pattern(length))
}

/// Does the same with each socket, all at once.
async fn with_all<F: Future<Output = Socket> + Send + 'static>(
    sockets: Vec<Socket>,
    act: impl Fn(usize, Socket) -> F,
) -> Vec<Socket> {
    let mut tasks = JoinSet::new();
    for (n, socket) in sockets.into_iter().enumerate() {
        tasks.spawn(act(n, socket));
    }
    tokio::time::timeout(LONG, tasks.join_all()).await.expect("all are done in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_are_open_at_once() {
    const COUNT: usize = 1000;
    need_files(4096);
    let server = EchoServer::start().await;
    let fairlead = Fairlead::start(&yaml(&server, "")).await;
    let mut opening = JoinSet::new();
    for n in 0..COUNT {
        let address = fairlead.address();
        opening.spawn(async move { websocket(address, &format!("/chat/{n}")).await });
    }
    let sockets = tokio::time::timeout(LONG, opening.join_all()).await.expect("all open in time");
    assert_eq!(fairlead.in_flight().await, 1000);
    until("the server has all", async || server.open() == COUNT).await;

    let sockets = with_all(sockets, async |n, mut socket| {
        exchange(&mut socket, Message::text(format!("message {n}"))).await;
        exchange(&mut socket, binary(1000 + n)).await;
        exchange(&mut socket, Message::text("")).await;
        match n % 10 {
            0 => exchange(&mut socket, text(100_000)).await,
            5 => exchange(&mut socket, binary(300_000)).await,
            _ => {}
        }
        socket
    });
    let sockets = sockets.await;
    assert_eq!(fairlead.in_flight().await, 1000, "none is over");
    assert_eq!(server.open(), COUNT);

    // Half of them are closed by the client, the others by the server.
    let closed = with_all(sockets, async |n, mut socket| {
        let code = 4000 + (n / 2) as u16;
        let told = if n % 2 == 0 {
            let frame = CloseFrame { code: code.into(), reason: "bye".into() };
            socket.close(Some(frame)).await.unwrap();
            format!("{code} bye")
        } else {
            socket.send(Message::text(format!("close {code}"))).await.unwrap();
            format!("{code} as asked")
        };
        assert_eq!(end_of(&mut socket).await, told);
        socket
    });
    closed.await;
    until("the server has none", async || server.open() == 0).await;
    fairlead.idle().await;
    let mut ends = server.ends();
    ends.sort();
    let mut told: Vec<String> =
        (4000..4500).flat_map(|code| [format!("{code} as asked"), format!("{code} bye")]).collect();
    told.sort();
    assert_eq!(ends, told, "what the server was told");
    assert_eq!(server.handshakes().len(), COUNT, "each was opened once");
}

#[tokio::test]
async fn through_tls() {
    let server = EchoServer::start().await;
    let authority = Pair::authority("Authority");
    let files = TempDir::new().unwrap();
    authority.issue(Wish::names(&["a.test"])).write(files.path(), "a");
    let listener = "listeners: [{ name: public, address: \"127.0.0.1:0\", tls: { certificates: [{ cert: \"FILES/a.pem\", key: \"FILES/a.key\" }] } }]";
    let listener = listener.replace("FILES", files.path().to_str().unwrap());
    let fairlead = Fairlead::start(&yaml(&server, &listener)).await;
    let mut connector = trusting(&authority);
    // As browsers do for a WebSocket.
    connector.set_alpn_protos(b"\x08http/1.1").unwrap();
    let mut socket = soon("a WebSocket", secure_websocket(fairlead.address(), &connector.build(), "/chat?x=1")).await;
    soon("echoes", async {
        exchange(&mut socket, Message::text("hello")).await;
        exchange(&mut socket, binary(1_000_000)).await;
        exchange(&mut socket, text(200_000)).await;
    })
    .await;
    assert_eq!(fairlead.in_flight().await, 1);
    let handshake = server.handshakes().remove(0);
    assert_eq!(handshake.uri(), "/chat?x=1");
    assert_eq!(handshake.headers()["host"], "a.test");
    assert_eq!(handshake.headers()["x-forwarded-proto"], "https");
    let frame = CloseFrame { code: 4321.into(), reason: "bye".into() };
    socket.close(Some(frame)).await.unwrap();
    assert_eq!(soon("the end", end_of(&mut socket)).await, "4321 bye");
    fairlead.idle().await;
    until("the server knows", async || server.ends() == ["4321 bye"]).await;
}

#[tokio::test]
async fn an_idle_one_is_closed_and_one_that_talks_is_not() {
    let server = EchoServer::start().await;
    let routes = "routes: [{ name: all, match: {}, pool: app, timeouts: { websocket_idle: 1500ms } }]";
    let fairlead = Fairlead::start(&yaml(&server, routes)).await;
    let mut idle = websocket(fairlead.address(), "/idle").await;
    let mut pings = websocket(fairlead.address(), "/pings").await;
    let mut talks = websocket(fairlead.address(), "/talks").await;
    exchange(&mut idle, Message::text("only this")).await;
    assert_eq!(fairlead.in_flight().await, 3);
    let end = end_of(&mut idle);
    tokio::pin!(end);
    let began = Instant::now();
    let end = loop {
        tokio::select! {
            end = &mut end => break end,
            () = tokio::time::sleep(ms(100)) => {}
        }
        assert!(began.elapsed() < LONG, "the idle one lives on");
        exchange(&mut talks, Message::text("still here")).await;
        // The server's library answers, and no message is sent.
        pings.send(Message::Ping("".into())).await.unwrap();
        assert!(matches!(pings.next().await, Some(Ok(Message::Pong(_)))));
    };
    assert_eq!(end, "broken", "nobody said a word of farewell");
    assert!(began.elapsed() >= ms(1400), "closed after {:?}", began.elapsed());
    until("the server knows", async || server.ends() == ["broken"]).await;
    exchange(&mut talks, Message::text("after it")).await;
    exchange(&mut pings, Message::text("after it")).await;
    assert_eq!(fairlead.in_flight().await, 2);
}
