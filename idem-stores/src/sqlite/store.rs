//! The store: one method per transition.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::changes::{Checkpoint, Completion, End, Removal, Transition};
use super::limits::Limits;
use super::readers::Readers;
use super::record::Record;
use super::sweeping::{BATCH_PAUSE, SWEEP_BATCH};
use super::target::{Opened, Target};
use super::watches::Watches;
use super::writer::Writer;
use super::writes::Job;
use super::{NAME, checks, schema, statements};
use crate::ConnectError;
use async_trait::async_trait;
use bytes::Bytes;
use idem_core::{
    Change, Claim, Claimed, Finding, Forgotten, Inspection, Lease, Listing, Maintenance, Page,
    RecordId, Seen, Store, StoreError, Swept, Token, Watch,
};

/// Keeps records in a SQLite database. Clones share its connections, which close with the last
/// one.
///
/// It may be used from any runtime, and from several. A call that is dropped may take effect all the
/// same, as if its answer was lost.
///
/// Tests move its clock, for every process that uses the database:
/// `UPDATE idem_schema SET clock_offset_ms = clock_offset_ms + 3600000`.
#[derive(Clone)]
pub struct SqliteStore {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    target: Arc<Target>,
    readers: Readers,
    watches: Arc<Watches>,
    pub(super) writer: Writer,
}

impl SqliteStore {
    /// The statements that create the tables, one text per version, to be run by hand or by the
    /// application's own migrations: in this order, each once, in one transaction.
    pub const MIGRATIONS: &[&str] = schema::MIGRATIONS;

    pub(super) fn new(
        target: Target,
        opened: Option<Opened>,
        limits: Limits,
    ) -> Result<Self, ConnectError> {
        let target = Arc::new(target);
        let watches = Arc::<Watches>::default();
        let readers = Readers::new(Arc::clone(&target), &limits);
        let writer = Writer::new(Arc::clone(&target), opened, Arc::clone(&watches), limits);
        // Its thread sweeps, even if this process never writes.
        writer.start().map_err(ConnectError::Store)?;
        Ok(Self {
            inner: Arc::new(Inner {
                readers,
                watches,
                writer,
                target,
            }),
        })
    }

    /// Creates the tables `idem_schema` and `idem_records`, or upgrades them to this version. The
    /// statements are in the package's `src/sqlite/migrations`. It may be called again, and by
    /// many processes at once.
    ///
    /// # Errors
    /// As [`SqliteStoreBuilder::connect`](super::SqliteStoreBuilder::connect). All of it is done, or
    /// nothing.
    pub async fn migrate(&self) -> Result<(), ConnectError> {
        let mut opened = self.inner.target.open().await?;
        schema::migrate(&mut opened.connection).await
    }

    /// Deletes up to `batch` expired records in one transaction, and returns how many: fewer if their
    /// outcomes exceed 4 MiB, and 0 only if no expired record is left. The store does it by itself,
    /// unless it was told not to.
    ///
    /// # Errors
    /// When the database cannot be written, or too many calls wait for it.
    pub async fn sweep(&self, batch: u32) -> Result<u64, StoreError> {
        let writer = &self.inner.writer;
        writer
            .request_queued(batch, Instant::now(), Job::Sweep)
            .await
    }

    async fn end(&self, id: &RecordId, transition: Transition) -> Result<Change, StoreError> {
        let end = End {
            id: *id,
            transition,
        };
        self.inner.writer.request(end, Job::End).await
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn name(&self) -> &'static str {
        NAME
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        Some(self)
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let since = Instant::now();
        let Inner {
            readers, writer, ..
        } = &*self.inner;
        let answer = readers
            .read(since, async |connection| {
                statements::answer(connection, claim).await
            })
            .await?;
        match answer {
            Some(answer) => Ok(answer),
            None => writer.request_queued(*claim, since, Job::Claim).await,
        }
    }

    async fn renew(&self, lease: &Lease) -> Result<Change, StoreError> {
        self.inner.writer.request(*lease, Job::Renew).await
    }

    async fn complete(&self, lease: &Lease, outcome: Bytes) -> Result<Change, StoreError> {
        let completion = Completion {
            lease: *lease,
            outcome,
        };
        self.inner.writer.request(completion, Job::Complete).await
    }

    async fn release(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.end(id, Transition::Release(*token)).await
    }

    async fn abandon(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.end(id, Transition::Abandon(*token)).await
    }

    async fn inspect(&self, id: &RecordId) -> Result<Option<Inspection>, StoreError> {
        let record = self
            .inner
            .readers
            .read(Instant::now(), async |connection| {
                statements::look(connection, id, None).await
            })
            .await?;
        Ok(record.map(Record::inspection))
    }

    async fn watch(&self, id: &RecordId) -> Result<Watch, StoreError> {
        // The writer's thread polls for changes by other processes.
        self.inner.writer.start()?;
        self.inner.watches.watch(id, &self.inner.readers).await
    }

    async fn checkpoint(
        &self,
        lease: &Lease,
        at: usize,
        steps: Bytes,
    ) -> Result<Change, StoreError> {
        let checkpoint = Checkpoint {
            lease: *lease,
            at,
            steps,
        };
        self.inner.writer.request(checkpoint, Job::Checkpoint).await
    }

    async fn suspend(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.end(id, Transition::Suspend(*token)).await
    }

    async fn list(&self, listing: &Listing) -> Result<Page, StoreError> {
        self.inner
            .readers
            .read(Instant::now(), async |connection| {
                statements::list(connection, listing).await
            })
            .await
    }

    async fn forget(&self, id: &RecordId) -> Result<Forgotten, StoreError> {
        let removal = Removal {
            id: *id,
            seen: None,
        };
        let writer = &self.inner.writer;
        writer
            .request_queued(removal, Instant::now(), Job::Forget)
            .await
    }
}

#[async_trait]
impl Maintenance for SqliteStore {
    async fn time(&self) -> Result<SystemTime, StoreError> {
        let readers = &self.inner.readers;
        let millis = readers.read(Instant::now(), async |connection| {
            statements::time(connection).await
        });
        let millis = u64::try_from(millis.await?).unwrap_or_default();
        Ok(SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        checks::examine(&self.inner.target).await
    }

    async fn sweep(&self, max_records: u32) -> Result<Swept, StoreError> {
        let mut records = 0;
        loop {
            let left = u64::from(max_records).saturating_sub(records);
            let batch = u32::try_from(left).unwrap_or(SWEEP_BATCH).min(SWEEP_BATCH);
            let deleted = match batch {
                0 => 0,
                batch => self.sweep(batch).await?,
            };
            records += deleted;
            if deleted == 0 {
                let more = left == 0;
                return Ok(Swept::Deleted { records, more });
            }
            // Other writes go in between.
            tokio::time::sleep(BATCH_PAUSE).await;
        }
    }

    async fn revoke(&self, id: &RecordId, attempt: u32) -> Result<Change, StoreError> {
        let revocation = End {
            id: *id,
            transition: Transition::Revoke(attempt),
        };
        let writer = &self.inner.writer;
        writer
            .request_queued(revocation, Instant::now(), Job::End)
            .await
    }

    async fn forget_seen(&self, id: &RecordId, seen: Seen) -> Result<Forgotten, StoreError> {
        let removal = Removal {
            id: *id,
            seen: Some(seen),
        };
        let writer = &self.inner.writer;
        writer
            .request_queued(removal, Instant::now(), Job::Forget)
            .await
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}
