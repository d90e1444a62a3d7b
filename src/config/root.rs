//! The whole file: its top-level keys, and its schema.

use ipnet::IpNet;
use serde_json::{Value, json};

use super::fields::Fields;
use super::kind::{Kind, List, Named, OrNone, Section, count, whole};
use super::listener::{Listener, listener};
use super::pool::{PoolDraft, pool};
use super::problem::Findings;
use super::process::{AccessLog, Admin, Log, Shutdown, access_log, admin, log, shutdown};
use super::redis::{Redis, redis};
use super::route::{RouteDraft, route};
use super::tree::Node;
use super::units::{check_name, network};
use super::{Config, check};

/// What was read before the sections are checked against each other. Gaps are where a problem was noted.
pub(super) struct Draft {
    pub(super) listeners: Vec<Option<Listener>>,
    pub(super) routes: Vec<Option<RouteDraft>>,
    pub(super) pools: Vec<(String, Option<PoolDraft>)>,
    pub(super) admin: Option<Admin>,
    trusted_proxies: Vec<Option<IpNet>>,
    /// None: it has a problem.
    pub(super) redis: Option<Option<Redis>>,
    log: Log,
    access_log: Option<AccessLog>,
    shutdown: Shutdown,
    max_in_flight: Option<usize>,
    threads: usize,
}

/// Reads and checks everything. None only after a problem was noted.
pub(super) fn read(root: &Node, found: &mut Findings) -> Option<Config> {
    let draft = match root {
        Node::Null => {
            found.add("is empty: it needs at least `version`, `listeners` and `pools`");
            return None;
        }
        node => Section(draft).read(node, found)?,
    };
    check::across(&draft, found);
    let redis = draft.redis.flatten();
    // Without a scope in the file: as far as counts are shared at all.
    let resolve = |draft: RouteDraft| {
        let mut route = draft.route;
        if let Some(limit) = &mut route.rate_limit {
            limit.fleet = draft.fleet_limit.unwrap_or(true) && redis.is_some();
        }
        route
    };
    Some(Config {
        listeners: draft.listeners.into_iter().flatten().collect(),
        trusted_proxies: draft.trusted_proxies.into_iter().flatten().collect(),
        routes: draft.routes.into_iter().flatten().map(resolve).collect(),
        pools: draft.pools.into_iter().filter_map(|(_, draft)| Some(draft?.pool)).collect(),
        redis,
        admin: draft.admin,
        log: draft.log,
        access_log: draft.access_log,
        shutdown: draft.shutdown,
        max_in_flight: draft.max_in_flight,
        threads: draft.threads,
    })
}

fn draft(f: &mut Fields<'_>) -> Option<Draft> {
    f.required("version", "Of this format; always 1.", whole(1, 1));
    let listeners = f.required(
        "listeners",
        "Where clients connect.",
        List { item: Section(listener), of: "listeners", empty: false },
    );
    let trusted_proxies = f.default(
        "trusted_proxies",
        "Networks of peers whose `X-Forwarded-*` headers are believed.",
        List { item: network(), of: "networks", empty: true },
        json!([]),
    );
    let routes = f.default(
        "routes",
        "Which requests go where; the most specific match wins. None: everything goes to the only pool.",
        List { item: Section(route), of: "routes", empty: true },
        json!([]),
    );
    let pools = f.required(
        "pools",
        "Servers that do the same work, by name of the pool.",
        Named { value: Section(pool), of: "pools", empty: false, check: check_name },
    );
    let redis = f.optional(
        "redis",
        "Shares the counts of the whole fleet. Left out: counts live in this process, and nothing else changes.",
        Section(redis),
    );
    let redis = if redis.is_none() && !f.given("redis") { Some(None) } else { redis };
    let admin = f.optional("admin", "The admin listener. Left out: there is none.", Section(admin));
    let log = f.section("log", "The process's own log, on standard error.", log);
    let access_log =
        f.optional("access_log", "The log of requests. Left out: they are not logged.", Section(access_log));
    let shutdown = f.section("shutdown", "How the process ends.", shutdown);
    let max_in_flight = f.default(
        "max_in_flight",
        "Requests at once on this node; beyond them clients get 503. `none`: no limit.",
        OrNone(count(1, 10_000_000)),
        "none",
    );
    let threads = f.default("threads", "Worker threads of the proxy; 0: one per core.", count(0, 1024), 0);
    f.later(&["runtime_dir"]);
    Some(Draft {
        // What is missing or bad has been noted: go on with the rest of it.
        listeners: listeners.unwrap_or_default(),
        trusted_proxies: trusted_proxies.unwrap_or_default(),
        routes: routes.unwrap_or_default(),
        pools: pools.unwrap_or_default(),
        redis,
        admin,
        log: log?,
        access_log,
        shutdown: shutdown?,
        max_in_flight: max_in_flight?,
        threads: threads?,
    })
}

/// JSON Schema (2020-12) of the configuration file, for editors.
pub fn schema() -> Value {
    let mut schema = Section(draft).schema();
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("Fairlead");
    schema["description"] = json!("Configuration of the Fairlead load balancer.");
    schema["$defs"] = json!({
        "variable": {
            "description": "Text with a variable of the environment: ${NAME} or ${NAME:-DEFAULT}.",
            "type": "string",
            "pattern": "\\$\\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\\}",
        }
    });
    schema
}
