//! The store: one method per transition.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use idem_core::{
    Change, Claim, Claimed, Inspection, Lease, RecordId, Store, StoreError, Token, Watch,
};
use redis::{Value, cmd};

use super::backend::Backend;
use super::claims;
use super::errors::{CallError, UNREADABLE};
use super::record::{self, record_and_ttl};
use super::scripts::flag;
use super::subscriptions::Subscriptions;
use super::{NAME, v1};

/// Keeps records in Redis or Valkey. Clones share its connections.
#[derive(Clone)]
pub struct RedisStore {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Backend,
    subscriptions: Subscriptions,
    kind: &'static str,
}

impl RedisStore {
    pub(super) fn new(backend: Backend, subscriptions: Subscriptions, kind: &'static str) -> Self {
        let inner = Inner {
            backend,
            subscriptions,
            kind,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    pub(super) fn backend(&self) -> &Backend {
        &self.inner.backend
    }

    /// Makes the end of the running attempt publish a message. `false` if nothing is running.
    pub(super) async fn mark_watched(&self, id: &RecordId) -> Result<bool, StoreError> {
        let Backend { lanes, scripts, .. } = self.backend();
        let permit = lanes.claim().await?;
        let key = self.backend().key(id);
        let marked = permit.run(&scripts.watch, &key, &[]).await?;
        Ok(matches!(marked, Value::Int(1)))
    }

    /// Interprets the answer of a script that recreates an absent record. A recreated record must be
    /// visible to claims. If it is not, the connections lead to two servers, and the server of the
    /// lease holders has not heard that it was demoted.
    async fn applied_or_recreated(
        &self,
        lease: &Lease,
        key: &[u8],
        answer: Value,
    ) -> Result<Change, StoreError> {
        if answer != Value::Int(2) {
            return change(Ok(answer));
        }
        let link = self.backend().lanes.claim_link();
        let mut look = cmd("GETRANGE");
        look.arg(key).arg(0).arg(record::OWNER_PREFIX_LEN - 1);
        let is_visible = match link.send(&look).await? {
            Value::BulkString(bytes) => record::is_recreated(&bytes, &lease.token),
            _ => false,
        };
        if is_visible {
            return Ok(Change::Applied);
        }
        link.reconnect_all();
        Err(StoreError::not_ready(NAME, DemotedPrimary))
    }
}

/// Interprets the answer of a script that changes a record.
fn change(answer: Result<Value, CallError>) -> Result<Change, StoreError> {
    match answer? {
        Value::Int(1) => Ok(Change::Applied),
        Value::Int(0) => Ok(Change::LeaseLost),
        _ => Err(UNREADABLE),
    }
}

#[derive(Debug)]
struct DemotedPrimary;

impl fmt::Display for DemotedPrimary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the call went to a server that is not the primary any more")
    }
}

impl std::error::Error for DemotedPrimary {}

#[async_trait]
impl Store for RedisStore {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        claims::claim(self.backend(), claim).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Change, StoreError> {
        let Backend { lanes, scripts, .. } = self.backend();
        let millis = record::lifetime(lease.duration, lease.retention).to_string();
        let record = record::recreated(lease);
        let arguments = [&record[..], millis.as_bytes(), flag(lease.unbroken)];
        let key = self.backend().key(&lease.id);
        let answer = lanes
            .renewal()
            .run(&scripts.renew, &key, &arguments)
            .await?;
        self.applied_or_recreated(lease, &key, answer).await
    }

    async fn complete(&self, lease: &Lease, outcome: Bytes) -> Result<Change, StoreError> {
        let Backend { lanes, scripts, .. } = self.backend();
        let permit = lanes.end(outcome.len()).await?;
        let token = record::encoded_token(&lease.token);
        let millis = record::millis(lease.retention).to_string();
        let record = record::finished(lease, &outcome);
        let arguments = [
            &token[..],
            millis.as_bytes(),
            flag(lease.unbroken),
            &record,
            flag(permit.is_durable()),
        ];
        let key = self.backend().key(&lease.id);
        let is_applied = |answer: &Value| matches!(answer, Value::Int(1 | 2));
        let written = permit
            .run_writing(&scripts.complete, &key, &arguments, is_applied)
            .await?;
        // An unconfirmed completion is sent again, and recognised.
        written.confirmation.check()?;
        self.applied_or_recreated(lease, &key, written.answer).await
    }

    async fn release(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        let Backend { lanes, scripts, .. } = self.backend();
        let permit = lanes.end(0).await?;
        let (key, token) = (self.backend().key(id), record::encoded_token(token));
        change(permit.run(&scripts.release, &key, &[&token]).await)
    }

    async fn abandon(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        let Backend { lanes, scripts, .. } = self.backend();
        let permit = lanes.end(0).await?;
        let (key, token) = (self.backend().key(id), record::encoded_token(token));
        change(permit.run(&scripts.abandon, &key, &[&token]).await)
    }

    async fn inspect(&self, id: &RecordId) -> Result<Option<Inspection>, StoreError> {
        let backend = self.backend();
        let Backend { lanes, scripts, .. } = backend;
        let permit = lanes.claim().await?;
        match permit.run(&scripts.inspect, &backend.key(id), &[]).await? {
            Value::Nil if backend.may_have_v1_records() => {
                let key = v1::key(&backend.prefix, id);
                v1::inspect(&permit, scripts, &key).await
            }
            Value::Nil => Ok(None),
            found => {
                let (record, ttl) = record_and_ttl(found)?;
                Ok(Some(record.inspection(ttl)))
            }
        }
    }

    async fn watch(&self, id: &RecordId) -> Result<Watch, StoreError> {
        let key = self.backend().key(id);
        let subscription = self.inner.subscriptions.subscribe(key).await?;
        match self.mark_watched(id).await? {
            true => Ok(subscription.into_watch()),
            false => Ok(Watch::new(std::future::ready(()))),
        }
    }

    async fn checkpoint(
        &self,
        _lease: &Lease,
        _at: usize,
        _steps: Bytes,
    ) -> Result<Change, StoreError> {
        Err(crate::error::not_built(NAME))
    }

    async fn suspend(&self, _id: &RecordId, _token: &Token) -> Result<Change, StoreError> {
        Err(crate::error::not_built(NAME))
    }

    async fn list(&self, _listing: &idem_core::Listing) -> Result<idem_core::Page, StoreError> {
        Err(crate::error::not_built(NAME))
    }

    async fn forget(&self, _id: &RecordId) -> Result<idem_core::Forgotten, StoreError> {
        Err(crate::error::not_built(NAME))
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("kind", &self.inner.kind)
            .field(
                "prefix",
                &String::from_utf8_lossy(&self.inner.backend.prefix),
            )
            .finish_non_exhaustive()
    }
}
