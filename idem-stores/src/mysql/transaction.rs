//! Claims inside the application's own transactions. The records are in the same database as its rows, and
//! one commit covers both.
//!
//! The record's row is inserted, or locked, before the body runs, and belongs to the transaction until it
//! ends. Another attempt finds the row locked, and is told so at once: it waits for no lock, but on MySQL for
//! a second where two begin at the same instant. All of this is one message, and the savepoint that comes
//! before the body is another one. A replay is answered by the first, which begins no transaction then.
//!
//! The savepoint tells whether the transaction is still the one that was begun: it ends with it. A body may
//! have ended it, with a statement that creates a table for example, and so may a deadlock. Then the outcome
//! is not written.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use idem_core::{
    BegunTransaction, Claim, Claimed, CommitError, OnCrash, StoreError, TransactionEnd,
    TransactionSource, Transactional, Watch, Writes,
};
use sqlx::mysql::MySqlRow;
use sqlx::pool::PoolConnection;
use sqlx::{Error, MySql, MySqlPool, SqlSafeStr, Transaction};

use super::NAME;
use super::connections::Connections;
use super::errors::{
    breaks_connection, commit_error, finish_error, is_conflict, is_guard, is_locked, store_error,
};
use super::message::{
    Answer, Message, Text, Value, bytes_of, is, maybe_number, number, text, word,
};
use super::pool_state::{PoolState, database_id_of};
use super::statements::{self, micros};
use super::store::{too_large, warn_too_large};
use super::target::Settings;
use crate::Sqlx;
use crate::sql::errors::Sent;
use crate::sql::goes_on::GoesOn;

/// The savepoint's name is one that no body uses: of several with one name, the newest counts.
const SAVEPOINT: &str = "SAVEPOINT idem_rs_before_body";
const ROLLBACK_TO_SAVEPOINT: &str = "ROLLBACK TO SAVEPOINT idem_rs_before_body; ";

/// Ends a transaction that has not begun whole.
const UNDO: &str = "ROLLBACK; \
    SET SESSION innodb_lock_wait_timeout = COALESCE(@idem_wait, @@innodb_lock_wait_timeout)";

/// How often a beginning is tried again that a deadlock or a change of the record has stopped.
const MAX_TRIES: usize = 10;

/// Servers that are patient for longer are not asked whether they have ended a session: their default is
/// eight hours.
const LONGEST_WATCHED: Duration = Duration::from_secs(60 * 60);

/// Which statement of the beginning is the first one within the transaction.
const FIRST_WITHIN: usize = 5;

static BEGIN: Text = text!("statements/transaction_begin.sql");
static FINISH: Text = text!("statements/transaction_finish.sql");

/// A MySQL or MariaDB database that an operation's transactions are opened in.
///
/// Without settings, a pool serves as well: `transaction = bank.pool`.
///
/// ```no_run
/// # fn example(pool: sqlx::MySqlPool) {
/// use idem_stores::mysql::MySqlTransactions;
///
/// let transactions = MySqlTransactions::new(pool).sweep_every(None);
/// # }
/// ```
///
/// It needs the tables of [`MySqlStore::migrate`](super::MySqlStore::migrate), and tables of InnoDB for what
/// the body writes. Any isolation level will do.
///
/// If the server ends sessions that are silent (`wait_timeout`, and `idle_transaction_timeout` of MariaDB,
/// where they are an hour at most), the attempt learns of it within five seconds, over another connection of
/// the pool. If the pool has no other connection, the attempt learns of it when it ends.
///
/// What a body must not do: statements that commit by themselves, such as `CREATE TABLE` and `TRUNCATE`.
/// What they have committed stays, and the attempt counts as crashed. And where a statement fails with a
/// deadlock (1213), the server has rolled the whole transaction back: the body returns, because what it
/// writes after that is committed at once.
#[derive(Clone, Debug)]
pub struct MySqlTransactions {
    pool: MySqlPool,
    sweep_every: Option<Duration>,
}

impl MySqlTransactions {
    /// Transactions of this pool.
    pub fn new(pool: MySqlPool) -> Self {
        Self {
            pool,
            sweep_every: Settings::default().sweep_every,
        }
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
}

#[diagnostic::do_not_recommend]
impl TransactionSource<Sqlx> for MySqlPool {
    type Database = MySqlTransactions;

    fn database(&self) -> MySqlTransactions {
        MySqlTransactions::new(self.clone())
    }
}

#[diagnostic::do_not_recommend]
impl TransactionSource<Sqlx> for MySqlTransactions {
    type Database = Self;

    fn database(&self) -> Self {
        self.clone()
    }
}

/// Each of these goes on in the background if it is dropped: the driver must read an answer to its end.
#[async_trait]
impl Transactional for MySqlTransactions {
    type Transaction = Transaction<'static, MySql>;

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
        let begun = begin_on(connection, *claim, self.pool.clone());
        GoesOn::new(begun.boxed()).await
    }

    async fn commit(
        &self,
        transaction: Self::Transaction,
        ended: &TransactionEnd<'_>,
    ) -> Result<(), CommitError> {
        let end = End {
            claim: *ended.claim,
            attempt: ended.attempt,
            outcome: ended.outcome.clone(),
            writes: ended.writes,
        };
        let state = PoolState::of(&self.pool);
        let max_message = state.max_message();
        GoesOn::new(commit(transaction, end, max_message).boxed()).await?;
        if let Some(every) = self.sweep_every {
            state.sweeps.sweep_if_due(every, || {
                Connections::of_application(self.pool.clone(), &Settings::default())
            });
        }
        Ok(())
    }

    async fn roll_back(&self, transaction: Self::Transaction) -> Result<(), StoreError> {
        let rolled_back = GoesOn::new(transaction.rollback().boxed()).await;
        rolled_back.map_err(|error| store_error(error, Sent::Maybe))
    }
}

type Begun = BegunTransaction<Transaction<'static, MySql>>;

async fn begin_on(
    mut connection: PoolConnection<MySql>,
    claim: Claim,
    pool: MySqlPool,
) -> Result<Begun, StoreError> {
    let state = PoolState::of(&pool);
    let mut tries = 0;
    let (acquired, session_ended) = loop {
        tries += 1;
        let mut session_ended = Watch::never();
        let begun = try_to_begin(&mut connection, &claim, &state, &pool, &mut session_ended);
        match begun.await {
            Ok(Some(answer)) => break (Ok(answer), session_ended),
            Ok(None) if tries < MAX_TRIES => {}
            Err(error) if is_conflict(&error) && tries < MAX_TRIES => {}
            Ok(None) => {
                let error = StoreError::busy(NAME, KeepsChanging);
                break (Err(error), session_ended);
            }
            Err(error) => {
                if breaks_connection(&error) {
                    connection.close_on_drop();
                }
                break (Err(store_error(error, Sent::Maybe)), session_ended);
            }
        }
    };
    let attempt = match acquired? {
        Claimed::Acquired { attempt, .. } => attempt,
        answer => return Ok(BegunTransaction::Answered(answer)),
    };
    // Of a transaction that has begun: the driver only takes note of it.
    let begun = Transaction::begin(connection, Some(SAVEPOINT.into_sql_str())).await;
    Ok(BegunTransaction::Acquired {
        attempt,
        transaction: begun.map_err(|error| store_error(error, Sent::Maybe))?,
        session_ended,
    })
}

/// Begins a transaction that has the record's row; if the answer is another one, none. `None`: the record is
/// just being changed, ask again.
async fn try_to_begin(
    connection: &mut PoolConnection<MySql>,
    claim: &Claim,
    state: &PoolState,
    pool: &MySqlPool,
    session_ended: &mut Watch,
) -> Result<Option<Claimed>, Error> {
    let begin = Message::new(
        &BEGIN,
        [
            Value::Bytes(claim.id.as_bytes()),
            Value::Bytes(&claim.fingerprint.to_bytes()),
            Value::Bytes(claim.token.as_bytes()),
            micros(claim.retention),
            Value::Boolean(claim.on_crash == OnCrash::Rerun),
            statements::name(&claim.operation),
        ],
    );
    let (answer, ended) = begin.send(connection, |_| {}).await;
    if let Some(row) = answer.row_of(1)
        && let Some(bytes) = maybe_number(row, "max_message")?
    {
        state.set_max_message(usize::try_from(bytes).unwrap_or_default());
    }
    if ended.is_ok()
        && let Some(row) = answer.rows().first()
        && let Some(limit) = patience(row)?
    {
        *session_ended = state.session_ended(pool, number(row, "session")?, limit);
    }
    let is_begun = answer.len() > FIRST_WITHIN;
    let claimed = match ended {
        Ok(()) => match answer.rows().first() {
            Some(row) => answer_of(row, claim).map(Some),
            None => Ok(None),
        },
        Err(error) if is_guard(&error) => found(&answer, claim),
        Err(error) if is_locked(&error) => Ok(Some(in_flight())),
        Err(error) => Err(error),
    };
    if is_begun && !matches!(claimed, Ok(Some(Claimed::Acquired { .. }))) {
        let undone = Message::plain(UNDO).send(connection, |_| {}).await.1;
        if undone.is_err() {
            connection.close_on_drop();
            return claimed.and_then(|claimed| undone.map(|()| claimed));
        }
    }
    claimed
}

/// How long the server keeps a session whose transaction is silent, if that is not for long.
fn patience(row: &MySqlRow) -> Result<Option<Duration>, Error> {
    let limits = [number(row, "silence")?, number(row, "silence_within")?];
    let limits = limits
        .into_iter()
        .filter_map(|limit| u64::try_from(limit).ok().filter(|limit| *limit > 0))
        .map(Duration::from_secs);
    Ok(limits.min().filter(|limit| *limit <= LONGEST_WATCHED))
}

/// The answer where something stands against an attempt. `None`: it did not when it was read before.
fn found(answer: &Answer, claim: &Claim) -> Result<Option<Claimed>, Error> {
    let row = answer.row_of(1).ok_or(Error::RowNotFound)?;
    if maybe_number(row, "attempt")?.is_none() {
        return Ok(None);
    }
    let answer = answer_of(row, claim)?;
    Ok(Some(answer).filter(|answer| !matches!(answer, Claimed::Acquired { .. })))
}

const fn in_flight() -> Claimed {
    Claimed::InFlight {
        lease_left: Duration::ZERO,
    }
}

/// The answer to a claim that finds this row. A record of the store, without a transaction, may have steps,
/// which are for bodies without a transaction.
fn answer_of(row: &MySqlRow, claim: &Claim) -> Result<Claimed, Error> {
    let attempt = number(row, "attempt")?;
    let attempt = u32::try_from(attempt).map_err(|error| Error::Decode(Box::new(error)))?;
    let kept = number(row, "kept")?;
    if kept <= 0 {
        return Ok(Claimed::acquired(1));
    }
    if !is(row, "same")? {
        return Ok(Claimed::Mismatch);
    }
    // This transaction has inserted it.
    if is(row, "own")? {
        return Ok(Claimed::acquired(attempt));
    }
    let crashed = is(row, "crashed")?;
    Ok(match word(row, "state")? {
        "finished" => Claimed::Finished {
            outcome: bytes_of(row, "outcome")?.ok_or(Error::RowNotFound)?,
            retention_left: Some(Duration::from_micros(kept.unsigned_abs())),
            claimed_at: statements::claimed_at(row)?,
        },
        "suspended" => Claimed::acquired(attempt.saturating_add(1)),
        "running" if !crashed => in_flight(),
        "running" if claim.on_crash == OnCrash::Rerun => {
            Claimed::acquired(attempt.saturating_add(1))
        }
        "running" => Claimed::OutcomeUnknown { attempt },
        _ => return Err(Error::RowNotFound),
    })
}

/// How an attempt has ended, for a future that may outlive its call.
struct End {
    claim: Claim,
    attempt: u32,
    outcome: Bytes,
    writes: Writes,
}

impl End {
    fn message(&self, outcome: &[u8]) -> Message {
        let Self { claim, attempt, .. } = self;
        let finish = Message::new(
            &FINISH,
            [
                Value::Bytes(claim.id.as_bytes()),
                Value::Bytes(&claim.fingerprint.to_bytes()),
                Value::Bytes(claim.token.as_bytes()),
                Value::Number((*attempt).into()),
                Value::Bytes(outcome),
                micros(claim.retention),
                statements::name(&claim.operation),
            ],
        );
        match self.writes {
            Writes::Keep => finish,
            Writes::Discard => finish.behind(ROLLBACK_TO_SAVEPOINT),
        }
    }
}

async fn commit(
    mut transaction: Transaction<'static, MySql>,
    end: End,
    max_message: usize,
) -> Result<(), CommitError> {
    let mut finish = end.message(&end.outcome);
    if finish.len() >= max_message {
        warn_too_large(&end.claim.operation);
        finish = end.message(&too_large());
    }
    let (answer, ended) = finish.send(&mut transaction, |_| {}).await;
    let refused = match ended {
        Ok(()) if answer.affected() > 0 => None,
        Ok(()) => Some(CommitError::Overtaken),
        Err(error) => Some(finish_error(error)),
    };
    if let Some(refused) = refused {
        // The record must be free when the error is returned. Without a connection this fails at once.
        let _ = transaction.rollback().await;
        return Err(refused);
    }
    transaction.commit().await.map_err(commit_error)
}

/// A record was never as it had been found.
#[derive(Debug)]
struct KeepsChanging;

impl fmt::Display for KeepsChanging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the record was changed by others whenever it was looked at")
    }
}

impl std::error::Error for KeepsChanging {}
