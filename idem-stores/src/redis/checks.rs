//! What is asked of the server once, at start-up. What would keep an outcome from being stored later
//! is an error now; settings that weaken what the store promises are each a warning with its reason.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use idem_core::{Claim, Fingerprint, Lease, RecordId, Store, StoreError, Token};
use redis::{Value, cmd};
use tracing::warn;

use super::connection::Link;
use super::durability::Durability;
use super::errors::CallError;
use super::target::Target;
use super::{NAME, RedisStore, older};
use crate::ConnectError;

/// Since `SET … NX GET`, script flags and sharded pub/sub.
const OLDEST: (u32, u32) = (7, 0);

/// How long the records live that the transitions are tried with.
const TRIED: Duration = Duration::from_secs(5);

/// # Errors
/// When the server cannot be reached, refuses the login or a transition, or is a node of a cluster
/// that the URL takes for a server of its own.
pub(super) async fn run(
    store: &RedisStore,
    target: &Arc<Target>,
    durability: &Durability,
) -> Result<(), ConnectError> {
    let lanes = &store.inner.lanes;
    lanes.open().await.map_err(connect_error)?;
    let link = lanes.claims();
    // The login may do this as well, whatever else it may not.
    link.send(&cmd("PING")).await.map_err(connect_error)?;
    settings(link, target, durability).await?;
    match transitions(store).await {
        Ok(()) => {}
        Err(error @ (StoreError::Rejected { .. } | StoreError::Unreadable { .. })) => {
            return Err(ConnectError::Store(error));
        }
        // It is there, and takes no writes now; or in a cluster another node does not.
        Err(error) => warn!(
            target: "idem",
            error = &error as &dyn std::error::Error,
            "the redis server takes no claims now; whether this login may do all that is needed is not known"
        ),
    }
    look_for_older(store, target).await;
    Ok(())
}

fn connect_error(error: CallError) -> ConnectError {
    ConnectError::Store(error.into())
}

async fn settings(
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
                "the settings of the redis server could not be read; whether it keeps records is not known"
            );
            return Ok(());
        }
    };
    let syncs = match link.send(cmd("CONFIG").arg("GET").arg("appendfsync")).await {
        Ok(settings) => texts(settings),
        // A right that is not asked for.
        Err(_) => Vec::new(),
    };
    for info in texts(info) {
        let server = Server::read(&info);
        if server.is_in_cluster && !target.is_cluster() {
            return Err(ConnectError::Unfit {
                store: NAME,
                problem: "it is a node of a cluster, which redirects most records to other nodes; write redis-cluster://, or rediss-cluster://".into(),
            });
        }
        server.warn();
        if server.appends && syncs.iter().any(|sync| sync == "everysec") {
            warn!(
                target: "idem",
                "the redis server writes to its disk once a second: a crash, or a disk that is full, loses outcomes that it has acknowledged, and their retries run again; set appendfsync to always"
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
                "the redis server has fewer replicas than claims wait for: nothing runs until there are enough"
            );
        }
    }
    Ok(())
}

/// Makes every transition once. A right that only the end of an attempt needs would be missed when
/// its body has run.
async fn transitions(store: &RedisStore) -> Result<(), StoreError> {
    let mut id = [0; 32];
    let (first, last) = id.split_at_mut(16);
    first.copy_from_slice(Token::random().as_bytes());
    last.copy_from_slice(Token::random().as_bytes());
    let fingerprint = Fingerprint::from_bytes([0; Fingerprint::LEN]);
    let claim = Claim::new(RecordId::from_bytes(id), fingerprint, TRIED, TRIED);
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
    // Who lists keys would see it until its millisecond is over.
    let mut delete = cmd("DEL");
    delete.arg(store.inner.key(&claim.id));
    store.inner.lanes.claims().send(&delete).await?;
    let mut other = *claim.id.as_bytes();
    other.reverse();
    let other = Claim::new(RecordId::from_bytes(other), fingerprint, TRIED, TRIED);
    store.claim(&other).await?;
    let _ = store.release(&other.id, &other.token).await?;
    Ok(())
}

/// Finds out whether there may be records of version 1, and has them asked for then.
async fn look_for_older(store: &RedisStore, target: &Arc<Target>) {
    let link = store.inner.lanes.claims();
    let prefix = &store.inner.prefix;
    let marker = older::marker(prefix);
    if let Ok(Value::BulkString(said)) = link.send(cmd("GET").arg(&marker)).await
        && said == older::NOTHING_OLDER
    {
        return;
    }
    let has_older = match older::are_there(target, prefix).await {
        Ok(false) => {
            // Where this fails the next start looks again.
            let mut set = cmd("SET");
            set.arg(&marker).arg(older::NOTHING_OLDER);
            let _ = link.send(&set).await;
            false
        }
        Ok(true) => {
            warn!(
                target: "idem",
                "the redis server holds records of an older version of this library: what they say counts, and every claim of this process asks for them, too; start it again when the older version is gone and its records have expired"
            );
            true
        }
        Err(error) => {
            warn!(
                target: "idem",
                error = &error as &dyn std::error::Error,
                "whether the redis server holds records of an older version of this library is not known, and so every claim of this process asks for them; it is found out at the next start, for which the login needs the right to SCAN"
            );
            true
        }
    };
    store.inner.has_older.store(has_older, Ordering::Relaxed);
}

/// The texts in an answer; of `INFO` one of a server, one per node of a cluster.
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
                // Valkey calls itself Redis 7.2 here, and says its own beside it.
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
                "the redis server is older than 7.0 and does not know the commands that claims are made of"
            );
        }
        if self.evicts() {
            warn!(
                target: "idem",
                policy = self.eviction,
                "the redis server may drop records to make room, and a retry of a dropped one runs again; set maxmemory-policy to noeviction"
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
