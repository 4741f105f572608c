//! Claims inside the application's own transactions: the records lie in the same file as its
//! rows, and one commit decides over both.
//!
//! What a lease protects in the store, SQLite's one write lock protects here: it is taken before
//! the look at the record, and held until the end, so that transactions of all records, and all
//! other writes to the file, run one after the other.
//!
//! Nothing is written until the body has ended: the outcome is one insert. Every statement is two
//! hand-overs between threads, and all but the first look are made while everybody waits.

use async_trait::async_trait;
use idem_core::{
    BegunIn, Change, Claim, CommitError, Ended, StoreError, TransactionSource, Transactional,
    Watch, Writes,
};
use sqlx::{Connection, SqlSafeStr, Sqlite, SqlitePool, Transaction, raw_sql};

use super::NAME;
use super::errors::store_error;
use super::record::Record;
use super::statements;
use crate::{Sqlx, place_of};

/// The savepoint is what a body's writes are rolled back to. It has no name that a body would give
/// one of its own: the newest of a name is the one that is rolled back to.
const BEGIN: &str = "BEGIN IMMEDIATE; SAVEPOINT idem_rs_before_body";
const ROLLBACK_TO_SAVEPOINT: &str = "ROLLBACK TO idem_rs_before_body";

/// A SQLite database that an operation's transactions are opened in.
///
/// It needs the tables of [`SqliteStore::migrate`](super::SqliteStore::migrate). A transaction
/// waits for the file's write lock for as long as the pool's `busy_timeout` says.
#[derive(Clone, Debug)]
pub struct SqliteTransactions(SqlitePool);

#[diagnostic::do_not_recommend]
impl TransactionSource<Sqlx> for SqlitePool {
    type Database = SqliteTransactions;

    fn database(&self) -> SqliteTransactions {
        SqliteTransactions(self.clone())
    }
}

#[async_trait]
impl Transactional for SqliteTransactions {
    type Transaction = Transaction<'static, Sqlite>;

    fn name(&self) -> &'static str {
        NAME
    }

    fn place(&self) -> Vec<u8> {
        place_of(&self.0, self.0.connect_options().get_filename())
    }

    async fn begin(&self, claim: &Claim) -> Result<BegunIn<Self::Transaction>, StoreError> {
        begin(&self.0, claim).await.map_err(store_error)
    }

    async fn commit(
        &self,
        mut transaction: Self::Transaction,
        ended: &Ended<'_>,
    ) -> Result<(), CommitError> {
        match finish(&mut transaction, ended).await {
            Ok(Change::Applied) => {}
            ended => {
                // Dropped it would do the same, but for what `roll_back` mends.
                let _ = roll_back(transaction).await;
                return Err(match ended {
                    // The body has ended the transaction by itself, and somebody came between.
                    Ok(_) => CommitError::Overtaken,
                    Err(error) => CommitError::RolledBack(store_error(error)),
                });
            }
        }
        transaction.commit().await.map_err(|error| match error {
            // What SQLite refuses to commit is rolled back when the connection is used again.
            error @ sqlx::Error::Database(_) => CommitError::RolledBack(store_error(error)),
            error => CommitError::Unknown(store_error(error)),
        })
    }

    async fn roll_back(&self, transaction: Self::Transaction) -> Result<(), StoreError> {
        roll_back(transaction).await.map_err(store_error)
    }
}

/// Writes the finished record; `LeaseLost` where another one is in its place.
async fn finish(
    transaction: &mut Transaction<'static, Sqlite>,
    ended: &Ended<'_>,
) -> Result<Change, sqlx::Error> {
    if ended.writes == Writes::Discard {
        raw_sql(ROLLBACK_TO_SAVEPOINT)
            .execute(&mut **transaction)
            .await?;
    }
    statements::finish(transaction, ended.claim, ended.attempt, &ended.outcome).await
}

/// Rolls back, also where SQLite has done so by itself. Then there is nothing to roll back, which
/// fails, and the driver would go on to count a transaction on the connection. So that there is
/// one, it is begun; where there is one already, that fails and changes nothing.
async fn roll_back(mut transaction: Transaction<'static, Sqlite>) -> Result<(), sqlx::Error> {
    let _ = raw_sql("BEGIN").execute(&mut *transaction).await;
    transaction.rollback().await
}

async fn begin(
    pool: &SqlitePool,
    claim: &Claim,
) -> Result<BegunIn<Transaction<'static, Sqlite>>, sqlx::Error> {
    // What is finished is given back without the lock.
    let answer = statements::answer(&mut *pool.acquire().await?, claim).await?;
    if let Some(answer) = answer {
        return Ok(BegunIn::Answered(answer));
    }
    let mut connection = pool.acquire().await?;
    // SQLite rolls some transactions back by itself: when the disk is full, or as a statement asks
    // for. The driver goes on to count them, and begins none on such a connection any more.
    while connection.is_in_transaction() {
        connection.close().await?;
        connection = pool.acquire().await?;
    }
    // What `Pool::begin_with` does.
    let mut transaction = Transaction::begin(connection, Some(BEGIN.into_sql_str())).await?;
    let standing = statements::look(&mut transaction, &claim.id, Some(&claim.fingerprint)).await?;
    let attempt = standing.as_ref().map_or(1, Record::next_attempt);
    match standing.and_then(|record| record.answer(claim)) {
        None => Ok(BegunIn::Acquired {
            attempt,
            transaction,
            session_ended: Watch::never(),
        }),
        Some(answer) => {
            transaction.rollback().await?;
            Ok(BegunIn::Answered(answer))
        }
    }
}
