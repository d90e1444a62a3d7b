//! Notices that files have changed, by looking at them now and then: unlike notifications of the system that works with
//! every file system, and with the swapped links of mounted secrets.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// What changes with a file, links followed. None: it cannot be looked at.
type Stamp = Option<(u64, u64, i64, i64, u64)>;

/// Files that belong together.
#[derive(Debug)]
pub struct Watched {
    files: Vec<PathBuf>,
    /// As they were when they were last read.
    read: Vec<Stamp>,
    /// As they were at the last look.
    seen: Vec<Stamp>,
}

impl Watched {
    /// To be made before the files are read, so that no change in between is missed.
    pub fn new(files: Vec<PathBuf>) -> Self {
        let read = stamps(&files);
        Watched { files, seen: read.clone(), read }
    }

    /// Whether they must be read again: they differ from when they were read, and have rested since the last look, so that
    /// nobody is half-way through writing them.
    pub fn changed(&mut self) -> bool {
        let now = stamps(&self.files);
        let rested = now == self.seen;
        let due = rested && now != self.read;
        self.seen.clone_from(&now);
        if due {
            self.read = now;
        }
        due
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |file: &PathBuf| {
        let data = std::fs::metadata(file).ok()?;
        Some((data.dev(), data.ino(), data.mtime(), data.mtime_nsec(), data.size()))
    };
    files.iter().map(stamp).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_once_and_only_when_it_rests() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        std::fs::write(&a, "1").unwrap();
        let mut files = Watched::new(vec![a.clone(), b.clone()]);
        assert!(!files.changed());
        std::fs::write(&b, "new").unwrap();
        assert!(!files.changed(), "just changed");
        std::fs::write(&a, "22").unwrap();
        assert!(!files.changed(), "still changing");
        assert!(files.changed());
        assert!(!files.changed(), "known by now");
        // As tools renew files: another one takes the name.
        let other = dir.path().join("other");
        std::fs::write(&other, "22").unwrap();
        std::fs::rename(&other, &a).unwrap();
        assert!(!files.changed());
        assert!(files.changed());
        std::fs::remove_file(&a).unwrap();
        assert!(!files.changed());
        assert!(files.changed(), "so that somebody hears that it is gone");
    }
}
