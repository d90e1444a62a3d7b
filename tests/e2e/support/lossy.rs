//! A bad network between Fairlead and a server: connections break, stall, or are slow. It remembers what was sent into
//! it, which is more than what arrives.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::wire::ms;

/// What the network does. Where a share is meant, it is of a hundred connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Reset when made.
    pub refuse: u8,
    /// Reset after some bytes of what is sent, the last of which may not arrive.
    pub lose_up: u8,
    /// Reset after some bytes of what is answered.
    pub lose_down: u8,
    /// Nothing comes back any more after some bytes of what is answered; the connection stands.
    pub stall: u8,
    /// Each piece takes at most so many milliseconds longer.
    pub delay: u64,
    /// Connections whose fate is a loss meet it within so many bytes.
    pub within: usize,
}

/// The network.
pub struct Lossy {
    /// Its near end.
    pub address: SocketAddr,
    weather: Arc<Mutex<Weather>>,
    sent: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Lossy {
    /// A good one at first.
    pub async fn to(far: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let weather: Arc<Mutex<Weather>> = Arc::default();
        let sent: Arc<Mutex<Vec<u8>>> = Arc::default();
        let (today, heard) = (weather.clone(), sent.clone());
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let weather = *today.lock().unwrap();
                tokio::spawn(join(near, far, weather, heard.clone()));
            }
        });
        Lossy { address, weather, sent, task }
    }

    /// What it does to connections made from now on.
    pub fn weather(&self, weather: Weather) {
        *self.weather.lock().unwrap() = weather;
    }

    /// How often this was sent into it.
    pub fn heard(&self, text: &str) -> usize {
        let sent = self.sent.lock().unwrap();
        sent.windows(text.len()).filter(|window| *window == text.as_bytes()).count()
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn join(near: TcpStream, far: SocketAddr, weather: Weather, sent: Arc<Mutex<Vec<u8>>>) {
    let happens = |share: u8| fastrand::u8(..100) < share;
    near.set_zero_linger().unwrap();
    if happens(weather.refuse) {
        return;
    }
    let Ok(server) = TcpStream::connect(far).await else { return };
    near.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let some = |share| if happens(share) { fastrand::usize(..=weather.within) } else { usize::MAX };
    let (up, down, stall) = (some(weather.lose_up), some(weather.lose_down), some(weather.stall));
    let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), server.into_split());
    let upward = Carry { from: from_near, to: to_far, lose: up, stall: usize::MAX, delay: weather.delay };
    let downward = Carry { from: from_far, to: to_near, lose: down, stall, delay: weather.delay };
    let note = |bytes: &[u8]| sent.lock().unwrap().extend_from_slice(bytes);
    // Whichever side ends, both connections do.
    tokio::select! {
        _ = upward.run(note) => {}
        _ = downward.run(|_: &[u8]| {}) => {}
    }
}

struct Carry {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    lose: usize,
    stall: usize,
    delay: u64,
}

impl Carry {
    async fn run(mut self, note: impl Fn(&[u8])) {
        let mut buffer = vec![0; 4096];
        let mut passed = 0;
        while let Ok(n @ 1..) = self.from.read(&mut buffer).await {
            note(&buffer[..n]);
            if self.delay > 0 {
                tokio::time::sleep(ms(fastrand::u64(..=self.delay))).await;
            }
            let end = n.min(self.lose - passed).min(self.stall - passed);
            if self.to.write_all(&buffer[..end]).await.is_err() {
                return;
            }
            passed += end;
            if passed == self.stall {
                std::future::pending::<()>().await;
            }
            if passed == self.lose {
                return;
            }
        }
    }
}
