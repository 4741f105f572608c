//! The store: one method per transition.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use idem_core::{
    Change, Claim, Claimed, Finding, Forgotten, Inspection, Lease, Listing, Maintenance,
    NotReplayable, OperationName, Outcome, Page, RecordId, Seen, Store, StoreError, Swept, Token,
    Watch,
};
use sqlx::Error;
use tracing::warn;

use super::connections::{Call, Connections};
use super::errors::{connect_error, is_duplicate, is_read_only};
use super::message::{Answer, Message};
use super::statements::{self, Held};
use super::{NAME, checks, schema};
use crate::ConnectError;
use crate::sql::gate::Lane;
use crate::sql::sweeping::{Progress, SweepTask, Sweeper, SweepsOnUse};

/// Keeps records in MySQL or MariaDB. Clones share its connections.
///
/// The tables are `idem_records` and `idem_schema`, in the database that its connections name.
#[derive(Clone)]
pub struct MySqlStore {
    inner: Arc<Inner>,
}

struct Inner {
    connections: Connections,
    sweeper: Sweeper,
    sweep_task: Mutex<Option<SweepTask>>,
    /// If the store sweeps while it is used: through which pool, and how often.
    sweeps_on_use: Option<(Arc<SweepsOnUse>, Duration)>,
}

impl Inner {
    fn sweep_task(&self) -> MutexGuard<'_, Option<SweepTask>> {
        let task = self.sweep_task.lock();
        task.unwrap_or_else(PoisonError::into_inner)
    }

    /// Sweeps in the background if it is time to, and no task sweeps periodically.
    fn sweep_if_due(&self) {
        if let Some((sweeps, every)) = &self.sweeps_on_use
            && self.sweep_task().is_none()
        {
            sweeps.sweep_if_due(*every, || self.connections.clone());
        }
    }
}

impl MySqlStore {
    /// The statements that create the tables, one text per version, to be run by hand or by the
    /// application's own migrations: in this order. Each can be run again.
    pub const MIGRATIONS: &[&str] = schema::MIGRATIONS;

    pub(super) fn new(
        connections: Connections,
        sweeps_on_use: Option<(Arc<SweepsOnUse>, Duration)>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
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

    /// Creates the tables, or upgrades them to this version, over a connection of its own. Of concurrent
    /// processes one does, and the others wait for it, for a minute. If the tables have this version
    /// already, or a newer one that this one may use, nothing is locked, and the right to create tables is
    /// not needed. The servers cannot roll such statements back: what stops halfway is finished by the next
    /// call.
    ///
    /// The application's own migrations are neither used nor touched.
    ///
    /// # Errors
    /// When the server cannot be reached, the login may not create or change the tables, or they have a
    /// newer version that this one may not use; and when another process has been migrating for a minute.
    pub async fn migrate(&self) -> Result<(), ConnectError> {
        let connection = self.connections().open_separate().await;
        schema::migrate(&mut connection.map_err(connect_error)?).await
    }

    pub(super) async fn check(&self) -> Result<(), ConnectError> {
        let connection = self.connections().open_separate().await;
        schema::check(&mut connection.map_err(connect_error)?).await
    }

    /// Creates or checks the tables, and checks the server.
    pub(super) async fn begin(&self, migrates: bool) -> Result<(), ConnectError> {
        let connection = self.connections().open_separate().await;
        let mut connection = connection.map_err(connect_error)?;
        match migrates {
            true => schema::migrate(&mut connection).await?,
            false => schema::check(&mut connection).await?,
        }
        checks::check(&mut connection).await
    }

    /// Deletes up to `batch` expired records, oldest first, and returns how many. It uses short
    /// transactions. Locked records are skipped. If it returns `batch`, there may be more.
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
        message: Message,
        recreate: Option<Message>,
    ) -> Result<Change, StoreError> {
        let mut call = self.connections().begin(lane).await?;
        let answer = change(&mut call, &message, recreate.as_ref()).await;
        call.finish(answer)
    }

    /// Ends an attempt.
    async fn end(&self, token: &Token, message: Message) -> Result<Change, StoreError> {
        let change = self.change(Lane::End, message, None).await?;
        self.connections().note_lease_end(token);
        Ok(change)
    }

    /// Whether the server takes a message that long.
    fn takes(&self, message: &Message) -> bool {
        message.len() < self.connections().max_message()
    }

    /// The completion, or that of a record that cannot be replayed if the server does not take so much: the
    /// attempt has happened.
    fn completion(&self, lease: &Lease, outcome: Bytes) -> (Message, Bytes) {
        let message = statements::complete(lease, &outcome);
        if self.takes(&message) {
            return (message, outcome);
        }
        warn_too_large(&lease.operation);
        let outcome = too_large();
        (statements::complete(lease, &outcome), outcome)
    }
}

/// What is kept of an outcome that the server does not take.
pub(super) fn too_large() -> Bytes {
    Outcome::NotReplayable(NotReplayable::TooLarge).encode()
}

pub(super) fn warn_too_large(operation: &OperationName) {
    warn!(
        target: "idem",
        operation = operation.as_str(),
        "an outcome is larger than what the server of the mysql store takes in a message, where it has twice its size; it is not kept, and its retries are told so; raise max_allowed_packet, or lower max_outcome_bytes of the engine"
    );
}

async fn change(
    call: &mut Call,
    message: &Message,
    recreate: Option<&Message>,
) -> Result<Change, Error> {
    let changed = |answer: &Answer| Ok(Some(answer.affected() > 0));
    let mut is_applied = call.run(message, changed).await?;
    if let (false, Some(recreate)) = (is_applied, recreate) {
        is_applied = match call.run(recreate, changed).await {
            // Another call of the same owner may have been faster.
            Err(error) if is_duplicate(&error) => call.run(message, changed).await?,
            created => created.map(|_| true)?,
        };
    }
    Ok(match is_applied {
        true => Change::Applied,
        false => Change::LeaseLost,
    })
}

#[async_trait]
impl Store for MySqlStore {
    fn name(&self) -> &'static str {
        NAME
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        Some(self)
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let mut call = self.connections().begin(Lane::Other).await?;
        let read = |answer: &Answer| statements::claimed(answer, claim.on_crash);
        let mut answer = call.run(&statements::claim(claim), read).await;
        match &answer {
            Ok(Claimed::Acquired { .. }) => {
                self.connections().note_lease(&claim.token, claim.lease);
                self.inner.sweep_if_due();
            }
            // A finished record never changes, so it is replayed without a write.
            Err(error) if is_read_only(error) => {
                let finished = call.send(statements::finished(claim)).await;
                if let Ok(Some(finished)) = finished.and_then(|answer| read(&answer)) {
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
        let (message, outcome) = self.completion(lease, outcome);
        let recreate = || statements::recreate(lease, Some(&outcome));
        let mut call = self.connections().begin(Lane::End).await?;
        let answer = async {
            let mut is_unchanged = change(&mut call, &message, None).await? != Change::Applied;
            if is_unchanged {
                let held = statements::held(&lease.id, &lease.token);
                let held = call.run(&held, |answer| statements::read_held(answer).map(Some));
                is_unchanged = match held.await? {
                    // The answer to this completion was lost.
                    Held::Finished => false,
                    Held::No if !lease.unbroken => true,
                    _ => change(&mut call, &message, Some(&recreate())).await? != Change::Applied,
                };
            }
            Ok(match is_unchanged {
                false => Change::Applied,
                true => Change::LeaseLost,
            })
        };
        let answer = answer.await;
        let change = call.finish(answer)?;
        self.connections().note_lease_end(&lease.token);
        Ok(change)
    }

    async fn release(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.end(token, statements::release(id, token)).await
    }

    async fn abandon(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.end(token, statements::abandon(id, token)).await
    }

    async fn inspect(&self, id: &RecordId) -> Result<Option<Inspection>, StoreError> {
        self.connections()
            .run(Lane::Other, &statements::inspect(id), |answer| {
                statements::inspection(answer).map(Some)
            })
            .await
    }

    /// The servers notify nobody: waiters poll.
    async fn watch(&self, _: &RecordId) -> Result<Watch, StoreError> {
        Ok(Watch::never())
    }

    async fn checkpoint(
        &self,
        lease: &Lease,
        at: usize,
        steps: Bytes,
    ) -> Result<Change, StoreError> {
        let message = statements::checkpoint(lease, at, &steps);
        // All steps are one value, and are read in one packet.
        if !self.takes(&message) || at + steps.len() >= self.connections().max_message() {
            return Err(StoreError::rejected(NAME, StepsTooLarge));
        }
        self.change(Lane::End, message, None).await
    }

    async fn suspend(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.end(token, statements::suspend(id, token)).await
    }

    async fn list(&self, listing: &Listing) -> Result<Page, StoreError> {
        let Some(list) = statements::list(listing) else {
            return Ok(Page::default());
        };
        self.connections()
            .run(Lane::Other, &list, |answer| {
                statements::page(answer, listing).map(Some)
            })
            .await
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
impl Maintenance for MySqlStore {
    async fn time(&self) -> Result<SystemTime, StoreError> {
        self.connections()
            .run(Lane::Other, &statements::time(), statements::read_time)
            .await
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        let found = async {
            let connection = self.connections().open_separate().await;
            checks::examine(&mut connection.map_err(connect_error)?).await
        };
        match found.await {
            Ok(found) => Ok(found),
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
        self.change(Lane::Other, statements::revoke(id, attempt), None)
            .await
    }

    async fn forget_seen(&self, id: &RecordId, seen: Seen) -> Result<Forgotten, StoreError> {
        let forget = statements::forget(id, Some(seen));
        self.connections()
            .run(Lane::Other, &forget, statements::forgotten)
            .await
    }
}

/// The server does not take a record's steps.
#[derive(Debug)]
struct StepsTooLarge;

impl fmt::Display for StepsTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the steps of the record are larger than what the server takes: raise max_allowed_packet",
        )
    }
}

impl std::error::Error for StepsTooLarge {}

impl fmt::Debug for MySqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MySqlStore")
            .field("connections", self.connections())
            .finish_non_exhaustive()
    }
}
