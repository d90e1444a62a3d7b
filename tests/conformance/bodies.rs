//! Bodies where they are unusual, and `Expect`.

use crate::case::{Case, case};

#[rustfmt::skip] // A table.
pub fn cases() -> Vec<Case> {
    vec![
        case("GET with a length", "GET /g HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc", "200 open", "GET /g; body=abc"),
        case("GET with chunks", "GET /g HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "200 open", "GET /g; body=abc"),
        case("HEAD with a length", "HEAD /h HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc", "200 open", "HEAD /h; body=abc")
            .reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"),
        case("DELETE with a length", "DELETE /d HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx", "200 open", "DELETE /d; body=x"),
        case("a body in HTTP/1.0", "POST /p HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc", "200 close", "POST /p; body=abc"),
        case("a body that ends early", "POST /p HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\nabc", "close", "POST /p; cut off: 1").finish(),
        case("chunks that end early", "POST /p HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "close", "POST /p; cut off: 1").finish(),
        case("a header that ends early", "POST /p HTTP/1.1\r\nHost: te", "close", "").finish(),
        case("a body that waits", "POST /p HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n", "100 200 open", "POST /p; body=abc; expect: 100-continue").then("abc"),
        case("chunks that wait", "POST /p HTTP/1.1\r\nHost: test\r\nExpect: 100-Continue\r\nTransfer-Encoding: chunked\r\n\r\n", "100 200 open", "POST /p; body=abc").then("3\r\nabc\r\n0\r\n\r\n"),
        case("a body that does not wait", "POST /p HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc", "100 200 open", "POST /p; body=abc"),
        case("a body that is not wanted", "POST /p HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n", "401 left; body=no; connection: close", "POST /p; cut off: 1")
            .early()
            .reply("HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno"),
        case("an expectation that nobody knows", "POST /p HTTP/1.1\r\nHost: test\r\nExpect: a-miracle\r\nContent-Length: 3\r\n\r\nabc", "417 close; fairlead-error: expectation-failed", ""),
        case("one expectation too many", "POST /p HTTP/1.1\r\nHost: test\r\nExpect: 100-continue, x\r\nContent-Length: 3\r\n\r\nabc", "417 close; fairlead-error: expectation-failed", ""),
        case("two expectations", "POST /p HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nExpect: x\r\nContent-Length: 3\r\n\r\nabc", "417 close", ""),
        case("an unknown expectation without a body", "GET /p HTTP/1.1\r\nHost: test\r\nExpect: x\r\n\r\n", "417 open", ""),
        case("an expectation in HTTP/1.0", "POST /p HTTP/1.0\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc", "200 close", "POST /p; body=abc; !expect"),
    ]
}
