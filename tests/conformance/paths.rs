//! Paths where a route depends on them: `/admin` goes to another pool. Nothing that a server could take for a path
//! below it may go past that route, and the other way round. What is no question of routes is passed on untouched.

use crate::case::{Case, case};

fn get(name: &'static str, target: &str, client: &str, origin: &str) -> Case {
    case(name, format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"), client, origin).on("paths")
}

#[rustfmt::skip] // A table.
pub fn cases() -> Vec<Case> {
    let refused = "400 close; fairlead-error: ambiguous-path";
    vec![
        get("a route", "/admin/x", "200 open", "admin> GET /admin/x"),
        get("the other", "/public/x", "200 open", "GET /public/x"),
        get("a route and something behind it", "/administrator", "200 open", "GET /administrator"),
        get("two slashes below a route", "/admin//x", "200 open", "admin> GET /admin//x"),
        get("dots that stay below a route", "/admin/a/../x", "200 open", "admin> GET /admin/a/../x"),
        get("dots that stay outside", "/a/../b//c", "200 open", "GET /a/../b//c"),
        get("an encoded slash below a route", "/admin/a%2fb", "200 open", "admin> GET /admin/a%2fb"),
        get("an encoded slash outside", "/a%2fadmin", "200 open", "GET /a%2fadmin"),
        get("encoded letters that change nothing", "/%61/%7Eb", "200 open", "GET /%61/%7Eb"),
        get("two slashes before a route", "//admin/x", refused, ""),
        get("dots into a route", "/public/../admin/x", refused, ""),
        get("dots out of a route", "/admin/../public", refused, ""),
        get("dots out of a route, at the end", "/admin/..", refused, ""),
        get("a dot before a route", "/./admin", refused, ""),
        get("encoded dots into a route", "/public/%2e%2e/admin", refused, ""),
        get("dots encoded by half", "/public/.%2E/admin", refused, ""),
        get("an encoded letter of a route", "/%61dmin", refused, ""),
        get("an encoded slash that makes a route", "/admin%2Fx", refused, ""),
        get("an encoded slash that ends a segment", "/%2fadmin", refused, ""),
        get("encoded slashes and dots", "/public%2f..%2fadmin", refused, ""),
        get("a backslash that makes a route", "/public\\..\\admin", refused, ""),
        get("an encoded backslash", "/public%5c..%5cadmin", refused, ""),
        get("dots with a parameter", "/public/..;/admin", refused, ""),
        get("a route with a parameter", "/admin;x=1/y", refused, ""),
        get("a query plays no part", "/public?/../admin", "200 open", "GET /public?/../admin"),
        get("absolute form with dots", "http://test/x/../admin", refused, ""),
    ]
}
