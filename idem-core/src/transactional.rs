//! What a database must do for claims inside its own transactions: the claim, the body's
//! writes and the outcome commit together, or not at all.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

#[doc(hidden)]
pub use crate::engine::transactional::{CommitSent, Ended, Execution, Keyed};
use crate::record::{Claim, Claimed};
use crate::store::{StoreError, Watch};

/// A database that keeps records beside the rows that the bodies write.
///
/// Where a [`Store`](crate::Store) has a lease, this has a transaction: whoever holds it is
/// the one attempt, and when it ends without a commit, by a crash, too, nothing has happened.
#[async_trait]
pub trait Transactional: Send + Sync + 'static {
    /// The driver's own transaction. Dropped, it is rolled back.
    type Transaction: Send + 'static;

    /// A short name for logs and errors, such as `"postgres"`. Never an address.
    fn name(&self) -> &'static str;

    /// Bytes that no other database has which bodies of this process write to: a tenant's own, say.
    /// Calls under one key meet in the process, and are answered from its cache, only where these
    /// are equal. They are neither stored nor shown.
    fn database_id(&self) -> Vec<u8>;

    /// Begins a transaction and claims in it. Of transactions that claim one record at a time,
    /// at most one acquires it; the others are told, and wait for nothing.
    ///
    /// The lease of the claim means nothing here. A record that a store has left running, of the
    /// same operation without a transaction, follows the table at [`Store`](crate::Store).
    async fn begin(&self, claim: &Claim)
    -> Result<BegunTransaction<Self::Transaction>, StoreError>;

    /// Stores the outcome in the transaction, and commits.
    async fn commit(
        &self,
        transaction: Self::Transaction,
        ended: &TransactionEnd<'_>,
    ) -> Result<(), CommitError>;

    /// Rolls back; returns when the record is free.
    async fn roll_back(&self, transaction: Self::Transaction) -> Result<(), StoreError>;
}

/// The answer to a claim in a transaction.
#[derive(Debug)]
pub enum BegunTransaction<T> {
    /// The caller runs the body, in this transaction.
    Acquired {
        /// The attempt's number: 1, but after a crash outside of transactions.
        attempt: u32,
        /// With nothing in it yet.
        transaction: T,
        /// Resolves when the database is seen to have ended the transaction's session by itself, as
        /// one does whose patience with a silent transaction is bounded: another attempt may begin
        /// then, while the body runs. [`Watch::never`] where that cannot be.
        session_ended: Watch,
    },
    /// Anything but [`Claimed::Acquired`]. There is no transaction.
    Answered(Claimed),
}

/// How an attempt in a transaction ended.
#[derive(Debug)]
pub struct TransactionEnd<'a> {
    /// The claim that began it.
    pub claim: &'a Claim,
    /// Its number.
    pub attempt: u32,
    /// What to store, for the claim's retention.
    pub outcome: Bytes,
    /// What becomes of the body's own writes.
    pub writes: Writes,
}

/// What becomes of a body's own writes when its outcome is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// They commit with the outcome.
    Keep,
    /// They are rolled back: the outcome is an error, and that is all that is kept.
    Discard,
}

/// Why a transaction was not committed, as far as is known.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CommitError {
    /// Nothing of it has happened.
    RolledBack(StoreError),
    /// The database refused what the body wrote, a deferred constraint for example, and will again:
    /// the application has to be set right. Nothing of it has happened. Holds the driver's error.
    Refused(Arc<dyn std::error::Error + Send + Sync>),
    /// Another transaction has finished the record. Nothing of this one has happened.
    Overtaken,
    /// The commit was sent, and its answer is lost.
    Unknown(StoreError),
}

/// What transactions can be opened from: a pool, or a store over one.
///
/// `Via` is a marker of the crate that implements it, for types that are not its own.
#[diagnostic::on_unimplemented(
    message = "`{Self}` opens no transactions",
    label = "not a database that an idempotent operation can commit in",
    note = "give a `PgPool`, a `MySqlPool` or a `SqlitePool` of sqlx 0.9, with the feature `postgres`, `mysql` or `sqlite` of idem-rs",
    note = "a pool of another version of sqlx is another type: use sqlx 0.9, as idem-rs does"
)]
pub trait TransactionSource<Via> {
    /// The database.
    type Database: Transactional;

    /// The database, to begin transactions in.
    fn database(&self) -> Self::Database;
}

macro_rules! through_pointers {
    ($($pointer:ty),*) => {$(
        #[diagnostic::do_not_recommend]
        impl<Via, S: TransactionSource<Via> + ?Sized> TransactionSource<Via> for $pointer {
            type Database = S::Database;

            fn database(&self) -> Self::Database {
                (**self).database()
            }
        }
    )*};
}

through_pointers!(&S, &mut S, Arc<S>, Box<S>);
