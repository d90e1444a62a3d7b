//! Answers of servers: where they end, and what of them a client must never see.

use crate::case::{Case, answer, case};

#[rustfmt::skip] // A table.
pub fn cases() -> Vec<Case> {
    // Pingora ends the connection after an answer that it could not get from the server.
    let invalid = "502 close; fairlead-error: upstream-invalid; connection: close";
    let reset = "502 close; fairlead-error: upstream-reset; connection: close";
    let old = "GET /page HTTP/1.0\r\n\r\n";
    let head = "HEAD /page HTTP/1.1\r\nHost: test\r\n\r\n";
    let flood = (0..300).map(|n| format!("X-{n}: 1\r\n")).collect::<String>();
    let huge = format!("X-A: {}\r\n", "a".repeat(1_100_000));
    vec![
        answer("an answer of a length", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "200 open; body=ok; content-length: 2"),
        answer("an answer in chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "200 open; body=ok; transfer-encoding: chunked; !content-length"),
        answer("an answer in chunks with extensions", "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2;x=y\r\nok\r\n0\r\nX: y\r\n\r\n", "200 open; body=ok"),
        answer("an answer without a length", "HTTP/1.1 200 OK\r\n\r\nok", "200 open; body=ok; transfer-encoding: chunked").hang_up(),
        answer("an empty answer without a length", "HTTP/1.1 200 OK\r\n\r\n", "200 open; body=").hang_up(),
        answer("an answer of HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\nok", "200 open; body=ok").hang_up(),
        answer("an answer of HTTP/1.0 with a length", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "200 open; body=ok").hang_up(),
        answer("an answer with length and coding", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "200 open; body=ok; !content-length"),
        answer("an answer with a length twice", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", "200 open; body=ok; content-length: 2"),
        answer("an answer with a list of one length", "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", "200 open; body=ok; content-length: 2"),
        answer("an answer with two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", invalid),
        answer("an answer with a length below zero", "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok", invalid),
        answer("an answer with a length of letters", "HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok", invalid),
        answer("an answer coded as gzip", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok", invalid).hang_up(),
        answer("an answer coded as identity", "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok", invalid).hang_up(),
        answer("an answer with two codings", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", invalid),
        answer("an answer in chunks twice over", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", invalid),
        answer("an answer of HTTP/1.0 in chunks", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", invalid),
        answer("an answer with bad chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n", "cut"),
        answer("chunks without an end", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "cut").hang_up(),
        answer("an answer shorter than its length", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", "cut").hang_up(),
        answer("204", "HTTP/1.1 204 No Content\r\n\r\n", "204 open; !content-length; !transfer-encoding"),
        answer("204 with a length", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "204 open; !content-length"),
        answer("204 with a body", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", "204 open; !content-length"),
        answer("204 in chunks", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "204 open; !transfer-encoding"),
        answer("304", "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n", "304 open; etag: \"a\""),
        answer("304 with a length", "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", "304 open; content-length: 99"),
        answer("304 with a body", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nok", "304 open"),
        case("HEAD with a large length", head, "200 open; content-length: 99", "HEAD /page").reply("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"),
        case("HEAD in chunks", head, "200 open; transfer-encoding: chunked", "HEAD /page").reply("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        case("HEAD without a length", head, "200 open; !content-length; !transfer-encoding", "HEAD /page").reply("HTTP/1.1 200 OK\r\n\r\n"),
        case("HEAD with a body", head, "200 open", "HEAD /page").reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        answer("an interim answer", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "103 200 open; body=ok"),
        answer("several interim answers", "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "102 103 200 open; body=ok"),
        answer("an interim answer nobody asked for", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "100 200 open; body=ok"),
        answer("an interim answer with a length", "HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "103 200 open; body=ok"),
        answer("an upgrade nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", invalid),
        case("an interim answer for HTTP/1.0", old, "200 close; body=ok", "GET /page").reply("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        case("chunks for HTTP/1.0", old, "200 close; body=ok; !transfer-encoding", "GET /page").reply("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        case("no length for HTTP/1.0", old, "200 close; body=ok; !transfer-encoding", "GET /page").reply("HTTP/1.1 200 OK\r\n\r\nok").hang_up(),
        answer("no version", "200 OK\r\nContent-Length: 2\r\n\r\nok", invalid),
        answer("a version of its own", "HTTP/3.0 200 OK\r\nContent-Length: 2\r\n\r\nok", invalid),
        answer("HTTP/0.9 in return", "hello\r\n\r\n", invalid),
        answer("a status of two digits", "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok", invalid),
        answer("a status of four digits", "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok", invalid),
        answer("a status of letters", "HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\nok", invalid),
        answer("a status below 100", "HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok", invalid),
        answer("a status nobody knows", "HTTP/1.1 799 What\r\nContent-Length: 2\r\n\r\nok", "799 open; body=ok"),
        answer("no reason", "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", "200 open; body=ok"),
        answer("a header folded", "HTTP/1.1 200 OK\r\nX-A: 1\r\n 2\r\nContent-Length: 2\r\n\r\nok", "200 open; body=ok; x-a: 1 2"),
        answer("a space before the colon of an answer", "HTTP/1.1 200 OK\r\nX-A : 1\r\nContent-Length: 2\r\n\r\nok", "200 open; x-a: 1"),
        answer("a NUL in an answer", "HTTP/1.1 200 OK\r\nX-A: 1\x002\r\nContent-Length: 2\r\n\r\nok", invalid),
        answer("a bare CR in an answer", "HTTP/1.1 200 OK\r\nX-A: 1\r2\r\nContent-Length: 2\r\n\r\nok", invalid),
        answer("a header without a name", "HTTP/1.1 200 OK\r\n: 1\r\nContent-Length: 2\r\n\r\nok", invalid),
        answer("a flood of headers", format!("HTTP/1.1 200 OK\r\n{flood}Content-Length: 2\r\n\r\nok"), invalid),
        answer("a header without end", format!("HTTP/1.1 200 OK\r\n{huge}Content-Length: 2\r\n\r\nok"), invalid),
        answer("an answer longer than its length", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokay", "200 open; body=ok"),
        // Not idempotent, so never asked twice.
        case("no answer", "POST /p HTTP/1.1\r\nHost: test\r\n\r\n", reset, "POST /p").reply("").hang_up(),
        case("half a header", "POST /p HTTP/1.1\r\nHost: test\r\n\r\n", reset, "POST /p").reply("HTTP/1.1 200 OK\r\nContent-Le").hang_up(),
    ]
}
