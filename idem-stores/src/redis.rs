//! The store of many processes: Redis 7 and newer, and Valkey.
//!
//! One key per record, one atomic step per transition, the server's clock, and the server's own
//! expiry. `SET … NX GET PX`, a plain command, answers both hot paths: a first claim and a
//! replay. Everything that must look before it writes is a script.
//!
//! | to find | look in |
//! |---|---|
//! | the bytes of a record | `record`; of version 1 `older` |
//! | claims | `claims` |
//! | the scripts | `scripts`, and the files beside it |
//! | who goes first | `lanes` |
//! | waiting for replicas | `durability` |
//! | reconnecting | `connection`; in a cluster also `redirects` |
//! | that all connections lead to one server | `whereabouts` |
//! | what an error means | `errors` |
//! | what a URL says | `target` |
//! | waking waiters | `watching` |
//! | what is checked at start-up | `checks` |
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

mod builder;
mod checks;
mod claims;
mod connection;
mod durability;
mod errors;
mod lanes;
mod older;
mod record;
mod redirects;
mod scripts;
mod target;
mod watching;
mod whereabouts;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use idem_core::{
    Change, Claim, Claimed, Inspection, Lease, RecordId, Store, StoreError, Token, Watch,
};
use redis::{Value, cmd};

pub use builder::RedisStoreBuilder;

use crate::ConnectError;
use claims::record_and_time;
use errors::{CallError, UNREADABLE};
use lanes::Lanes;
use scripts::Scripts;
use watching::Watching;

const NAME: &str = "redis";

/// Keeps records in Redis or Valkey. Clones share its connections.
#[derive(Clone)]
pub struct RedisStore {
    inner: Arc<Inner>,
}

struct Inner {
    lanes: Lanes,
    watching: Watching,
    scripts: Scripts,
    prefix: Vec<u8>,
    kind: &'static str,
    /// There may be records of version 1.
    has_older: AtomicBool,
}

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

impl RedisStore {
    /// Has whoever ends the running attempt publish it. `false` where nothing is running.
    async fn mark_watched(&self, id: &RecordId) -> Result<bool, StoreError> {
        let Inner { lanes, scripts, .. } = &*self.inner;
        let turn = lanes.claim().await?;
        let marked = turn.run(&scripts.watch, &self.inner.key(id), &[]).await?;
        Ok(matches!(marked, Value::Int(1)))
    }
}

impl Inner {
    fn key(&self, id: &RecordId) -> Vec<u8> {
        record::key(&self.prefix, id)
    }

    /// What a script answers that creates a record again where it is absent. One that was created must
    /// be where claims go: where it is not, the connections lead to two servers, and the one of
    /// those who hold leases has not heard that it is no primary any more.
    async fn changed_or_created(
        &self,
        lease: &Lease,
        key: &[u8],
        answer: Value,
    ) -> Result<Change, StoreError> {
        if answer != Value::Int(2) {
            return change(Ok(answer));
        }
        let link = self.lanes.claims();
        let mut look = cmd("GETRANGE");
        look.arg(key).arg(0).arg(record::CREATED_LEN - 1);
        let is_there = match link.send(&look).await? {
            Value::BulkString(bytes) => record::is_created(&bytes, &lease.token),
            _ => false,
        };
        if is_there {
            return Ok(Change::Applied);
        }
        link.doubt();
        Err(StoreError::not_ready(NAME, Elsewhere))
    }

    fn has_older(&self) -> bool {
        self.has_older.load(Ordering::Relaxed)
    }
}

/// What a script answers that changes a record.
fn change(answer: Result<Value, CallError>) -> Result<Change, StoreError> {
    match answer? {
        Value::Int(1) => Ok(Change::Applied),
        Value::Int(0) => Ok(Change::LeaseLost),
        _ => Err(UNREADABLE),
    }
}

#[derive(Debug)]
struct Elsewhere;

impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it was asked of a server that is no primary any more")
    }
}

impl std::error::Error for Elsewhere {}

const fn flag(set: bool) -> &'static [u8] {
    if set { b"1" } else { b"0" }
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
        let Inner { lanes, scripts, .. } = &*self.inner;
        let millis = record::lifetime(lease.duration, lease.retention).to_string();
        let record = record::created(lease);
        let arguments = [&record[..], millis.as_bytes(), flag(lease.unbroken)];
        let key = self.inner.key(&lease.id);
        let answer = lanes
            .renewal()
            .run(&scripts.renew, &key, &arguments)
            .await?;
        self.inner.changed_or_created(lease, &key, answer).await
    }

    async fn complete(&self, lease: &Lease, outcome: Bytes) -> Result<Change, StoreError> {
        let Inner { lanes, scripts, .. } = &*self.inner;
        let turn = lanes.end(outcome.len()).await?;
        let token = record::printed(&lease.token);
        let millis = record::millis(lease.retention).to_string();
        let record = record::finished(lease, &outcome);
        let arguments = [
            &token[..],
            millis.as_bytes(),
            flag(lease.unbroken),
            &record,
            flag(turn.is_durable()),
        ];
        let key = self.inner.key(&lease.id);
        let is_applied = |answer: &Value| matches!(answer, Value::Int(1 | 2));
        let written = turn
            .run_writing(&scripts.complete, &key, &arguments, is_applied)
            .await?;
        // Where it has not reached everybody it is sent again, and recognised.
        written.reach.check()?;
        self.inner
            .changed_or_created(lease, &key, written.answer)
            .await
    }

    async fn release(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        let Inner { lanes, scripts, .. } = &*self.inner;
        let turn = lanes.end(0).await?;
        let (key, token) = (self.inner.key(id), record::printed(token));
        change(turn.run(&scripts.release, &key, &[&token]).await)
    }

    async fn abandon(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        let Inner { lanes, scripts, .. } = &*self.inner;
        let turn = lanes.end(0).await?;
        let (key, token) = (self.inner.key(id), record::printed(token));
        change(turn.run(&scripts.abandon, &key, &[&token]).await)
    }

    async fn inspect(&self, id: &RecordId) -> Result<Option<Inspection>, StoreError> {
        let Inner { lanes, scripts, .. } = &*self.inner;
        let turn = lanes.claim().await?;
        let key = self.inner.key(id);
        match turn.run(&scripts.inspect, &key, &[]).await? {
            Value::Nil if self.inner.has_older() => {
                let key = older::key(&self.inner.prefix, id);
                older::inspect(&turn, scripts, &key).await
            }
            Value::Nil => Ok(None),
            found => {
                let (record, left) = record_and_time(found)?;
                Ok(Some(record.inspection(left)))
            }
        }
    }

    async fn watch(&self, id: &RecordId) -> Result<Watch, StoreError> {
        let Inner { watching, .. } = &*self.inner;
        let subscription = watching.subscribe(self.inner.key(id)).await?;
        match self.mark_watched(id).await? {
            true => Ok(subscription.into_watch()),
            false => Ok(Watch::new(std::future::ready(()))),
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
