//! What the system said, at the bottom of an error of Pingora's.

use nix::errno::Errno;
use pingora::Error;

/// What the system said.
pub fn os_error(error: &Error) -> Option<Errno> {
    let io = error.root_cause().downcast_ref::<std::io::Error>()?;
    io.raw_os_error().map(Errno::from_raw)
}

/// Whether a connection to a server failed because no more files may be opened here: it says nothing about the server.
pub fn out_of_descriptors(error: &Error) -> bool {
    matches!(os_error(error), Some(Errno::EMFILE | Errno::ENFILE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pingora::ErrorType;

    #[test]
    fn the_cause_is_found_below_others() {
        let connect = |errno: Errno| {
            let inner = Error::because(ErrorType::SocketError, "failed to create socket", std::io::Error::from(errno));
            Error::because(ErrorType::InternalError, "Fail to connect", inner)
        };
        assert!(out_of_descriptors(&connect(Errno::EMFILE)));
        assert!(!out_of_descriptors(&connect(Errno::ECONNREFUSED)));
        assert!(!out_of_descriptors(&Error::new(ErrorType::ConnectTimedout)));
    }
}
