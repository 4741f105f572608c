//! A cluster of three primaries without replicas.

use std::time::Duration;

use super::{Flavor, Part, Redis};
use crate::support::wait_until;

const AGREED: Duration = Duration::from_secs(60);
/// The first and the last slot of each node.
const SLOTS: [(u16, u16); 3] = [(0, 5460), (5461, 10922), (10923, 16383)];

/// Three nodes that share all slots. A node that is down is missed after two seconds.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts a cluster and waits until every node finds it complete: two seconds at least, by
    /// the servers' own rule.
    pub fn start() -> Self {
        Self::start_on(Flavor::Redis)
    }

    /// See [`RedisCluster::start`].
    pub fn start_on(flavor: Flavor) -> Self {
        let node = |_| {
            Redis::builder()
                .flavor(flavor)
                .part(Part::ClusterNode)
                .args(&["--cluster-node-timeout", "2000"])
                .args(&["--cluster-announce-ip", "127.0.0.1"])
                .start()
        };
        let cluster = Self {
            nodes: SLOTS.iter().map(node).collect(),
        };
        for (epoch, (node, (first, last))) in (1..).zip(cluster.nodes.iter().zip(SLOTS)) {
            let mut console = node.console();
            let [first, last] = [first, last].map(|slot| slot.to_string());
            console.call(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
            // Nodes that meet with equal epochs would have to settle who gives way. Who has met
            // another can be given none.
            console.call(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch.to_string()]);
        }
        for node in &cluster.nodes {
            let mut console = node.console();
            for other in cluster.nodes.iter().filter(|other| other.port != node.port) {
                let port = other.port.to_string();
                let bus_port = other.bus_port.expect("a node has one").to_string();
                console.call(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus_port]);
            }
        }
        cluster.wait_until_ok();
        cluster
    }

    /// `redis-cluster://127.0.0.1:P1,127.0.0.1:P2,127.0.0.1:P3`
    pub fn url(&self) -> String {
        format!("redis-cluster://{}", super::addresses(&self.nodes))
    }

    /// The nodes, in the order of their slots: each has a third.
    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// Waits until every node finds the cluster complete, for example after a node's restart.
    pub fn wait_until_ok(&self) {
        for node in &self.nodes {
            let what = format!("a complete cluster in the eyes of {}", node.url());
            wait_until(&what, AGREED, || {
                let info = node.ask(&["CLUSTER", "INFO"])?;
                let slots = node.ask(&["CLUSTER", "SLOTS"])?;
                let has = |field, value: &str| info.field(field).as_deref() == Some(value);
                let complete = has("cluster_state", "ok")
                    && has("cluster_known_nodes", "3")
                    && has("cluster_slots_ok", "16384")
                    && slots.items().len() == SLOTS.len();
                if complete {
                    Ok(())
                } else {
                    Err(format!("{:?}\n{slots:?}", info.text()))
                }
            });
        }
    }
}
