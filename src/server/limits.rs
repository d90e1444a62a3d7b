//! What the system lets the process have.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Every client takes a descriptor, and so does every connection to a server.
const FEW: u64 = 1024;

/// Raises the limit of open files as far as it goes, and logs it.
pub fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(hard)
    });
    match raised {
        Ok(limit) if limit < FEW => {
            log::warn!(limit = limit, hint = "raise it to twice the connections you expect"; "open_files");
        }
        Ok(limit) => log::info!(limit = limit; "open_files"),
        Err(error) => log::warn!(error = error.to_string(); "open_files_cannot_be_raised"),
    }
}
