//! What operators ask of the store.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use idem_core::{Change, Finding, Forgotten, Maintenance, RecordId, Seen, StoreError, Swept};

use super::store::DynamoDbStore;
use super::{changes, checks};

#[async_trait]
impl Maintenance for DynamoDbStore {
    /// As the `Date` of an answer tells it: cut to a second.
    async fn time(&self) -> Result<SystemTime, StoreError> {
        let nobody = RecordId::from_bytes(rand::random());
        let answer = self.calls().get(&nobody).await?;
        let seconds = u64::try_from(answer.date()).unwrap_or_default();
        Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        Box::pin(checks::examine(self.calls())).await
    }

    async fn sweep(&self, _max_records: u32) -> Result<Swept, StoreError> {
        Ok(Swept::ByServer)
    }

    async fn revoke(&self, id: &RecordId, attempt: u32) -> Result<Change, StoreError> {
        changes::revoke(self.calls(), id, attempt).await
    }

    async fn forget_seen(&self, id: &RecordId, seen: Seen) -> Result<Forgotten, StoreError> {
        changes::forget(self.calls(), id, Some(seen)).await
    }
}
