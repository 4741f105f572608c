//! Attempts inside a database's own transactions: from the claim to the one commit that
//! decides everything.
//!
//! There is no lease here, and nothing to renew, to abandon or to free: what is not committed
//! has not happened. What there is instead is a commit whose answer may be lost; the database
//! is then asked what it did.

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time::{Instant, sleep};

use super::background::after;
use super::begin::{decide_or_go, is_known_by, report};
use super::decision::{Conclusion, Decided, Granted, Leader, Patience, conclude, gave_up, replay};
use super::flight::{Ending, FlightGuard};
use super::operation::{Keyed, Operation};
use super::settlement::Settlement;
use super::{Engine, Panic, runtime};
use crate::attempt::Attempt;
use crate::call::Call;
use crate::current::{self, CURRENT};
use crate::error::Error;
use crate::fingerprint::{Fingerprint, FormerFingerprint};
use crate::key::{Key, KeyError, KeyPart};
use crate::observe::{self, Decision};
use crate::outcome::{Outcome, Verdict};
use crate::record::{Claim, Claimed};
use crate::replay::{ReleaseErrors, Replayable, StoreErrors};
use crate::store::{StoreError, Watch};
use crate::transaction::{BegunIn, CommitError, Ended, TransactionSource, Transactional, Writes};

/// Pauses of a call that waits for another process's transaction: nobody announces its end.
const FIRST_POLL: Duration = Duration::from_millis(5);
const LAST_POLL: Duration = Duration::from_millis(250);

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
    pub async fn run_encoded<B, F, T, Errors>(
        &self,
        key: Result<Key, KeyError>,
        fingerprint: Fingerprint,
        body: B,
    ) -> T
    where
        B: FnOnce(D::Transaction) -> F,
        F: Future<Output = (D::Transaction, T)>,
        T: Replayable<Errors>,
    {
        let granted = match self.keyed(key) {
            Ok(keyed) => Box::pin(keyed.begin(fingerprint)).await,
            Err(error) => Err(error),
        };
        let ended = match granted {
            Err(error) => EndedIn::Refused(error),
            Ok(Granted::Replay(outcome)) => EndedIn::Replay(outcome),
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
                        let crashed = T::crashed(&self.operation.engine.inner.settings, true);
                        return crashed.unwrap_or_else(|| std::panic::resume_unwind(panic));
                    }
                }
            }
        };
        let settings = &self.operation.engine.inner.settings;
        let refused = |error| T::refused_under(error, settings);
        match ended {
            EndedIn::Value(value) => value,
            EndedIn::Replay(outcome) => T::replay_under(&outcome, settings).unwrap_or_else(refused),
            EndedIn::Refused(error) => refused(error),
        }
    }

    /// This operation under a key, for adapters.
    ///
    /// # Errors
    /// When the key or the scope is not acceptable.
    #[doc(hidden)]
    pub fn keyed(&self, key: Result<Key, KeyError>) -> Result<KeyedIn<D>, Error> {
        Ok(KeyedIn {
            keyed: self.operation.keyed(key)?,
            database: Arc::clone(&self.database),
        })
    }
}

/// An operation under a key, in a database.
#[derive(Debug)]
#[doc(hidden)]
pub struct KeyedIn<D> {
    keyed: Keyed,
    database: Arc<D>,
}

impl<D: Transactional> KeyedIn<D> {
    /// Decides what the call may do. Waits for another transaction when the policy says so, and
    /// holds none meanwhile.
    ///
    /// # Errors
    /// Why the body must not run in this call.
    pub async fn begin(self, fingerprint: Fingerprint) -> Result<Granted<ExecutionIn<D>>, Error> {
        self.begin_as(fingerprint, None).await
    }

    /// See [`Keyed::begin_as`].
    ///
    /// # Errors
    /// Why the body must not run in this call.
    pub async fn begin_as(
        self,
        fingerprint: Fingerprint,
        former: Option<FormerFingerprint>,
    ) -> Result<Granted<ExecutionIn<D>>, Error> {
        runtime::current()?;
        if self.keyed.is_lent() {
            // What a layer has claimed commits by itself, apart from the rows.
            return Err(Error::ClaimedByLayer);
        }
        let (engine, mut call) = self.keyed.into_call(fingerprint);
        call.flight_key = call.id.within(&self.database.place());
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
        report(&call, decided)
    }
}

/// Claims in transactions.
struct TransactionLeader<'a, D> {
    engine: &'a Engine,
    call: &'a Call,
    database: &'a Arc<D>,
}

impl<D: Transactional> Leader for TransactionLeader<'_, D> {
    type Run = ExecutionIn<D>;

    async fn lead(&self, patience: Patience, mut flight: FlightGuard) -> Decided<Self::Run> {
        let Self {
            engine,
            call,
            database,
        } = *self;
        let claim = call.claim(engine.inner.cache.is_on());
        let mut pause = FIRST_POLL;
        let mut waited = false;
        loop {
            let sent = Instant::now();
            match begin(engine, call, &**database, &claim).await {
                Ok(BegunIn::Acquired {
                    attempt,
                    transaction,
                    session_ended,
                }) => {
                    flight.occupy();
                    observe::started(&call.operation, &call.id, attempt);
                    let execution = ExecutionIn {
                        engine: engine.clone(),
                        call: call.clone(),
                        database: Arc::clone(database),
                        claim,
                        attempt: Attempt::in_transaction(
                            attempt,
                            call.id,
                            call.fingerprint,
                            current::attempt_here(),
                        ),
                        transaction,
                        session_ended,
                        commit_sent: CommitSent::default(),
                        flight,
                    };
                    return Decided::Run(execution, Decision::Executed);
                }
                Ok(BegunIn::Answered(answer)) => {
                    match conclude(engine, call, answer, sent, waited, patience, flight) {
                        Conclusion::Decided(decided) => return decided,
                        Conclusion::Wait(guard, _) => flight = guard,
                    }
                    waited = true;
                    let jittered = pause.mul_f64(rand::random_range(0.5..1.0));
                    tokio::select! {
                        biased;
                        () = patience.over() => return gave_up(engine, flight),
                        () = sleep(jittered) => {}
                    }
                    pause = (pause * 2).min(LAST_POLL);
                }
                Err(error) => {
                    flight.end(Ending::Failed(error.clone()));
                    return Decided::Refused(error.into());
                }
            }
        }
    }
}

/// Begins, and once more after a transient failure: nothing has happened.
async fn begin<D: Transactional>(
    engine: &Engine,
    call: &Call,
    database: &D,
    claim: &Claim,
) -> Result<BegunIn<D::Transaction>, StoreError> {
    let tries = async {
        match database.begin(claim).await {
            Err(error) if error.is_transient() => {
                observe::store_failed(&call.operation, "begin", &error);
                database.begin(claim).await
            }
            answer => answer,
        }
    };
    engine
        .database_call(database.name(), &call.operation, "begin", tries)
        .await
}

/// The right to run the body once, in a transaction. Dropped, it is rolled back.
#[must_use = "an attempt that is not driven is rolled back"]
#[doc(hidden)]
pub struct ExecutionIn<D: Transactional> {
    engine: Engine,
    call: Call,
    database: Arc<D>,
    claim: Claim,
    attempt: Attempt,
    transaction: D::Transaction,
    session_ended: Watch,
    commit_sent: CommitSent,
    flight: FlightGuard,
}

/// Whether a commit was sent: from then on nobody knows what has happened until the database has
/// said so, also where the task that waits for its answer is gone.
#[derive(Clone, Debug, Default)]
#[doc(hidden)]
pub struct CommitSent(Arc<AtomicBool>);

impl CommitSent {
    pub fn was_sent(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// How an attempt in a transaction ended for its caller.
#[derive(Debug)]
#[doc(hidden)]
pub enum EndedIn<V> {
    /// It was committed, or rolled back as it said.
    Value(V),
    /// It was rolled back, and another has finished.
    Replay(Outcome),
    /// It was rolled back, or nobody knows.
    Refused(Error),
}

impl<D: Transactional> ExecutionIn<D> {
    /// For who waits for a task that drives this, and may see it end otherwise.
    pub fn commit_sent(&self) -> CommitSent {
        self.commit_sent.clone()
    }

    /// Runs the body on the caller's task, and commits or rolls back before it returns.
    ///
    /// # Errors
    /// The body's panic; everything is rolled back.
    pub async fn drive<B, F, V>(self, body: B) -> Result<EndedIn<V>, Panic>
    where
        B: FnOnce(D::Transaction) -> F,
        F: Future<Output = (D::Transaction, Verdict, Writes, V)>,
    {
        let Self {
            engine,
            call,
            database,
            claim,
            attempt,
            transaction,
            mut session_ended,
            commit_sent,
            flight,
        } = self;
        let clock = observe::clock();
        let body = AssertUnwindSafe(async { body(transaction).await }).catch_unwind();
        let mut body = pin!(CURRENT.scope(attempt.clone(), body));
        let ended = tokio::select! {
            biased;
            ended = &mut body => ended,
            () = &mut session_ended => {
                // Another attempt may begin. This one's commit will fail; its body is told.
                attempt.lose();
                observe::session_ended(&call.operation, &call.id, attempt.number());
                body.await
            }
        };
        observe::body_took(&call.operation, &clock);
        attempt.end();
        let (transaction, verdict, writes, value) = match ended {
            Ok(ended) => ended,
            Err(panic) => {
                let number = attempt.number();
                observe::crashed(&call.operation, &call.id, number, "panic");
                return Err(panic);
            }
        };
        let settlement = match attempt.is_released() {
            true => Settlement::Release,
            false => Settlement::of(verdict, &call, &engine),
        };
        let attempt = attempt.number();
        let settling = Settling {
            engine,
            call,
            database,
            claim,
        };
        let Settlement::Complete(outcome) = settlement else {
            settling.roll_back(transaction).await;
            return Ok(EndedIn::Value(value));
        };
        let committing = Instant::now();
        let ended = Ended {
            claim: &settling.claim,
            attempt,
            outcome: outcome.clone(),
            writes,
        };
        commit_sent.0.store(true, Ordering::Release);
        Ok(match settling.commit(transaction, &ended).await {
            Settled::Committed => {
                let until = committing.checked_add(settling.call.policy.ttl);
                let cache = &settling.engine.inner.cache;
                let call = &settling.call;
                cache.keep(call.flight_key, call.fingerprint, outcome.clone(), until);
                flight.end(Ending::Outcome(outcome));
                EndedIn::Value(value)
            }
            // Where the flight was not ended it ends with its guard: ask the database.
            Settled::Finished(outcome) => match replay::<()>(&outcome, true) {
                Decided::Replay(outcome, _) => EndedIn::Replay(outcome),
                Decided::Refused(error) => EndedIn::Refused(error),
                Decided::Run(..) | Decided::AskAgain => {
                    EndedIn::Refused(settling.engine.in_flight())
                }
            },
            Settled::Refused(error) => EndedIn::Refused(error),
        })
    }
}

impl<D: Transactional> fmt::Debug for ExecutionIn<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecutionIn")
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// Ends transactions, and finds out how they ended.
struct Settling<D> {
    engine: Engine,
    call: Call,
    database: Arc<D>,
    claim: Claim,
}

enum Settled {
    Committed,
    /// Not this one: another, with this outcome.
    Finished(Bytes),
    Refused(Error),
}

impl<D: Transactional> Settling<D> {
    async fn roll_back(&self, transaction: D::Transaction) {
        // A failure is reported there, and the database rolls back what it does not hear of.
        let rolled_back = self.database.roll_back(transaction);
        let _ = self
            .engine
            .database_call(
                self.database.name(),
                &self.call.operation,
                "roll back",
                rolled_back,
            )
            .await;
    }

    async fn commit(&self, transaction: D::Transaction, ended: &Ended<'_>) -> Settled {
        let committed = async { Ok(self.database.commit(transaction, ended).await) };
        let answer = self
            .engine
            .database_call(
                self.database.name(),
                &self.call.operation,
                "commit",
                committed,
            )
            .await;
        match answer.unwrap_or_else(|error| Err(CommitError::Unknown(error))) {
            Ok(()) => Settled::Committed,
            Err(CommitError::RolledBack(error)) => {
                observe::store_failed(&self.call.operation, "commit", &error);
                Settled::Refused(error.into())
            }
            Err(CommitError::Refused(source)) => {
                observe::commit_refused(&self.call.operation, &self.call.id, &*source);
                Settled::Refused(Error::CommitRefused(source))
            }
            Err(CommitError::Overtaken) => self.find_out(&ended.outcome, None).await,
            Err(CommitError::Unknown(error)) => {
                observe::settling_again(&self.call.operation, &self.call.id, "commit");
                self.find_out(&ended.outcome, Some(error)).await
            }
        }
    }

    /// Asks the database what became of a commit, for up to a store timeout.
    async fn find_out(&self, ours: &Bytes, mut lost: Option<StoreError>) -> Settled {
        let Self {
            engine,
            call,
            database,
            claim,
        } = self;
        let until = after(engine.inner.settings.store_timeout);
        let mut pause = FIRST_POLL;
        loop {
            match begin(engine, call, &**database, claim).await {
                Ok(BegunIn::Acquired { transaction, .. }) => {
                    // It is free, so nothing of it has happened.
                    self.roll_back(transaction).await;
                    return Settled::Refused(match lost {
                        Some(error) => error.into(),
                        None => engine.in_flight(),
                    });
                }
                Ok(BegunIn::Answered(Claimed::Finished { outcome, .. })) => {
                    // Equal bytes are an equal answer, whoever has stored them; but for a
                    // tombstone, which may stand for another answer than this one.
                    let tells = !matches!(Outcome::decode(ours), Ok(Outcome::NotReplayable(_)));
                    return if lost.is_some() && tells && outcome == *ours {
                        Settled::Committed
                    } else {
                        Settled::Finished(outcome)
                    };
                }
                Ok(BegunIn::Answered(Claimed::Mismatch)) => {
                    return Settled::Refused(Error::Mismatch);
                }
                Ok(BegunIn::Answered(Claimed::OutcomeUnknown { attempt })) => {
                    return Settled::Refused(Error::OutcomeUnknown { attempt });
                }
                // Another one, or this one's own session, which the database has not ended yet.
                Ok(BegunIn::Answered(Claimed::InFlight { .. } | Claimed::Acquired { .. })) => {}
                Err(error) => lost = lost.or(Some(error)),
            }
            if Instant::now() >= until {
                return Settled::Refused(match lost {
                    Some(error) => Error::Unsettled(error),
                    None => engine.in_flight(),
                });
            }
            sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(LAST_POLL);
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
