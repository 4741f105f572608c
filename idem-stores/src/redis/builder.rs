//! Settings of the store.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::checks;
use super::durability::Durability;
use super::lanes::{Bounds, Lanes};
use super::scripts::Scripts;
use super::target::{LONGEST_TIMEOUT, SHORTEST_TIMEOUT, Target};
use super::watching::Watching;
use super::{Inner, RedisStore};
use crate::ConnectError;

/// Settings of a [`RedisStore`].
#[must_use]
pub struct RedisStoreBuilder {
    target: Target,
    prefix: String,
    bounds: Bounds,
    durability: Durability,
}

impl RedisStoreBuilder {
    pub(super) fn parse(url: &str) -> Result<Self, ConnectError> {
        let (target, options) = Target::parse(url)?;
        Ok(Self {
            target,
            prefix: options.prefix.unwrap_or_else(|| "idem:".to_owned()),
            bounds: options.bounds,
            durability: options.durability,
        })
    }

    /// What every key begins with; `idem:` unless given. The rest is the record's id in base64url,
    /// 43 characters.
    ///
    /// An ACL user needs the keys and the channels with this prefix; the guide to stores in
    /// `idem-rs` (`idem::guide::stores`) lists its rights.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long a call may take, its turn and reconnecting included; 2 seconds unless given, from 10
    /// milliseconds to a day. After so long without an answer the connection is replaced.
    ///
    /// Keep it below half of the engine's store timeout, which leaves time for a second try, and
    /// below a third of the shortest lease.
    pub fn command_timeout(mut self, timeout: Duration) -> Self {
        self.target.command_timeout = timeout.clamp(SHORTEST_TIMEOUT, LONGEST_TIMEOUT);
        self
    }

    /// How many claims, inspections and watches are under way at once; 256 unless given, 1 at
    /// least. Who holds a lease is not counted, and does not wait for them.
    pub fn max_claims(mut self, claims: usize) -> Self {
        self.bounds.claims = claims.max(1);
        self
    }

    /// How many more may wait for their turn; 4096 unless given. One that finds so many waiting is
    /// refused at once with [`StoreError::Overloaded`](idem_core::StoreError::Overloaded), and one
    /// that has waited for half of the command timeout with
    /// [`StoreError::NotSent`](idem_core::StoreError::NotSent).
    pub fn max_waiting(mut self, waiting: usize) -> Self {
        self.bounds.waiting = waiting;
        self
    }

    /// How many replicas must have a claim before its body runs, and an outcome before it counts as
    /// stored (`WAIT`); 0 unless given. A primary that is cut off from them then runs nothing.
    ///
    /// They are waited for for a quarter of the command timeout. A claim that not so many have by
    /// then is undone, and refused with
    /// [`StoreError::NotReady`](idem_core::StoreError::NotReady); an outcome is offered again, as
    /// when the server is away. It costs every first call two round trips between the primary and
    /// its replicas. It does not choose the replica that is promoted: one that has less forgets more.
    pub fn wait_replicas(mut self, replicas: u32) -> Self {
        self.durability.replicas = replicas;
        self
    }

    /// As [`wait_replicas`](Self::wait_replicas), until the primary's append-only file and those of
    /// so many replicas have it on the disk (`WAITAOF`, of Redis 7.2 and Valkey). With
    /// `appendfsync everysec` that takes up to a second for each.
    pub fn wait_aof(mut self, replicas: u32) -> Self {
        self.durability.files = Some(replicas);
        self
    }

    /// How to log in to the sentinels. The login of the URL is the primary's.
    pub fn sentinel_login(
        mut self,
        username: impl Into<String>,
        password: impl Into<String>,
    ) -> Self {
        self.target.sentinel_login = Some((username.into(), password.into()));
        self
    }

    /// Trusts these certificates, in PEM, and not those of the system.
    #[cfg(feature = "redis-tls")]
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.target.certificates.root_cert = Some(pem.into());
        self
    }

    /// The client's own certificate and key, in PEM.
    #[cfg(feature = "redis-tls")]
    pub fn client_certificate(
        mut self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.target.certificates.client_tls = Some(redis::ClientTlsConfig {
            client_cert: certificate.into(),
            client_key: key.into(),
        });
        self
    }

    /// Connects, makes every transition once, of a record of its own, and warns of settings of the
    /// server that weaken what the store promises.
    ///
    /// The first start over a database looks through all of its keys for records of version 1; see
    /// `docs/upgrading.md`.
    ///
    /// # Errors
    /// [`ConnectError::Store`] when the server cannot be reached, or refuses the login or one of the
    /// transitions: a right is missing, or it has no scripts. [`ConnectError::Unfit`] when a
    /// `redis://` URL leads to a node of a cluster.
    pub async fn connect(self) -> Result<RedisStore, ConnectError> {
        let target = Arc::new(self.target);
        let mut durability = self.durability;
        durability.patience = target.command_timeout / 4;
        let inner = Inner {
            lanes: Lanes::new(&target, self.bounds, durability),
            watching: Watching::new(Arc::clone(&target)),
            scripts: Scripts::new(),
            prefix: self.prefix.into_bytes(),
            kind: target.kind(),
            has_older: AtomicBool::new(false),
        };
        let store = RedisStore {
            inner: Arc::new(inner),
        };
        checks::run(&store, &target, &durability).await?;
        Ok(store)
    }
}

impl fmt::Debug for RedisStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStoreBuilder")
            .field("kind", &self.target.kind())
            .field("prefix", &self.prefix)
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}
