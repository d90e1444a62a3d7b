//! A network between the nodes and Redis whose answers can be made to take longer. Only the way back is slow: nothing is
//! lost, nothing overtakes, and any number of calls may be on the way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::common::Outcome;

/// The most that is read at once.
const CHUNK: usize = 16 * 1024;

/// The network; dropped, it takes no more connections.
pub struct Link {
    /// Where it listens.
    pub address: SocketAddr,
    millis: Arc<AtomicU64>,
    accepts: tokio::task::AbortHandle,
}

impl Link {
    /// Passes everything on to `target`, at once.
    pub async fn start(target: SocketAddr) -> Outcome<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let millis = Arc::new(AtomicU64::new(0));
        let delay = millis.clone();
        let accepts = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(join(client, target, delay.clone()));
            }
        });
        Ok(Link { address, millis, accepts: accepts.abort_handle() })
    }

    /// From now on answers take so much longer.
    pub fn delay(&self, by: Duration) {
        self.millis.store(by.as_millis() as u64, Ordering::Relaxed);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepts.abort();
    }
}

async fn join(client: TcpStream, target: SocketAddr, delay: Arc<AtomicU64>) -> std::io::Result<()> {
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // Whichever side ends, both connections do.
    tokio::select! {
        ended = pass(from_client, to_server, Arc::default()) => ended,
        ended = pass(from_server, to_client, delay) => ended,
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Arc<AtomicU64>) -> std::io::Result<()> {
    let (later, mut due) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let read = async move {
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            if from.read_buf(&mut chunk).await? == 0 {
                return Ok(());
            }
            let at = Instant::now() + Duration::from_millis(delay.load(Ordering::Relaxed));
            if later.send((at, chunk)).is_err() {
                return Ok(());
            }
        }
    };
    let write = async move {
        while let Some((at, chunk)) = due.recv().await {
            if at > Instant::now() {
                tokio::time::sleep_until(at.into()).await;
            }
            to.write_all(&chunk).await?;
        }
        Ok(())
    };
    tokio::try_join!(read, write).map(|_: ((), ())| ())
}
