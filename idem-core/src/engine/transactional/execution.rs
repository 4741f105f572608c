//! One attempt in a transaction, from its claim to the one commit that decides everything.

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time::{Instant, sleep, timeout_at};

use super::begin::{FIRST_POLL, LAST_POLL, begin};
use crate::attempt::{Attempt, after};
use crate::call::Call;
use crate::current::CURRENT;
use crate::engine::backoff::Backoff;
use crate::engine::decision::{Decided, replay};
use crate::engine::flight::{Ending, FlightGuard};
use crate::engine::settlement::Settlement;
use crate::engine::{Engine, Panic};
use crate::error::Error;
use crate::observe;
use crate::observer::EventKind;
use crate::outcome::{Outcome, Verdict};
use crate::record::{Claim, Claimed};
use crate::store::{StoreError, Watch};
use crate::transactional::{BegunTransaction, CommitError, TransactionEnd, Transactional, Writes};

/// The right to run the body once, in a transaction. Dropped, it is rolled back.
#[must_use = "an attempt that is not driven is rolled back"]
#[doc(hidden)]
pub struct Execution<D: Transactional> {
    pub(super) engine: Engine,
    pub(super) call: Call,
    pub(super) database: Arc<D>,
    pub(super) claim: Claim,
    pub(super) attempt: Attempt,
    pub(super) transaction: D::Transaction,
    pub(super) session_ended: Watch,
    pub(super) commit_sent: CommitSent,
    pub(super) flight: FlightGuard,
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
pub enum Ended<V> {
    /// It was committed, or rolled back as it said.
    Value(V),
    /// It was rolled back, and another has finished.
    Replay(Outcome),
    /// It was rolled back, or nobody knows.
    Refused(Error),
}

impl<D: Transactional> Execution<D> {
    /// For who waits for a task that drives this, and may see it end otherwise.
    pub fn commit_sent(&self) -> CommitSent {
        self.commit_sent.clone()
    }

    /// Runs the body on the caller's task, and commits or rolls back before it returns. A body may
    /// drop the transaction where its verdict is not final.
    ///
    /// # Errors
    /// The body's panic; everything is rolled back.
    pub async fn drive<B, F, Tx, V>(self, body: B) -> Result<Ended<V>, Panic>
    where
        B: FnOnce(D::Transaction) -> F,
        F: Future<Output = (Tx, Verdict, Writes, V)>,
        Tx: Into<Option<D::Transaction>>,
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
        let limit = call.policy.body_limit();
        let deadline = attempt.deadline().unwrap_or_else(|| after(limit));
        // At the deadline the transaction is dropped with it.
        let body = async { timeout_at(deadline, body(transaction)).await };
        let body = AssertUnwindSafe(body).catch_unwind();
        let mut body = Box::pin(CURRENT.scope(attempt.clone(), body));
        let ended = tokio::select! {
            biased;
            ended = &mut body => ended,
            () = &mut session_ended => {
                // Another attempt may begin. This one's commit will fail; its body is told.
                attempt.lose();
                observe::session_ended(&call.operation, &call.id, attempt.number());
                engine.tell(&call, EventKind::LeaseLost { attempt: attempt.number() });
                body.as_mut().await
            }
        };
        observe::body_took(&call.operation, &clock);
        attempt.end();
        let settling = Settling {
            engine,
            call,
            database,
            claim,
        };
        let Settling { engine, call, .. } = &settling;
        let (transaction, verdict, writes, value) = match ended {
            Ok(Ok(ended)) => ended,
            Ok(Err(_)) => {
                let number = attempt.number();
                engine.tell(
                    call,
                    EventKind::Crashed {
                        attempt: number,
                        how: "deadline",
                    },
                );
                settling.wait_for_roll_back().await;
                return Ok(Ended::Refused(Error::DeadlineExceeded {
                    after: limit,
                    rolled_back: true,
                }));
            }
            Err(panic) => {
                let number = attempt.number();
                engine.tell(
                    call,
                    EventKind::Crashed {
                        attempt: number,
                        how: "panic",
                    },
                );
                return Err(panic);
            }
        };
        let settlement = match attempt.is_released() {
            true => Settlement::Release,
            false => Settlement::of(verdict, call, engine),
        };
        let attempt = attempt.number();
        let (outcome, transaction) = match (settlement, transaction.into()) {
            (Settlement::Complete(outcome), Some(transaction)) => (outcome, transaction),
            (_, Some(transaction)) => {
                settling.roll_back(transaction).await;
                return Ok(Ended::Value(value));
            }
            (_, None) => {
                settling.wait_for_roll_back().await;
                return Ok(Ended::Value(value));
            }
        };
        let committing = Instant::now();
        let ended = TransactionEnd {
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
                settling.engine.tell(call, EventKind::Finished { attempt });
                flight.end(Ending::Outcome(outcome));
                Ended::Value(value)
            }
            // Where the flight was not ended it ends with its guard: ask the database.
            Settled::Finished(outcome) => match replay::<()>(&outcome, true, None) {
                Decided::Replay(outcome, _) => Ended::Replay(outcome),
                Decided::Refused(error) => Ended::Refused(error),
                Decided::Run(..) | Decided::AskAgain => Ended::Refused(settling.engine.in_flight()),
            },
            Settled::Refused(error) => Ended::Refused(error),
        })
    }
}

impl<D: Transactional> fmt::Debug for Execution<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Execution")
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
    /// What was dropped is rolled back behind its last statement: a retry that comes at once would find
    /// it in flight.
    async fn wait_for_roll_back(&self) {
        let _ = self.find_out(&Bytes::new(), None).await;
    }

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

    async fn commit(&self, transaction: D::Transaction, ended: &TransactionEnd<'_>) -> Settled {
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
                self.engine
                    .tell(&self.call, EventKind::ChangeRetried { change: "commit" });
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
        let mut backoff = Backoff::new(FIRST_POLL);
        loop {
            match begin(engine, call, &**database, claim).await {
                Ok(BegunTransaction::Acquired { transaction, .. }) => {
                    // It is free, so nothing of it has happened.
                    self.roll_back(transaction).await;
                    return Settled::Refused(match lost {
                        Some(error) => error.into(),
                        None => engine.in_flight(),
                    });
                }
                Ok(BegunTransaction::Answered(Claimed::Finished { outcome, .. })) => {
                    // Equal bytes are an equal answer, whoever has stored them; but for a
                    // tombstone, which may stand for another answer than this one.
                    let tells = !matches!(Outcome::decode(ours), Ok(Outcome::NotReplayable(_)));
                    return if lost.is_some() && tells && outcome == *ours {
                        Settled::Committed
                    } else {
                        Settled::Finished(outcome)
                    };
                }
                Ok(BegunTransaction::Answered(Claimed::Mismatch)) => {
                    return Settled::Refused(Error::Mismatch);
                }
                Ok(BegunTransaction::Answered(Claimed::OutcomeUnknown { attempt })) => {
                    return Settled::Refused(Error::OutcomeUnknown { attempt });
                }
                // Another one, or this one's own session, which the database has not ended yet.
                Ok(BegunTransaction::Answered(
                    Claimed::InFlight { .. } | Claimed::Acquired { .. },
                )) => {}
                Err(error) => lost = lost.or(Some(error)),
            }
            if Instant::now() >= until {
                return Settled::Refused(match lost {
                    Some(error) => Error::Unsettled(error),
                    None => engine.in_flight(),
                });
            }
            sleep(backoff.pause(LAST_POLL)).await;
        }
    }
}
