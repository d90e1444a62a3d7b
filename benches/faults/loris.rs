//! Clients that hold connections by sending a byte of a header now and then.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Between two bytes.
const PAUSE: Duration = Duration::from_secs(1);
/// How long all together take to connect.
const RUSH: Duration = Duration::from_secs(1);

/// Many of them; dropped, they leave.
pub struct SlowClients {
    clients: JoinSet<()>,
    lived: Arc<Mutex<Vec<Option<Duration>>>>,
}

impl SlowClients {
    /// So many, within a second.
    pub fn start(count: usize, address: SocketAddr) -> Self {
        let lived = Arc::new(Mutex::new(vec![None; count]));
        let mut clients = JoinSet::new();
        for number in 0..count {
            let lived = lived.clone();
            clients.spawn(async move {
                tokio::time::sleep(RUSH.mul_f64(number as f64 / count as f64)).await;
                let start = Instant::now();
                // However it ends: the other side did it.
                drip(address).await.ok();
                lived.lock().unwrap_or_else(PoisonError::into_inner)[number] = Some(start.elapsed());
            });
        }
        SlowClients { clients, lived }
    }

    /// How long the connection of each lived until the other side ended it; none: it still does.
    pub fn lived(mut self) -> Vec<Option<Duration>> {
        self.clients.abort_all();
        self.lived.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn drip(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nx-slow: ").await?;
    let mut answer = [0; 1024];
    loop {
        tokio::select! {
            read = stream.read(&mut answer) => if read? == 0 { return Ok(()) },
            () = tokio::time::sleep(PAUSE) => stream.write_all(b"x").await?,
        }
    }
}
