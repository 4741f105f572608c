//! The store of many processes: Redis 7 and newer, and Valkey.
//!
//! One key per record, one atomic step per transition, the server's clock, and the server's own
//! expiry. `SET … NX GET PX`, a plain command, answers both hot paths: a first claim and a
//! replay. Everything that must look before it writes is a script.
//!
//! | to find | look in |
//! |---|---|
//! | the bytes of a record | `record` |
//! | the scripts | `scripts`, and the files beside it |
//! | reconnecting | `connection` |
//! | what a URL says | `target` |
//! | waking waiters | `watching` |
//! | what is warned of at start-up | `checks` |
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use idem_stores::redis::RedisStore;
//!
//! let store = RedisStore::builder("redis://app:secret@127.0.0.1/0")?
//!     .prefix("shop:idem:")
//!     .command_timeout(Duration::from_millis(800))
//!     .connect()
//!     .await?;
//! # drop(store);
//! # Ok(())
//! # }
//! ```

mod checks;
mod connection;
mod record;
mod scripts;
mod target;
mod watching;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use idem_core::{
    Change, Claim, Claimed, Inspection, Lease, OnCrash, RecordId, Store, StoreError, Token, Watch,
};
use redis::{ErrorKind, RedisError, ServerErrorKind, Value};

use crate::ConnectError;
use connection::Link;
use record::Record;
use scripts::{Script, Scripts, set_if_absent};
use target::{LONGEST_TIMEOUT, SHORTEST_TIMEOUT, Target};
use watching::Watching;

const NAME: &str = "redis";

/// Settings of a [`RedisStore`].
#[must_use]
pub struct RedisStoreBuilder {
    target: Target,
    prefix: String,
}

impl RedisStoreBuilder {
    /// What every key begins with; `idem:` unless given. The rest is the record's id, 32 bytes.
    ///
    /// An ACL user needs the keys and the channels with this prefix: see the README.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long a command may take, reconnecting included; 2 seconds unless given, from 10
    /// milliseconds to a day. After so long without an answer the connection is replaced.
    ///
    /// Keep it below half of the engine's store timeout, which leaves time for a second try, and
    /// below a third of the shortest lease.
    pub fn command_timeout(mut self, timeout: Duration) -> Self {
        self.target.command_timeout = timeout.clamp(SHORTEST_TIMEOUT, LONGEST_TIMEOUT);
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
            link: Link::new(Arc::clone(&target)),
            watching: Watching::new(Arc::clone(&target)),
            scripts: Scripts::new(),
            prefix: self.prefix.into_bytes(),
            kind: target.kind(),
        };
        checks::run(&inner.link, target.is_cluster())
            .await
            .map_err(|error| ConnectError::Store(store_error(error)))?;
        Ok(RedisStore {
            inner: Arc::new(inner),
        })
    }
}

impl fmt::Debug for RedisStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStoreBuilder")
            .field("kind", &self.target.kind())
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// Keeps records in Redis or Valkey. Clones share its connections.
#[derive(Clone)]
pub struct RedisStore {
    inner: Arc<Inner>,
}

struct Inner {
    link: Link,
    watching: Watching,
    scripts: Scripts,
    prefix: Vec<u8>,
    kind: &'static str,
}

impl RedisStore {
    /// Starts a store from a URL; see [`connect`](crate::connect()) for what it can say.
    ///
    /// # Errors
    /// When the URL is malformed. No message repeats it.
    pub fn builder(url: &str) -> Result<RedisStoreBuilder, ConnectError> {
        let (target, options) = Target::parse(url)?;
        Ok(RedisStoreBuilder {
            target,
            prefix: options.prefix.unwrap_or_else(|| "idem:".to_owned()),
        })
    }

    /// Connects to what the URL names.
    ///
    /// # Errors
    /// As [`RedisStore::builder`] and [`RedisStoreBuilder::connect`].
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        Self::builder(url)?.connect().await
    }
}

impl Inner {
    fn key(&self, id: &RecordId) -> Vec<u8> {
        [&self.prefix[..], id.as_bytes()].concat()
    }

    /// One plain command where it is enough, and a script where it found a record that is
    /// running.
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let key = self.key(&claim.id);
        let fresh = record::first_attempt(claim);
        let millis = record::lifetime(claim.lease, claim.retention);
        loop {
            let set = set_if_absent(&key, &fresh, millis);
            let full = match self.link.send(&set).await {
                Ok(Value::Nil) => return Ok(Claimed::Acquired { attempt: 1 }),
                Ok(found) => {
                    if let Some(answer) = record_of(found)?.answer_alone(claim) {
                        return Ok(answer);
                    }
                    false
                }
                // What is there is given back by a server without room, too.
                Err(error) if is_out_of_memory(&error) => true,
                Err(error) => return Err(store_error(error)),
            };
            let found = self
                .run(
                    &self.scripts.claim,
                    &key,
                    &[
                        claim.token.as_bytes(),
                        &claim.fingerprint.to_bytes(),
                        &record::stored(claim.retention),
                        millis.to_string().as_bytes(),
                        match claim.on_crash {
                            OnCrash::Rerun => b"1",
                            _ => b"0",
                        },
                    ],
                )
                .await?;
            match found {
                Value::Int(attempt) => {
                    let attempt = u32::try_from(attempt).unwrap_or(u32::MAX);
                    return Ok(Claimed::Acquired { attempt });
                }
                Value::Nil if full => {
                    return Err(StoreError::Full {
                        store: NAME,
                        max_bytes: None,
                    });
                }
                // It ended between the two looks, and is free.
                Value::Nil => {}
                found => {
                    let (record, left) = record_and_time(found)?;
                    return Ok(record.answer(claim, left));
                }
            }
        }
    }

    async fn run(
        &self,
        script: &Script,
        key: &[u8],
        arguments: &[&[u8]],
    ) -> Result<Value, StoreError> {
        script
            .run(&self.link, key, arguments)
            .await
            .map_err(store_error)
    }

    /// A change that needs the token.
    async fn change(
        &self,
        script: &Script,
        id: &RecordId,
        token: &Token,
        arguments: &[&[u8]],
    ) -> Result<Change, StoreError> {
        let arguments = [&[token.as_bytes().as_slice()], arguments].concat();
        match self.run(script, &self.key(id), &arguments).await? {
            Value::Int(1) => Ok(Change::Applied),
            Value::Int(0) => Ok(Change::LeaseLost),
            _ => Err(UNREADABLE),
        }
    }
}

#[async_trait]
impl Store for RedisStore {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        self.inner.claim(claim).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Change, StoreError> {
        let millis = record::lifetime(lease.duration, lease.retention).to_string();
        let arguments = [&record::stored(lease.retention)[..], millis.as_bytes()];
        self.inner
            .change(
                &self.inner.scripts.renew,
                &lease.id,
                &lease.token,
                &arguments,
            )
            .await
    }

    async fn complete(&self, lease: &Lease, outcome: Bytes) -> Result<Change, StoreError> {
        let millis = record::millis(lease.retention).to_string();
        let arguments = [&outcome[..], millis.as_bytes()];
        self.inner
            .change(
                &self.inner.scripts.complete,
                &lease.id,
                &lease.token,
                &arguments,
            )
            .await
    }

    async fn release(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.inner
            .change(&self.inner.scripts.release, id, token, &[])
            .await
    }

    async fn abandon(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.inner
            .change(&self.inner.scripts.abandon, id, token, &[])
            .await
    }

    async fn inspect(&self, id: &RecordId) -> Result<Option<Inspection>, StoreError> {
        let key = self.inner.key(id);
        match self
            .inner
            .run(&self.inner.scripts.inspect, &key, &[])
            .await?
        {
            Value::Nil => Ok(None),
            found => {
                let (record, left) = record_and_time(found)?;
                Ok(Some(record.inspection(left)))
            }
        }
    }

    async fn watch(&self, id: &RecordId) -> Result<Watch, StoreError> {
        let key = self.inner.key(id);
        let subscription = self
            .inner
            .watching
            .subscribe(key.clone())
            .await
            .map_err(store_error)?;
        match self.inner.run(&self.inner.scripts.watch, &key, &[]).await? {
            Value::Int(1) => Ok(subscription.into_watch()),
            _ => Ok(Watch::new(std::future::ready(()))),
        }
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("kind", &self.inner.kind)
            .field("prefix", &String::from_utf8_lossy(&self.inner.prefix))
            .finish_non_exhaustive()
    }
}

fn record_of(found: Value) -> Result<Record, StoreError> {
    match found {
        Value::BulkString(bytes) => Record::decode(bytes).ok_or(UNREADABLE),
        _ => Err(UNREADABLE),
    }
}

/// What the scripts `claim` and `inspect` answer of a record that they left as it is.
fn record_and_time(found: Value) -> Result<(Record, Duration), StoreError> {
    let Value::Array(found) = found else {
        return Err(UNREADABLE);
    };
    let Ok([record, Value::Int(left)]) = <[Value; 2]>::try_from(found) else {
        return Err(UNREADABLE);
    };
    // A record without an end (-1) is not one of ours.
    let left = u64::try_from(left).map_err(|_| UNREADABLE)?;
    Ok((record_of(record)?, Duration::from_millis(left)))
}

const UNREADABLE: StoreError = StoreError::Unreadable { store: NAME };

fn is_out_of_memory(error: &RedisError) -> bool {
    error.code() == Some("OOM")
}

fn store_error(error: RedisError) -> StoreError {
    // Another kind of value lies at the key.
    if error.code() == Some("WRONGTYPE") {
        return UNREADABLE;
    }
    if is_out_of_memory(&error) {
        return StoreError::Full {
            store: NAME,
            max_bytes: None,
        };
    }
    if is_refusal(&error) {
        return StoreError::rejected(NAME, error);
    }
    StoreError::unavailable(NAME, error)
}

/// Whether the server will say the same again: it does not let this user, or is too old.
fn is_refusal(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::AuthenticationFailed
        | ErrorKind::InvalidClientConfig
        | ErrorKind::RESP3NotSupported
        | ErrorKind::Server(ServerErrorKind::NoPerm) => true,
        ErrorKind::Server(ServerErrorKind::ResponseError) => error.detail().is_some_and(|detail| {
            let known = [
                "unknown command",
                "syntax error",
                "wrong number",
                // Of a command inside a script, and of the database to select.
                "can't run this command",
                "no permissions",
            ];
            known.iter().any(|known| detail.contains(known))
        }),
        _ => matches!(error.code(), Some("WRONGPASS" | "NOAUTH")),
    }
}
