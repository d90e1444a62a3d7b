//! The Lua scripts, as text and as the SHA1 that `EVALSHA` wants.

use std::sync::LazyLock;

/// A script and its SHA1.
pub struct Script {
    /// For logs and metrics.
    pub name: &'static str,
    /// What `EVAL` and `SCRIPT LOAD` want.
    pub source: &'static str,
    /// What `EVALSHA` wants: 40 hex digits.
    pub sha1: String,
}

impl Script {
    fn new(name: &'static str, source: &'static str) -> Self {
        let sha1 = fred::util::sha1_hash(source);
        Self { name, source, sha1 }
    }
}

/// Publish counts, pick servers, renew the lease, take a snapshot: the only hot one.
pub static EXCHANGE: LazyLock<Script> = LazyLock::new(|| Script::new("exchange", include_str!("scripts/exchange.lua")));
/// Read or change the table of servers.
pub static REGISTER: LazyLock<Script> = LazyLock::new(|| Script::new("register", include_str!("scripts/register.lua")));
/// Take back the counts of a dead node, or one's own at the end.
pub static REAP: LazyLock<Script> = LazyLock::new(|| Script::new("reap", include_str!("scripts/reap.lua")));
/// Set totals and sorted sets right from the rows.
pub static AUDIT: LazyLock<Script> = LazyLock::new(|| Script::new("audit", include_str!("scripts/audit.lua")));
/// Take from the common buckets of a rate limit, and give back.
pub static RATE: LazyLock<Script> = LazyLock::new(|| Script::new("rate", include_str!("scripts/rate.lua")));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_has_its_own_sha1() {
        let all = [&EXCHANGE, &REGISTER, &REAP, &AUDIT, &RATE];
        for (i, script) in all.iter().enumerate() {
            assert_eq!(script.sha1.len(), 40, "{}", script.name);
            assert!(all[..i].iter().all(|other| other.sha1 != script.sha1));
        }
    }
}
