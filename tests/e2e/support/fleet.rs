//! Nodes that share one Redis.

use std::time::Duration;

use super::{Client, Fairlead, Origin, Redis, config, servers, within};

/// Nodes, their Redis, and the origins behind them; the pool is `app`.
pub struct Fleet {
    /// What they share.
    pub redis: Redis,
    /// What they balance over.
    pub origins: Vec<Origin>,
    /// The nodes.
    pub nodes: Vec<Fairlead>,
    /// `redis.mode`
    pub mode: &'static str,
}

impl Fleet {
    /// So many nodes that are ready, over three origins.
    pub async fn start(mode: &'static str, nodes: usize) -> Self {
        let redis = Redis::start().await;
        let url = redis.url();
        Self::at(redis, &url, mode, nodes).await
    }

    /// Nodes that reach the Redis by this URL.
    pub async fn at(redis: Redis, url: &str, mode: &'static str, nodes: usize) -> Self {
        let mut fleet = Self::without_nodes(redis, mode);
        for _ in 0..nodes {
            fleet.nodes.push(Fairlead::spawn(&fleet.yaml(url, "")));
        }
        for node in &mut fleet.nodes {
            node.wait_ready().await;
        }
        fleet
    }

    /// Origins only.
    pub fn without_nodes(redis: Redis, mode: &'static str) -> Self {
        let origins = ["a", "b", "c"].map(Origin::start).into();
        Fleet { redis, origins, nodes: Vec::new(), mode }
    }

    /// So many nodes that are ready, over three origins of these weights.
    pub async fn weighted(mode: &'static str, nodes: usize, weights: [u32; 3]) -> Self {
        let mut fleet = Self::without_nodes(Redis::start().await, mode);
        let yaml = fleet.weighted_yaml(weights);
        for _ in 0..nodes {
            fleet.nodes.push(Fairlead::spawn(&yaml));
        }
        for node in &mut fleet.nodes {
            node.wait_ready().await;
        }
        fleet
    }

    /// The configuration of a node to which the origins have these weights.
    pub fn weighted_yaml(&self, weights: [u32; 3]) -> String {
        let server = |(origin, weight): (&Origin, u32)| {
            format!("{{ name: \"{0}\", address: \"{0}\", weight: {weight} }}", origin.server())
        };
        let list: Vec<_> = self.origins.iter().zip(weights).map(server).collect();
        self.yaml_of(&list.join(", "), &self.redis.url(), "")
    }

    /// The configuration of a node; `more` settings of Redis each begin with a comma.
    pub fn yaml(&self, url: &str, more: &str) -> String {
        let origins: Vec<_> = self.origins.iter().collect();
        self.yaml_of(&servers(&origins), url, more)
    }

    fn yaml_of(&self, servers: &str, url: &str, more: &str) -> String {
        config(&format!(
            "routes: [{{ name: all, match: {{}}, pool: app, timeouts: {{ response: 20s, idle: 20s }} }}]\n\
             pools: {{ app: {{ servers: [{servers}], health: {{ type: tcp, interval: 60s, timeout: 1s }}, ejection: none }} }}\n\
             redis: {{ url: \"{url}\", mode: {}{more} }}\n",
            self.mode
        ))
    }

    /// One more node.
    pub async fn join(&mut self) {
        self.nodes.push(Fairlead::start(&self.yaml(&self.redis.url(), "")).await);
    }

    /// Requests without an answer, so many on each node.
    pub async fn hold(&self, each: usize) -> Vec<Client> {
        let mut held = Vec::new();
        for node in &self.nodes {
            held.extend(hold(node, each).await);
        }
        held
    }

    /// Waits until Redis holds exactly this many requests, all of it agrees, and there is a row for each node.
    pub async fn settles(&self, limit: Duration, requests: i64) -> Duration {
        self.settles_with(limit, requests, self.nodes.len()).await
    }

    /// The same, with this many rows.
    pub async fn settles_with(&self, limit: Duration, requests: i64, rows: usize) -> Duration {
        let mut last = Default::default();
        let start = std::time::Instant::now();
        loop {
            let truth = self.redis.truth().await;
            if truth.sum() == requests && truth.holds(rows, self.origins.len()) {
                return start.elapsed();
            }
            let mut local = Vec::new();
            if start.elapsed() >= limit {
                for node in &self.nodes {
                    local.push(node.pool("app").await);
                }
            }
            assert!(
                start.elapsed() < limit,
                "not within {limit:?}: {requests} requests and {rows} rows in Redis: {truth:#?}\nbefore: {last:#?}\nnodes: {local:#?}"
            );
            last = truth;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until every node has said how many counts it had to put right, and fails if there is any.
    pub async fn no_drift(&self) {
        for node in &self.nodes {
            assert_eq!(node.metric("fairlead_fleet_drift_total", &[]).await, 0.0, "{}", node.log());
        }
    }

    /// Waits until every node knows this many nodes.
    pub async fn know_each_other(&self, nodes: u64) {
        for node in &self.nodes {
            within(Duration::from_secs(5), "they know each other", async || node.pool("app").await["nodes"] == nodes)
                .await;
        }
    }
}

/// Requests without an answer on one node.
pub async fn hold(node: &Fairlead, requests: usize) -> Vec<Client> {
    let mut held = Vec::new();
    for _ in 0..requests {
        let mut client = node.client().await;
        client.send_get("/hang", "").await;
        held.push(client);
    }
    held
}
