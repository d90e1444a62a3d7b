//! A configuration without a file: one listener, one pool, and the defaults for all else.

use std::net::SocketAddr;

use serde_json::json;

use super::problem::Findings;
use super::tree::Node;
use super::{Address, Config, Problems, build};

impl Config {
    /// One listener and one pool named `app`. Without `health_path` servers are checked by connecting to them.
    ///
    /// Everything else is as in a file that does not mention it.
    ///
    /// # Errors
    /// The same problems as with a file; they speak of `command line`.
    pub fn quick(
        listen: SocketAddr,
        servers: &[(String, u16)],
        health_path: Option<&str>,
        admin: Option<SocketAddr>,
    ) -> Result<Self, Problems> {
        let servers: Vec<String> = servers
            .iter()
            .map(|(host, port)| {
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                Address { host, port: *port }.to_string()
            })
            .collect();
        let root = json!({
            "version": 1,
            "listeners": [{ "address": listen.to_string() }],
            "pools": { "app": { "servers": servers, "health": { "path": health_path } } },
            "admin": admin.map(|address| json!({ "address": address.to_string() })),
        });
        build(&Node::from(&root), Findings::default(), "command line", |_, _| {}, |_| None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Check, parse};
    use super::*;

    #[test]
    fn the_same_as_the_smallest_file() {
        let quick = Config::quick(
            "0.0.0.0:9090".parse().unwrap(),
            &[("10.0.0.1".to_owned(), 80), ("::1".to_owned(), 81)],
            Some("/heartbeat"),
            Some("127.0.0.1:9900".parse().unwrap()),
        );
        let file = "version: 1\nlisteners: [{ address: 0.0.0.0:9090 }]\npools: { app: { servers: [10.0.0.1:80, '[::1]:81'], health: { path: /heartbeat } } }\nadmin: { address: 127.0.0.1:9900 }\n";
        let file = parse(file, "f", &|_| None);
        assert_eq!(format!("{:?}", quick.unwrap()), format!("{:?}", file.unwrap()));
    }

    #[test]
    fn little_is_enough_and_nonsense_is_refused() {
        let listen = "127.0.0.1:0".parse().unwrap();
        let servers = [("web".to_owned(), 80)];
        let config = Config::quick(listen, &servers, None, None).unwrap();
        assert!(config.admin.is_none() && config.access_log.is_none());
        assert!(matches!(config.pools[0].health.check, Check::Tcp));
        let twice = [servers[0].clone(), servers[0].clone()];
        let problems = Config::quick(listen, &twice, None, None).unwrap_err();
        assert!(problems.to_string().starts_with("command line: pools.app.servers[1]: `web:80` is the address"));
        assert!(Config::quick(listen, &[], None, None).is_err());
    }
}
