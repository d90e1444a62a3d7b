//! What is read from and changed in the headers of a request or response on its way through.

pub mod certificate;
pub mod client;
pub mod hop_by_hop;
pub mod rate_limit;
pub mod request_id;
pub mod rules;
pub mod stream;
pub mod target;
