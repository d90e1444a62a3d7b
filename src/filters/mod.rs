//! What is read from and changed in the headers of a connection, request or response on its way through.

pub mod certificate;
pub mod client;
pub mod framing;
pub mod hop_by_hop;
pub mod hops;
pub mod limits;
pub mod path;
pub mod proxy_protocol;
pub mod rate_limit;
pub mod request_id;
pub mod response;
pub mod rules;
pub mod server_header;
pub mod stream;
pub mod target;
