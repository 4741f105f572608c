//! What is checked at start-up. Whatever would keep an outcome from being stored later is an error. Each
//! setting that weakens what the store promises is a warning with its reason.

use std::sync::Arc;
use std::time::Duration;

use idem_core::{Claim, Fingerprint, Lease, RecordId, Store, StoreError, Token};
use redis::{Value, cmd};
use tracing::warn;

use super::durability::Durability;
use super::errors::CallError;
use super::link::Link;
use super::store::RedisStore;
use super::target::Target;
use super::{NAME, record, v1};
use crate::ConnectError;

/// The oldest version with `SET … NX GET`, script flags and sharded pub/sub.
const OLDEST: (u32, u32) = (7, 0);

/// The lease and the retention of the records that are tried.
const TRIAL_LIFETIME: Duration = Duration::from_secs(5);

/// # Errors
/// When the server cannot be reached, refuses the login or a transition, or is a node of a cluster
/// that the URL takes for a standalone server.
pub(super) async fn run(
    store: &RedisStore,
    target: &Arc<Target>,
    durability: &Durability,
) -> Result<(), ConnectError> {
    let lanes = &store.backend().lanes;
    lanes.open().await.map_err(connect_error)?;
    let link = lanes.claim_link();
    // Every login may do this.
    link.send(&cmd("PING")).await.map_err(connect_error)?;
    check_settings(link, target, durability).await?;
    match try_transitions(store).await {
        Ok(()) => {}
        Err(error @ (StoreError::Rejected { .. } | StoreError::Unreadable { .. })) => {
            return Err(ConnectError::Store(error));
        }
        // The server, or in a cluster another node, takes no writes now.
        Err(error) => warn!(
            target: "idem",
            error = &error as &dyn std::error::Error,
            "the redis server takes no claims now; it is not known whether this login has all rights that are needed"
        ),
    }
    look_for_v1_records(store, target).await;
    Ok(())
}

fn connect_error(error: CallError) -> ConnectError {
    ConnectError::Store(error.into())
}

async fn check_settings(
    link: &Link,
    target: &Target,
    durability: &Durability,
) -> Result<(), ConnectError> {
    let info = match link.send(&cmd("INFO")).await {
        Ok(info) => info,
        Err(error) => {
            let error = StoreError::from(error);
            warn!(
                target: "idem",
                error = &error as &dyn std::error::Error,
                "the settings of the redis server could not be read; it is not known whether the server keeps records"
            );
            return Ok(());
        }
    };
    let syncs = match link
        .send(&*cmd("CONFIG").arg("GET").arg("appendfsync"))
        .await
    {
        Ok(settings) => texts(settings),
        // This right is optional.
        Err(_) => Vec::new(),
    };
    for info in texts(info) {
        let server = Server::read(&info);
        if server.is_in_cluster && !target.is_cluster() {
            return Err(ConnectError::Unfit {
                store: NAME,
                problem: "it is a node of a cluster, which redirects most records to other nodes; use redis-cluster:// or rediss-cluster://".into(),
            });
        }
        server.warn();
        if server.appends && syncs.iter().any(|sync| sync == "everysec") {
            warn!(
                target: "idem",
                "the redis server syncs its disk once a second: a crash or a full disk loses outcomes that it has acknowledged, and their retries run again; set appendfsync to always"
            );
        }
        if !server.is_primary && !target.is_cluster() {
            warn!(
                target: "idem",
                "the redis URL leads to a replica, which takes no claims"
            );
        }
        if server.is_primary && server.replicas < durability.replicas {
            warn!(
                target: "idem",
                replicas = server.replicas,
                waits_for = durability.replicas,
                "the redis server has fewer replicas than claims require: nothing runs until there are enough"
            );
        }
    }
    Ok(())
}

/// Tries every transition once. Otherwise a right that only the end of an attempt needs would be missed
/// after its body has run.
async fn try_transitions(store: &RedisStore) -> Result<(), StoreError> {
    let mut id = [0; 32];
    let (first, last) = id.split_at_mut(16);
    first.copy_from_slice(Token::random().as_bytes());
    last.copy_from_slice(Token::random().as_bytes());
    let fingerprint = Fingerprint::from_bytes([0; Fingerprint::LEN]);
    let claim = Claim::new(
        RecordId::from_bytes(id),
        fingerprint,
        TRIAL_LIFETIME,
        TRIAL_LIFETIME,
    );
    store.claim(&claim).await?;
    let _ = store.renew(&Lease::of(&claim, 1)).await?;
    store.mark_watched(&claim.id).await?;
    let _ = store.abandon(&claim.id, &claim.token).await?;
    let next = claim.by_another();
    store.claim(&next).await?;
    store.inspect(&claim.id).await?;
    let mut lease = Lease::of(&next, 2);
    lease.retention = Duration::from_millis(1);
    let _ = store.complete(&lease, bytes::Bytes::new()).await?;
    // It would be visible until its millisecond is over.
    let mut delete = cmd("DEL");
    delete.arg(record::key(&store.backend().prefix, &claim.id));
    store.backend().lanes.claim_link().send(&delete).await?;
    let mut other = *claim.id.as_bytes();
    other.reverse();
    let other = Claim::new(
        RecordId::from_bytes(other),
        fingerprint,
        TRIAL_LIFETIME,
        TRIAL_LIFETIME,
    );
    store.claim(&other).await?;
    let _ = store.release(&other.id, &other.token).await?;
    Ok(())
}

/// Finds out whether there may be records of version 1. If so, claims look for them.
async fn look_for_v1_records(store: &RedisStore, target: &Arc<Target>) {
    let link = store.backend().lanes.claim_link();
    let prefix = &store.backend().prefix;
    let marker = v1::marker(prefix);
    if let Ok(Value::BulkString(said)) = link.send(&*cmd("GET").arg(&marker)).await
        && said == v1::NO_V1_RECORDS
    {
        return;
    }
    let may_have = match v1::has_records(target, prefix).await {
        Ok(false) => {
            // If this fails, the next start looks again.
            let mut set = cmd("SET");
            set.arg(&marker).arg(v1::NO_V1_RECORDS);
            let _ = link.send(&set).await;
            false
        }
        Ok(true) => {
            warn!(
                target: "idem",
                "the redis server holds records of an older version of this library: they are respected, and every claim of this process looks for them; restart the process when the older version is gone and its records have expired"
            );
            true
        }
        Err(error) => {
            warn!(
                target: "idem",
                error = &error as &dyn std::error::Error,
                "it is not known whether the redis server holds records of an older version of this library, so every claim of this process looks for them; the next start finds out if the login has the right to SCAN"
            );
            true
        }
    };
    store.backend().set_may_have_v1_records(may_have);
}

/// The texts in an answer. `INFO` has one per server: a cluster answers one per node.
fn texts(info: Value) -> Vec<String> {
    match info {
        Value::Array(values) => values.into_iter().flat_map(texts).collect(),
        Value::BulkString(text) => vec![String::from_utf8_lossy(&text).into_owned()],
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => vec![text],
        Value::Map(nodes) => nodes
            .into_iter()
            .flat_map(|(_, info)| texts(info))
            .collect(),
        _ => Vec::new(),
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Server {
    version: String,
    is_valkey: bool,
    eviction: String,
    appends: bool,
    is_primary: bool,
    is_in_cluster: bool,
    replicas: u32,
}

impl Server {
    fn read(info: &str) -> Self {
        let mut server = Self {
            is_primary: true,
            ..Self::default()
        };
        for (name, value) in info.lines().filter_map(|line| line.trim().split_once(':')) {
            match name {
                // Valkey says Redis 7.2 here, and its own version elsewhere.
                "redis_version" => value.clone_into(&mut server.version),
                "server_name" => server.is_valkey = value == "valkey",
                "maxmemory_policy" => value.clone_into(&mut server.eviction),
                "aof_enabled" => server.appends = value == "1",
                "role" => server.is_primary = value == "master",
                "cluster_enabled" => server.is_in_cluster = value == "1",
                "connected_slaves" => server.replicas = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        server
    }

    fn is_too_old(&self) -> bool {
        let mut numbers = self.version.split('.').map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < OLDEST,
            _ => false,
        }
    }

    fn evicts(&self) -> bool {
        !self.eviction.is_empty() && self.eviction != "noeviction"
    }

    fn warn(&self) {
        if self.is_too_old() {
            warn!(
                target: "idem",
                version = self.version,
                "the redis server is older than 7.0 and lacks commands that claims need"
            );
        }
        if self.evicts() {
            warn!(
                target: "idem",
                policy = self.eviction,
                "the redis server may evict records, and the retry of an evicted one runs again; set maxmemory-policy to noeviction"
            );
        }
        if !self.appends {
            warn!(
                target: "idem",
                "the redis server keeps no append-only file: a restart forgets records, and their retries run again; set appendonly to yes"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_info_says_is_read() {
        let server = Server::read(
            "# Server\r\nredis_version:6.2.14\r\n# Memory\r\nmaxmemory_policy:allkeys-lru\r\n\
             # Persistence\r\naof_enabled:0\r\n# Replication\r\nrole:master\r\n\
             connected_slaves:2\r\n# Cluster\r\ncluster_enabled:1\r\n",
        );
        assert!(server.is_too_old() && server.evicts() && !server.appends);
        assert!(server.is_primary && server.is_in_cluster && server.replicas == 2);
        let server = Server::read(
            "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.0.1\r\n\
             maxmemory_policy:noeviction\r\naof_enabled:1\r\n",
        );
        assert!(!server.is_too_old() && !server.evicts() && server.appends);
    }
}
