//! Several requests over one connection, and its end.

use crate::case::{Case, case};

#[rustfmt::skip] // A table.
pub fn cases() -> Vec<Case> {
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
    vec![
        case("two at once", get("/1") + &get("/2"), "200 200 open", "GET /1 || GET /2"),
        case("three at once", get("/1") + &get("/2") + &get("/3"), "200 200 200 open", "GET /1 || GET /2 || GET /3"),
        case(
            "a body between",
            format!("POST /1 HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc{}", get("/2")),
            "200 200 open",
            "POST /1; body=abc || GET /2",
        ),
        case(
            "chunks between",
            format!("POST /1 HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n{}", get("/2")),
            "200 200 open",
            "POST /1; body=abc || GET /2",
        ),
        case("empty lines between", format!("{}\r\n\r\n{}", get("/1"), get("/2")), "200 200 open", "GET /1 || GET /2"),
        case("nonsense behind", get("/1") + "nonsense\r\n\r\n", "200 400 close", "GET /1"),
        case("a bare LF in the second", get("/1") + "GET /2 HTTP/1.1\nHost: test\r\n\r\n", "200 400 close", "GET /1"),
        case("Connection: close", "GET /1 HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n", "200 close; connection: close", "GET /1"),
        case("close in a list", "GET /1 HTTP/1.1\r\nHost: test\r\nConnection: x-a, Close\r\n\r\n", "200 close; connection: close", "GET /1"),
        case("close in a second line", "GET /1 HTTP/1.1\r\nHost: test\r\nConnection: x-a\r\nConnection: close\r\n\r\n", "200 close; connection: close", "GET /1"),
        case(
            "nothing counts behind a close",
            format!("GET /1 HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n{}", get("/2")),
            "200 close",
            "GET /1",
        ),
        case("nothing counts behind HTTP/1.0", format!("GET /1 HTTP/1.0\r\n\r\n{}", get("/2")), "200 close", "GET /1"),
        case("nothing counts behind a refusal", format!("GET /1 HTTP/1.1\r\n\r\n{}", get("/2")), "400 close", ""),
        case("keep-alive", "GET /1 HTTP/1.1\r\nHost: test\r\nConnection: keep-alive\r\n\r\n", "200 open; connection: keep-alive", "GET /1"),
        case("a server that closes", get("/1"), "200 open; body=ok", "GET /1")
            .reply("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
            .hang_up(),
        case("a server that closes unasked", get("/1"), "200 open; body=ok", "GET /1")
            .reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .hang_up(),
        case("a server that says more than it should", get("/1"), "200 open; body=ok", "GET /1")
            .reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
    ]
}
