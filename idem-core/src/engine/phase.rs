//! Phases: steps whose rows and whose value commit together, in a database of the application.

use std::future::Future;

use crate::attempt::{Attempt, OwnedLease, Protected};
use crate::current;
use crate::key::Key;
use crate::policy::InFlight;
use crate::replay::{CarriesRefusal, ReleaseErrors, StorableValue};
use crate::steps::StepError;
use crate::transactional::{TransactionSource, Transactional};

use super::handle::{Engine, Inner};
use super::transactional::InTransaction;

/// Runs a [step](crate::step()) whose rows and whose value commit in one transaction of a database,
/// whichever store keeps the operation's record: both are there, or neither, whatever crashes.
///
/// `source` is a `sqlx` pool, or a store over one, of PostgreSQL, MySQL or SQLite, whose database holds the
/// tables of idem. The body is given the driver's transaction, and gives it back with its value, which
/// commits both. An `Err`, a panic and a dropped future roll back:
///
/// ```ignore
/// let order = idem::phase("place_order", &pool, async |mut tx| {
///     let id = sqlx::query_scalar("INSERT INTO orders (seat) VALUES ($1) RETURNING id")
///         .bind(seat)
///         .fetch_one(&mut *tx)
///         .await?;
///     Ok((tx, Order { id, seat }))
/// })
/// .await?;
/// ```
///
/// The value is kept twice: with the rows, in a record of its own, and as a step in the operation's
/// record. A later attempt is given it from whichever it finds. The phase's record is kept for the
/// operation's ttl and twice its lease, and is swept with the other records of that database.
///
/// Where an overtaken attempt is in the phase while its successor comes to it, one commits, and the other
/// waits for it, for up to the operation's lease, and is given its value.
///
/// # Errors
/// What the body returns; what [`step`](crate::step()) returns; and as an [`Error`](crate::Error):
///
/// - [`Error::Step`](crate::Error::Step) with [`StepError::WithoutRecord`] where the attempt is not protected.
/// - [`Error::Store`](crate::Error::Store): the database cannot answer, and nothing was committed.
/// - [`Error::Unsettled`](crate::Error::Unsettled): the commit was sent, and its answer is lost. The next attempt asks the
///   database.
/// - [`Error::CommitRefused`](crate::Error::CommitRefused): the database refused what the body wrote.
pub async fn phase<Via, S, B, F, T, E>(name: &str, source: &S, body: B) -> Result<T, E>
where
    S: TransactionSource<Via> + ?Sized,
    B: FnOnce(TransactionOf<Via, S>) -> F,
    F: Future<Output = Result<(TransactionOf<Via, S>, T), E>>,
    T: StorableValue,
    E: CarriesRefusal,
{
    match current::attempt_here() {
        Some(attempt) => attempt.phase(name, source, body).await,
        None => Err(E::from(StepError::OutsideOfBody.into())),
    }
}

/// The transaction of a database.
pub type TransactionOf<Via, S> =
    <<S as TransactionSource<Via>>::Database as Transactional>::Transaction;

impl Attempt {
    /// [`phase`](crate::phase()) of this attempt, for tasks that its body has spawned.
    ///
    /// # Errors
    /// As [`phase`](crate::phase()).
    pub async fn phase<Via, S, B, F, T, E>(&self, name: &str, source: &S, body: B) -> Result<T, E>
    where
        S: TransactionSource<Via> + ?Sized,
        B: FnOnce(TransactionOf<Via, S>) -> F,
        F: Future<Output = Result<(TransactionOf<Via, S>, T), E>>,
        T: StorableValue,
        E: CarriesRefusal,
    {
        let lease = match self.protected() {
            Protected::Lease(lease) => lease,
            Protected::Transaction => return Err(self.refuse(StepError::InTransaction)),
            Protected::Nothing => return Err(self.refuse(StepError::WithoutRecord)),
        };
        let Some(phases) = phases_of(lease, source.database()) else {
            return Err(self.refuse(StepError::WithoutRecord));
        };
        let call = &lease.call;
        // Where a freed key comes back with another request, its phases are others.
        let key = (
            call.id.to_string(),
            call.fingerprint.to_bytes().to_vec(),
            name,
        );
        let commit = phases.run_encoded::<_, _, _, _, ReleaseErrors>(
            Key::of(&key),
            call.fingerprint,
            async |transaction| match body(transaction).await {
                Ok((transaction, value)) => match check_value(lease, name, &value) {
                    Ok(()) => (Some(transaction), Ok(value)),
                    // A commit would leave rows whose value nobody is ever given.
                    Err(error) => (None, Err(self.refuse(error))),
                },
                Err(error) => (None, Err(error)),
            },
        );
        self.step(name, commit).await
    }
}

/// Whether the value can be kept.
fn check_value(
    lease: &OwnedLease,
    name: &str,
    value: &impl StorableValue,
) -> Result<(), StepError> {
    let written = serde_json::to_vec(value).map_err(|_| StepError::NotWritten {
        name: name.to_owned(),
    })?;
    let max_bytes = lease.keeper.max_bytes();
    lease.steps().check_room(name, written.len(), max_bytes)
}

/// The operation whose records are the phases of this attempt's operation.
fn phases_of<D: Transactional>(lease: &OwnedLease, database: D) -> Option<InTransaction<D>> {
    let inner = std::sync::Arc::clone(&lease.keeper).into_any();
    let engine = Engine {
        inner: inner.downcast::<Inner>().ok()?,
    };
    let policy = &lease.call.policy;
    // A crash between a phase's commit and its checkpoint leaves the operation's record for a lease
    // and the ttl from its last renewal on, which is not later than a lease after the commit.
    let ttl = policy.ttl.saturating_add(policy.lease.saturating_mul(2));
    let operation = engine
        .operation(format!("{} phases", lease.call.operation))
        .lease(policy.lease)
        .ttl(ttl.min(crate::policy::Policy::MAX))
        .in_flight(InFlight::Wait(policy.lease));
    Some(operation.in_database(database))
}
