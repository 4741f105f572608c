//! Claims inside the application's own transactions: the records lie in the same database as its
//! rows, and one commit decides over both.
//!
//! Nothing is written until the body has ended. Meanwhile a lock that ends with the transaction
//! keeps others out: it is asked for before the record is read, and not waited for. `BEGIN`, the
//! lock and a savepoint are one message, the look at the record another; the look comes after
//! the lock, so that it sees whatever the lock's last holder has committed. The outcome is one
//! insert. Where a pool reads from older snapshots the look may miss a record; then the insert
//! finds it, and everything is rolled back.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use idem_core::{
    BegunIn, Claim, Claimed, CommitError, Ended, OnCrash, RecordId, StoreError, TransactionSource,
    Transactional, Writes,
};
use sqlx::{AssertSqlSafe, PgPool, Postgres, Row, Transaction, raw_sql};

use super::NAME;
use super::errors::store_error;
use crate::{Sqlx, place_of};

const LOOK: &str = include_str!("statements/transaction_look.sql");
const FINISH: &str = include_str!("statements/transaction_finish.sql");

/// A PostgreSQL database that an operation's transactions are opened in.
///
/// It needs the tables of [`PostgresStore::migrate`](super::PostgresStore::migrate), and
/// transactions at `READ COMMITTED`, PostgreSQL's default, or stricter.
#[derive(Clone, Debug)]
pub struct PgTransactions(PgPool);

#[diagnostic::do_not_recommend]
impl TransactionSource<Sqlx> for PgPool {
    type Database = PgTransactions;

    fn database(&self) -> PgTransactions {
        PgTransactions(self.clone())
    }
}

#[async_trait]
impl Transactional for PgTransactions {
    type Transaction = Transaction<'static, Postgres>;

    fn name(&self) -> &'static str {
        NAME
    }

    fn place(&self) -> Vec<u8> {
        let options = self.0.connect_options();
        place_of(
            &self.0,
            (
                (options.get_host(), options.get_port()),
                options.get_socket(),
                (options.get_username(), options.get_database()),
                options.get_options(),
            ),
        )
    }

    async fn begin(&self, claim: &Claim) -> Result<BegunIn<Self::Transaction>, StoreError> {
        begin(&self.0, claim).await.map_err(store_error)
    }

    async fn commit(
        &self,
        mut transaction: Self::Transaction,
        ended: &Ended<'_>,
    ) -> Result<(), CommitError> {
        // Whatever fails before COMMIT is sent, the connection, too, rolls back.
        let rolled_back = |error| CommitError::RolledBack(store_error(error));
        let finished = finish(&mut transaction, ended).await.map_err(rolled_back)?;
        if !finished {
            let _ = transaction.rollback().await;
            return Err(CommitError::Overtaken);
        }
        transaction.commit().await.map_err(|error| match error {
            // Refused, by a deferred constraint for example.
            error @ sqlx::Error::Database(_) if !leaves_open(&error) => rolled_back(error),
            error => CommitError::Unknown(store_error(error)),
        })
    }

    async fn roll_back(&self, transaction: Self::Transaction) -> Result<(), StoreError> {
        transaction.rollback().await.map_err(store_error)
    }
}

/// Whether the error speaks of the session and not of the transaction: a server that ends, or a
/// pooler that has lost it. <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn leaves_open(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code.starts_with("08") || code.starts_with("57P0") || code == "40003")
}

/// Advisory locks have 64 bits. Two records that share one are in each other's way, no more.
fn lock_of(id: &RecordId) -> i64 {
    let mut lock = [0; 8];
    lock.copy_from_slice(&id.as_bytes()[..8]);
    i64::from_be_bytes(lock)
}

async fn begin(
    pool: &PgPool,
    claim: &Claim,
) -> Result<BegunIn<Transaction<'static, Postgres>>, sqlx::Error> {
    let begin = format!(
        "BEGIN; SELECT set_config('idem.locked', pg_try_advisory_xact_lock({})::text, true); \
         SAVEPOINT idem",
        lock_of(&claim.id)
    );
    let mut transaction = pool.begin_with(AssertSqlSafe(begin)).await?;
    Ok(match look(&mut transaction, claim).await? {
        Claimed::Acquired { attempt } => BegunIn::Acquired {
            attempt,
            transaction,
        },
        // Rolled back when it is dropped, while the answer is on its way already.
        answer => BegunIn::Answered(answer),
    })
}

/// What the claim is answered. Changes nothing.
async fn look(
    transaction: &mut Transaction<'static, Postgres>,
    claim: &Claim,
) -> Result<Claimed, sqlx::Error> {
    let row = sqlx::query(LOOK)
        .bind(claim.id.as_bytes().as_slice())
        .bind(claim.fingerprint.to_bytes().to_vec())
        .fetch_one(&mut **transaction)
        .await?;
    let locked: bool = row.try_get("locked")?;
    let in_flight = Claimed::InFlight {
        lease_left: Duration::ZERO,
    };
    let Some(attempt) = row.try_get::<Option<i32>, _>("attempt")? else {
        return Ok(match locked {
            true => Claimed::Acquired { attempt: 1 },
            false => in_flight,
        });
    };
    let attempt = attempt.unsigned_abs();
    if !row.try_get::<bool, _>("same")? {
        return Ok(Claimed::Mismatch);
    }
    if let Some(outcome) = row.try_get::<Option<Vec<u8>>, _>("outcome")? {
        let kept: i64 = row.try_get("kept")?;
        return Ok(Claimed::Finished {
            outcome: Bytes::from(outcome),
            retention_left: Some(Duration::from_micros(kept.unsigned_abs())),
        });
    }
    // A record of the store, without a transaction.
    let crashed: bool = row.try_get("crashed")?;
    Ok(match (crashed, claim.on_crash) {
        (true, OnCrash::Refuse) => Claimed::OutcomeUnknown { attempt },
        (true, OnCrash::Rerun) if locked => Claimed::Acquired {
            attempt: attempt.saturating_add(1),
        },
        _ => in_flight,
    })
}

/// Writes the finished record; `false` where another one is in its place.
async fn finish(
    transaction: &mut Transaction<'static, Postgres>,
    ended: &Ended<'_>,
) -> Result<bool, sqlx::Error> {
    if ended.writes == Writes::Discard {
        // Also mends a transaction that an error has aborted.
        raw_sql("ROLLBACK TO SAVEPOINT idem")
            .execute(&mut **transaction)
            .await?;
    }
    let retention = i64::try_from(ended.claim.retention.as_micros()).unwrap_or(i64::MAX);
    let done = sqlx::query(FINISH)
        .bind(ended.claim.id.as_bytes().as_slice())
        .bind(ended.claim.fingerprint.to_bytes().to_vec())
        .bind(i32::try_from(ended.attempt).unwrap_or(i32::MAX))
        .bind(ended.claim.token.as_bytes().as_slice())
        .bind(retention)
        .bind(&ended.outcome[..])
        .execute(&mut **transaction)
        .await?;
    Ok(done.rows_affected() == 1)
}
