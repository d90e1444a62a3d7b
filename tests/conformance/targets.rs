//! Targets: what form they have, which bytes they may hold, and that they are passed on untouched.

use crate::case::{Case, case};

/// A `GET` of a target.
fn get(name: &'static str, target: &str, client: &str, origin: &str) -> Case {
    case(name, format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"), client, origin)
}

#[rustfmt::skip] // A table.
pub fn cases() -> Vec<Case> {
    vec![
        get("a query", "/a?b=c&d=%20", "200 open", "GET /a?b=c&d=%20"),
        get("a query alone", "/?", "200 open", "GET /?"),
        get("two slashes", "//a//b", "200 open", "GET //a//b"),
        get("dots", "/a/./b/../c", "200 open", "GET /a/./b/../c"),
        get("dots above the root", "/../../x", "200 open", "GET /../../x"),
        get("an encoded slash", "/a%2Fb%2fc", "200 open", "GET /a%2Fb%2fc"),
        get("encoded dots", "/a/%2e%2E/b", "200 open", "GET /a/%2e%2E/b"),
        get("an encoded NUL", "/a%00b", "200 open", "GET /a%00b"),
        get("encoded line ends", "/a%0d%0aX:1", "200 open", "GET /a%0d%0aX:1"),
        get("a percent sign that encodes nothing", "/100%", "200 open", "GET /100%"),
        get("a backslash", "/a\\b", "200 open", "GET /a\\b"),
        get("braces", "/{a}", "200 open", "GET /{a}"),
        get("a bar", "/a|b", "200 open", "GET /a|b"),
        get("a caret", "/a^b", "200 open", "GET /a^b"),
        get("a backtick", "/`a`", "400 close", ""),
        get("letters outside ASCII", "/gr\u{fc}n", "200 open", "GET /gr\u{fc}n"),
        case("bytes that are no letters", b"GET /\xff\xfe HTTP/1.1\r\nHost: test\r\n\r\n", "400 close", ""),
        get("a quote", "/a\"b", "200 open", "GET /a\"b"),
        get("a colon", "/a:b@c", "200 open", "GET /a:b@c"),
        get("a parameter", "/a;v=1/b", "200 open", "GET /a;v=1/b"),
        get("a fragment", "/a#b", "400 close", ""),
        // Pingora encodes them before anybody can look: no server sees the raw byte.
        get("a space", "/a b", "200 open", "GET /a%20b"),
        get("something like a version", "/a HTTP/1.1", "400 close", ""),
        get("a tab", "/a\tb", "200 open", "GET /a%09b"),
        get("a NUL", "/a\0b", "200 open", "GET /a%00b"),
        get("a bare CR", "/a\rb", "200 open", "GET /a%0Db"),
        get("DEL", "/a\u{7f}b", "200 open", "GET /a%7Fb"),
        get("a bare LF", "/a\nb", "400 close", ""),
        get("no slash", "a/b", "400 close", ""),
        get("a name", "test", "400 close", ""),
        get("an authority", "test:80", "400 close", ""),
        get("an asterisk", "*", "400 close", ""),
        get("a query without a path", "?a=b", "400 close", ""),
        get("absolute form", "http://test/a?b", "200 open", "GET /a?b; host: test"),
        get("absolute form without a path", "http://test", "200 open", "GET /; host: test"),
        get("absolute form with a query alone", "http://test?a", "200 open", "GET /?a; host: test"),
        get("absolute form of https", "https://test/a", "200 open", "GET /a; host: test"),
        get("absolute form in capitals", "HTTP://test/a", "200 open", "GET /a; host: test"),
        get("absolute form of another host", "http://other/a", "400 close", ""),
        get("absolute form with another port", "http://test:81/a", "400 close", ""),
        get("absolute form with a user", "http://user@test/a", "400 close", ""),
        get("absolute form without a host", "http:///a", "400 close", ""),
        get("absolute form with one slash", "http:/test/a", "400 close", ""),
        get("absolute form with a backslash", "http://test\\@other/a", "400 close", ""),
        get("absolute form of another scheme", "ftp://test/a", "400 close", ""),
        case("absolute form in HTTP/1.0 without a host", "GET http://test/a HTTP/1.0\r\n\r\n", "200 close", "GET /a; host: test"),
        case("absolute form in HTTP/1.1 without a host", "GET http://test/a HTTP/1.1\r\n\r\n", "400 close", ""),
        case("OPTIONS in absolute form", "OPTIONS http://test HTTP/1.1\r\nHost: test\r\n\r\n", "200 open", "OPTIONS *"),
    ]
}
