//! gRPC through the proxy, with a real stack at both ends. Messages are bytes: no code is generated.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataValue;
use tonic::server::StreamingService;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::support::frames::{END_STREAM, Frames, kind};
use crate::support::{Answer, Fairlead, H2, config, h2_request, ms, soon, until};

/// Messages as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// The service `test.Echo`. All methods are streams both ways on the wire; a call of one message is one of them.
#[derive(Clone, Default)]
struct Echo {
    running: Arc<AtomicUsize>,
}

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

struct Method {
    name: String,
    running: Running,
}

impl StreamingService<Bytes> for Method {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Messages>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let name = self.name.clone();
        let running = std::mem::replace(&mut self.running, Running(Arc::new(AtomicUsize::new(1))));
        Box::pin(async move {
            let told = request.metadata().get("x-told").cloned();
            let mut messages = request.into_inner();
            let (send, receive) = mpsc::channel(4);
            let mut head = Response::new(Box::pin(ReceiverStream::new(receive)) as Messages);
            if let Some(told) = told {
                head.metadata_mut().insert("x-told", told);
            }
            match name.as_str() {
                "/test.Echo/Fail" => return Err(Status::failed_precondition("as asked")),
                "/test.Echo/Hang" => std::future::pending().await,
                _ => {}
            }
            tokio::spawn(async move {
                let _running = running;
                match name.as_str() {
                    "/test.Echo/Count" => {
                        let first = messages.next().await.unwrap()?;
                        for n in 0..first.len() {
                            send.send(Ok(Bytes::from(n.to_string()))).await.ok();
                            tokio::time::sleep(ms(20)).await;
                        }
                    }
                    "/test.Echo/Sum" => {
                        let mut sum = 0;
                        while let Some(message) = messages.next().await {
                            sum += message?.len();
                        }
                        send.send(Ok(Bytes::from(sum.to_string()))).await.ok();
                    }
                    "/test.Echo/Break" => {
                        send.send(Ok(Bytes::from_static(b"one"))).await.ok();
                        send.send(Err(Status::data_loss("half-way"))).await.ok();
                    }
                    "/test.Echo/Endless" => {
                        while send.send(Ok(Bytes::from_static(b"tick"))).await.is_ok() {
                            tokio::time::sleep(ms(50)).await;
                        }
                    }
                    "/test.Echo/Curt" => {
                        let first = messages.next().await.unwrap()?;
                        send.send(Ok(first)).await.ok();
                    }
                    _ => {
                        while let Some(message) = messages.next().await {
                            send.send(message).await.ok();
                        }
                    }
                }
                Ok::<_, Status>(())
            });
            Ok(head)
        })
    }
}

impl Echo {
    async fn call(&self, request: http::Request<Body>) -> Result<http::Response<Body>, std::convert::Infallible> {
        self.running.fetch_add(1, SeqCst);
        let method = Method { name: request.uri().path().to_owned(), running: Running(self.running.clone()) };
        Ok(tonic::server::Grpc::new(Raw).streaming(method, request).await)
    }
}

/// A server of the service.
struct Server {
    address: SocketAddr,
    echo: Echo,
    task: JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let echo = Echo::default();
        let service = echo.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = service.clone();
                tokio::spawn(serve(stream, service));
            }
        });
        Server { address, echo, task }
    }

    fn running(&self) -> usize {
        self.echo.running.load(SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: tokio::net::TcpStream, echo: Echo) {
    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let echo = echo.clone();
        async move { echo.call(request.map(Body::new)).await }
    });
    let io = hyper_util::rt::TokioIo::new(stream);
    hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
        .serve_connection(io, service)
        .await
        .ok();
}

/// A node before the server, with these settings of its one route, and a channel to it.
async fn start(server: &Server, route: &str) -> (Fairlead, Grpc<Channel>) {
    let yaml = config(&format!(
        "listeners: [{{ name: public, address: \"127.0.0.1:0\", protocols: [h2c], timeouts: {{ body: 300ms }} }}]\n\
         routes: [{{ match: {{ path_prefix: /test.Echo }}, pool: app, {route} }}, {{ match: {{ path_prefix: /gone }}, pool: gone, {route} }}]\n\
         pools:\n  \
           app: {{ servers: [\"{}\"], upstream: {{ protocol: h2 }} }}\n  \
           gone: {{ servers: [\"127.0.0.1:1\"], upstream: {{ protocol: h2 }} }}\n",
        server.address
    ));
    let fairlead = Fairlead::start(&yaml).await;
    let channel = Channel::from_shared(format!("http://{}", fairlead.address())).unwrap().connect().await.unwrap();
    (fairlead, Grpc::new(channel))
}

/// A call with these messages. The answer's messages, what stood in its header, and how it ended.
async fn call<S>(client: &Grpc<Channel>, method: &str, request: Request<S>) -> (Vec<Bytes>, Result<(), Status>)
where
    S: Stream<Item = Bytes> + Send + 'static,
{
    let mut client = client.clone();
    let path: PathAndQuery = method.parse().unwrap();
    let whole = async {
        client.ready().await.unwrap();
        let mut messages = Vec::new();
        let response = match client.streaming(request, path, Raw).await {
            Ok(response) => response,
            Err(status) => return (messages, Err(status)),
        };
        let mut stream = response.into_inner();
        loop {
            match stream.message().await {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => return (messages, Ok(())),
                Err(status) => return (messages, Err(status)),
            }
        }
    };
    soon(method, whole).await
}

fn say(messages: &[&'static str]) -> Request<impl Stream<Item = Bytes> + Send + 'static + use<>> {
    Request::new(tokio_stream::iter(
        messages.iter().map(|text| Bytes::from_static(text.as_bytes())).collect::<Vec<_>>(),
    ))
}

#[tokio::test]
async fn all_kinds_of_calls() {
    let server = Server::start().await;
    let (fairlead, client) = start(&server, "").await;
    for _ in 0..3 {
        let (messages, end) = call(&client, "/test.Echo/Unary", say(&["hello"])).await;
        assert_eq!((messages, end.is_ok()), (vec![Bytes::from("hello")], true));
        let (messages, end) = call(&client, "/test.Echo/Count", say(&["12345"])).await;
        assert_eq!((messages.concat(), end.is_ok()), (b"01234".to_vec(), true));
        let (messages, end) = call(&client, "/test.Echo/Sum", say(&["one", "two", "three"])).await;
        assert_eq!((messages.concat(), end.is_ok()), (b"11".to_vec(), true));
    }
    // One message at a time, each answered before the next.
    let (send, receive) = mpsc::channel(1);
    let mut both = client.clone();
    both.ready().await.unwrap();
    let mut request = Request::new(ReceiverStream::new(receive));
    request.metadata_mut().insert("x-told", MetadataValue::from_static("yes"));
    send.send(Bytes::from_static(b"0")).await.unwrap();
    let response = soon("a header", both.streaming(request, "/test.Echo/Both".parse().unwrap(), Raw)).await.unwrap();
    assert_eq!(response.metadata().get("x-told").unwrap(), "yes");
    assert!(!response.metadata().get("x-request-id").unwrap().is_empty());
    let mut stream = response.into_inner();
    for n in 0..20 {
        assert_eq!(soon("an echo", stream.message()).await.unwrap().unwrap(), n.to_string());
        if n == 10 {
            // Longer than the listener's `body`: calls may pause.
            tokio::time::sleep(ms(900)).await;
        }
        send.send(Bytes::from((n + 1).to_string())).await.unwrap();
    }
    drop(send);
    while soon("the end", stream.message()).await.unwrap().is_some() {}
    fairlead.idle().await;
    until("all are over", async || server.running() == 0).await;
    assert!(fairlead.metric("fairlead_requests_total", &[("class", "2xx")]).await >= 10.0);
}

#[tokio::test]
async fn what_a_server_says_comes_through() {
    let server = Server::start().await;
    let (fairlead, client) = start(&server, "").await;
    let status = call(&client, "/test.Echo/Fail", say(&["x"])).await.1.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "as asked"));
    let (messages, end) = call(&client, "/test.Echo/Break", say(&["x"])).await;
    let status = end.unwrap_err();
    assert_eq!((messages.concat(), status.code()), (b"one".to_vec(), Code::DataLoss));
    assert_eq!(status.message(), "half-way");
    fairlead.idle().await;
}

#[tokio::test]
async fn refusals_are_understood() {
    let server = Server::start().await;
    let limited = "rate_limit: { key: route, rate: 1/m, burst: 2 }";
    let (fairlead, client) = start(&server, limited).await;
    let refused = async |method: &str| {
        let status = call(&client, method, say(&["x"])).await.1.unwrap_err();
        (status.code(), status.message().to_owned(), status.metadata().get("fairlead-error").is_some())
    };
    assert_eq!(refused("/nobody.Knows/This").await, (Code::Unimplemented, "no-route".to_owned(), true));
    until("the other pool is known to be down", async || fairlead.pool("gone").await["servers"][0]["state"] != "up")
        .await;
    // With its end in the same frame: some clients read a status only there.
    let mut frames = Frames::connect(fairlead.address()).await;
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "x.test"),
        (":path", "/nobody.Knows/This"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    frames.request(1, &fields).await;
    let first = frames.next_of(&[kind::HEADERS, kind::DATA, kind::RST_STREAM]).await.unwrap();
    assert_eq!((first.kind, first.flags & END_STREAM), (kind::HEADERS, END_STREAM));
    let (code, _, ours) = refused("/gone/x").await;
    assert_eq!((code, ours), (Code::Unavailable, true));
    for _ in 0..2 {
        assert!(call(&client, "/test.Echo/Unary", say(&["x"])).await.1.is_ok());
    }
    assert_eq!(refused("/test.Echo/Unary").await, (Code::ResourceExhausted, "rate-limited".to_owned(), true));
    assert!(fairlead.metric("fairlead_requests_total", &[("class", "4xx")]).await >= 2.0);
    fairlead.idle().await;
}

/// A call by a client that says how long it waits, and waits longer.
async fn patient(client: &mut H2, method: &str, limit: &str) -> Answer {
    let headers = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", limit)];
    // One message of one byte.
    client.post(method, &headers, &["\0\0\0\0\x01x"]).await
}

#[tokio::test]
async fn deadlines_hold() {
    let server = Server::start().await;
    let (fairlead, client) = start(&server, "timeouts: { response: 1s }").await;
    // The route's.
    let begun = Instant::now();
    let status = call(&client, "/test.Echo/Hang", say(&["x"])).await.1.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "response-timeout"));
    assert!(begun.elapsed() >= ms(900));
    // The call's own.
    let mut client = H2::connect(fairlead.address()).await;
    let begun = Instant::now();
    let answer = patient(&mut client, "/test.Echo/Hang", "300m").await;
    assert_eq!((answer.status, answer.header("grpc-status")), (200, "4"));
    assert_eq!(answer.refusal(), (200, "response-timeout"));
    assert_eq!(answer.header("content-type"), "application/grpc");
    assert!(answer.body.is_empty() && answer.trailers.is_empty() && begun.elapsed() < ms(900));
    // Also once the answer has begun, and though the route's time is over then.
    let begun = Instant::now();
    let answer = patient(&mut client, "/test.Echo/Endless", "1500000u").await;
    assert_eq!((answer.header("grpc-status"), answer.header("fairlead-error")), ("", ""));
    assert_eq!(answer.trailers.get("grpc-status").unwrap(), "4");
    assert_eq!(answer.trailers.get("grpc-message").unwrap(), "response-timeout");
    assert!(answer.body.len() > 5 && begun.elapsed() >= ms(1400), "{:?}", begun.elapsed());
    // In time.
    let answer = patient(&mut client, "/test.Echo/Unary", "1S").await;
    assert_eq!(
        (answer.body.as_slice(), answer.trailers.get("grpc-status").unwrap().as_bytes()),
        (&b"\0\0\0\0\x01x"[..], &b"0"[..])
    );
    fairlead.idle().await;
    until("the server has stopped", async || server.running() == 0).await;
}

/// What the client says after the answer has begun brings back no deadline of the route's.
#[tokio::test]
async fn a_late_word_does_not_shorten_a_call() {
    let server = Server::start().await;
    let (fairlead, _) = start(&server, "timeouts: { response: 500ms }").await;
    let mut client = H2::connect(fairlead.address()).await;
    let headers = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "1500m")];
    let begun = Instant::now();
    let (response, mut body) = client.begin(h2_request("POST", "/test.Echo/Endless", &headers), false).await;
    let response = soon("the answer begins", response).await.unwrap();
    body.send_data(Bytes::from_static(b"\0\0\0\0\x01x"), true).unwrap();
    let answer = soon("the end", Answer::of(response)).await.unwrap();
    assert_eq!(answer.trailers.get("grpc-status").unwrap(), "4");
    assert!(begun.elapsed() >= ms(1400), "{:?}", begun.elapsed());
    fairlead.idle().await;
}

#[tokio::test]
async fn others_are_not_touched_by_a_deadline() {
    let server = Server::start().await;
    let (fairlead, client) = start(&server, "timeouts: { response: 1s }").await;
    let counting: Vec<_> = (0..20)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                call(&client, "/test.Echo/Count", say(&["fifty characters that a server counts to in 1 s..."])).await
            })
        })
        .collect();
    let mut other = H2::connect(fairlead.address()).await;
    for _ in 0..5 {
        assert_eq!(patient(&mut other, "/test.Echo/Hang", "150m").await.header("grpc-status"), "4");
    }
    for each in counting {
        let (messages, end) = each.await.unwrap();
        assert_eq!((messages.len(), end.is_ok()), (50, true));
    }
    fairlead.idle().await;
}

#[tokio::test]
async fn a_call_that_its_client_leaves_is_cancelled() {
    let server = Server::start().await;
    let (fairlead, client) = start(&server, "").await;
    let mut endless = client.clone();
    endless.ready().await.unwrap();
    let stream = endless.streaming(say(&["x"]), "/test.Echo/Endless".parse().unwrap(), Raw).await.unwrap();
    until("it runs", async || server.running() == 1).await;
    drop(stream);
    until("the server learns it", async || server.running() == 0).await;
    fairlead.idle().await;
}

/// The server has said all before the client has.
#[tokio::test]
async fn a_server_may_be_curt() {
    let server = Server::start().await;
    let (fairlead, client) = start(&server, "").await;
    let (send, receive) = mpsc::channel(1);
    send.send(Bytes::from_static(b"first")).await.unwrap();
    let (messages, end) = call(&client, "/test.Echo/Curt", Request::new(ReceiverStream::new(receive))).await;
    assert_eq!((messages.concat(), end.is_ok()), (b"first".to_vec(), true));
    drop(send);
    fairlead.idle().await;
}

/// The same, and the client does not even notice.
#[tokio::test]
async fn a_call_that_is_over_is_not_held_by_its_client() {
    let server = Server::start().await;
    let (fairlead, _) = start(&server, "timeouts: { idle: 500ms }").await;
    let mut client = H2::connect(fairlead.address()).await;
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    let (response, mut body) = client.begin(h2_request("POST", "/test.Echo/Curt", &headers), false).await;
    body.send_data(Bytes::from_static(b"\0\0\0\0\x01x"), false).unwrap();
    let answer = soon("an answer", async { Answer::of(response.await?).await }).await.unwrap();
    assert_eq!(answer.trailers.get("grpc-status").unwrap(), "0");
    fairlead.idle().await;
    let reason = soon("a reset", std::future::poll_fn(|cx| body.poll_reset(cx))).await.unwrap();
    assert_eq!(reason, h2::Reason::NO_ERROR);
    assert!(fairlead.metric("fairlead_requests_total", &[("pool", "app")]).await >= 1.0, "counted all the same");
}
