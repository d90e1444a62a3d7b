//! Paths that servers read differently. A path goes to its server as the client wrote it; but where a route depends on
//! how it is read, the request is ambiguous: `/public/../admin` would pass by the route for `/admin`.
//!
//! | written | some servers read |
//! |---|---|
//! | `//` | `/` |
//! | `/./`, `/a/../` | `/` |
//! | `%41`, `%2e` and others that need no encoding | `A`, `.` |
//! | `%2F`, `%5C` | `/` |
//! | `\` | `/` |
//! | `/a;b/` | `/a/` |
//! | `//a/b`, `/\a/b` at the beginning | `/b`, at the server `a` |
//!
//! Read as RFC 3986 §6.2.2 has it, `%2F` and `\` are no slashes and `//` is no `/`. Servers combine these as they like: nginx
//! decodes `%2F` and leaves `;` alone, browsers and Node take `\` for a slash but not `%2F`. So there are many readings, of
//! odd paths only.

/// Whether all servers read it alike.
fn is_plain(path: &[u8]) -> bool {
    let mut last = 0;
    path.iter().enumerate().all(|(i, b)| {
        let odd = match b {
            b'%' | b'\\' | b';' => true,
            b'/' => last == b'/',
            b'.' if last == b'/' => matches!(path.get(i + 1), None | Some(b'/' | b'.' | b'%' | b';' | b'\\')),
            _ => false,
        };
        last = *b;
        !odd
    })
}

/// Whether `holds` of all ways in which servers may read a path, other than as it is written.
pub fn all_readings(path: &str, mut holds: impl FnMut(&str) -> bool) -> bool {
    if is_plain(path.as_bytes()) {
        return true;
    }
    let mut reading = String::with_capacity(path.len());
    let mut read_alike = |path: &str, written: &str| {
        Manner::all().all(|manner| {
            read(path, manner, &mut reading);
            reading == written || holds(&reading)
        })
    };
    read_alike(path, path) && without_authority(path).is_none_or(|rest| read_alike(rest, path))
}

/// Whether some server may find a segment `.` or `..` in it, and so leave the path's beginning.
pub fn has_dots(path: &str) -> bool {
    let plain = is_plain(path.as_bytes());
    let decoded = |path: &str| String::from_utf8_lossy(&decode(path.as_bytes(), true, true)).into_owned();
    let is_dots = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    !plain && decoded(path).split('/').any(is_dots)
}

/// What follows `//name` or `/\name`, if a path begins so.
fn without_authority(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("//").or_else(|| path.strip_prefix("/\\"))?;
    Some(rest.find(['/', '\\']).map_or("/", |end| &rest[end..]))
}

/// What a server makes of a path.
#[derive(Clone, Copy)]
struct Manner {
    /// Empty segments are left out.
    merge: bool,
    /// Encoded slashes and backslashes are what they stand for.
    decode: bool,
    /// Backslashes are slashes.
    backslash: bool,
    /// Parameters of segments do not count.
    parameters: bool,
}

impl Manner {
    fn all() -> impl Iterator<Item = Manner> {
        (0..16).map(|n: u8| Manner { merge: n & 1 > 0, decode: n & 2 > 0, backslash: n & 4 > 0, parameters: n & 8 > 0 })
    }
}

fn read(path: &str, manner: Manner, into: &mut String) {
    let Manner { merge, parameters, .. } = manner;
    let decoded = decode(path.as_bytes(), manner.decode, manner.backslash);
    let decoded = String::from_utf8_lossy(&decoded);
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_open = false;
    for segment in decoded.split('/').skip(1) {
        let name = if parameters { segment.split(';').next().unwrap_or_default() } else { segment };
        ends_open = matches!(name, "" | "." | "..");
        match name {
            "." => {}
            "" if merge => {}
            ".." => {
                segments.pop();
            }
            name => segments.push(name),
        }
    }
    if ends_open && segments.last() != Some(&"") {
        segments.push("");
    }
    into.clear();
    for segment in &segments {
        into.push('/');
        into.push_str(segment);
    }
}

/// Decodes what needs no encoding (RFC 3986 §2.3), and slashes and backslashes too, if they are to be. `backslash`: one
/// becomes a slash.
fn decode(path: &[u8], slashes: bool, backslash: bool) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, more @ ..] = rest {
        rest = more;
        let mut byte = *first;
        if byte == b'%'
            && let [high, low, after @ ..] = more
            && let (Some(high), Some(low)) = ((*high as char).to_digit(16), (*low as char).to_digit(16))
        {
            let code = (high * 16 + low) as u8;
            let unreserved = code.is_ascii_alphanumeric() || b"-._~".contains(&code);
            if unreserved || (slashes && matches!(code, b'/' | b'\\')) {
                byte = code;
                rest = after;
            }
        }
        decoded.push(if backslash && byte == b'\\' { b'/' } else { byte });
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(path: &str) -> Vec<String> {
        let mut all = Vec::new();
        all_readings(path, |reading| {
            all.push(reading.to_owned());
            true
        });
        all.sort();
        all.dedup();
        all
    }

    #[test]
    fn plain_paths_have_one_reading() {
        for path in ["/", "/a/b", "/a.b/.well-known/..a/c.", "/a:b@c/~d/", "/a...b"] {
            assert!(readings(path).iter().all(|reading| reading == path), "{path}: {:?}", readings(path));
        }
        assert!(is_plain(b"/.well-known/acme") && is_plain(b"/a/b.c"));
    }

    #[test]
    fn dots_and_slashes() {
        assert_eq!(readings("/a/../b"), ["/b"]);
        assert_eq!(readings("/a/./b/."), ["/a/b/"]);
        assert_eq!(readings("/a/.."), ["/"]);
        assert_eq!(readings("/../../a"), ["/a"]);
        assert_eq!(readings("//a"), ["/", "/a"]);
        assert_eq!(readings("//x/admin"), ["/admin", "/x/admin"]);
        assert_eq!(readings("/x/../admin//../y"), ["/admin/y", "/y"]);
    }

    /// Each has passed for another path at a server of this kind.
    #[test]
    fn servers_mix_their_rules() {
        for (path, read) in [
            ("/admin%2f..;/../users", "/admin/users"),    // nginx
            ("/admin%2f..\\/../users", "/admin/users"),   // nginx
            ("/x%2fy/..\\admin/users", "/admin/users"),   // Node
            ("/\\x/admin", "/admin"),                     // Node
            ("//x/admin", "/admin"),                      // Node, Python
            ("/x%2fy/..;/admin/users", "/x/admin/users"), // Tomcat
        ] {
            assert!(readings(path).iter().any(|reading| reading == read), "{path}: {:?}", readings(path));
        }
    }

    #[test]
    fn encodings() {
        assert_eq!(readings("/%61dmin"), ["/admin"]);
        assert_eq!(readings("/a/%2e%2E/b"), ["/b"]);
        assert_eq!(readings("/a%2Fb"), ["/a/b"]);
        assert_eq!(readings("/a%20b%zz%"), Vec::<String>::new());
        assert_eq!(readings("/p%2f..%2fadmin"), ["/admin"]);
        assert_eq!(readings("/p\\..\\admin"), ["/admin"]);
        assert!(has_dots("/p%5c..%2fadmin") && has_dots("/a/..;x/b") && has_dots("/%2e%2e/b") && has_dots("/./b"));
        assert!(!has_dots("/a/b;..") && !has_dots("/.a/..b/c...") && !has_dots("/"));
        assert_eq!(readings("/p/..;x/admin"), ["/admin"]);
        assert_eq!(readings("/%252e%252e/a"), Vec::<String>::new());
    }
}
