//! What the system said, at the bottom of an error of Pingora's.

use nix::errno::Errno;
use pingora::Error;

/// What the system said.
pub fn os_error(error: &Error) -> Option<Errno> {
    // Pingora wraps some of them once more, with the address at our end.
    let root = error.root_cause() as &(dyn std::error::Error + 'static);
    let io =
        std::iter::successors(Some(root), |error| error.source()).find_map(|e| e.downcast_ref::<std::io::Error>())?;
    io.raw_os_error().map(Errno::from_raw)
}

/// Whether a connection to a server failed because no more files may be opened here: it says nothing about the server.
pub fn out_of_descriptors(error: &Error) -> bool {
    matches!(os_error(error), Some(Errno::EMFILE | Errno::ENFILE))
}

/// Whether it failed because all local ports are taken by connections to that address, or the system has no memory for one
/// more: it says nothing about the server, though another may still be had.
pub fn out_of_ports(error: &Error) -> bool {
    matches!(os_error(error), Some(Errno::EADDRNOTAVAIL | Errno::ENOBUFS | Errno::ENOMEM))
}

/// What may be wanting here.
pub const OURS: [&str; 2] = ["this node has no file descriptor left", "this node has no local port or memory left"];

/// What was wanting here for a connection, one of [`OURS`]; None: it failed for another reason.
pub fn our_own_want(error: &Error) -> Option<&'static str> {
    let [descriptors, ports] = OURS;
    if out_of_descriptors(error) {
        return Some(descriptors);
    }
    out_of_ports(error).then_some(ports)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pingora::ErrorType;

    #[derive(Debug, thiserror::Error)]
    #[error("with an address")]
    struct Wrapped(#[source] std::io::Error);

    #[test]
    fn the_cause_is_found_below_others() {
        let connect = |errno: Errno| {
            let inner = Error::because(ErrorType::SocketError, "failed to create socket", std::io::Error::from(errno));
            Error::because(ErrorType::InternalError, "Fail to connect", inner)
        };
        assert!(out_of_descriptors(&connect(Errno::EMFILE)));
        let wrapped = Wrapped(std::io::Error::from(Errno::EADDRNOTAVAIL));
        assert!(out_of_ports(&Error::because(ErrorType::BindError, "", wrapped)));
        assert!(out_of_ports(&connect(Errno::EADDRNOTAVAIL)) && !out_of_descriptors(&connect(Errno::EADDRNOTAVAIL)));
        assert_eq!(our_own_want(&connect(Errno::EMFILE)), Some("this node has no file descriptor left"));
        assert_eq!(our_own_want(&connect(Errno::ECONNREFUSED)), None);
        assert!(!out_of_descriptors(&connect(Errno::ECONNREFUSED)) && !out_of_ports(&connect(Errno::ECONNREFUSED)));
        assert!(!out_of_descriptors(&Error::new(ErrorType::ConnectTimedout)));
    }
}
