//! Limits of size. The listener `small` allows 1 KiB of header, 10 headers, a target of 100 bytes and a body of 10.

use crate::case::{Case, case};

fn get(name: &'static str, target: &str, headers: &str, client: &str, origin: &str) -> Case {
    case(name, format!("GET {target} HTTP/1.1\r\nHost: test\r\n{headers}\r\n"), client, origin).on("small")
}

fn post(name: &'static str, headers: &str, body: &str, client: &str, origin: &str) -> Case {
    case(name, format!("POST /p HTTP/1.1\r\nHost: test\r\n{headers}\r\n{body}"), client, origin).on("small")
}

/// This many headers besides `Host`.
fn headers(n: usize) -> String {
    (0..n).map(|i| format!("X-{i}: 1\r\n")).collect()
}

#[rustfmt::skip] // A table.
pub fn cases() -> Vec<Case> {
    let long = |n: usize| format!("/{}", "a".repeat(n - 1));
    let pad = |n: usize| format!("X: {}\r\n", "a".repeat(n));
    // Request line and `Host` have 28 bytes, `X` and its line end 5, the empty line 2.
    vec![
        get("as many headers as may be", "/", &headers(9), "200 open", "GET /; x-8: 1"),
        get("a header too many", "/", &headers(10), "431 close; fairlead-error: headers-too-large", ""),
        get("a head as long as may be", "/", &pad(1024 - 35), "200 open", "GET /"),
        get("a head too long", "/", &pad(1024 - 34), "431 close; fairlead-error: headers-too-large", ""),
        get("a target as long as may be", &long(100), "", "200 open", &format!("GET {}", long(100))),
        get("a target too long", &long(101), "", "414 close; fairlead-error: uri-too-long", ""),
        get("a query too long", &format!("/?{}", long(100)), "", "414 close", ""),
        post("a body as long as may be", "Content-Length: 10\r\n", "0123456789", "200 open", "POST /p; body=0123456789"),
        post("a body too long", "Content-Length: 11\r\n", "01234567890", "413 close; fairlead-error: body-too-large", ""),
        post("a body too long that is not sent", "Content-Length: 11\r\nExpect: 100-continue\r\n", "", "413 close; fairlead-error: body-too-large", ""),
        post("chunks as long as may be", "Transfer-Encoding: chunked\r\n", "5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n", "200 open", "POST /p; body=0123456789"),
        post("chunks too long", "Transfer-Encoding: chunked\r\n", "5\r\n01234\r\n6\r\n567890\r\n0\r\n\r\n", "413 close; fairlead-error: body-too-large", "POST /p; cut off: 1"),
        case("many headers", format!("GET / HTTP/1.1\r\nHost: test\r\n{}\r\n", headers(127)), "200 open", "GET /; x-126: 1"),
        case("more headers than the default", format!("GET / HTTP/1.1\r\nHost: test\r\n{}\r\n", headers(128)), "431 close; fairlead-error: headers-too-large", ""),
        case("far too many headers", format!("GET / HTTP/1.1\r\nHost: test\r\n{}\r\n", headers(300)), "400 close", ""),
        case("a head longer than the default", format!("GET / HTTP/1.1\r\nHost: test\r\n{}\r\n", pad(70_000)), "431 close; fairlead-error: headers-too-large", ""),
        case("a head without end", format!("GET / HTTP/1.1\r\nHost: test\r\nX: {}", "a".repeat(3_000_000)), "431 close; fairlead-error: headers-too-large", ""),
        case("a target without end", format!("GET /{}", "a".repeat(3_000_000)), "414 close; fairlead-error: uri-too-long", ""),
        case("a target longer than the default", format!("GET {} HTTP/1.1\r\nHost: test\r\n\r\n", long(17_000)), "414 close; fairlead-error: uri-too-long", ""),
        case("a body without a limit", format!("POST /p HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n{}", "x".repeat(100_000)), "200 open", &format!("POST /p; body={}", "x".repeat(100_000))),
    ]
}
