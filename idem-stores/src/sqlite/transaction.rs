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
    Writes,
};
use sqlx::{Sqlite, SqlitePool, Transaction, raw_sql};

use super::NAME;
use super::errors::store_error;
use super::record::Record;
use super::statements;
use crate::{Sqlx, place_of};

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
        let rolled_back = |error| CommitError::RolledBack(store_error(error));
        if ended.writes == Writes::Discard {
            raw_sql("ROLLBACK TO idem")
                .execute(&mut *transaction)
                .await
                .map_err(rolled_back)?;
        }
        let finished =
            statements::finish(&mut transaction, ended.claim, ended.attempt, &ended.outcome)
                .await
                .map_err(rolled_back)?;
        if finished != Change::Applied {
            // The body has ended the transaction by itself, and somebody came between.
            return Err(CommitError::Overtaken);
        }
        transaction.commit().await.map_err(|error| match error {
            // What SQLite refuses to commit is rolled back when the connection is used again.
            error @ sqlx::Error::Database(_) => rolled_back(error),
            error => CommitError::Unknown(store_error(error)),
        })
    }

    async fn roll_back(&self, transaction: Self::Transaction) -> Result<(), StoreError> {
        transaction.rollback().await.map_err(store_error)
    }
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
    // The savepoint is what a body's writes are rolled back to.
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE; SAVEPOINT idem").await?;
    let standing = statements::look(&mut transaction, &claim.id, Some(&claim.fingerprint)).await?;
    let attempt = standing.as_ref().map_or(1, Record::next_attempt);
    match standing.and_then(|record| record.answer(claim)) {
        None => Ok(BegunIn::Acquired {
            attempt,
            transaction,
        }),
        Some(answer) => {
            transaction.rollback().await?;
            Ok(BegunIn::Answered(answer))
        }
    }
}
