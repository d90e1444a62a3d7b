//! Clients that others made and everybody uses: curl, h2load and Chromium.
//!
//! Not part of `cargo test`, as it needs them: `make test-clients` installs and runs it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../e2e/support/mod.rs"]
#[allow(dead_code, unused_imports)]
mod support;

mod browser;
mod curl;
mod h2load;
mod process;
mod site;
mod stage;
