//! Attempts inside a database's own transactions: from the claim to the one commit that
//! decides everything.
//!
//! There is no lease here, and nothing to renew, to abandon or to free: what is not committed
//! has not happened. What there is instead is a commit whose answer may be lost; the database
//! is then asked what it did.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use tokio::time::{Instant, sleep};

use super::backoff::Backoff;
use super::begin::{decide_or_go, is_known_by, report};
use super::decision::{Conclusion, Decided, Granted, Leader, Patience, conclude, gave_up};
use super::flight::{Ending, FlightGuard};
use super::operation::{self, Operation};
use super::{Engine, runtime};
use crate::attempt::Attempt;
use crate::call::Call;
use crate::current;
use crate::error::Error;
use crate::fingerprint::{Fingerprint, FormerFingerprint};
use crate::key::{Key, KeyError, KeyPart};
use crate::observer::{Decision, EventKind};
use crate::outcome::Verdict;
use crate::replay::{AfterCrash, ReleaseErrors, Replayable, StoreErrors};
use crate::transactional::{BegunTransaction, TransactionSource, Transactional, Writes};

mod begin;
mod execution;

use begin::{FIRST_POLL, LAST_POLL, begin};
pub use execution::{CommitSent, Ended, Execution};

/// An [`Operation`] whose claims, writes and outcomes commit in one transaction of a database.
///
/// The record lives in that database, whatever store the engine is over. What `lease` and
/// `on_crash` say has no meaning here, and an engine that fails open does not: without its
/// database there is nothing that the body could write to.
#[must_use]
pub struct InTransaction<D> {
    operation: Operation,
    database: Arc<D>,
}

impl Operation {
    /// This operation with its claims, its bodies' writes and its outcomes in one transaction
    /// each, of a database that keeps records: a `sqlx` pool, or a store over one.
    pub fn transaction<Via, S>(self, source: &S) -> InTransaction<S::Database>
    where
        S: TransactionSource<Via> + ?Sized,
    {
        self.in_database(source.database())
    }

    /// [`transaction`](Self::transaction) for a database that is known already.
    #[doc(hidden)]
    pub fn in_database<D: Transactional>(self, database: D) -> InTransaction<D> {
        InTransaction::new(self, database)
    }
}

impl<D: Transactional> InTransaction<D> {
    pub(super) fn new(operation: Operation, database: D) -> Self {
        Self {
            operation,
            database: Arc::new(database),
        }
    }

    /// Runs the body once for `key`, in a transaction that commits with its value, or gives its
    /// stored value back.
    ///
    /// The body gets the driver's own transaction, and gives it back with its value:
    /// `|mut tx| async move { let booked = book(&mut tx).await; (tx, booked) }`. It does not end
    /// it. An `Err` rolls everything back and frees the key; so does a panic, which is resumed, and
    /// dropping this future. A crash of the process or the database at any instant leaves all or
    /// nothing.
    ///
    /// An [`Error::Unsettled`] says that the commit was sent and that the database did not
    /// answer, nor for a while after: a retry finds out.
    pub async fn run<K, B, F, T>(&self, key: &K, fingerprint: Fingerprint, body: B) -> T
    where
        K: KeyPart + ?Sized,
        B: FnOnce(D::Transaction) -> F,
        F: Future<Output = (D::Transaction, T)>,
        T: Replayable<ReleaseErrors>,
    {
        self.run_encoded(Key::of(key), fingerprint, body).await
    }

    /// Like [`run`](Self::run), and an `Err` is stored and given back too: what the body wrote is
    /// rolled back, and the error commits alone.
    pub async fn run_storing_errors<K, B, F, T>(
        &self,
        key: &K,
        fingerprint: Fingerprint,
        body: B,
    ) -> T
    where
        K: KeyPart + ?Sized,
        B: FnOnce(D::Transaction) -> F,
        F: Future<Output = (D::Transaction, T)>,
        T: Replayable<StoreErrors>,
    {
        self.run_encoded(Key::of(key), fingerprint, body).await
    }

    /// [`run`](Self::run) for a key that was encoded before.
    #[doc(hidden)]
    pub async fn run_encoded<B, F, Tx, T, Errors>(
        &self,
        key: Result<Key, KeyError>,
        fingerprint: Fingerprint,
        body: B,
    ) -> T
    where
        B: FnOnce(D::Transaction) -> F,
        F: Future<Output = (Tx, T)>,
        Tx: Into<Option<D::Transaction>>,
        T: Replayable<Errors>,
    {
        let granted = match self.keyed(key) {
            Ok(keyed) => Box::pin(keyed.begin(fingerprint)).await,
            Err(error) => Err(error),
        };
        let ended = match granted {
            Err(error) => Ended::Refused(error),
            Ok(Granted::Replay(outcome)) => Ended::Replay(outcome),
            // What is in a transaction is shared with nobody.
            Ok(Granted::Attach(_)) => Ended::Refused(self.operation.engine.in_flight()),
            Ok(Granted::Run(execution)) => {
                let judged = |transaction| async move {
                    let (transaction, value) = body(transaction).await;
                    let engine = &self.operation.engine;
                    let verdict = value.verdict_under(&engine.inner.settings);
                    engine
                        .inner
                        .replays
                        .check_value(self.operation.name(), &value, &verdict);
                    let writes = match &verdict {
                        Verdict::Final(outcome) if !value.keeps_writes(outcome) => Writes::Discard,
                        _ => Writes::Keep,
                    };
                    (transaction, verdict, writes, value)
                };
                match Box::pin(execution.drive(judged)).await {
                    Ok(ended) => ended,
                    Err(panic) => {
                        let settings = &self.operation.engine.inner.settings;
                        let crashed = T::crashed(settings, AfterCrash::RolledBack);
                        return crashed.unwrap_or_else(|| std::panic::resume_unwind(panic));
                    }
                }
            }
        };
        let settings = &self.operation.engine.inner.settings;
        let refused = |error| T::refused_under(error, settings);
        match ended {
            Ended::Value(value) => value,
            Ended::Replay(outcome) => T::replay_under(&outcome, settings).unwrap_or_else(refused),
            Ended::Refused(error) => refused(error),
        }
    }

    /// This operation under a key, for adapters.
    ///
    /// # Errors
    /// When the key or the scope is not acceptable.
    #[doc(hidden)]
    pub fn keyed(&self, key: Result<Key, KeyError>) -> Result<Keyed<D>, Error> {
        Ok(Keyed {
            keyed: self.operation.keyed(key)?,
            database: Arc::clone(&self.database),
        })
    }
}

/// An operation under a key, in a database.
#[derive(Debug)]
#[doc(hidden)]
pub struct Keyed<D> {
    keyed: operation::Keyed,
    database: Arc<D>,
}

impl<D: Transactional> Keyed<D> {
    /// Decides what the call may do. Waits for another transaction when the policy says so, and
    /// holds none meanwhile.
    ///
    /// # Errors
    /// Why the body must not run in this call.
    pub async fn begin(self, fingerprint: Fingerprint) -> Result<Granted<Execution<D>>, Error> {
        self.begin_as(fingerprint, None).await
    }

    /// See [`operation::Keyed::begin_or_attach`].
    ///
    /// # Errors
    /// Why the body must not run in this call.
    pub async fn begin_as(
        self,
        fingerprint: Fingerprint,
        former: Option<FormerFingerprint>,
    ) -> Result<Granted<Execution<D>>, Error> {
        runtime::current()?;
        if self.keyed.is_lent() {
            // What a layer has claimed commits by itself, apart from the rows.
            return Err(Error::ClaimedByLayer);
        }
        let (engine, mut call) = self.keyed.into_call(fingerprint);
        call.flight_key = call.id.within(&self.database.database_id());
        let (engine, database) = (&engine, &self.database);
        let leader = TransactionLeader {
            engine,
            call: &call,
            database,
        };
        let mut decided = decide_or_go(engine, &call, &leader).await?;
        if is_known_by(&mut call, &decided, former) {
            let leader = TransactionLeader {
                engine,
                call: &call,
                database,
            };
            decided = decide_or_go(engine, &call, &leader).await?;
        }
        report(engine, &call, decided)
    }
}

/// Claims in transactions.
struct TransactionLeader<'a, D> {
    engine: &'a Engine,
    call: &'a Call,
    database: &'a Arc<D>,
}

impl<D: Transactional> Leader for TransactionLeader<'_, D> {
    type Run = Execution<D>;

    async fn lead(&self, patience: Patience, mut flight: FlightGuard) -> Decided<Self::Run> {
        let Self {
            engine,
            call,
            database,
        } = *self;
        let claim = call.claim(engine.inner.cache.is_on());
        let mut backoff = Backoff::new(FIRST_POLL);
        let mut waited = false;
        loop {
            let sent = Instant::now();
            match begin(engine, call, &**database, &claim).await {
                Ok(BegunTransaction::Acquired {
                    attempt,
                    transaction,
                    session_ended,
                }) => {
                    flight.run_in_transaction();
                    flight.occupy();
                    engine.tell(call, EventKind::Started { attempt });
                    let execution = Execution {
                        engine: engine.clone(),
                        call: call.clone(),
                        database: Arc::clone(database),
                        claim,
                        attempt: Attempt::in_transaction(attempt, call, current::attempt_here()),
                        transaction,
                        session_ended,
                        commit_sent: CommitSent::default(),
                        flight,
                    };
                    return Decided::Run(execution, Decision::Executed);
                }
                Ok(BegunTransaction::Answered(answer)) => {
                    match conclude(engine, call, answer, sent, waited, patience, flight) {
                        Conclusion::Decided(decided) => return decided,
                        Conclusion::Wait(guard, _) => flight = guard,
                    }
                    waited = true;
                    tokio::select! {
                        biased;
                        () = patience.end() => return gave_up(engine, flight),
                        () = sleep(backoff.pause(LAST_POLL)) => {}
                    }
                }
                Err(error) => {
                    flight.end(Ending::Failed(error.clone()));
                    return Decided::Refused(error.into());
                }
            }
        }
    }
}

impl<D> fmt::Debug for InTransaction<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InTransaction")
            .field("operation", &self.operation)
            .finish_non_exhaustive()
    }
}
