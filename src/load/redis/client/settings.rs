//! From our configuration to the library's.

use std::net::IpAddr;
use std::time::Duration;

use fred::types::config as library;
use fred::types::config::{ClusterDiscoveryPolicy, Server, ServerConfig, TlsConnector, TlsHostMapping};

use super::StartError;
use crate::config::{Address, Redis, RedisServers, RedisTls, certificates};

/// A connection on which an answer is overdue by this is given up, however short `command_timeout` is: Redis may be slow only.
pub(super) const UNRESPONSIVE: Duration = Duration::from_secs(1);
/// How often that is looked at.
const UNRESPONSIVE_CHECK: Duration = Duration::from_millis(200);
/// Commands that wait to be written; more are refused at once.
const MAX_QUEUED: usize = 4096;

/// All that the making of a connection needs.
pub(super) struct Settings {
    /// For the log: where Redis is, without credentials.
    pub(super) servers: String,
    pub(super) config: library::Config,
    pub(super) connection: library::ConnectionConfig,
    /// For all steps of making a connection together.
    pub(super) connect_limit: Duration,
}

impl Settings {
    pub(super) fn new(redis: &Redis) -> Result<Self, StartError> {
        let tls = redis.tls.as_ref().map(|tls| connector(tls, &redis.servers)).transpose()?;
        let hosts = match &redis.servers {
            RedisServers::Single(_) | RedisServers::Unix(_) => 1,
            RedisServers::Sentinel { hosts, .. } | RedisServers::Cluster(hosts) => hosts.len(),
        };
        let config = library::Config {
            fail_fast: true,
            username: redis.username.clone(),
            password: redis.password.clone(),
            database: Some(redis.database).filter(|database| *database != 0),
            server: server(&redis.servers),
            tls,
            ..library::Config::default()
        };
        let connection = library::ConnectionConfig {
            connection_timeout: redis.connect_timeout,
            internal_command_timeout: redis.connect_timeout,
            // A script may have run: only we know whether it may be sent again.
            max_command_attempts: 1,
            // Redirections are followed by us, after the library has renewed its table: with one attempt it would follow none.
            max_redirections: 0,
            max_command_buffer_len: MAX_QUEUED,
            unresponsive: library::UnresponsiveConfig {
                max_timeout: Some(redis.command_timeout.max(UNRESPONSIVE)),
                interval: UNRESPONSIVE_CHECK,
            },
            tcp: library::TcpConfig { nodelay: Some(true), ..library::TcpConfig::default() },
            ..library::ConnectionConfig::default()
        };
        // Each host may cost a connection and a greeting; then come the found server's own, and the scripts.
        let steps = u32::try_from(2 * hosts + 3).unwrap_or(u32::MAX);
        let connect_limit = redis.connect_timeout.saturating_mul(steps);
        let scheme = if redis.tls.is_some() { " with TLS" } else { "" };
        Ok(Self { servers: format!("{}{scheme}", redis.servers), config, connection, connect_limit })
    }
}

fn server(servers: &RedisServers) -> ServerConfig {
    let one = |host: &Address| Server::new(host.host.clone(), host.port);
    let list = |hosts: &[Address]| hosts.iter().map(one).collect();
    match servers {
        RedisServers::Single(host) => ServerConfig::Centralized { server: one(host) },
        RedisServers::Unix(path) => ServerConfig::Unix { path: path.clone() },
        RedisServers::Sentinel { hosts, service, username, password } => ServerConfig::Sentinel {
            hosts: list(hosts),
            service_name: service.clone(),
            username: username.clone(),
            password: password.clone(),
        },
        RedisServers::Cluster(hosts) => {
            ServerConfig::Clustered { hosts: list(hosts), policy: ClusterDiscoveryPolicy::ConfigEndpoint }
        }
    }
}

fn connector(tls: &RedisTls, servers: &RedisServers) -> Result<library::TlsConfig, StartError> {
    let mut builder = native_tls::TlsConnector::builder();
    builder.min_protocol_version(Some(native_tls::Protocol::Tlsv12));
    if let Some(path) = &tls.ca {
        builder.disable_built_in_roots(true);
        let refused = |reason| StartError::Certificates { path: path.display().to_string(), reason };
        for certificate in certificates(path).map_err(refused)? {
            builder.add_root_certificate(certificate);
        }
    }
    let connector = TlsConnector::try_from(builder).map_err(|error| StartError::Tls(error.details().to_owned()))?;
    // The nodes of a cluster call themselves by IP address. One that is reached by name has its certificate for the name.
    let by_name = match servers {
        RedisServers::Cluster(hosts) => hosts.iter().all(|host| host.host.parse::<IpAddr>().is_err()),
        _ => false,
    };
    let hostnames = if by_name { TlsHostMapping::DefaultHost } else { TlsHostMapping::None };
    Ok(library::TlsConfig { connector, hostnames })
}
