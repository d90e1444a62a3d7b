//! Configurations of other proxies: one thread, the server with the fewest connections.

use std::fmt::{Error, Write};
use std::net::SocketAddr;

/// What a configuration of HAProxy has besides.
pub struct Haproxy<'a> {
    /// `timeout connect` and `timeout server`.
    pub timeouts: [&'a str; 2],
    /// Lines of the frontend.
    pub frontend: &'a [&'a str],
    /// Lines of the backend.
    pub backend: &'a [&'a str],
    /// Words of each server.
    pub server: &'a str,
}

/// A file for HAProxy.
pub fn haproxy(address: SocketAddr, servers: &[SocketAddr], more: &Haproxy) -> Result<String, Error> {
    let [connect, server] = more.timeouts;
    let mut text = format!(
        "global\n  nbthread 1\n  maxconn 8192\n\
         defaults\n  mode http\n  timeout connect {connect}\n  timeout client 60s\n  timeout server {server}\n\
         frontend public\n  bind {address} backlog 4096\n"
    );
    for line in more.frontend {
        writeln!(text, "  {line}")?;
    }
    text.push_str("  default_backend app\nbackend app\n  balance leastconn\n  http-reuse always\n");
    for line in more.backend {
        writeln!(text, "  {line}")?;
    }
    for (number, server) in servers.iter().enumerate() {
        writeln!(text, "  server s{number} {server} {}", more.server)?;
    }
    Ok(text)
}

/// A file for nginx, which keeps its own files in `prefix`; `location` are directives of the only one.
pub fn nginx(address: SocketAddr, servers: &[SocketAddr], prefix: &str, location: &str) -> Result<String, Error> {
    let mut text = format!(
        "daemon off; master_process off; worker_processes 1; pid {prefix}/pid; error_log stderr crit;\n\
         events {{ worker_connections 8192; }}\nhttp {{\n access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;\n"
    );
    // It makes these folders even if it never uses them.
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(text, " {kind}_temp_path {prefix}/{kind};")?;
    }
    text.push_str(" upstream app {\n  least_conn;\n");
    for server in servers {
        writeln!(text, "  server {server};")?;
    }
    write!(
        text,
        "  keepalive 512; keepalive_requests 1000000000;\n }}\n server {{\n  listen {address} backlog=4096;\n  location / {{\n   \
         proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\";\n   {location}\n  }}\n }}\n}}\n"
    )?;
    Ok(text)
}
