//! Claims inside the application's own transactions. The records are in the same database as its rows, and
//! one commit covers both.
//!
//! Nothing is written until the body has ended. Meanwhile an advisory lock that ends with the transaction
//! excludes other attempts. It is requested before the record is read, and not waited for. The lock,
//! `BEGIN` and a savepoint are one message, and the read of the record is another. The read comes after
//! the lock, so that it sees what the lock's last holder has committed. The outcome is one insert. If a
//! pool reads older snapshots, the read may miss a record. Then the insert finds it, and everything is
//! rolled back.
//!
//! A setting that ends with the transaction, too, holds the result of the lock. The insert writes only if
//! the setting is still there: a body may have ended the transaction, and the insert would commit by
//! itself.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use idem_core::{
    BegunTransaction, Claim, Claimed, CommitError, OnCrash, RecordId, StoreError, TransactionEnd,
    TransactionSource, Transactional, Watch, Writes,
};
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Error, PgPool, Postgres, Row, SqlSafeStr, Transaction, raw_sql};

use super::connections::Connections;
use super::errors::{commit_error, finish_error, store_error};
use super::hung_sessions::Session;
use super::pool_state::{PoolState, database_id_of};
use super::statement::{Protocol, Statement, Text, Value, bytes_of, text};
use super::target::{Pooler, Settings};
use super::{NAME, statements};
use crate::Sqlx;
use crate::sql::errors::Sent;
use crate::sql::goes_on::GoesOn;

/// Rolls the body's writes back. The savepoint's name is one that no body uses: of several with one name,
/// the newest counts.
const ROLLBACK_TO_SAVEPOINT: &str = "ROLLBACK TO SAVEPOINT idem_rs_before_body";

static LOOK: Text = text!("look 2", "statements/transaction_look.sql");
static FINISH: Text = text!("finish 2", "statements/transaction_finish.sql");

/// A PostgreSQL database that an operation's transactions are opened in.
///
/// Without settings, a pool serves as well: `transaction = bank.pool`.
///
/// ```no_run
/// # fn example(pool: sqlx::PgPool) {
/// use idem_stores::postgres::{PgTransactions, Pooler};
///
/// let transactions = PgTransactions::new(pool).pooler(Pooler::Transaction);
/// # }
/// ```
///
/// It needs the tables of [`PostgresStore::migrate`](super::PostgresStore::migrate), and
/// transactions at `READ COMMITTED`, PostgreSQL's default, or stricter.
///
/// If the server ends sessions that are idle in a transaction (`idle_in_transaction_session_timeout`), the
/// attempt learns of it within five seconds, over another connection of the pool. If the pool has no
/// other connection, the attempt learns of it when it ends.
#[derive(Clone, Debug)]
pub struct PgTransactions {
    pool: PgPool,
    pooler: Pooler,
    sweep_every: Option<Duration>,
}

impl PgTransactions {
    /// Transactions of this pool.
    pub fn new(pool: PgPool) -> Self {
        let Settings {
            pooler,
            sweep_every,
            ..
        } = Settings::default();
        Self {
            pool,
            pooler,
            sweep_every,
        }
    }

    /// What is between the pool and its server; [`Pooler::Session`] unless given, which includes nothing
    /// at all.
    #[must_use]
    pub const fn pooler(mut self, pooler: Pooler) -> Self {
        self.pooler = pooler;
        self
    }

    /// The longest pause between two deletions of expired records; a minute unless given. With more than
    /// 10,000 expired records there is no pause. They are deleted in the background after a commit, over
    /// one connection of the pool, and the pool stays open for no longer than that takes. `None` leaves
    /// it to others.
    #[must_use]
    pub const fn sweep_every(mut self, pause: Option<Duration>) -> Self {
        self.sweep_every = pause;
        self
    }

    const fn protocol(&self) -> Protocol {
        match self.pooler {
            Pooler::Session => Protocol::Prepared,
            Pooler::Transaction => Protocol::Simple,
        }
    }
}

#[diagnostic::do_not_recommend]
impl TransactionSource<Sqlx> for PgPool {
    type Database = PgTransactions;

    fn database(&self) -> PgTransactions {
        PgTransactions::new(self.clone())
    }
}

#[diagnostic::do_not_recommend]
impl TransactionSource<Sqlx> for PgTransactions {
    type Database = Self;

    fn database(&self) -> Self {
        self.clone()
    }
}

#[async_trait]
impl Transactional for PgTransactions {
    type Transaction = Transaction<'static, Postgres>;

    fn name(&self) -> &'static str {
        NAME
    }

    fn database_id(&self) -> Vec<u8> {
        database_id_of(&self.pool)
    }

    async fn begin(
        &self,
        claim: &Claim,
    ) -> Result<BegunTransaction<Self::Transaction>, StoreError> {
        let connection = self.pool.acquire().await;
        let connection = connection.map_err(|error| store_error(error, Sent::Nothing))?;
        self.begin_on(connection, claim).await
    }

    async fn commit(
        &self,
        mut transaction: Self::Transaction,
        ended: &TransactionEnd<'_>,
    ) -> Result<(), CommitError> {
        let refused = match self.finish(&mut transaction, ended).await {
            Ok(Finished::Written) => None,
            Ok(Finished::Overtaken) => Some(CommitError::Overtaken),
            Ok(Finished::NotItsTransaction) => {
                let error = StoreError::rejected(NAME, NotItsTransaction);
                Some(CommitError::RolledBack(error))
            }
            Err(error) => Some(finish_error(error)),
        };
        if let Some(refused) = refused {
            // The record must be free when the error is returned. Without a connection this fails at once.
            let _ = transaction.rollback().await;
            return Err(refused);
        }
        // The server answers a refusal before it frees the record: a retry that comes at once may find it
        // held for a moment.
        transaction.commit().await.map_err(commit_error)?;
        if let Some(every) = self.sweep_every {
            let settings = Settings {
                pooler: self.pooler,
                ..Settings::default()
            };
            PoolState::of(&self.pool).sweeps.sweep_if_due(every, || {
                Connections::of_application(self.pool.clone(), &settings)
            });
        }
        Ok(())
    }

    async fn roll_back(&self, transaction: Self::Transaction) -> Result<(), StoreError> {
        let rolled_back = transaction.rollback().await;
        rolled_back.map_err(|error| store_error(error, Sent::Maybe))
    }
}

/// The record's part of its advisory lock. A lock has 64 bits, and belongs to the database. The table is a
/// part of it, too, because tenants may have a schema each, and the same keys. Two records with the same
/// lock only block each other.
fn advisory_lock_of(id: &RecordId) -> i64 {
    let mut lock = [0; 8];
    lock.copy_from_slice(&id.as_bytes()[..8]);
    i64::from_be_bytes(lock)
}

impl PgTransactions {
    async fn begin_on(
        &self,
        connection: PoolConnection<Postgres>,
        claim: &Claim,
    ) -> Result<BegunTransaction<Transaction<'static, Postgres>>, StoreError> {
        let failed = |error| store_error(error, Sent::Maybe);
        // The lock comes before BEGIN, which makes it a part of the transaction. If it fails, no transaction
        // has begun: the driver would leave it open.
        let begin = format!(
            "SELECT set_config('idem.locked', CASE WHEN pg_try_advisory_xact_lock(\
             '{}'::bigint # ('idem_records'::regclass::oid::bigint << 32)) \
             THEN 'idem_records'::regclass::oid::text ELSE '' END, true); \
             BEGIN; SAVEPOINT idem_rs_before_body",
            advisory_lock_of(&claim.id)
        );
        // As `Pool::begin_with`, but with a connection: a call that is dropped before waits for none. If it is
        // dropped now, the transaction goes on to begin in the background, and is rolled back. The driver
        // would put the connection back as it is, and its next statements would be in that transaction.
        let begun = Transaction::begin(connection, Some(AssertSqlSafe(begin).into_sql_str()));
        let mut transaction = GoesOn::new(begun).await.map_err(failed)?;
        let look = Statement::new(
            &LOOK,
            [
                Value::Bytes(claim.id.as_bytes()),
                Value::Fingerprint(claim.fingerprint.to_bytes()),
            ],
        );
        let row = look.run(&mut transaction, self.protocol(), None).await;
        let row = row.map_err(failed)?;
        let locked = row.try_get("locked").map_err(failed)?;
        let answer = answer(&row, locked, claim).map_err(failed)?;
        let refusal = match answer {
            Claimed::Acquired { attempt, .. } => match refusal(&row).map_err(failed)? {
                None => {
                    let session_ended = self.session_ended(&row).map_err(failed)?;
                    return Ok(BegunTransaction::Acquired {
                        attempt,
                        transaction,
                        session_ended,
                    });
                }
                refusal => refusal,
            },
            _ => None,
        };
        // Dropping it would roll back, too, and return the answer sooner. But the next attempt might find the
        // lock still held.
        if locked && !matches!(answer, Claimed::Finished { .. }) {
            transaction.rollback().await.map_err(failed)?;
        }
        match refusal {
            Some(refusal) => Err(refusal),
            None => Ok(BegunTransaction::Answered(answer)),
        }
    }

    /// Resolves when the server has ended the session, if it does so by itself.
    fn session_ended(&self, row: &PgRow) -> Result<Watch, Error> {
        if row.try_get::<Option<i32>, _>("pid")?.is_none() {
            return Ok(Watch::never());
        }
        let limits = [row.try_get("silence")?, row.try_get("whole")?];
        // As the server writes times: "500ms", "5min".
        let limits = limits.map(|limit: &str| humantime::parse_duration(limit).unwrap_or_default());
        let limit = limits.into_iter().filter(|limit| !limit.is_zero()).min();
        let pool = &self.pool;
        let ended = |limit| Ok(PoolState::of(pool).session_ended(pool, Session::read(row)?, limit));
        limit.map_or_else(|| Ok(Watch::never()), ended)
    }

    /// Writes the finished record.
    async fn finish(
        &self,
        transaction: &mut Transaction<'static, Postgres>,
        ended: &TransactionEnd<'_>,
    ) -> Result<Finished, Error> {
        if ended.writes == Writes::Discard {
            // This also recovers a transaction that an error has aborted.
            raw_sql(ROLLBACK_TO_SAVEPOINT)
                .execute(&mut **transaction)
                .await?;
        }
        let claim = ended.claim;
        let retention = i64::try_from(claim.retention.as_micros()).unwrap_or(i64::MAX);
        let finish = Statement::new(
            &FINISH,
            [
                Value::Bytes(claim.id.as_bytes()),
                Value::Fingerprint(claim.fingerprint.to_bytes()),
                Value::Integer(i32::try_from(ended.attempt).unwrap_or(i32::MAX)),
                Value::Bytes(claim.token.as_bytes()),
                Value::Bigint(retention),
                Value::Bytes(&ended.outcome),
                statements::name(&claim.operation),
            ],
        );
        let row = finish.run(transaction, self.protocol(), None).await?;
        Ok(match (row.try_get("applied")?, row.try_get("stands")?) {
            (true, _) => Finished::Written,
            (false, true) => Finished::Overtaken,
            (false, false) => Finished::NotItsTransaction,
        })
    }
}

/// The result of writing the finished record.
enum Finished {
    Written,
    /// Another one is in its place.
    Overtaken,
    /// The transaction is not the one that began, or sees another table.
    NotItsTransaction,
}

/// Why the outcome could not be written, as far as is known before the body runs.
fn refusal(row: &PgRow) -> Result<Option<StoreError>, Error> {
    if row.try_get("read_only")? {
        return Ok(Some(StoreError::not_ready(NAME, TakesNoWrites)));
    }
    let may_write: bool = row.try_get("may_write")?;
    Ok((!may_write).then(|| StoreError::rejected(NAME, MayNotWrite)))
}

/// The answer to the claim.
fn answer(row: &PgRow, locked: bool, claim: &Claim) -> Result<Claimed, Error> {
    let in_flight = Claimed::InFlight {
        lease_left: Duration::ZERO,
    };
    let Some(attempt) = row.try_get::<Option<i32>, _>("attempt")? else {
        return Ok(match locked {
            true => Claimed::acquired(1),
            false => in_flight,
        });
    };
    let attempt = attempt.unsigned_abs();
    if !row.try_get::<bool, _>("same")? {
        return Ok(Claimed::Mismatch);
    }
    if let Some(outcome) = bytes_of(row, "outcome")? {
        let kept: i64 = row.try_get("kept")?;
        return Ok(Claimed::Finished {
            outcome,
            retention_left: Some(Duration::from_micros(kept.unsigned_abs())),
            claimed_at: statements::claimed_at(row)?,
        });
    }
    // A record of the store, without a transaction. The steps that it may have are for bodies without a
    // transaction.
    let crashed: bool = row.try_get("crashed")?;
    let is_suspended = row.try_get::<Option<bool>, _>("suspended")? == Some(true);
    let goes_on = is_suspended || claim.on_crash == OnCrash::Rerun;
    Ok(match crashed {
        true if goes_on && locked => Claimed::acquired(attempt.saturating_add(1)),
        true if !goes_on => Claimed::OutcomeUnknown { attempt },
        _ => in_flight,
    })
}

/// The login may read records, and not write them.
#[derive(Debug)]
struct MayNotWrite;

impl fmt::Display for MayNotWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the login lacks INSERT or UPDATE on the table idem_records")
    }
}

impl std::error::Error for MayNotWrite {}

/// The server is a standby, or set to read only.
#[derive(Debug)]
struct TakesNoWrites;

impl fmt::Display for TakesNoWrites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server takes no writes: it is a standby, or set to read only")
    }
}

impl std::error::Error for TakesNoWrites {}

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
