//! Settings of the store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::checks;
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
}

impl RedisStoreBuilder {
    pub(super) fn parse(url: &str) -> Result<Self, ConnectError> {
        let (target, options) = Target::parse(url)?;
        Ok(Self {
            target,
            prefix: options.prefix.unwrap_or_else(|| "idem:".to_owned()),
            bounds: options.bounds,
        })
    }

    /// What every key begins with; `idem:` unless given. The rest is the record's id in base64url,
    /// 43 characters.
    ///
    /// An ACL user needs the keys and the channels with this prefix: see the README.
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

    /// Connects, and warns of settings of the server that weaken what the store promises.
    ///
    /// # Errors
    /// When the server cannot be reached, or the login is refused.
    pub async fn connect(self) -> Result<RedisStore, ConnectError> {
        let target = Arc::new(self.target);
        let inner = Inner {
            lanes: Lanes::new(&target, self.bounds),
            watching: Watching::new(Arc::clone(&target)),
            scripts: Scripts::new(),
            prefix: self.prefix.into_bytes(),
            kind: target.kind(),
        };
        inner.lanes.open().await.map_err(connect_error)?;
        checks::run(inner.lanes.claims(), target.is_cluster())
            .await
            .map_err(connect_error)?;
        Ok(RedisStore {
            inner: Arc::new(inner),
        })
    }
}

fn connect_error(error: super::errors::CallError) -> ConnectError {
    ConnectError::Store(error.into())
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
