//! What operators ask of the store.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use idem_core::{Change, Finding, Forgotten, Maintenance, RecordId, Seen, StoreError, Swept};
use redis::Value;

use super::backend::Backend;
use super::command::Number;
use super::errors::UNREADABLE;
use super::store::{RedisStore, change, forget};
use super::{checks, clock, record};

#[async_trait]
impl Maintenance for RedisStore {
    /// In a cluster, of one of its servers.
    async fn time(&self) -> Result<SystemTime, StoreError> {
        let link = self.backend().lanes.claim_link();
        let answer = link.send(&["TIME".into()][..]).await?;
        let millis = clock::millis_of(&answer).ok_or(UNREADABLE)?;
        Ok(SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        Box::pin(checks::examine(self)).await
    }

    async fn sweep(&self, _max_records: u32) -> Result<Swept, StoreError> {
        Ok(Swept::ByServer)
    }

    /// A record of version 1 is of another program, and stays its owner's.
    async fn revoke(&self, id: &RecordId, attempt: u32) -> Result<Change, StoreError> {
        let Backend { lanes, scripts, .. } = self.backend();
        let permit = lanes.claim().await?;
        let (id, attempt) = (record::encoded_id(id), Number::new(attempt.into()));
        let arguments = [attempt.as_bytes().into()];
        let call = scripts.revoke.on(self.backend().key(&id), &arguments);
        let is_applied = |answer: &Value| matches!(answer, Value::Int(1));
        let written = permit.run_writing(&call, is_applied).await?;
        written.confirmation.check()?;
        change(Ok(written.answer))
    }

    async fn forget_seen(&self, id: &RecordId, seen: Seen) -> Result<Forgotten, StoreError> {
        forget(self.backend(), id, Some(seen)).await
    }
}
