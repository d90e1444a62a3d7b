//! A Redis of our own.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Outcome;
use super::process::{Process, find};

/// How long it may take to start.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// Starts one that keeps nothing on disk, and waits until it answers.
pub async fn launch(address: SocketAddr, folder: &Path) -> Outcome<Process> {
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
