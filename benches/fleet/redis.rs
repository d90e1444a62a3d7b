//! A Redis of our own, and what can go wrong with it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::Outcome;
use crate::common::port::Port;
use crate::common::process::{Process, find};
use crate::link::Link;
use crate::options::Fault;

/// How long it may take to start.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// How much later every answer comes while it is slow.
const SLOW: Duration = Duration::from_millis(200);

/// A running server that keeps nothing on disk.
pub struct Redis {
    process: Process,
    port: Port,
    /// Between the nodes and the server, when it is to be slow.
    link: Option<Link>,
    folder: PathBuf,
}

impl Redis {
    /// Starts one, prepared for `fault`.
    pub async fn start(fault: Fault, folder: &Path) -> Outcome<Self> {
        let port = Port::new()?;
        let process = launch(port.address, folder).await?;
        let link = if fault == Fault::Slow200 { Some(Link::start(port.address).await?) } else { None };
        Ok(Redis { process, port, link, folder: folder.to_owned() })
    }

    /// Where nodes find it.
    pub fn address(&self) -> SocketAddr {
        self.link.as_ref().map_or(self.port.address, |link| link.address)
    }

    /// Processor time that it has used.
    pub fn cpu(&self) -> Duration {
        self.process.cpu()
    }

    /// The fault begins.
    pub fn fail(&mut self, fault: Fault) {
        match fault {
            Fault::None => {}
            Fault::Stop => self.process.kill(),
            Fault::Sigstop => self.process.signal(Signal::SIGSTOP),
            Fault::Slow200 => self.delay(SLOW),
        }
    }

    /// The fault is over.
    pub async fn heal(&mut self, fault: Fault) -> Outcome<()> {
        match fault {
            Fault::None => {}
            Fault::Stop => self.process = launch(self.port.address, &self.folder).await?,
            Fault::Sigstop => self.process.signal(Signal::SIGCONT),
            Fault::Slow200 => self.delay(Duration::ZERO),
        }
        Ok(())
    }

    fn delay(&self, by: Duration) {
        if let Some(link) = &self.link {
            link.delay(by);
        }
    }
}

async fn launch(address: SocketAddr, folder: &Path) -> Outcome<Process> {
    let program = find("redis-server").ok_or("redis-server is not installed")?;
    let (ip, port, dir) = (address.ip().to_string(), address.port().to_string(), folder.display().to_string());
    let arguments = ["--bind", &ip, "--port", &port, "--dir", &dir, "--save", "", "--appendonly", "no"];
    let mut process = Process::start(&program, &arguments.map(String::from), folder.join("redis.log"))?;
    let deadline = Instant::now() + READY_WITHIN;
    while !answers(address).await {
        if Instant::now() > deadline || process.has_ended() {
            return Err(format!("redis-server does not answer:\n{}", process.log()).into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(process)
}

async fn answers(address: SocketAddr) -> bool {
    let ping = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"PING\r\n").await?;
        let mut answer = [0; 7];
        stream.read_exact(&mut answer).await?;
        Ok::<bool, std::io::Error>(&answer == b"+PONG\r\n")
    };
    matches!(tokio::time::timeout(Duration::from_secs(1), ping).await, Ok(Ok(true)))
}
