//! The `Server` header of responses.

use http::header::SERVER;
use pingora::Result;
use pingora::http::ResponseHeader;

use crate::config::ServerHeader;

/// Sets or removes it, as the listener has it.
///
/// # Errors
/// None that a checked configuration could cause.
pub fn apply(response: &mut ResponseHeader, wanted: &ServerHeader) -> Result<()> {
    match wanted {
        ServerHeader::Pass => {}
        ServerHeader::Remove => {
            response.remove_header(&SERVER);
        }
        ServerHeader::Set(value) => response.insert_header(SERVER, value.clone())?,
    }
    Ok(())
}
