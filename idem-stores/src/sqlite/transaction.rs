//! Claims inside the application's own transactions: the records lie in the same file as its
//! rows, and one commit decides over both.
//!
//! The statements are those of the store. What a lease protects there, SQLite's one write lock
//! protects here: it is taken before the claim, and held until the end, so that transactions of
//! all records, and all other writes to the file, run one after the other.

use async_trait::async_trait;
use idem_core::{
    BegunIn, Change, Claim, Claimed, CommitError, Ended, StoreError, TransactionSource,
    Transactional, Writes,
};
use sqlx::{Sqlite, SqlitePool, Transaction, raw_sql};

use super::NAME;
use super::errors::store_error;
use super::statements;
use super::writes::Completion;
use crate::Sqlx;

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
        let completion = Completion {
            id: ended.claim.id,
            token: ended.claim.token,
            outcome: ended.outcome.clone(),
            retention: ended.claim.retention,
        };
        let completed = statements::complete(&mut transaction, &completion)
            .await
            .map_err(rolled_back)?;
        if completed != Change::Applied {
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
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    match statements::claim(&mut transaction, claim).await? {
        Claimed::Acquired { attempt } => {
            raw_sql("SAVEPOINT idem").execute(&mut *transaction).await?;
            Ok(BegunIn::Acquired {
                attempt,
                transaction,
            })
        }
        answer => {
            transaction.rollback().await?;
            Ok(BegunIn::Answered(answer))
        }
    }
}
