//! A node with listeners of all kinds, for the name `a.test`.

use std::net::SocketAddr;
use std::path::Path;

use tempfile::TempDir;

use crate::support::{Fairlead, Pair, Reserved, Wish, config};

/// The node and the files of its clients.
pub struct Stage {
    /// Its listeners: `tls` with HTTP/1 and 2, `h2c`, `plain`, and `redirect`, which leads to `tls`.
    pub fairlead: Fairlead,
    /// The certificate of the listener `tls`.
    pub pair: Pair,
    files: TempDir,
    _port: Reserved,
}

impl Stage {
    /// With these keys of the configuration, `pools:` among them.
    pub async fn start(rest: &str) -> Self {
        let authority = Pair::authority("Authority");
        let pair = authority.issue(Wish::names(&["a.test"]));
        let files = TempDir::new().unwrap();
        authority.write(files.path(), "authority");
        pair.write(files.path(), "a");
        // The redirect has to name it.
        let port = Reserved::new();
        let listeners = "\
listeners:
  - { name: tls, address: 'ADDRESS', tls: { certificates: [{ cert: DIR/a.pem, key: DIR/a.key }] } }
  - { name: h2c, address: '127.0.0.1:0', protocols: [h2c] }
  - { name: plain, address: '127.0.0.1:0' }
  - { name: redirect, address: '127.0.0.1:0', redirect_to_https: { port: PORT } }
";
        let listeners = listeners
            .replace("ADDRESS", &port.address.to_string())
            .replace("PORT", &port.address.port().to_string())
            .replace("DIR", files.path().to_str().unwrap());
        let fairlead = Fairlead::start(&config(&(listeners + rest))).await;
        Stage { fairlead, pair, files, _port: port }
    }

    /// For a client's files; `authority.pem` is there.
    pub fn dir(&self) -> &Path {
        self.files.path()
    }

    /// A listener's port.
    pub fn port(&self, listener: &str) -> u16 {
        self.address(listener).port()
    }

    /// Where a listener is.
    pub fn address(&self, listener: &str) -> SocketAddr {
        self.fairlead.listener(listener)
    }

    /// The URL of a path on a listener.
    pub fn url(&self, listener: &str, path: &str) -> String {
        let scheme = if listener == "tls" { "https" } else { "http" };
        format!("{scheme}://a.test:{}{path}", self.port(listener))
    }
}

/// `pools:` with the only pool `app`; its server is well whatever the machine is busy with.
pub fn only_pool(server: &str) -> String {
    format!("pools: {{ app: {{ servers: [{server}], health: {{ interval: 1h, timeout: 30s, rise: 1 }} }} }}\n")
}
