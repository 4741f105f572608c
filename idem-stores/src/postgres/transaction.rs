//! Claims inside the application's own transactions: the records lie in the same database as its
//! rows, and one commit decides over both.
//!
//! Nothing is written until the body has ended. Meanwhile a lock that ends with the transaction
//! keeps others out: it is asked for before the record is read, and not waited for. The lock,
//! `BEGIN` and a savepoint are one message, the look at the record another; the look comes after
//! the lock, so that it sees whatever the lock's last holder has committed. The outcome is one
//! insert. Where a pool reads from older snapshots the look may miss a record; then the insert
//! finds it, and everything is rolled back.
//!
//! What the lock has said stands in a setting that ends with the transaction, too. The insert
//! writes only where it still does: a body may have ended the transaction, and what is written
//! then would commit by itself.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use idem_core::{
    BegunIn, Claim, Claimed, CommitError, Ended, OnCrash, RecordId, StoreError, TransactionSource,
    Transactional, Watch, Writes,
};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgRow, PgSeverity};
use sqlx::{AssertSqlSafe, PgPool, Postgres, Row, SqlSafeStr, Transaction, raw_sql};
use tokio::runtime::Handle;

use super::NAME;
use super::errors::{of_the_server, store_error};
use crate::{Sqlx, place_of};

/// What a body's writes are rolled back to. No name that a body would give one of its own: the
/// newest of a name is the one that is rolled back to.
const ROLLBACK_TO_SAVEPOINT: &str = "ROLLBACK TO SAVEPOINT idem_rs_before_body";

const LOOK: &str = include_str!("statements/transaction_look.sql");
const FINISH: &str = include_str!("statements/transaction_finish.sql");
const STANDS: &str = include_str!("statements/transaction_stands.sql");

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
            let stands = stands(&mut transaction).await.map_err(rolled_back)?;
            let _ = transaction.rollback().await;
            return Err(match stands {
                true => CommitError::Overtaken,
                false => CommitError::RolledBack(StoreError::rejected(NAME, NotItsTransaction)),
            });
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
/// pooler that has lost it (not all of them have a class of their own for that: `58` is the
/// system's). <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn leaves_open(error: &sqlx::Error) -> bool {
    of_the_server(error).is_some_and(|error| {
        let code = error.code();
        matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic)
            || ["08", "57P0", "58"]
                .iter()
                .any(|class| code.starts_with(class))
            || code == "40003"
    })
}

/// Advisory locks have 64 bits, and are the database's: the table takes part in them, too, because
/// tenants may have a schema each, and the same keys. Two records that share one are in each
/// other's way, no more.
fn lock_of(id: &RecordId) -> i64 {
    let mut lock = [0; 8];
    lock.copy_from_slice(&id.as_bytes()[..8]);
    i64::from_be_bytes(lock)
}

async fn begin(
    pool: &PgPool,
    claim: &Claim,
) -> Result<BegunIn<Transaction<'static, Postgres>>, sqlx::Error> {
    // The lock comes before BEGIN, which makes it a part of the transaction: where it fails, none
    // has begun. The driver would leave one open.
    let begin = format!(
        "SELECT set_config('idem.locked', CASE WHEN pg_try_advisory_xact_lock(\
         '{}'::bigint # ('idem_records'::regclass::oid::bigint << 32)) \
         THEN 'idem_records'::regclass::oid::text ELSE '' END, true); \
         BEGIN; SAVEPOINT idem_rs_before_body",
        lock_of(&claim.id)
    );
    let mut transaction = Beginning::new(pool.acquire().await?, begin).await?;
    let (locked, answer) = look(&mut transaction, claim).await?;
    Ok(match answer {
        Claimed::Acquired { attempt } => BegunIn::Acquired {
            attempt,
            transaction,
            session_ended: Watch::never(),
        },
        answer => {
            // Dropped it is rolled back, too, while the answer is on its way already. But who
            // comes next would find the lock still taken, where it is what decides.
            if locked && !matches!(answer, Claimed::Finished { .. }) {
                transaction.rollback().await?;
            }
            BegunIn::Answered(answer)
        }
    })
}

/// Whether the lock was taken, and what the claim is answered. Changes nothing.
async fn look(
    transaction: &mut Transaction<'static, Postgres>,
    claim: &Claim,
) -> Result<(bool, Claimed), sqlx::Error> {
    let row = sqlx::query(LOOK)
        .bind(claim.id.as_bytes().as_slice())
        .bind(claim.fingerprint.to_bytes().to_vec())
        .fetch_one(&mut **transaction)
        .await?;
    let locked = row.try_get("locked")?;
    Ok((locked, answer(&row, locked, claim)?))
}

fn answer(row: &PgRow, locked: bool, claim: &Claim) -> Result<Claimed, sqlx::Error> {
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
        (true, OnCrash::Rerun) if locked => Claimed::Acquired {
            attempt: attempt.saturating_add(1),
        },
        (true, OnCrash::Rerun) | (false, _) => in_flight,
        (true, _) => Claimed::OutcomeUnknown { attempt },
    })
}

/// Writes the finished record; `false` where another one is in its place.
async fn finish(
    transaction: &mut Transaction<'static, Postgres>,
    ended: &Ended<'_>,
) -> Result<bool, sqlx::Error> {
    if ended.writes == Writes::Discard {
        // Also mends a transaction that an error has aborted.
        raw_sql(ROLLBACK_TO_SAVEPOINT)
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

/// Whether the transaction is still the one that began, and sees the same table.
async fn stands(transaction: &mut Transaction<'static, Postgres>) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(STANDS)
        .fetch_one(&mut **transaction)
        .await
}

/// A body has ended its transaction, or sees another table.
#[derive(Debug)]
struct NotItsTransaction;

impl fmt::Display for NotItsTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the body has ended the transaction that it was given, or has set a search_path with another table idem_records",
        )
    }
}

impl std::error::Error for NotItsTransaction {}

/// A transaction that begins. Dropped, it goes on to begin, and is rolled back then.
///
/// The driver would give the connection back as it is: a BEGIN that was sent is answered later,
/// and nobody would end that transaction. Whatever is asked of the connection next would be in
/// it, and never be committed.
struct Beginning {
    begun: Option<BoxFuture<'static, Result<Transaction<'static, Postgres>, sqlx::Error>>>,
    runtime: Handle,
}

impl Beginning {
    fn new(connection: PoolConnection<Postgres>, begin: String) -> Self {
        let begin = AssertSqlSafe(begin).into_sql_str();
        Self {
            // What `Pool::begin_with` does, once it has a connection: a call that is dropped
            // before that waits for none.
            begun: Some(Transaction::begin(connection, Some(begin))),
            runtime: Handle::current(),
        }
    }
}

impl Future for Beginning {
    type Output = Result<Transaction<'static, Postgres>, sqlx::Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(begun) = &mut self.begun else {
            return Poll::Pending;
        };
        let polled = begun.as_mut().poll(context);
        if polled.is_ready() {
            self.begun = None;
        }
        polled
    }
}

impl Drop for Beginning {
    fn drop(&mut self) {
        if let Some(begun) = self.begun.take() {
            // Whoever drops a call need not be on the runtime, which the driver's pool needs.
            let _context = self.runtime.enter();
            self.runtime.spawn(async move { drop(begun.await) });
        }
    }
}
