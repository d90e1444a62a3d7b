//! Files that a configuration names, and without which nothing can start.

use std::path::Path;

use native_tls::Certificate;

use super::problem::Findings;
use super::{Config, reason};

/// Looks whether they are there and hold what they should.
pub(super) fn check(config: &Config, found: &mut Findings) {
    let ca = config.redis.as_ref().and_then(|redis| redis.tls.as_ref()?.ca.as_deref());
    if let Some(path) = ca
        && let Err(why) = certificates(path)
    {
        found.add_at(&["redis".into(), "tls".into(), "ca".into()], format!("`{}` {why}", path.display()));
    }
}

/// The certificates of a PEM file; never none.
///
/// # Errors
/// What is wrong with the file, to stand behind its name.
pub fn certificates(path: &Path) -> Result<Vec<Certificate>, String> {
    let pem = std::fs::read(path).map_err(|error| format!("cannot be read: {}", reason(&error)))?;
    match Certificate::stack_from_pem(&pem) {
        Ok(list) if !list.is_empty() => Ok(list),
        _ => {
            Err("holds no certificate in PEM form: it must have a block that begins with `-----BEGIN CERTIFICATE-----`"
                .to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        let why = |text: &[u8]| {
            std::fs::write(&file, text).unwrap();
            certificates(&file).err().unwrap()
        };
        let garbage = b"-----BEGIN CERTIFICATE-----\nZ2FyYmFnZQ==\n-----END CERTIFICATE-----\n";
        let key = b"-----BEGIN PRIVATE KEY-----\nZ2FyYmFnZQ==\n-----END PRIVATE KEY-----\n";
        for text in [&b""[..], b"\xff\0", garbage, key] {
            assert!(why(text).starts_with("holds no certificate in PEM form"), "{}", why(text));
        }
        let missing = certificates(&dir.path().join("missing.pem")).err().unwrap();
        assert!(missing.starts_with("cannot be read: there is no such file"), "{missing}");
    }
}
