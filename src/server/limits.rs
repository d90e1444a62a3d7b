//! What the system lets this process have.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Fewer open files than this are soon too few: each request takes two.
const FEW: u64 = 4096;

/// Raises the limit of open files as far as it goes without rights.
pub fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(hard)
    });
    match raised {
        Ok(limit) if limit < FEW => log::warn!(limit = limit; "few_open_files"),
        Ok(limit) => log::debug!(limit = limit; "open_files"),
        Err(error) => log::warn!(error = error.to_string(); "open_files_unknown"),
    }
}
