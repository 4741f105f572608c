//! Claims inside the application's own transactions. The records are in the same file as its rows, and
//! one commit covers both.
//!
//! SQLite's one write lock takes the place of the lease. It is taken before the record is read, and held
//! until the end. So transactions of all records, and all other writes to the file, run one after the
//! other.
//!
//! Nothing is written until the body has ended: the outcome is one insert. Every statement costs two
//! hand-overs between threads, and all statements but the first read run while others wait for the lock.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use idem_core::{
    BegunTransaction, Change, Claim, CommitError, StoreError, TransactionEnd, TransactionSource,
    Transactional, Watch, Writes,
};
use sqlx::pool::PoolConnection;
use sqlx::{Connection, SqlSafeStr, Sqlite, SqlitePool, Transaction, raw_sql};

use super::checks::Settings;
use super::errors::{is_constraint, while_writing, without_effect};
use super::record::Record;
use super::sweeping::{DEFAULT_INTERVAL, SweepInterval};
use super::{NAME, pools, statements};
use crate::database::{Sqlx, database_id};

/// The body's writes are rolled back to this savepoint. Its name is one that no body uses: of several
/// with one name, the newest counts.
const BEGIN: &str = "BEGIN IMMEDIATE; SAVEPOINT idem_rs_before_body";
const ROLLBACK_TO_SAVEPOINT: &str = "ROLLBACK TO idem_rs_before_body";

/// A SQLite database that an operation's transactions are opened in. A `SqlitePool` serves as well,
/// without settings.
///
/// It needs the tables of [`SqliteStore::migrate`](super::SqliteStore::migrate). A transaction
/// waits for the file's write lock for as long as the pool's `busy_timeout` says.
///
/// From the pool's first transaction until it is closed or its last handle is dropped, this process
/// deletes expired records every minute, on a connection of its own and on the runtime of that
/// transaction. The first transaction also checks the connection's settings: a `journal_mode` of `MEMORY`
/// or `OFF` is refused, and weaker settings are warned of. If the file is moved, deleted or replaced under
/// the pool, its transactions are refused from then on.
#[derive(Clone, Debug)]
pub struct SqliteTransactions {
    pool: SqlitePool,
    sweep_every: SweepInterval,
}

impl SqliteTransactions {
    /// Transactions of this pool.
    pub const fn new(pool: SqlitePool) -> Self {
        Self {
            pool,
            sweep_every: Some(DEFAULT_INTERVAL),
        }
    }

    /// About how often expired records are deleted. `None` leaves that to
    /// [`SqliteStore::sweep`](super::SqliteStore::sweep), or to another process.
    ///
    /// The setting of the pool's first transaction applies to all.
    #[must_use]
    pub const fn sweep_every(mut self, pause: Option<Duration>) -> Self {
        self.sweep_every = pause;
        self
    }
}

#[diagnostic::do_not_recommend]
impl TransactionSource<Sqlx> for SqliteTransactions {
    type Database = Self;

    fn database(&self) -> Self {
        self.clone()
    }
}

#[diagnostic::do_not_recommend]
impl TransactionSource<Sqlx> for SqlitePool {
    type Database = SqliteTransactions;

    fn database(&self) -> SqliteTransactions {
        SqliteTransactions::new(self.clone())
    }
}

#[async_trait]
impl Transactional for SqliteTransactions {
    type Transaction = Transaction<'static, Sqlite>;

    fn name(&self) -> &'static str {
        NAME
    }

    fn database_id(&self) -> Vec<u8> {
        database_id(&self.pool, self.pool.connect_options().get_filename())
    }

    async fn begin(
        &self,
        claim: &Claim,
    ) -> Result<BegunTransaction<Self::Transaction>, StoreError> {
        let key = self.database_id();
        let is_known = pools::is_known(&key)?;
        let mut connection = self.pool.acquire().await.map_err(without_effect)?;
        if !is_known {
            let settings = Settings::of(&mut connection).await;
            let settings = settings.map_err(without_effect)?;
            pools::inspect(&self.pool, key, &settings, self.sweep_every)?;
        }
        let begun = begin(&self.pool, connection, claim).await;
        begun.map_err(without_effect)
    }

    async fn commit(
        &self,
        mut transaction: Self::Transaction,
        ended: &TransactionEnd<'_>,
    ) -> Result<(), CommitError> {
        match finish(&mut transaction, ended).await {
            Ok(Change::Applied) => {}
            ended => {
                // Dropping it would do the same, but without the recovery in `roll_back`.
                let _ = roll_back(transaction).await;
                return Err(match ended {
                    // The body has ended the transaction, and another attempt came in between.
                    Ok(_) => CommitError::Overtaken,
                    Err(error) if savepoint_is_gone(&error) => {
                        CommitError::Refused(Arc::new(TransactionIsGone(error)))
                    }
                    Err(error) => CommitError::RolledBack(without_effect(error)),
                });
            }
        }
        // What SQLite refuses to commit is rolled back when the connection is used again.
        transaction.commit().await.map_err(|error| {
            if is_constraint(&error) {
                return CommitError::Refused(Arc::new(error));
            }
            match while_writing(error) {
                error if error.may_have_effect() => CommitError::Unknown(error),
                error => CommitError::RolledBack(error),
            }
        })
    }

    async fn roll_back(&self, transaction: Self::Transaction) -> Result<(), StoreError> {
        roll_back(transaction).await.map_err(without_effect)
    }
}

/// Writes the finished record. `LeaseLost` if another one is in its place.
async fn finish(
    transaction: &mut Transaction<'static, Sqlite>,
    ended: &TransactionEnd<'_>,
) -> Result<Change, sqlx::Error> {
    if ended.writes == Writes::Discard {
        raw_sql(ROLLBACK_TO_SAVEPOINT)
            .execute(&mut **transaction)
            .await?;
    }
    statements::finish(transaction, ended.claim, ended.attempt, &ended.outcome).await
}

/// Rolls back, even if SQLite has done so already. In that case ROLLBACK fails, and the driver goes on to
/// count a transaction on the connection. So one is begun first; if there is one already, that fails and
/// changes nothing.
async fn roll_back(mut transaction: Transaction<'static, Sqlite>) -> Result<(), sqlx::Error> {
    let _ = raw_sql("BEGIN").execute(&mut *transaction).await;
    transaction.rollback().await
}

/// Whether the body's transaction has ended, and its savepoint with it.
fn savepoint_is_gone(error: &sqlx::Error) -> bool {
    let error = error.as_database_error();
    error.is_some_and(|error| error.message().contains("no such savepoint"))
}

/// The body's transaction had ended before its commit.
#[derive(Debug)]
struct TransactionIsGone(sqlx::Error);

impl fmt::Display for TransactionIsGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the body's transaction had ended before its commit: the body has ended it, or has gone on after an error that made SQLite roll it back",
        )
    }
}

impl std::error::Error for TransactionIsGone {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

async fn begin(
    pool: &SqlitePool,
    mut connection: PoolConnection<Sqlite>,
    claim: &Claim,
) -> Result<BegunTransaction<Transaction<'static, Sqlite>>, sqlx::Error> {
    // A finished record is replayed without the lock.
    if let Some(answer) = statements::answer(&mut connection, claim).await? {
        return Ok(BegunTransaction::Answered(answer));
    }
    // SQLite rolls some transactions back by itself: when the disk is full, or when a statement says so.
    // The driver still counts them, and begins none on such a connection any more.
    while connection.is_in_transaction() {
        connection.close().await?;
        connection = pool.acquire().await?;
    }
    // As `Pool::begin_with`.
    let mut transaction = Transaction::begin(connection, Some(BEGIN.into_sql_str())).await?;
    let standing = statements::look(&mut transaction, &claim.id, Some(claim)).await?;
    let attempt = standing.as_ref().map_or(1, Record::next_attempt);
    match standing.and_then(|record| record.answer(claim)) {
        None => Ok(BegunTransaction::Acquired {
            attempt,
            transaction,
            session_ended: Watch::never(),
        }),
        Some(answer) => {
            transaction.rollback().await?;
            Ok(BegunTransaction::Answered(answer))
        }
    }
}
