//! Who is asked for.

use crate::case::{Case, case};

/// A `GET` with these header lines.
fn get(name: &'static str, headers: &str, client: &str, origin: &str) -> Case {
    case(name, format!("GET / HTTP/1.1\r\n{headers}\r\n"), client, origin)
}

#[rustfmt::skip] // A table.
pub fn cases() -> Vec<Case> {
    let refused = "400 close; fairlead-error: bad-request";
    vec![
        get("no host", "", refused, ""),
        get("an empty host", "Host:\r\n", refused, ""),
        get("a host of blanks", "Host:  \t \r\n", refused, ""),
        get("two hosts", "Host: a.test\r\nHost: b.test\r\n", "400 close", ""),
        get("one host twice", "Host: test\r\nHost: test\r\n", "400 close", ""),
        get("a list of hosts", "Host: a.test, b.test\r\n", refused, ""),
        get("a host with a port", "Host: test:8080\r\n", "200 open", "GET /; host: test:8080"),
        get("a host with a colon alone", "Host: test:\r\n", "200 open", "GET /; host: test:"),
        get("a host with a port of letters", "Host: test:80a\r\n", refused, ""),
        get("a host with two ports", "Host: test:80:81\r\n", refused, ""),
        get("a port alone", "Host: :80\r\n", refused, ""),
        get("a host in IPv6", "Host: [::1]:80\r\n", "200 open", "GET /; host: [::1]:80"),
        get("a host with an open bracket", "Host: [::1\r\n", refused, ""),
        get("a host with something after its bracket", "Host: [::1]a\r\n", refused, ""),
        get("a host with a path", "Host: test/x\r\n", refused, ""),
        get("a host with a query", "Host: test?x\r\n", refused, ""),
        get("a host with a user", "Host: user@test\r\n", "400 close", ""),
        get("a host with a space", "Host: te st\r\n", refused, ""),
        get("a host with a backslash", "Host: test\\x\r\n", refused, ""),
        get("a host outside ASCII", "Host: t\u{e9}st\r\n", refused, ""),
        get("a host with a dot", "Host: test.\r\n", "200 open", "GET /; host: test."),
        get("a host with an underscore", "Host: my_app\r\n", "200 open", "GET /; host: my_app"),
        get("a host in capitals", "hOST: TEST\r\n", "200 open", "GET /; host: TEST"),
        get("a host of a URL", "Host: http://test\r\n", refused, ""),
        case("a bad host in HTTP/1.0", "GET / HTTP/1.0\r\nHost: a/b\r\n\r\n", refused, ""),
    ]
}
