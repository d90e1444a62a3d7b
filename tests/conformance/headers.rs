//! The syntax of header lines, and the headers that end at a hop.

use crate::case::{Case, answer, case};

/// A `GET` with these header lines.
fn get(name: &'static str, headers: impl AsRef<[u8]>, client: &str, origin: &str) -> Case {
    let send = [b"GET / HTTP/1.1\r\nHost: test\r\n", headers.as_ref(), b"\r\n"].concat();
    case(name, send, client, origin)
}

#[rustfmt::skip] // A table.
pub fn cases() -> Vec<Case> {
    vec![
        get("a header folded with a space", "X-A: 1\r\n 2\r\n", "400 close", ""),
        get("a header folded with a tab", "X-A: 1\r\n\t2\r\n", "400 close", ""),
        case("the first header folded", "GET / HTTP/1.1\r\n Host: test\r\n\r\n", "400 close", ""),
        get("a bare LF after a header", "X-A: 1\nX-B: 2\r\n", "400 close; fairlead-error: bad-request", ""),
        get("a bare LF within the last header", "X-A: 1\n", "400 close; fairlead-error: bad-request", ""),
        case("a bare LF after the request line", "GET / HTTP/1.1\nHost: test\r\n\r\n", "400 close; fairlead-error: bad-request", ""),
        case("bare LFs alone", "GET / HTTP/1.1\nHost: test\n\n", "400 close; fairlead-error: bad-request", ""),
        case("an end of a bare LF", "GET / HTTP/1.1\r\nHost: test\r\n\n", "400 close; fairlead-error: bad-request", ""),
        case("an end of LF CRLF", "GET / HTTP/1.1\r\nHost: test\n\r\n", "400 close; fairlead-error: bad-request", ""),
        case(
            "a request hidden behind bare LFs",
            "GET / HTTP/1.1\r\nHost: test\r\nX: y\n\nGET /hidden HTTP/1.1\r\nHost: test\r\n\r\n",
            "400 close; fairlead-error: bad-request",
            "",
        ),
        get("a bare CR within a value", "X-A: 1\r2\r\n", "400 close", ""),
        get("a bare CR within a name", "X-\rA: 1\r\n", "400 close", ""),
        get("CR CR LF", "X-A: 1\r\r\n", "400 close", ""),
        get("a space before the colon", "X-A : 1\r\n", "400 close", ""),
        get("a tab before the colon", "X-A\t: 1\r\n", "400 close", ""),
        get("a space before the colon of a length", "Content-Length : 5\r\n", "400 close", ""),
        get("a space in a name", "X A: 1\r\n", "400 close", ""),
        get("a space before a name", "X-A: 1\r\nX-B: 2\r\n X-C: 3\r\n", "400 close", ""),
        get("no name", ": 1\r\n", "400 close", ""),
        get("no colon", "X-A\r\n", "400 close", ""),
        get("a name in brackets", "X(A): 1\r\n", "400 close", ""),
        get("a name outside ASCII", "X-\u{e4}: 1\r\n", "400 close", ""),
        get("a NUL within a name", "X-\0A: 1\r\n", "400 close", ""),
        get("a NUL within a value", "X-A: 1\x002\r\n", "400 close", ""),
        get("a bell within a value", "X-A: 1\x072\r\n", "400 close", ""),
        get("DEL within a value", "X-A: 1\x7f2\r\n", "400 close", ""),
        get("a tab within a value", "X-A: 1\t2\r\n", "200 open", "GET /; x-a: 1\t2"),
        get("a value outside ASCII", b"X-A: \xe4\xff\r\n", "200 open", "GET /; x-a: \u{fffd}\u{fffd}"),
        get("blanks around a value", "X-A: \t 1 \t\r\n", "200 open", "GET /; x-a: 1"),
        get("no value", "X-A:\r\n", "200 open", "GET /; x-a: "),
        get("no space after the colon", "X-A:1\r\n", "200 open", "GET /; x-a: 1"),
        get("a colon within a value", "X-A: a:b\r\n", "200 open", "GET /; x-a: a:b"),
        get("one name twice", "X-A: 1\r\nX-A: 2\r\n", "200 open", "GET /; x-a: 1, 2"),
        get("names that servers take for others", "Content_Length: 5\r\n", "400 close; fairlead-error: bad-request", ""),
        get("names that servers take for a coding", "Transfer_Encoding: chunked\r\n", "400 close; fairlead-error: bad-request", ""),
        get("a header for the hop", "Connection: X-A\r\nX-A: 1\r\nX-B: 2\r\n", "200 open", "GET /; !x-a; x-b: 2"),
        get("a header for the hop, in capitals", "CONNECTION: keep-alive, X-a\r\nx-A: 1\r\n", "200 open", "GET /; !x-a"),
        get("hop headers that nobody names", "Keep-Alive: timeout=9\r\nProxy-Connection: close\r\nTE: trailers\r\nTrailer: x\r\n", "200 open", "GET /; !keep-alive; !proxy-connection; !te; !trailer"),
        get("a proxy's credentials", "Proxy-Authorization: Basic eA==\r\n", "200 open", "GET /; !proxy-authorization"),
        get("Connection naming Host", "Connection: Host\r\n", "400 close", ""),
        get("Connection naming who asks", "Connection: X-Forwarded-For\r\n", "400 close", ""),
        get("Connection naming nonsense", "Connection: \"x\"\r\n", "400 close", ""),
        case(
            "Connection naming the length",
            "POST / HTTP/1.1\r\nHost: test\r\nConnection: Content-Length\r\nContent-Length: 2\r\n\r\nab",
            "200 open",
            "POST /; body=ab",
        ),
        case(
            "Connection naming the coding",
            "POST / HTTP/1.1\r\nHost: test\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
            "200 open",
            "POST /; body=ab; transfer-encoding: chunked",
        ),
        get("an upgrade to HTTP/2", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", "200 open", "GET /; !upgrade; !http2-settings"),
        get("an upgrade that Connection does not name", "Upgrade: websocket\r\n", "200 open", "GET /; !upgrade; !connection"),
        answer(
            "hop headers of an answer",
            "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-A, Content-Length\r\nX-A: 1\r\nKeep-Alive: timeout=9\r\nX-B: 2\r\nContent-Length: 2\r\n\r\nok",
            "200 open; body=ok; !x-a; !keep-alive; x-b: 2; content-length: 2; connection: keep-alive",
        ),
        answer(
            "an upgrade that an answer offers",
            "HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nok",
            "200 open; !upgrade",
        ),
        answer(
            "a name of a refusal that is not ours",
            "HTTP/1.1 200 OK\r\nFairlead-Error: no-server\r\nContent-Length: 2\r\n\r\nok",
            "200 open; !fairlead-error",
        ),
        answer("who the server is", "HTTP/1.1 200 OK\r\nServer: theirs/1\r\nContent-Length: 0\r\n\r\n", "200 open; server: theirs/1"),
        answer("a name for all servers", "HTTP/1.1 200 OK\r\nServer: theirs/1\r\nContent-Length: 0\r\n\r\n", "200 open; server: mine/1").on("small"),
        case("a name on our own answers", "GET / HTTP/1.1\r\n\r\n", "400 close; server: mine/1", "").on("small"),
        case("no name on our own answers", "GET / HTTP/1.1\r\n\r\n", "400 close; !server", ""),
        answer("a name that is taken away", "HTTP/1.1 200 OK\r\nServer: theirs/1\r\nContent-Length: 0\r\n\r\n", "200 open; !server").on("paths"),
        answer("a server that does not say", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "200 open; !server"),
    ]
}
