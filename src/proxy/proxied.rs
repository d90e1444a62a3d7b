//! Connections that a balancer in front passes on, and begins with a header of the PROXY protocol.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use pingora::protocols::l4::stream::Stream as Connection;
use pingora::protocols::{GetSocketDigest, SocketDigest, Stream, UniqueID};
use tokio::io::AsyncReadExt;

use crate::filters::proxy_protocol::{self, LONGEST, Malformed};

/// Room for what most headers need, and for the request that often comes with them.
const ROOM: usize = 512;

/// How a connection ended whose header was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It began with something else, or ended within the header.
    Malformed,
    /// The header was not whole in time.
    Slow,
    /// It ended before it began, as checks of health do.
    Closed,
}

/// Reads the header. From then on the connection's peer is the client that it names; what came with it is still to be
/// read. Of a peer that speaks for itself there is no client to tell, and it stays as it was.
///
/// # Errors
/// There is none: the connection is of no use and closed.
pub async fn receive(stream: Stream, limit: Duration) -> Result<(Stream, Option<IpAddr>), Failure> {
    let Ok(mut connection) = stream.into_any().downcast::<Connection>() else {
        return Err(Failure::Closed);
    };
    let read = tokio::time::timeout(limit, header(&mut connection)).await;
    let client = read.unwrap_or(Err(Failure::Slow))?;
    if let Some(client) = client {
        name(&mut connection, client);
    }
    Ok((connection, client.map(|client| client.ip())))
}

async fn header(connection: &mut Connection) -> Result<Option<SocketAddr>, Failure> {
    let mut bytes = Vec::with_capacity(ROOM);
    loop {
        if bytes.len() == bytes.capacity() {
            bytes.reserve_exact(LONGEST - ROOM);
        }
        match connection.read_buf(&mut bytes).await {
            Ok(0) if !bytes.is_empty() => return Err(Failure::Malformed),
            Ok(0) | Err(_) => return Err(Failure::Closed),
            Ok(_) => {}
        }
        match proxy_protocol::parse(&bytes) {
            Ok(Some(header)) => {
                connection.rewind(bytes.get(header.length..).unwrap_or_default());
                return Ok(header.client);
            }
            Ok(None) => {}
            Err(Malformed) => return Err(Failure::Malformed),
        }
    }
}

/// Whatever asks the connection for its peer gets this client. Who asks for the other end gets ours, as before: by that
/// its listener is found.
fn name(connection: &mut Connection, client: SocketAddr) {
    let digest = SocketDigest::from_raw_fd(connection.id());
    if let Some(before) = connection.get_socket_digest() {
        digest.local_addr.set(before.local_addr().cloned()).ok();
    }
    digest.peer_addr.set(Some(client.into())).ok();
    connection.set_socket_digest(digest);
}
