//! The store: one method per transition.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use idem_core::{
    Change, Claim, Claimed, Forgotten, Inspection, Lease, Listing, Maintenance, Page, RecordId,
    Store, StoreError, Token, Watch,
};

use super::calls::Calls;
use super::record::State;
use super::{MAX_OUTCOME_BYTES, NAME, changes, claims, listing};

/// Keeps records in a table of DynamoDB. Clones share its client.
#[derive(Clone)]
pub struct DynamoDbStore {
    calls: Arc<Calls>,
}

impl DynamoDbStore {
    pub(super) fn new(calls: Calls) -> Self {
        Self {
            calls: Arc::new(calls),
        }
    }

    pub(super) fn calls(&self) -> &Calls {
        &self.calls
    }
}

#[async_trait]
impl Store for DynamoDbStore {
    fn name(&self) -> &'static str {
        NAME
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        Some(self)
    }

    fn max_outcome_bytes(&self) -> Option<usize> {
        Some(MAX_OUTCOME_BYTES)
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        claims::claim(&self.calls, claim).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Change, StoreError> {
        changes::renew(&self.calls, lease).await
    }

    async fn complete(&self, lease: &Lease, outcome: Bytes) -> Result<Change, StoreError> {
        changes::complete(&self.calls, lease, &outcome).await
    }

    async fn release(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        changes::release(&self.calls, id, token).await
    }

    async fn abandon(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        changes::end(&self.calls, id, token, State::Abandoned).await
    }

    async fn checkpoint(
        &self,
        lease: &Lease,
        at: usize,
        steps: Bytes,
    ) -> Result<Change, StoreError> {
        changes::checkpoint(&self.calls, lease, at, &steps).await
    }

    async fn suspend(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        changes::end(&self.calls, id, token, State::Suspended).await
    }

    async fn inspect(&self, id: &RecordId) -> Result<Option<Inspection>, StoreError> {
        let _permit = self.calls.lanes.claim().await?;
        let found = self.calls.get(id).await?;
        let date = found.date();
        match found.value {
            Some(record) if !record.is_expired(date) => {
                record.inspection(date, self.calls.now()?).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// DynamoDB tells nobody of a change: waiters poll.
    async fn watch(&self, _: &RecordId) -> Result<Watch, StoreError> {
        Ok(Watch::never())
    }

    /// All records are read for a page, and paid for, a megabyte at most; where a state other than finished
    /// is asked for, those of the index `unfinished`, if the table has it. That index is eventually
    /// consistent: a record whose attempt began moments ago may be missing.
    async fn list(&self, listing: &Listing) -> Result<Page, StoreError> {
        listing::page(&self.calls, listing).await
    }

    async fn forget(&self, id: &RecordId) -> Result<Forgotten, StoreError> {
        changes::forget(&self.calls, id, None).await
    }
}

impl fmt::Debug for DynamoDbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDbStore")
            .field("table", &self.calls.table)
            .finish_non_exhaustive()
    }
}
