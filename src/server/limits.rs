//! What the system lets the process have.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::Config;

/// Every client takes a descriptor, and so does every connection to a server.
const FEW: u64 = 1024;

/// Raises the limit of open files as far as it goes, and logs it.
pub fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(hard)
    });
    match raised {
        Ok(limit) if limit < FEW => {
            log::warn!(limit = limit, hint = "raise it to twice the connections you expect"; "open_files");
        }
        Ok(limit) => log::info!(limit = limit; "open_files"),
        Err(error) => log::warn!(error = error.to_string(); "open_files_cannot_be_raised"),
    }
}

/// Connections that there are descriptors for, so that whoever is let in can be served, and the admin listener, checks
/// of health and Redis are never without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Of clients, over all listeners. Each may need one to a server too.
    pub connections: usize,
    /// To servers, unused.
    pub idle: usize,
}

/// What of a configuration's connections the limit of open files allows. Logs it where that is less than configured.
pub fn budget(config: &Config) -> Budget {
    let wanted = Budget {
        connections: config.listeners.iter().map(|l| l.limits.connections).fold(0, usize::saturating_add),
        idle: config.pools.iter().map(|pool| pool.upstream.idle_max).sum::<usize>().max(1),
    };
    let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) else { return wanted };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let budget = fit(limit, wanted);
    if budget != wanted {
        let needed = wanted.connections.saturating_mul(2).saturating_add(wanted.idle + reserve(usize::MAX));
        log::warn!(
            limit = limit, connections = budget.connections, configured = wanted.connections, idle = budget.idle,
            hint = format!("raise the limit of open files (ulimit -n, LimitNOFILE) to {needed}, or configure fewer");
            "open_files_limit_connections"
        );
    }
    budget
}

/// Requests at once. None: any number.
///
/// Each may need a connection to a server. A client of HTTP/1 has one at a time, for which there is a descriptor; one of
/// HTTP/2 may have a hundred.
pub fn in_flight(config: &Config, budget: Budget) -> Option<usize> {
    let many = config.listeners.iter().any(|listener| listener.protocols.h2 || listener.protocols.h2c);
    let most = many.then_some(budget.connections);
    config.max_in_flight.into_iter().chain(most).min()
}

/// Descriptors for all but connections of clients and to servers.
fn reserve(limit: usize) -> usize {
    (limit / 8).clamp(64, 512)
}

fn fit(limit: usize, wanted: Budget) -> Budget {
    let left = limit.saturating_sub(reserve(limit));
    let idle = wanted.idle.min(left / 4).max(1);
    let connections = wanted.connections.min(left.saturating_sub(idle) / 2).max(1);
    Budget { connections, idle }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_http2_do_not_take_more_than_there_is() {
        let config = |protocols: &str, more: &str| {
            let listeners = format!("listeners: [{{ address: 127.0.0.1:0, protocols: {protocols} }}]");
            let text = format!("version: 1\n{listeners}\npools: {{ app: {{ servers: [10.0.0.1:80] }} }}\n{more}");
            crate::config::parse(&text, "f", &|_| None).unwrap()
        };
        let budget = Budget { connections: 100, idle: 10 };
        assert_eq!(in_flight(&config("[h1]", ""), budget), None);
        assert_eq!(in_flight(&config("[h1]", "max_in_flight: 500"), budget), Some(500));
        assert_eq!(in_flight(&config("[h1, h2c]", ""), budget), Some(100));
        assert_eq!(in_flight(&config("[h2c]", "max_in_flight: 500"), budget), Some(100));
        assert_eq!(in_flight(&config("[h2c]", "max_in_flight: 50"), budget), Some(50));
    }

    #[test]
    fn what_fits_stays_and_what_does_not_is_cut() {
        let wanted = Budget { connections: 50_000, idle: 1024 };
        assert_eq!(fit(1 << 20, wanted), wanted);
        assert_eq!(fit(usize::MAX, wanted), wanted);
        assert_eq!(fit(20_000, wanted), Budget { connections: 9_232, idle: 1024 });
        let few = Budget { connections: 100, idle: 10 };
        assert_eq!(fit(1024, few), few);
        for limit in [0, 10, 64, 100, 256, 1024, 4096, 65_536] {
            let Budget { connections, idle } = fit(limit, wanted);
            assert!(connections >= 1 && idle >= 1);
            assert!(limit < 70 || 2 * connections + idle + reserve(limit) <= limit, "{limit}: {connections}, {idle}");
        }
    }
}
