//! A Redis of our own, and what can go wrong with it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::common::Outcome;
use crate::common::port::Port;
use crate::common::process::Process;
use crate::common::redis::launch;
use crate::link::Link;
use crate::options::Fault;

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
