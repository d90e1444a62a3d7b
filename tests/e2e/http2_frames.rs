//! HTTP/2 frame by frame: what breaks the rules (RFC 9113, section by section) must end its stream or its connection,
//! must reach no server, and must do no harm to anybody else.

use std::time::Instant;

use crate::http2::start;
use crate::support::frames::{ACK, END_HEADERS, END_STREAM, Frame, Frames, GET, PREFACE, block, kind};
use crate::support::{H2, Origin, ms, until};

const PROTOCOL: u32 = 1;
const FLOW_CONTROL: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE: u32 = 6;
const COMPRESSION: u32 = 9;

/// What a client must see.
enum Sees {
    /// GOAWAY with this error, and the end of the connection.
    Connection(u32),
    /// Either of: its stream reset with this error, an answer 400, the end of the connection.
    Refused(u32),
    /// All is well.
    Fine,
}

use Sees::{Connection, Fine, Refused};

fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    Frame::new(kind, flags, stream, payload).bytes()
}

/// A request without body.
fn request(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(kind::HEADERS, END_HEADERS | END_STREAM, stream, block(fields))
}

fn open(stream: u32) -> Vec<u8> {
    let fields = [(":method", "POST"), (":scheme", "http"), (":authority", "frames.test"), (":path", "/echo")];
    frame(kind::HEADERS, END_HEADERS, stream, block(&fields))
}

fn get_with(more: &[(&str, &str)]) -> Vec<u8> {
    request(1, &[&GET[..], more].concat())
}

fn settings(id: u16, value: u32) -> Vec<u8> {
    frame(kind::SETTINGS, 0, 0, [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

fn increment(stream: u32, by: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, by.to_be_bytes())
}

fn cases() -> Vec<(&'static str, Vec<Vec<u8>>, Sees)> {
    let reset = |stream: u32| frame(kind::RST_STREAM, 0, stream, 8u32.to_be_bytes());
    let data = |flags: u8, stream: u32, text: &str| frame(kind::DATA, flags, stream, text);
    let without = |name: &str| {
        let fields: Vec<_> = GET.iter().copied().filter(|(field, _)| *field != name).collect();
        request(1, &fields)
    };
    let post_of = |length: &str, body: &str| {
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/echo"),
            ("content-length", length),
        ];
        vec![frame(kind::HEADERS, END_HEADERS, 1, block(&fields)), frame(kind::DATA, END_STREAM, 1, body)]
    };
    vec![
        // 4.1, 4.2: frames
        ("an unknown frame is ignored", vec![frame(0xee, 0xff, 0, "x"), get_with(&[])], Fine),
        ("unknown flags are ignored", vec![frame(kind::PING, 0x16, 0, [0; 8]), get_with(&[])], Fine),
        ("a frame that is too large", vec![data(0, 1, &"x".repeat(16_385))], Connection(FRAME_SIZE)),
        ("a large frame of headers", vec![frame(kind::HEADERS, END_HEADERS, 1, [0; 16_385])], Connection(FRAME_SIZE)),
        // 4.3: compression
        (
            "a block that is none",
            vec![frame(kind::HEADERS, END_HEADERS | END_STREAM, 1, [0xff; 12])],
            Connection(COMPRESSION),
        ),
        (
            "an index that is not there",
            vec![frame(kind::HEADERS, END_HEADERS | END_STREAM, 1, [0xfe])],
            Connection(COMPRESSION),
        ),
        // 5.1: states of streams
        ("data on a stream that is not open", vec![data(END_STREAM, 1, "x")], Connection(PROTOCOL)),
        ("a reset of a stream that is not open", vec![reset(1)], Connection(PROTOCOL)),
        ("room on a stream that is not open", vec![increment(1, 10)], Connection(PROTOCOL)),
        ("data after the end", vec![get_with(&[]), data(END_STREAM, 1, "x")], Refused(STREAM_CLOSED)),
        ("headers after the end", vec![get_with(&[]), get_with(&[])], Refused(STREAM_CLOSED)),
        ("data after a reset", vec![open(1), reset(1), data(END_STREAM, 1, "x"), request(3, &GET)], Fine),
        ("room after a reset", vec![open(1), reset(1), increment(1, 10), request(3, &GET)], Fine),
        ("an even stream", vec![request(2, &GET)], Connection(PROTOCOL)),
        ("a lower stream", vec![request(5, &GET), request(3, &GET)], Connection(PROTOCOL)),
        ("stream 0", vec![request(0, &GET)], Connection(PROTOCOL)),
        // 6.1: DATA
        ("data on stream 0", vec![data(0, 0, "x")], Connection(PROTOCOL)),
        ("more padding than data", vec![open(1), frame(kind::DATA, 8 | END_STREAM, 1, [9, 1])], Connection(PROTOCOL)),
        // 6.2: HEADERS
        ("more padding than headers", vec![frame(kind::HEADERS, 8 | 5, 1, [9, 1])], Connection(PROTOCOL)),
        (
            "headers between headers",
            vec![frame(kind::HEADERS, END_STREAM, 1, block(&GET)), request(3, &GET)],
            Connection(PROTOCOL),
        ),
        (
            "a ping between headers",
            vec![frame(kind::HEADERS, END_STREAM, 1, block(&GET)), frame(kind::PING, 0, 0, [0; 8])],
            Connection(PROTOCOL),
        ),
        (
            "trailers that do not end",
            vec![open(1), frame(kind::HEADERS, END_HEADERS, 1, block(&[("x", "y")]))],
            Refused(PROTOCOL),
        ),
        // 6.3: PRIORITY
        ("a short priority", vec![frame(2, 0, 1, [0; 4])], Refused(FRAME_SIZE)),
        // 6.4: RST_STREAM
        ("a reset of stream 0", vec![reset(0)], Connection(PROTOCOL)),
        ("a short reset", vec![open(1), frame(kind::RST_STREAM, 0, 1, [0; 3])], Connection(FRAME_SIZE)),
        // 6.5: SETTINGS
        ("settings on a stream", vec![frame(kind::SETTINGS, 0, 1, [])], Connection(PROTOCOL)),
        ("settings of a wrong size", vec![frame(kind::SETTINGS, 0, 0, [0; 5])], Connection(FRAME_SIZE)),
        ("an acknowledgement with settings", vec![frame(kind::SETTINGS, ACK, 0, [0; 6])], Connection(FRAME_SIZE)),
        ("push neither on nor off", vec![settings(2, 2)], Connection(PROTOCOL)),
        ("a window that is too large", vec![settings(4, 1 << 31)], Connection(FLOW_CONTROL)),
        ("frames that are too small", vec![settings(5, 16_383)], Connection(PROTOCOL)),
        ("frames that are too large", vec![settings(5, 1 << 24)], Connection(PROTOCOL)),
        ("unknown settings are ignored", vec![settings(0xff, 1), get_with(&[])], Fine),
        // 6.6: PUSH_PROMISE
        (
            "a promise from a client",
            vec![open(1), frame(kind::PUSH_PROMISE, END_HEADERS, 1, [0, 0, 0, 2])],
            Connection(PROTOCOL),
        ),
        // 6.7: PING
        ("a ping on a stream", vec![frame(kind::PING, 0, 1, [0; 8])], Connection(PROTOCOL)),
        ("a short ping", vec![frame(kind::PING, 0, 0, [0; 6])], Connection(FRAME_SIZE)),
        // 6.8: GOAWAY
        ("a farewell on a stream", vec![frame(kind::GOAWAY, 0, 1, [0; 8])], Connection(PROTOCOL)),
        // 6.9: WINDOW_UPDATE
        ("no more room for all", vec![increment(0, 0)], Connection(PROTOCOL)),
        ("no more room for one", vec![open(1), increment(1, 0)], Refused(PROTOCOL)),
        ("too much room for all", vec![increment(0, (1 << 31) - 1)], Connection(FLOW_CONTROL)),
        ("too much room for one", vec![open(1), increment(1, (1 << 31) - 1)], Refused(FLOW_CONTROL)),
        ("a short window", vec![frame(kind::WINDOW_UPDATE, 0, 0, [0; 3])], Connection(FRAME_SIZE)),
        // 6.10: CONTINUATION
        (
            "a continuation of nothing",
            vec![frame(kind::CONTINUATION, END_HEADERS, 1, block(&GET))],
            Connection(PROTOCOL),
        ),
        (
            "a continuation after the end",
            vec![get_with(&[]), frame(kind::CONTINUATION, END_HEADERS, 1, [])],
            Connection(PROTOCOL),
        ),
        (
            "a continuation of another",
            vec![frame(kind::HEADERS, END_STREAM, 1, block(&GET)), frame(kind::CONTINUATION, END_HEADERS, 3, [])],
            Connection(PROTOCOL),
        ),
        (
            "headers in pieces",
            vec![
                frame(kind::HEADERS, END_STREAM, 1, &block(&GET)[..30]),
                frame(kind::CONTINUATION, 0, 1, &block(&GET)[30..40]),
                frame(kind::CONTINUATION, END_HEADERS, 1, &block(&GET)[40..]),
            ],
            Fine,
        ),
        // 8.1: messages
        ("a body that is too short", post_of("10", "short"), Refused(PROTOCOL)),
        ("a body that is too long", post_of("3", "longer"), Refused(PROTOCOL)),
        ("a length of a body that is none", vec![get_with(&[("content-length", "5")])], Refused(PROTOCOL)),
        ("two lengths", vec![get_with(&[("content-length", "0"), ("content-length", "1")])], Refused(PROTOCOL)),
        ("a length that is no number", vec![get_with(&[("content-length", "+0")])], Refused(PROTOCOL)),
        // 8.2: fields
        ("a name in capitals", vec![get_with(&[("X-Test", "1")])], Refused(PROTOCOL)),
        ("a name with a blank", vec![get_with(&[("x test", "1")])], Refused(PROTOCOL)),
        ("a name with a colon", vec![get_with(&[("x:y", "1")])], Refused(PROTOCOL)),
        ("an empty name", vec![get_with(&[("", "1")])], Refused(PROTOCOL)),
        ("a value of two lines", vec![get_with(&[("x", "1\r\nhost: evil")])], Refused(PROTOCOL)),
        ("a value with a null", vec![get_with(&[("x", "1\0")])], Refused(PROTOCOL)),
        ("connection", vec![get_with(&[("connection", "close")])], Refused(PROTOCOL)),
        ("keep-alive", vec![get_with(&[("keep-alive", "1")])], Refused(PROTOCOL)),
        ("proxy-connection", vec![get_with(&[("proxy-connection", "close")])], Refused(PROTOCOL)),
        ("transfer-encoding", vec![get_with(&[("transfer-encoding", "chunked")])], Refused(PROTOCOL)),
        ("upgrade", vec![get_with(&[("upgrade", "websocket")])], Refused(PROTOCOL)),
        ("te: gzip", vec![get_with(&[("te", "gzip")])], Refused(PROTOCOL)),
        ("te: trailers", vec![get_with(&[("te", "trailers")])], Fine),
        // 8.3: pseudo headers
        ("an unknown one", vec![request(1, &[&[(":test", "1")], &GET[..]].concat())], Refused(PROTOCOL)),
        ("one of a response", vec![request(1, &[&[(":status", "200")], &GET[..]].concat())], Refused(PROTOCOL)),
        ("one after a field", vec![request(1, &[GET[0], GET[1], GET[2], ("x", "1"), GET[3]])], Refused(PROTOCOL)),
        ("two methods", vec![request(1, &[&GET[..1], &GET[..]].concat())], Refused(PROTOCOL)),
        ("two paths", vec![request(1, &[&GET[3..], &GET[..]].concat())], Refused(PROTOCOL)),
        ("two authorities", vec![request(1, &[&GET[2..3], &GET[..]].concat())], Refused(PROTOCOL)),
        ("no method", vec![without(":method")], Refused(PROTOCOL)),
        ("no scheme", vec![without(":scheme")], Refused(PROTOCOL)),
        ("no path", vec![without(":path")], Refused(PROTOCOL)),
        ("neither authority nor host", vec![without(":authority")], Refused(PROTOCOL)),
        ("an empty path", vec![request(1, &[GET[0], GET[1], GET[2], (":path", "")])], Refused(PROTOCOL)),
        ("a path that is none", vec![request(1, &[GET[0], GET[1], GET[2], (":path", "x")])], Refused(PROTOCOL)),
        (
            "a path with a host",
            vec![request(1, &[GET[0], GET[1], GET[2], (":path", "http://evil.test/")])],
            Refused(PROTOCOL),
        ),
        (
            "a path with a line end",
            vec![request(1, &[GET[0], GET[1], GET[2], (":path", "/\r\nx: y")])],
            Refused(PROTOCOL),
        ),
        (
            "a path with a blank",
            vec![request(1, &[GET[0], GET[1], GET[2], (":path", "/ HTTP/1.1")])],
            Refused(PROTOCOL),
        ),
        (
            "a method with a blank",
            vec![request(1, &[(":method", "GET / HTTP/1.1\r\n"), GET[1], GET[2], GET[3]])],
            Refused(PROTOCOL),
        ),
        (
            "an authority with a user",
            vec![request(1, &[GET[0], GET[1], (":authority", "me@a"), GET[3]])],
            Refused(PROTOCOL),
        ),
        (
            "an authority that is a list",
            vec![request(1, &[GET[0], GET[1], (":authority", "a,b"), GET[3]])],
            Refused(PROTOCOL),
        ),
        ("another host", vec![get_with(&[("host", "other.test")])], Refused(PROTOCOL)),
        ("two hosts", vec![get_with(&[("host", "frames.test"), ("host", "frames.test")])], Refused(PROTOCOL)),
        ("only a host", vec![request(1, &[GET[0], GET[1], GET[3], ("host", "frames.test")])], Fine),
        // 8.5: CONNECT
        ("connect", vec![request(1, &[(":method", "CONNECT"), (":authority", "evil.test:80")])], Refused(PROTOCOL)),
    ]
}

/// With all of `old` replaced; both are of one length.
fn instead(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for at in 0..(bytes.len() + 1).saturating_sub(old.len()) {
        if bytes[at..].starts_with(old) {
            bytes[at..at + new.len()].copy_from_slice(new);
        }
    }
    bytes
}

/// `:status` of an answer, where it is 200 or 400 or is not in the table of HPACK (RFC 7541, appendix A).
fn status(headers: &Frame) -> u16 {
    match headers.payload[0] {
        0x88 => 200,
        0x8c => 400,
        _ => 0,
    }
}

#[tokio::test]
async fn what_breaks_the_rules() {
    let origin = Origin::start("a");
    let fairlead = start(&origin, "").await;
    let mut wrong = Vec::new();
    for (n, (name, frames, sees)) in cases().into_iter().enumerate() {
        // Its own path, as long as the one that it stands for.
        let path = format!("/f{n:05}");
        let mut client = Frames::connect(fairlead.address()).await;
        for frame in &frames {
            client.write(&instead(frame, b"/frames", path.as_bytes())).await;
        }
        // What else has to be answered is, then: an end of the test if nothing was wrong.
        client.send(&Frame::new(kind::PING, 0, 0, *b"the last")).await;
        let (mut seen, mut pinged) = (Vec::new(), false);
        let begun = Instant::now();
        let right = loop {
            // Where the rest of what was sent is not read, the system may throw away the GOAWAY.
            let Some(next) = client.next().await else { break !matches!(sees, Fine) };
            match (next.kind, &sees) {
                // For many, the general error stands for the particular one.
                (kind::GOAWAY, Connection(error) | Refused(error)) => {
                    break next.error() == *error || next.error() == PROTOCOL;
                }
                (kind::GOAWAY, Fine) => break false,
                (kind::RST_STREAM, Refused(error)) => break next.error() == *error,
                (kind::HEADERS, Refused(_)) if status(&next) == 400 => break true,
                (kind::HEADERS, Fine) if status(&next) == 200 => break true,
                // Its request was whole before what is wrong came.
                (kind::HEADERS, Connection(_) | Refused(STREAM_CLOSED)) => {}
                (kind::HEADERS, Refused(_)) if name == "connect" => break status(&next) != 200,
                (kind::HEADERS, _) => {
                    seen.push(next);
                    break false;
                }
                (kind::PING, _) if next.flags == ACK => pinged = true,
                _ => {}
            }
            seen.push(next.clone());
            if begun.elapsed() > ms(5000) {
                break false;
            }
        };
        drop(client);
        fairlead.idle().await;
        let whole_before = name.contains("after the end") || name == "a lower stream";
        let reached = origin.seen().iter().filter(|seen| seen.contains(&path)).count();
        // One that was opened in order may have been sent on before the rest came.
        let opened = frames.first().is_some_and(|first| *first == open(1)) || name.starts_with("a body");
        let allowed = usize::from(matches!(sees, Fine) || whole_before) + usize::from(opened);
        if !right || reached > allowed {
            wrong.push(format!("{name}: {reached} requests, pinged {pinged}, right {right}, {seen:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    fairlead.idle().await;
    until("nothing is left", async || origin.in_flight() == 0).await;
    assert_eq!(H2::connect(fairlead.address()).await.get("/").await.status, 200);
}

#[tokio::test]
async fn a_ping_is_answered() {
    let origin = Origin::start("a");
    let fairlead = start(&origin, "").await;
    let mut client = Frames::connect(fairlead.address()).await;
    client.send(&Frame::new(kind::PING, 0, 0, *b"12345678")).await;
    let pong = client.next_of(&[kind::PING]).await.unwrap();
    assert_eq!((pong.flags, pong.payload.as_slice()), (ACK, &b"12345678"[..]));
}

#[tokio::test]
async fn what_a_client_may_take_is_told() {
    let origin = Origin::start("a");
    let fairlead = start(&origin, "limits: { header_bytes: 32KiB }").await;
    let mut client = Frames::silent(fairlead.address()).await;
    client.write(PREFACE).await;
    client.send(&Frame::new(kind::SETTINGS, 0, 0, [])).await;
    let told = client.next().await.unwrap().payload;
    let value = |id: u16| {
        let found = told.chunks(6).find(|pair| pair[..2] == id.to_be_bytes());
        found.map(|pair| u32::from_be_bytes(pair[2..6].try_into().unwrap()))
    };
    assert_eq!(value(3), Some(100), "requests at once");
    assert_eq!(value(6), Some(32 * 1024), "a list of headers");
    assert_eq!(value(4), Some(256 * 1024), "room for a body");
}

/// A body that comes as it pleases, and a response that goes as the client gives room.
#[tokio::test]
async fn flow_control_both_ways() {
    let origin = Origin::start("a");
    let fairlead = start(&origin, "").await;
    let mut client = Frames::connect(fairlead.address()).await;
    client.write(&settings(4, 10)).await;
    client.request(1, &[GET[0], GET[1], GET[2], (":path", "/bytes/25")]).await;
    let mut got = 0;
    while got < 25 {
        let data = client.next_of(&[kind::DATA, kind::GOAWAY, kind::RST_STREAM]).await.unwrap();
        assert_eq!(data.kind, kind::DATA);
        assert!(data.payload.len() <= 10, "more than there was room for");
        got += data.payload.len();
        if got % 10 == 0 {
            client.write(&increment(1, 10)).await;
        }
    }
    fairlead.idle().await;
}

/// As many frames as a flood of them has, and whether the connection was closed by it.
async fn flood(frames: impl IntoIterator<Item = Vec<u8>>, client: &mut Frames) -> bool {
    for frame in frames {
        if !client.write(&frame).await {
            return true;
        }
    }
    client.write(&frame(kind::PING, 0, 0, *b"the last")).await;
    while let Some(next) = client.next().await {
        match next.kind {
            kind::GOAWAY => return true,
            kind::PING if next.payload == b"the last" => return false,
            _ => {}
        }
    }
    true
}

#[tokio::test]
async fn floods_are_survived() {
    let origin = Origin::start("a");
    let fairlead = start(&origin, "timeouts: { header: 2s }").await;
    let address = fairlead.address();
    // Headers without end (CVE-2024-27316 and its like).
    let mut client = Frames::connect(address).await;
    client.write(&frame(kind::HEADERS, END_STREAM, 1, block(&GET))).await;
    let more = frame(kind::CONTINUATION, 0, 1, block(&[("x-more", &"x".repeat(200))]));
    assert!(flood(std::iter::repeat_n(more, 20_000), &mut client).await, "headers without end");
    // The same with nothing in them.
    let mut client = Frames::connect(address).await;
    client.write(&frame(kind::HEADERS, END_STREAM, 1, block(&GET))).await;
    assert!(flood(std::iter::repeat_n(frame(kind::CONTINUATION, 0, 1, []), 20_000), &mut client).await);
    // Resets at once (CVE-2023-44487).
    let mut client = Frames::connect(address).await;
    let rapid = (0..20_000u32)
        .flat_map(|n| [request(2 * n + 1, &GET), frame(kind::RST_STREAM, 0, 2 * n + 1, 8u32.to_be_bytes())]);
    assert!(flood(rapid, &mut client).await, "requests and resets");
    assert!(origin.requests() < 5_000, "{}", origin.requests());
    // Requests that the proxy has to reset itself (CVE-2025-8671).
    let mut client = Frames::connect(address).await;
    let bad = (0..20_000u32).map(|n| request(2 * n + 1, &[&GET[..], &[("connection", "close")]].concat()));
    assert!(flood(bad, &mut client).await, "requests that are none");
    let mut client = Frames::connect(address).await;
    let overflow = (0..20_000u32).flat_map(|n| [open(2 * n + 1), increment(2 * n + 1, 0)]);
    assert!(flood(overflow, &mut client).await, "requests that end themselves");
    // Decoded, these are large (an HPACK bomb): refused one by one, kept nowhere.
    let mut client = Frames::connect(address).await;
    let name = "x".repeat(100);
    let mut bomb = block(&GET);
    bomb.extend([0x40, 100]);
    bomb.extend(name.as_bytes());
    bomb.extend([120]);
    bomb.extend([b'y'; 120]);
    bomb.extend([0xbe; 4000]);
    client.write(&frame(kind::HEADERS, END_HEADERS | END_STREAM, 1, &bomb)).await;
    let answer = client.next_of(&[kind::HEADERS, kind::RST_STREAM, kind::GOAWAY]).await;
    assert!(answer.is_none_or(|frame| frame.kind != kind::HEADERS || status(&frame) != 200));
    // These cost little, and are answered or ignored while the client takes the answers.
    for cheap in [frame(kind::PING, 0, 0, [0; 8]), settings(4, 65_535), frame(2, 0, 1, [0, 0, 0, 0, 1])] {
        let mut client = Frames::connect(address).await;
        let mut other = H2::connect(address).await;
        flood(std::iter::repeat_n(cheap, 2_000), &mut client).await;
        assert_eq!(other.get("/").await.status, 200);
    }
    fairlead.idle().await;
    until("nothing is left", async || origin.in_flight() == 0).await;
}
