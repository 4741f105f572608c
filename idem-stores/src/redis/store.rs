//! The store: one method per transition.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use idem_core::{
    Change, Claim, Claimed, Forgotten, Inspection, Lease, Listing, Maintenance, Page, RecordId,
    Seen, Store, StoreError, Token, Watch,
};
use redis::Value;
use tokio::time::Instant;

use super::backend::Backend;
use super::claims;
use super::command::{Number, Word};
use super::errors::{CallError, UNREADABLE};
use super::lanes::Permit;
use super::own_claims::PlainCompletion;
use super::record::{self, Finished, Running, record_and_ttl};
use super::scripts::{ScriptCall, flag};
use super::subscriptions::Subscriptions;
use super::{NAME, listing, v1};

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

    /// When a claim is made that is sent now; see [`ServerClock::now`](super::clock::ServerClock::now).
    fn claim_time(&self) -> u64 {
        let (millis, is_due) = self.backend().target.clock.now();
        if is_due {
            let store = self.clone();
            tokio::spawn(async move {
                let (asked, time) = (Instant::now(), ["TIME".into()]);
                let link = store.backend().lanes.claim_link();
                if let Ok(answer) = link.send(&time[..]).await {
                    store.backend().target.clock.learn(&answer, asked);
                }
            });
        }
        millis
    }

    /// Makes the end of the running attempt publish a message. `false` if nothing is running.
    pub(super) async fn mark_watched(&self, id: &RecordId) -> Result<bool, StoreError> {
        let Backend { lanes, scripts, .. } = self.backend();
        let permit = lanes.claim().await?;
        let id = record::encoded_id(id);
        let key = self.backend().key(&id);
        let marked = permit.run(&scripts.watch.on(key, &[])).await?;
        Ok(matches!(marked, Value::Int(1)))
    }

    /// Interprets the answer of a script that recreates an absent record. A recreated record must be
    /// visible over the other connection, to claims above all. If it is not, the connections lead to
    /// two servers, and one of them has not heard that it was demoted.
    async fn applied_or_recreated(
        &self,
        lease: &Lease,
        call: &ScriptCall<'_>,
        permit: &Permit<'_>,
        answer: Value,
    ) -> Result<Change, StoreError> {
        match answer {
            Value::Int(2) => Box::pin(self.recreated(lease, call.key(), permit)).await,
            answer => change(Ok(answer)),
        }
    }

    /// Completes a record that is as its claim wrote it at this time. `false` where the script has to decide.
    async fn completes_unchanged(
        &self,
        lease: &Lease,
        at: u64,
        outcome: &[u8],
        permit: &Permit<'_>,
    ) -> Result<bool, StoreError> {
        let completion = PlainCompletion {
            prefix: &self.backend().prefix,
            lease,
            at,
            outcome,
        };
        match permit.send(&completion).await {
            Ok(Value::Okay) => Ok(true),
            // It is watched, has steps, or is not this attempt's any more.
            Ok(_) => Ok(false),
            // The script passes the memory bound, and says whatever else is wrong.
            Err(error @ CallError::Refused(_)) => {
                if error.is_unknown_command() {
                    self.backend().own_claims.disable();
                }
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn recreated(
        &self,
        lease: &Lease,
        key: Word<'_>,
        permit: &Permit<'_>,
    ) -> Result<Change, StoreError> {
        let link = self.backend().lanes.other_link(permit);
        let last = Number::new(record::OWNER_PREFIX_LEN as u64 - 1);
        let look = ["GETRANGE".into(), key, "0".into(), last.as_bytes().into()];
        let is_visible = match link.send(&look[..]).await? {
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
pub(super) fn change(answer: Result<Value, CallError>) -> Result<Change, StoreError> {
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

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        Some(self)
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let at = self.claim_time();
        claims::claim(self.backend(), claim, at).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Change, StoreError> {
        let Backend { lanes, scripts, .. } = self.backend();
        let millis = Number::new(record::lifetime(lease.duration, lease.retention));
        let record = Running::recreated(lease);
        let arguments = [
            record.as_bytes().into(),
            millis.as_bytes().into(),
            flag(lease.unbroken),
        ];
        let id = record::encoded_id(&lease.id);
        let call = scripts.renew.on(self.backend().key(&id), &arguments);
        let permit = lanes.renewal();
        let answer = permit.run(&call).await?;
        self.applied_or_recreated(lease, &call, &permit, answer)
            .await
    }

    async fn complete(&self, lease: &Lease, outcome: Bytes) -> Result<Change, StoreError> {
        let permit = self.backend().lanes.end(outcome.len()).await?;
        if !permit.is_durable()
            && let Some(at) = self.backend().own_claims.take(&lease.token)
            && self
                .completes_unchanged(lease, at, &outcome, &permit)
                .await?
        {
            return Ok(Change::Applied);
        }
        let token = record::encoded_token(&lease.token);
        let millis = Number::new(record::millis(lease.retention));
        let record = Finished::new(lease, &outcome);
        let arguments = [
            token[..].into(),
            millis.as_bytes().into(),
            flag(lease.unbroken),
            record.with(&outcome),
            flag(permit.is_durable()),
        ];
        let id = record::encoded_id(&lease.id);
        let Backend { scripts, .. } = self.backend();
        let call = scripts.complete.on(self.backend().key(&id), &arguments);
        let is_applied = |answer: &Value| matches!(answer, Value::Int(1 | 2));
        let written = permit.run_writing(&call, is_applied).await?;
        // An unconfirmed completion is sent again, and recognised.
        written.confirmation.check()?;
        self.applied_or_recreated(lease, &call, &permit, written.answer)
            .await
    }

    async fn release(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        let Backend { lanes, scripts, .. } = self.backend();
        let permit = lanes.end(0).await?;
        let (id, token) = (record::encoded_id(id), record::encoded_token(token));
        let key = self.backend().key(&id);
        change(
            permit
                .run(&scripts.release.on(key, &[token[..].into()]))
                .await,
        )
    }

    async fn abandon(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        let Backend { lanes, scripts, .. } = self.backend();
        let permit = lanes.end(0).await?;
        let (id, token) = (record::encoded_id(id), record::encoded_token(token));
        let key = self.backend().key(&id);
        change(
            permit
                .run(&scripts.abandon.on(key, &[token[..].into()]))
                .await,
        )
    }

    async fn inspect(&self, id: &RecordId) -> Result<Option<Inspection>, StoreError> {
        let backend = self.backend();
        let Backend { lanes, scripts, .. } = backend;
        let permit = lanes.claim().await?;
        let encoded = record::encoded_id(id);
        let key = backend.key(&encoded);
        match permit.run(&scripts.inspect.on(key, &[])).await? {
            Value::Nil if backend.may_have_v1_records() => {
                let key = v1::key(&backend.prefix, id);
                v1::inspect(&permit, scripts, &key).await
            }
            Value::Nil => Ok(None),
            found => {
                let (record, ttl) = record_and_ttl(found)?;
                record.inspection(ttl).ok_or(UNREADABLE).map(Some)
            }
        }
    }

    async fn watch(&self, id: &RecordId) -> Result<Watch, StoreError> {
        let key = record::key(&self.backend().prefix, id);
        let subscription = self.inner.subscriptions.subscribe(key).await?;
        match self.mark_watched(id).await? {
            true => Ok(subscription.into_watch()),
            false => Ok(Watch::new(std::future::ready(()))),
        }
    }

    async fn checkpoint(
        &self,
        lease: &Lease,
        at: usize,
        steps: Bytes,
    ) -> Result<Change, StoreError> {
        let Backend {
            lanes,
            scripts,
            own_claims,
            ..
        } = self.backend();
        let permit = lanes.end(steps.len()).await?;
        // From now on it is not as its claim wrote it.
        own_claims.take(&lease.token);
        let (id, token) = (
            record::encoded_id(&lease.id),
            record::encoded_token(&lease.token),
        );
        let at = Number::new(at as u64);
        let arguments = [token[..].into(), at.as_bytes().into(), steps[..].into()];
        let call = scripts.checkpoint.on(self.backend().key(&id), &arguments);
        let is_applied = |answer: &Value| matches!(answer, Value::Int(1));
        let written = permit.run_writing(&call, is_applied).await?;
        // An unconfirmed checkpoint is sent again, and recognised.
        written.confirmation.check()?;
        change(Ok(written.answer))
    }

    async fn suspend(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        let Backend { lanes, scripts, .. } = self.backend();
        let permit = lanes.end(0).await?;
        let (id, token) = (record::encoded_id(id), record::encoded_token(token));
        let key = self.backend().key(&id);
        change(
            permit
                .run(&scripts.suspend.on(key, &[token[..].into()]))
                .await,
        )
    }

    /// What `SCAN` promises holds: a record may be on two pages if the server's table grows or
    /// shrinks meanwhile. After a restart or a failover of a server the next page is
    /// [`StoreError::NotReady`], and the listing begins anew. In a cluster, a record whose slot moves
    /// meanwhile may be missed. Records that cannot be read, and those of version 1, are left out.
    async fn list(&self, listing: &Listing) -> Result<Page, StoreError> {
        listing::page(self.backend(), listing).await
    }

    async fn forget(&self, id: &RecordId) -> Result<Forgotten, StoreError> {
        forget(self.backend(), id, None).await
    }
}

/// `None` was seen: whatever it says.
pub(super) async fn forget(
    backend: &Backend,
    id: &RecordId,
    seen: Option<Seen>,
) -> Result<Forgotten, StoreError> {
    let Backend { lanes, scripts, .. } = backend;
    let permit = lanes.claim().await?;
    let encoded = record::encoded_id(id);
    let seen_as = seen.map(record::SeenAs::of);
    let arguments = seen_as.as_ref().map(record::SeenAs::words);
    let arguments = arguments.as_ref().map_or(&[][..], <[_; 2]>::as_slice);
    let forget = scripts.forget.on(backend.key(&encoded), arguments);
    let forgotten = forgotten(&permit, &forget).await?;
    if forgotten != Forgotten::Absent || !backend.may_have_v1_records() {
        return Ok(forgotten);
    }
    let key = v1::key(&backend.prefix, id);
    let seen_as = seen.map(|seen| (v1::letters(seen.state), seen.attempt.to_be_bytes()));
    let arguments = seen_as
        .as_ref()
        .map(|(state, attempt)| [(*state).into(), attempt[..].into()]);
    let arguments = arguments.as_ref().map_or(&[][..], <[_; 2]>::as_slice);
    self::forgotten(&permit, &scripts.v1_forget.on(key[..].into(), arguments)).await
}

async fn forgotten(permit: &Permit<'_>, forget: &ScriptCall<'_>) -> Result<Forgotten, StoreError> {
    let is_removed = |answer: &Value| matches!(answer, Value::Int(0));
    let written = permit.run_writing(forget, is_removed).await?;
    written.confirmation.check()?;
    match written.answer {
        Value::Nil => Ok(Forgotten::Absent),
        Value::Int(0) => Ok(Forgotten::Removed),
        Value::Int(-2) => Ok(Forgotten::NotAsSeen),
        Value::Int(left) => {
            let left = u64::try_from(left).map_err(|_| UNREADABLE)?;
            Ok(Forgotten::Running {
                lease_left: Duration::from_millis(left),
            })
        }
        _ => Err(UNREADABLE),
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

#[cfg(test)]
mod tests {
    use idem_core::Fingerprint;

    use super::*;
    use crate::redis::durability::Durability;
    use crate::redis::lanes::{Bounds, Lanes};
    use crate::redis::url;

    /// What the allocator serves from its thread's own cache.
    const SMALL: usize = 1032;

    #[test]
    fn the_futures_of_the_hot_paths_are_small() {
        let (target, _) = url::parse("redis://localhost").unwrap();
        let target = Arc::new(target);
        let lanes = Lanes::new(&target, Bounds::default(), Durability::default());
        let backend = Backend::new(Arc::clone(&target), lanes, b"idem:".to_vec());
        let store = RedisStore::new(backend, Subscriptions::new(target), "standalone");
        let claim = Claim::new(
            RecordId::from_bytes([1; 32]),
            Fingerprint::from_bytes([0; Fingerprint::LEN]),
            Duration::from_secs(30),
            Duration::from_secs(3600),
        );
        let lease = Lease::of(&claim, 1);
        let sizes = [
            size_of_val(&*store.claim(&claim)),
            size_of_val(&*store.complete(&lease, Bytes::new())),
            size_of_val(&*store.renew(&lease)),
        ];
        assert!(sizes.iter().all(|size| *size <= SMALL), "{sizes:?}");
    }
}
