//! Settings of the store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::backend::Backend;
use super::durability::Durability;
use super::lanes::{Bounds, Lanes};
use super::store::RedisStore;
use super::subscriptions::Subscriptions;
use super::target::{MAX_TIMEOUT, MIN_TIMEOUT, Target};
use super::{checks, url};
use crate::ConnectError;

impl RedisStore {
    /// Starts a store from a URL; see [`connect`](crate::connect()) for what it can say.
    ///
    /// # Errors
    /// When the URL is malformed. No message repeats it.
    pub fn builder(url: &str) -> Result<RedisStoreBuilder, ConnectError> {
        RedisStoreBuilder::parse(url)
    }

    /// Connects to what the URL names.
    ///
    /// # Errors
    /// As [`RedisStore::builder`] and [`RedisStoreBuilder::connect`].
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        Self::builder(url)?.connect().await
    }
}

/// Settings of a [`RedisStore`].
#[must_use]
pub struct RedisStoreBuilder {
    target: Target,
    prefix: String,
    bounds: Bounds,
    durability: Durability,
}

impl RedisStoreBuilder {
    fn parse(url: &str) -> Result<Self, ConnectError> {
        let (target, options) = url::parse(url)?;
        Ok(Self {
            target,
            prefix: options.prefix.unwrap_or_else(|| "idem:".to_owned()),
            bounds: options.bounds,
            durability: options.durability,
        })
    }

    /// The prefix of every key; `idem:` unless given. The rest of a key is the record's id in base64url,
    /// 43 characters.
    ///
    /// An ACL user needs the keys and the channels with this prefix; the guide to stores in
    /// `idem-rs` (`idem::guide::stores`) lists its rights.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The timeout of a call, waiting and reconnecting included; 2 seconds unless given, from 10
    /// milliseconds to a day. A connection that has not answered for so long is replaced.
    ///
    /// Keep it below half of the engine's store timeout, which leaves time for a second try, and
    /// below a third of the shortest lease.
    pub fn command_timeout(mut self, timeout: Duration) -> Self {
        self.target.command_timeout = timeout.clamp(MIN_TIMEOUT, MAX_TIMEOUT);
        self
    }

    /// How many claims, inspections and watches are under way at once; 256 unless given, 1 at least.
    /// Calls of lease holders are not counted, and do not wait for them.
    pub fn max_claims(mut self, claims: usize) -> Self {
        self.bounds.claims = claims.max(1);
        self
    }

    /// How many more may wait in a queue; 4096 unless given. When the queue is full, the next call fails
    /// at once with [`StoreError::Overloaded`](idem_core::StoreError::Overloaded). A call that has waited
    /// for half of the command timeout fails with
    /// [`StoreError::NotSent`](idem_core::StoreError::NotSent).
    pub fn max_waiting(mut self, waiting: usize) -> Self {
        self.bounds.waiting = waiting;
        self
    }

    /// How many replicas must have a claim before its body runs, and an outcome before it counts as
    /// stored (`WAIT`); 0 unless given. On a primary that is cut off from its replicas nothing runs then.
    ///
    /// The wait is a quarter of the command timeout at most. A claim that is not confirmed by then is
    /// undone, and refused with [`StoreError::NotReady`](idem_core::StoreError::NotReady). An outcome is
    /// sent again, as when the server is away. Every first call costs two more round trips, between the
    /// primary and its replicas. This does not choose the replica that is promoted: a replica that lags
    /// forgets what it does not have.
    pub fn wait_replicas(mut self, replicas: u32) -> Self {
        self.durability.replicas = replicas;
        self
    }

    /// As [`wait_replicas`](Self::wait_replicas), until the primary's append-only file and those of
    /// this many replicas have it on the disk (`WAITAOF`, of Redis 7.2 and Valkey). With
    /// `appendfsync everysec` that takes up to a second for each.
    pub fn wait_aof(mut self, replicas: u32) -> Self {
        self.durability.aof_replicas = Some(replicas);
        self
    }

    /// The login of the sentinels. The login in the URL is the primary's.
    pub fn sentinel_login(
        mut self,
        username: impl Into<String>,
        password: impl Into<String>,
    ) -> Self {
        self.target.sentinel_login = Some((username.into(), password.into()));
        self
    }

    /// Trusts these certificates, in PEM, instead of the system's.
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

    /// Connects, tries every transition once with a record of its own, and warns of server settings that
    /// weaken what the store promises.
    ///
    /// The first start on a database scans all keys for records of version 1; see
    /// `docs/upgrading.md`.
    ///
    /// # Errors
    /// [`ConnectError::Store`] when the server cannot be reached, or refuses the login or one of the
    /// transitions: a right is missing, or it has no scripts. [`ConnectError::Unfit`] when a
    /// `redis://` URL leads to a node of a cluster.
    pub async fn connect(self) -> Result<RedisStore, ConnectError> {
        let store = self.open();
        // Apart, so that the callers' own futures stay shallow.
        Box::pin(checks::run(&store)).await?;
        Ok(store)
    }

    /// Connects for tools beside the application: it tries nothing, writes nothing, and asks for no
    /// right before it is needed.
    ///
    /// # Errors
    /// [`ConnectError::Store`] when the server cannot be reached or refuses the login,
    /// [`ConnectError::Unfit`] when a `redis://` URL leads to a node of a cluster.
    pub async fn attach(self) -> Result<RedisStore, ConnectError> {
        let store = self.open();
        Box::pin(checks::attach(&store)).await?;
        Ok(store)
    }

    fn open(self) -> RedisStore {
        let target = Arc::new(self.target);
        let mut durability = self.durability;
        durability.timeout = target.command_timeout / 4;
        let lanes = Lanes::new(&target, self.bounds, durability);
        let backend = Backend::new(Arc::clone(&target), lanes, self.prefix.into_bytes());
        let subscriptions = Subscriptions::new(Arc::clone(&target));
        RedisStore::new(backend, subscriptions, target.kind())
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
