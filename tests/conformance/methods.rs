//! Request lines, versions, methods.

use crate::case::{Case, case};

#[rustfmt::skip] // A table.
pub fn cases() -> Vec<Case> {
    vec![
        case("GET", "GET / HTTP/1.1\r\nHost: test\r\n\r\n", "200 open; body=ok", "GET /"),
        case("HEAD", "HEAD /x HTTP/1.1\r\nHost: test\r\n\r\n", "200 open; content-length: 2", "HEAD /x")
            .reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"),
        case("a method nobody knows", "BREW /pot HTTP/1.1\r\nHost: test\r\n\r\n", "200 open", "BREW /pot"),
        case("a method with all sorts of marks", "M!#$%&'*+-.^_`|~ /x HTTP/1.1\r\nHost: test\r\n\r\n", "200 open", "M!#$%&'*+-.^_`|~ /x"),
        case("methods have a case", "get / HTTP/1.1\r\nHost: test\r\n\r\n", "200 open", "get /"),
        case("a method with a bracket", "GE(T / HTTP/1.1\r\nHost: test\r\n\r\n", "400 close; fairlead-error: unparsed; date: *; !server", ""),
        case("no method", " / HTTP/1.1\r\nHost: test\r\n\r\n", "400 close", ""),
        case("no target", "GET HTTP/1.1\r\nHost: test\r\n\r\n", "400 close", ""),
        case("nothing between method and version", "GET  HTTP/1.1\r\nHost: test\r\n\r\n", "400 close", ""),
        case("two spaces before the target", "GET  / HTTP/1.1\r\nHost: test\r\n\r\n", "400 close", ""),
        case("a tab before the target", "GET\t/ HTTP/1.1\r\nHost: test\r\n\r\n", "400 close", ""),
        case("a tab before the version", "GET /\tHTTP/1.1\r\nHost: test\r\n\r\n", "400 close", ""),
        case("a space before the line", " GET / HTTP/1.1\r\nHost: test\r\n\r\n", "400 close", ""),
        case("a space after the version", "GET / HTTP/1.1 \r\nHost: test\r\n\r\n", "400 close", ""),
        case("an empty line first", "\r\nGET /late HTTP/1.1\r\nHost: test\r\n\r\n", "200 open", "GET /late"),
        case("a bare line feed first", "\nGET / HTTP/1.1\r\nHost: test\r\n\r\n", "400 close", ""),
        case("HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", "200 close; body=ok; connection: close", "GET /; host: *"),
        case("HTTP/1.0 with a host", "GET / HTTP/1.0\r\nHost: old.test\r\n\r\n", "200 close; body=ok", "GET /; host: old.test"),
        case("HTTP/1.0 that would stay", "GET / HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\n\r\n", "200 close; connection: close", "GET /"),
        case("HTTP/0.9", "GET /\r\n", "400 close", ""),
        case("HTTP/0.9 with a version", "GET / HTTP/0.9\r\n\r\n", "400 close", ""),
        case("HTTP/1.2", "GET / HTTP/1.2\r\nHost: test\r\n\r\n", "400 close", ""),
        case("HTTP/2.0", "GET / HTTP/2.0\r\nHost: test\r\n\r\n", "400 close", ""),
        case("HTTP/2 itself", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400 close", ""),
        case("HTTP/01.1", "GET / HTTP/01.1\r\nHost: test\r\n\r\n", "400 close", ""),
        case("HTTP/1", "GET / HTTP/1\r\nHost: test\r\n\r\n", "400 close", ""),
        case("http in small letters", "GET / http/1.1\r\nHost: test\r\n\r\n", "400 close", ""),
        case("another protocol", "GET / ICE/1.0\r\nHost: test\r\n\r\n", "400 close", ""),
        case("CONNECT", "CONNECT test:443 HTTP/1.1\r\nHost: test:443\r\n\r\n", "405 close; fairlead-error: method-not-allowed; allow: *", ""),
        case("CONNECT with a path", "CONNECT /x HTTP/1.1\r\nHost: test\r\n\r\n", "405 close; fairlead-error: method-not-allowed; !server", ""),
        case("OPTIONS", "OPTIONS /x HTTP/1.1\r\nHost: test\r\n\r\n", "200 open", "OPTIONS /x"),
        case("OPTIONS of the server", "OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n", "200 open", "OPTIONS *"),
        case("OPTIONS that has hops left", "OPTIONS /x HTTP/1.1\r\nHost: test\r\nMax-Forwards: 3\r\n\r\n", "200 open", "OPTIONS /x; max-forwards: 2"),
        case("OPTIONS at its last hop", "OPTIONS /x HTTP/1.1\r\nHost: test\r\nMax-Forwards: 0\r\n\r\n", "200 open; allow: *; content-length: 0", ""),
        case("TRACE", "TRACE /x HTTP/1.1\r\nHost: test\r\n\r\n", "200 open", "TRACE /x; !max-forwards"),
        case("TRACE that has hops left", "TRACE /x HTTP/1.1\r\nHost: test\r\nMax-Forwards: 10\r\n\r\n", "200 open", "TRACE /x; max-forwards: 9"),
        case("TRACE at its last hop", "TRACE /x HTTP/1.1\r\nHost: test\r\nMax-Forwards: 0\r\nCookie: a=b\r\n\r\n", "405 open; fairlead-error: method-not-allowed", ""),
        case("TRACE with a body", "TRACE /x HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx", "400 close; fairlead-error: bad-request", ""),
        case("hops that are no number", "TRACE /x HTTP/1.1\r\nHost: test\r\nMax-Forwards: -1\r\n\r\n", "400 close", ""),
        case("hops twice", "TRACE /x HTTP/1.1\r\nHost: test\r\nMax-Forwards: 0\r\nMax-Forwards: 9\r\n\r\n", "400 close", ""),
        case("hops beyond any number", "TRACE /x HTTP/1.1\r\nHost: test\r\nMax-Forwards: 99999999999999999999\r\n\r\n", "400 close", ""),
        case("hops of other methods mean nothing", "GET /x HTTP/1.1\r\nHost: test\r\nMax-Forwards: 0\r\n\r\n", "200 open", "GET /x; max-forwards: 0"),
    ]
}
