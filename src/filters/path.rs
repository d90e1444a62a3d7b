//! Paths that servers read differently. A path goes to its server as the client wrote it; but where a route depends on
//! how it is read, the request is ambiguous: `/public/../admin` would pass by the route for `/admin`.
//!
//! | written | some servers read |
//! |---|---|
//! | `//` | `/` |
//! | `/./`, `/a/../` | `/` |
//! | `%41`, `%2e` and others that need no encoding | `A`, `.` |
//! | `%2F`, `\`, `%5C` | `/` |
//! | `/a;b/` | `/a/` |
//!
//! Read as RFC 3986 §6.2.2 has it, `%2F` and `\` are no slashes and `//` is no `/`; so there are several readings.

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
    [(false, false), (true, false), (false, true), (true, true)].into_iter().all(|(merge, slashes)| {
        read(path, merge, slashes, &mut reading);
        reading == path || holds(&reading)
    })
}

/// `merge`: empty segments are left out. `slashes`: backslashes and encoded slashes are slashes, and parameters of
/// segments do not count.
fn read(path: &str, merge: bool, slashes: bool, into: &mut String) {
    let decoded = decode(path.as_bytes(), slashes);
    let decoded = String::from_utf8_lossy(&decoded);
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_open = false;
    for segment in decoded.split('/').skip(1) {
        let name = if slashes { segment.split(';').next().unwrap_or_default() } else { segment };
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

/// Decodes what needs no encoding (RFC 3986 §2.3), and slashes where they are to count.
fn decode(path: &[u8], slashes: bool) -> Vec<u8> {
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
        decoded.push(if slashes && byte == b'\\' { b'/' } else { byte });
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
        assert_eq!(readings("//a"), ["/a"]);
        assert_eq!(readings("/x/../admin//../y"), ["/admin/y", "/y", "/admin/y", "/y"]);
    }

    #[test]
    fn encodings() {
        assert_eq!(readings("/%61dmin"), ["/admin"]);
        assert_eq!(readings("/a/%2e%2E/b"), ["/b"]);
        assert_eq!(readings("/a%2Fb"), ["/a/b"]);
        assert_eq!(readings("/a%20b%zz%"), Vec::<String>::new());
        assert_eq!(readings("/p%2f..%2fadmin"), ["/admin"]);
        assert_eq!(readings("/p\\..\\admin"), ["/admin"]);
        assert_eq!(readings("/p/..;x/admin"), ["/admin"]);
        assert_eq!(readings("/%252e%252e/a"), Vec::<String>::new());
    }
}
