//! The store: one method per transition.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use idem_core::{
    Change, Claim, Claimed, Finding, Forgotten, Inspection, Lease, Listing, Maintenance, Page,
    RecordId, Seen, Store, StoreError, Swept, Token, Watch,
};

use super::connections::Connections;
use super::errors::is_read_only;
use super::pool_state::PoolState;
use super::statement::Statement;
use super::subscriptions::Subscriptions;
use super::{NAME, checks, pooler, schema, statements};
use crate::ConnectError;
use crate::sql::gate::Lane;
use crate::sql::sweeping::{Progress, SweepTask, Sweeper};

/// Keeps records in PostgreSQL. Clones share its connections.
///
/// The tables are `idem_records` and `idem_schema`, found through `search_path`.
#[derive(Clone)]
pub struct PostgresStore {
    inner: Arc<Inner>,
}

struct Inner {
    connections: Connections,
    subscriptions: Subscriptions,
    sweeper: Sweeper,
    sweep_task: Mutex<Option<SweepTask>>,
    /// If the store sweeps while it is used: what it knows of the pool, and how often.
    sweeps_on_use: Option<(Arc<PoolState>, Duration)>,
}

impl Inner {
    fn sweep_task(&self) -> MutexGuard<'_, Option<SweepTask>> {
        let task = self.sweep_task.lock();
        task.unwrap_or_else(PoisonError::into_inner)
    }

    /// Sweeps in the background if it is time to, and no task sweeps periodically.
    fn sweep_if_due(&self) {
        if let Some((pool_state, every)) = &self.sweeps_on_use
            && self.sweep_task().is_none()
        {
            pool_state
                .sweeps
                .sweep_if_due(*every, || self.connections.clone());
        }
    }
}

impl PostgresStore {
    /// The statements that create the tables, one text per version, to be run by hand or by the
    /// application's own migrations: in this order, each once, in one transaction.
    pub const MIGRATIONS: &[&str] = schema::MIGRATIONS;

    pub(super) fn new(
        connections: Connections,
        sweeps_on_use: Option<(Arc<PoolState>, Duration)>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                subscriptions: Subscriptions::new(connections.clone()),
                connections,
                sweeper: Sweeper::default(),
                sweep_task: Mutex::default(),
                sweeps_on_use,
            }),
        }
    }

    pub(super) fn connections(&self) -> &Connections {
        &self.inner.connections
    }

    /// Creates the tables, or upgrades them to this version, in one transaction. Of concurrent processes
    /// one does, and the others wait for it, for as long as it takes. Claims and the ends of attempts go
    /// on meanwhile: an upgrade waits for the transactions that use the table `idem_records`, for 50
    /// milliseconds at most, because others wait behind it. Then it lets them go first, and tries again
    /// for a minute. If the tables have this version already, or a newer one that this one may use,
    /// nothing is locked, and the right to create tables is not needed. Dropping the future rolls back.
    ///
    /// The application's own migrations are neither used nor touched.
    ///
    /// # Errors
    /// When the server cannot be reached, the login may not create or change the tables, or they have a
    /// newer version that this one may not use; when other transactions have used the table for a minute
    /// without a gap; and when a pooler gives each transaction another session
    /// and the store was not told so.
    pub async fn migrate(&self) -> Result<(), ConnectError> {
        let connections = self.connections();
        if connections.application_pool().is_some() && connections.have_sessions() {
            pooler::check_pool_sessions(connections).await?;
        }
        connections
            .with(async |connection| schema::migrate(connection).await)
            .await
    }

    pub(super) async fn check(&self) -> Result<(), ConnectError> {
        let connections = self.connections();
        connections
            .with(async |connection| schema::check(connection).await)
            .await
    }

    /// Deletes up to `batch` expired records, oldest first, and returns how many. It uses one short
    /// transaction, or several if large outcomes would take longer than a call may. Locked records are
    /// skipped. If it returns `batch`, there may be more. A thousand records take some twenty
    /// milliseconds.
    ///
    /// # Errors
    /// When the server cannot be reached, or refuses it.
    pub async fn sweep(&self, batch: u32) -> Result<u64, StoreError> {
        let Inner {
            connections,
            sweeper,
            ..
        } = &*self.inner;
        let mut progress = Progress::default();
        sweeper
            .sweep(connections, batch.into(), &mut progress)
            .await
    }

    /// Deletes expired records in the background from now on, in batches, whether the store is used or
    /// not. Each pause is random, between half of `pause` (a millisecond at least) and all of it, so that
    /// processes do not sweep at the same time. Ends with the store's last clone, or when this is called
    /// again.
    ///
    /// # Panics
    /// When called outside of a Tokio runtime.
    pub fn sweep_every(&self, pause: Duration) {
        let task = SweepTask::start(self.inner.connections.clone(), pause);
        *self.inner.sweep_task() = Some(task);
    }

    /// A change that needs the token. With `recreate`, an absent record is created again.
    async fn change(
        &self,
        lane: Lane,
        statement: Statement<'_>,
        recreate: Option<Statement<'_>>,
    ) -> Result<Change, StoreError> {
        let mut call = self.connections().begin(lane).await?;
        let mut answer = call.run(&statement, statements::applied).await;
        if let (Ok(false), Some(recreate)) = (&answer, recreate) {
            answer = call.run(&recreate, statements::applied).await;
            if let Ok(false) = answer {
                // Another call of the same owner may have been faster.
                answer = call.run(&statement, statements::applied).await;
            }
        }
        Ok(match call.finish(answer)? {
            true => Change::Applied,
            false => Change::LeaseLost,
        })
    }

    /// Ends an attempt.
    async fn end(
        &self,
        token: &Token,
        statement: Statement<'_>,
        recreate: Option<Statement<'_>>,
    ) -> Result<Change, StoreError> {
        let change = self.change(Lane::End, statement, recreate).await?;
        self.connections().note_lease_end(token);
        Ok(change)
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn name(&self) -> &'static str {
        NAME
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        Some(self)
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let mut call = self.connections().begin(Lane::Other).await?;
        let statement = statements::claim(claim);
        let mut answer = call.run(&statement, statements::claimed).await;
        match &answer {
            Ok(Claimed::Acquired { .. }) => {
                self.connections().note_lease(&claim.token, claim.lease);
                self.inner.sweep_if_due();
            }
            // A finished record never changes, so it is replayed without a write.
            Err(error) if is_read_only(error) => {
                let finished = statements::finished(claim);
                if let Ok(Some(finished)) = call.run_once(&finished, statements::claimed).await {
                    answer = Ok(finished);
                }
            }
            _ => {}
        }
        call.finish(answer)
    }

    async fn renew(&self, lease: &Lease) -> Result<Change, StoreError> {
        let recreate = lease.unbroken.then(|| statements::recreate(lease, None));
        let renewed = self.change(Lane::Renewal, statements::renew(lease), recreate);
        let change = renewed.await?;
        match change {
            Change::Applied => self.connections().note_lease(&lease.token, lease.duration),
            _ => self.connections().note_lease_end(&lease.token),
        }
        Ok(change)
    }

    async fn complete(&self, lease: &Lease, outcome: Bytes) -> Result<Change, StoreError> {
        let recreate = || statements::recreate(lease, Some(&outcome));
        let recreate = lease.unbroken.then(recreate);
        let statement = statements::complete(lease, &outcome);
        self.end(&lease.token, statement, recreate).await
    }

    async fn release(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.end(token, statements::release(id, token), None).await
    }

    async fn abandon(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.end(token, statements::abandon(id, token), None).await
    }

    async fn inspect(&self, id: &RecordId) -> Result<Option<Inspection>, StoreError> {
        let inspect = statements::inspect(id);
        self.connections()
            .run(Lane::Other, &inspect, statements::inspection)
            .await
    }

    async fn watch(&self, id: &RecordId) -> Result<Watch, StoreError> {
        let connections = self.connections();
        if !connections.have_sessions() {
            return Ok(Watch::never());
        }
        let subscription = self.inner.subscriptions.subscribe(*id).await?;
        let watch = statements::watch(id);
        let is_running = connections
            .run(Lane::Other, &watch, statements::is_running)
            .await?;
        Ok(if is_running {
            subscription.into_watch()
        } else {
            Watch::new(std::future::ready(()))
        })
    }

    async fn checkpoint(
        &self,
        lease: &Lease,
        at: usize,
        steps: Bytes,
    ) -> Result<Change, StoreError> {
        let statement = statements::checkpoint(lease, at, &steps);
        self.change(Lane::End, statement, None).await
    }

    async fn suspend(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.end(token, statements::suspend(id, token), None).await
    }

    async fn list(&self, listing: &Listing) -> Result<Page, StoreError> {
        let after = statements::listed_to(listing);
        let mut call = self.connections().begin(Lane::Other).await?;
        let rows = call.run_for_rows(&statements::list(listing, &after)).await;
        call.finish(rows.and_then(|rows| statements::page(&rows, listing)))
    }

    async fn forget(&self, id: &RecordId) -> Result<Forgotten, StoreError> {
        self.connections()
            .run(
                Lane::Other,
                &statements::forget(id, None),
                statements::forgotten,
            )
            .await
    }
}

#[async_trait]
impl Maintenance for PostgresStore {
    async fn time(&self) -> Result<SystemTime, StoreError> {
        self.connections()
            .run(Lane::Other, &statements::time(), statements::claimed_at)
            .await
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        let examined = self
            .connections()
            .with(async |connection| Ok(checks::examine(connection).await))
            .await;
        match examined {
            Ok(found) => found,
            Err(ConnectError::Store(error)) => Err(error),
            Err(unfit) => Err(StoreError::rejected(NAME, unfit)),
        }
    }

    async fn sweep(&self, max_records: u32) -> Result<Swept, StoreError> {
        let records = self.sweep(max_records).await?;
        let more = records >= max_records.into();
        Ok(Swept::Deleted { records, more })
    }

    async fn revoke(&self, id: &RecordId, attempt: u32) -> Result<Change, StoreError> {
        let statement = statements::revoke(id, attempt);
        self.change(Lane::Other, statement, None).await
    }

    async fn forget_seen(&self, id: &RecordId, seen: Seen) -> Result<Forgotten, StoreError> {
        let forget = statements::forget(id, Some(seen));
        self.connections()
            .run(Lane::Other, &forget, statements::forgotten)
            .await
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("connections", self.connections())
            .finish_non_exhaustive()
    }
}
