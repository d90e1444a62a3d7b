//! How a path begins.

use super::kind::Parsed;
use super::units::url_path;

/// The beginning of a path, written as plainly as it can be: a route that servers may read in another way would let
/// requests pass by it.
pub(super) fn path_prefix() -> Parsed<String> {
    Parsed {
        what: "a path such as `/v1`",
        pattern: "^/[!-~]*$",
        parse: |text| {
            let text = (url_path().parse)(text)?;
            let odd = |part: &str| text.to_ascii_lowercase().contains(part);
            let dots = text.split('/').any(|segment| segment == "." || segment == "..");
            match ["//", "\\", ";", "?", "#", "%2f", "%5c", "%2e"].into_iter().find(|part| odd(part)) {
                Some(part) => Err(format!("holds `{part}`, which servers read in different ways: write it without")),
                None if dots => Err("has segments of dots: write the path that they lead to".to_owned()),
                None => Ok(text),
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_plain() {
        let parse = path_prefix().parse;
        for path in ["/", "/v1", "/v1/", "/a.b/.well-known", "/a%20b"] {
            assert!(parse(path).is_ok(), "{path}");
        }
        for path in ["//", "/a//b", "/a/../b", "/.", "/a%2Fb", "/a\\b", "/a;b", "/a?b", "/%2e%2e/a", "v1"] {
            assert!(parse(path).is_err(), "{path}");
        }
    }
}
