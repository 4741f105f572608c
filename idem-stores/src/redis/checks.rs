//! What is checked at start-up. Whatever would keep an outcome from being stored later is an error. Each
//! setting that weakens what the store promises is a warning with its reason.

use std::sync::Arc;
use std::time::Duration;

use idem_core::{Claim, Finding, Fingerprint, Lease, RecordId, Store, StoreError, Token};
use redis::{Value, cmd};
use tracing::warn;

use super::backend::Backend;
use super::durability::Durability;
use super::errors::CallError;
use super::link::Link;
use super::store::RedisStore;
use super::target::Target;
use super::{NAME, record, v1};
use crate::{ConnectError, findings};

/// The oldest version with `SET … NX GET`, script flags and sharded pub/sub.
const OLDEST: (u32, u32) = (7, 0);

/// The oldest version of Redis, and of Valkey, with `SET … IFEQ`.
const COMPARES_REDIS: (u32, u32) = (8, 4);
const COMPARES_VALKEY: (u32, u32) = (8, 1);

/// The lease and the retention of the records that are tried.
const TRIAL_LIFETIME: Duration = Duration::from_secs(5);

/// # Errors
/// When the server cannot be reached, refuses the login or a transition, or is a node of a cluster
/// that the URL takes for a standalone server.
pub(super) async fn run(store: &RedisStore) -> Result<(), ConnectError> {
    let Backend {
        target,
        lanes,
        own_claims,
        ..
    } = store.backend();
    lanes.open().await.map_err(connect_error)?;
    let link = lanes.claim_link();
    // Every login may do this.
    link.send(&cmd("PING")).await.map_err(connect_error)?;
    let compare = check_settings(link, target, lanes.durability()).await?;
    match try_transitions(store).await {
        // Only now, so that the script of a completion was tried.
        Ok(()) if compare => own_claims.enable(),
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

/// Whether every server has `SET … IFEQ`; `false` where that is not known.
async fn check_settings(
    link: &Link,
    target: &Target,
    durability: &Durability,
) -> Result<bool, ConnectError> {
    let servers = match servers(link).await {
        Ok(servers) => servers,
        Err(error) => {
            warn!(
                target: "idem",
                error = &error as &dyn std::error::Error,
                "the settings of the redis server could not be read; it is not known whether the server keeps records"
            );
            return Ok(false);
        }
    };
    let compare = !servers.is_empty() && servers.iter().all(Server::compares);
    for server in servers {
        if server.is_in_cluster && !target.is_cluster() {
            return Err(ConnectError::Unfit {
                store: NAME,
                problem: ALONE_IN_CLUSTER.into(),
            });
        }
        findings::warn_of(&server.findings(target, durability));
    }
    Ok(compare)
}

const ALONE_IN_CLUSTER: &str = "it is a node of a cluster, which redirects most records to other nodes; use redis-cluster:// or rediss-cluster://";

/// The settings of the server, or of each of a cluster's.
///
/// # Errors
/// When they cannot be read.
async fn servers(link: &Link) -> Result<Vec<Server>, StoreError> {
    let info = link.send(&cmd("INFO")).await?;
    let syncs = match link
        .send(&*cmd("CONFIG").arg("GET").arg("appendfsync"))
        .await
    {
        Ok(settings) => texts(settings),
        // This right is optional.
        Err(_) => Vec::new(),
    };
    let sync = syncs.iter().find(|sync| *sync == "everysec");
    let sync = sync.or_else(|| syncs.iter().find(|sync| *sync != "appendfsync"));
    let with_sync = |info: &String| Server {
        sync: sync.cloned(),
        ..Server::read(info)
    };
    Ok(texts(info).iter().map(with_sync).collect())
}

/// The servers' settings, and every transition that applications make.
pub(super) async fn examine(store: &RedisStore) -> Result<Vec<Finding>, StoreError> {
    let Backend { target, lanes, .. } = store.backend();
    let link = lanes.claim_link();
    // Every login may do this.
    link.send(&cmd("PING")).await?;
    let mut found = Vec::new();
    match servers(link).await {
        Ok(servers) => {
            for server in servers {
                found.extend(server.findings(target, lanes.durability()));
                if server.is_in_cluster && !target.is_cluster() {
                    found.push(Finding::problem(
                        "cluster",
                        "one node",
                        ALONE_IN_CLUSTER,
                        "",
                    ));
                }
                if server.appends && server.sync.is_none() {
                    found.push(Finding::warning(
                        "appendfsync",
                        "not known",
                        "this login may not read the setting: it is not known whether a crash loses outcomes that the redis server has acknowledged",
                        "let it call CONFIG GET, or look at the server",
                    ));
                }
            }
        }
        Err(error @ StoreError::Rejected { .. }) => found.push(Finding::warning(
            "settings",
            "not known",
            with_source(&error),
            "let this login call INFO",
        )),
        Err(error) => return Err(error),
    }
    found.push(match try_transitions(store).await {
        Ok(()) => Finding::fine("transitions", "all were tried"),
        Err(error) if error.is_outage() => return Err(error),
        Err(error) => Finding::problem(
            "transitions",
            "refused",
            with_source(&error),
            "give this login the rights that the guide to stores lists",
        ),
    });
    // The servers of a cluster mostly say the same.
    let mut seen = Vec::with_capacity(found.len());
    for finding in found {
        if !seen.contains(&finding) {
            seen.push(finding);
        }
    }
    Ok(seen)
}

/// The error, and what the server has said.
fn with_source(error: &StoreError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
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

/// Connects, and has every look and claim ask for records of version 1, too, unless a marker says that
/// there are none. Writes nothing.
pub(super) async fn attach(store: &RedisStore) -> Result<(), ConnectError> {
    let Backend { target, lanes, .. } = store.backend();
    lanes.open().await.map_err(connect_error)?;
    let link = lanes.claim_link();
    // Every login may do this.
    link.send(&cmd("PING")).await.map_err(connect_error)?;
    if let Ok(servers) = servers(link).await
        && servers.iter().any(|server| server.is_in_cluster)
        && !target.is_cluster()
    {
        return Err(ConnectError::Unfit {
            store: NAME,
            problem: ALONE_IN_CLUSTER.into(),
        });
    }
    let has_none = says_no_v1_records(store).await;
    store.backend().set_may_have_v1_records(!has_none);
    Ok(())
}

async fn says_no_v1_records(store: &RedisStore) -> bool {
    let Backend { lanes, prefix, .. } = store.backend();
    let mut get = cmd("GET");
    get.arg(v1::marker(prefix));
    let said = lanes.claim_link().send(&get).await;
    matches!(said, Ok(Value::BulkString(said)) if said == v1::NO_V1_RECORDS)
}

/// Finds out whether there may be records of version 1. If so, claims look for them.
async fn look_for_v1_records(store: &RedisStore, target: &Arc<Target>) {
    if says_no_v1_records(store).await {
        return;
    }
    let link = store.backend().lanes.claim_link();
    let prefix = &store.backend().prefix;
    let marker = v1::marker(prefix);
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

/// Of a version, its first two numbers.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Server {
    version: String,
    is_valkey: bool,
    valkey_version: String,
    eviction: String,
    appends: bool,
    is_primary: bool,
    is_in_cluster: bool,
    replicas: u32,
    /// `appendfsync`, where it could be read.
    sync: Option<String>,
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
                "valkey_version" => value.clone_into(&mut server.valkey_version),
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
        numbers(&self.version).is_some_and(|version| version < OLDEST)
    }

    /// Whether it has `SET … IFEQ`.
    fn compares(&self) -> bool {
        let (version, oldest) = match self.is_valkey {
            true => (&self.valkey_version, COMPARES_VALKEY),
            false => (&self.version, COMPARES_REDIS),
        };
        numbers(version).is_some_and(|version| version >= oldest)
    }

    fn evicts(&self) -> bool {
        !self.eviction.is_empty() && self.eviction != "noeviction"
    }

    fn findings(&self, target: &Target, durability: &Durability) -> Vec<Finding> {
        let version = match self.is_valkey {
            true => format!("{}, a Valkey", self.version),
            false => self.version.clone(),
        };
        let mut found = vec![
            match self.is_too_old() {
                false => Finding::fine("version", version),
                true => Finding::warning(
                    "version",
                    version,
                    "the redis server is older than 7.0 and lacks commands that claims need",
                    "upgrade the server",
                ),
            },
            match self.evicts() {
                false => Finding::fine("maxmemory-policy", self.eviction.clone()),
                true => Finding::warning(
                    "maxmemory-policy",
                    self.eviction.clone(),
                    "the redis server may evict records, and the retry of an evicted one runs again",
                    "set maxmemory-policy to noeviction",
                ),
            },
            match self.appends {
                true => Finding::fine("appendonly", "yes"),
                false => Finding::warning(
                    "appendonly",
                    "no",
                    "the redis server keeps no append-only file: a restart forgets records, and their retries run again",
                    "set appendonly to yes",
                ),
            },
        ];
        match &self.sync {
            Some(sync) if self.appends => found.push(match &**sync {
                "everysec" => Finding::warning(
                    "appendfsync",
                    "everysec",
                    "the redis server syncs its disk once a second: a crash or a full disk loses outcomes that it has acknowledged, and their retries run again",
                    "set appendfsync to always",
                ),
                sync => Finding::fine("appendfsync", sync.to_owned()),
            }),
            _ => {}
        }
        if !self.is_primary && !target.is_cluster() {
            found.push(Finding::warning(
                "role",
                "replica",
                "the redis URL leads to a replica, which takes no claims",
                "connect to the primary",
            ));
        }
        if self.is_primary && self.replicas < durability.replicas {
            found.push(Finding::warning(
                "replicas",
                self.replicas.to_string(),
                format!(
                    "the redis server has fewer replicas than the {} that claims require: nothing runs until there are enough",
                    durability.replicas
                ),
                "start more replicas, or lower wait_replicas",
            ));
        }
        found
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

    #[test]
    fn new_versions_set_what_is_equal() {
        let compares = |info: &str| Server::read(info).compares();
        assert!(compares("redis_version:8.4.0"));
        assert!(compares("redis_version:10.0.1"));
        assert!(compares(
            "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.0"
        ));
        for older in [
            "redis_version:7.4.2",
            "redis_version:8.2.3",
            "redis_version:unstable",
            "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.0.9",
            "",
        ] {
            assert!(!compares(older), "{older}");
        }
    }
}
