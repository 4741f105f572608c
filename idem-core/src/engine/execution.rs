//! One attempt from its acknowledged claim to its stored end: the body, the renewal of its
//! lease, and what happens when it returns, panics, is dropped, or the store is away.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::Instrument;

use super::Engine;
use super::begin::Call;
use super::flight::{Ending, FlightGuard};
use crate::attempt::{Attempt, CURRENT};
use crate::observe;
use crate::outcome::{NotReplayable, Outcome, Verdict};
use crate::record::{Change, Token};
use crate::store::StoreError;

/// The panic of a body, as [`std::panic::resume_unwind`] takes it.
pub type Panic = Box<dyn Any + Send + 'static>;

const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(1);

/// How an attempt ends in the store.
#[derive(Clone, Debug)]
pub(crate) enum Settlement {
    Complete(Bytes),
    Release,
    Abandon,
}

impl Settlement {
    const fn as_str(&self) -> &'static str {
        match self {
            Self::Complete(_) => "complete",
            Self::Release => "release",
            Self::Abandon => "abandon",
        }
    }
}

/// An acknowledged claim with everything needed to end it.
#[derive(Debug)]
pub(crate) struct Held {
    engine: Engine,
    call: Call,
    token: Token,
    pub(crate) attempt: Attempt,
    flight: FlightGuard,
}

impl Held {
    pub(super) fn new(
        engine: &Engine,
        call: &Call,
        token: Token,
        attempt: u32,
        claimed: Instant,
        flight: FlightGuard,
    ) -> Self {
        Self {
            engine: engine.clone(),
            call: call.clone(),
            token,
            attempt: Attempt::protected(attempt, call.id, claimed + call.policy.lease),
            flight,
        }
    }

    /// Tells duplicates and observers that the body runs from here.
    pub(super) fn take_off(&self) {
        self.flight.occupy();
        if self.attempt.number() > 1 {
            observe::taken_over(&self.call.operation, &self.call.id, self.attempt.number());
        }
    }

    pub(super) async fn renew(&self) -> Result<Change, StoreError> {
        renew(&self.engine, &self.call, &self.token, &self.attempt).await
    }

    fn close(self, settlement: Settlement, change: Change) {
        // A release or an abandonment that is sent again after its answer was lost finds nothing
        // to change: only a completion says that the lease was lost.
        let Settlement::Complete(outcome) = settlement else {
            return;
        };
        match change {
            Change::Applied => self.flight.end(Ending::Outcome(outcome)),
            Change::LeaseLost => {
                self.attempt.lose();
                observe::lease_lost(&self.call.operation, &self.call.id, self.attempt.number());
            }
        }
        // Where the flight was not ended it ends with its guard: ask the store.
    }

    /// Ends the attempt however long the store is away, as long as the lease may hold.
    async fn settle_persistently(self, settlement: Settlement) {
        let until = self.attempt.held_until().unwrap_or_else(Instant::now);
        let change = self
            .engine
            .settle_until(&self.call, &self.token, &settlement, until)
            .await;
        match change {
            Some(change) => self.close(settlement, change),
            None => {
                observe::settling_gave_up(&self.call.operation, &self.call.id, settlement.as_str())
            }
        }
    }
}

impl Engine {
    pub(super) async fn settle_once(
        &self,
        call: &Call,
        token: &Token,
        settlement: &Settlement,
    ) -> Result<Change, StoreError> {
        let (store, id) = (self.store(), &call.id);
        let answer = match settlement {
            Settlement::Complete(outcome) => {
                store.complete(id, token, outcome.clone(), call.policy.ttl)
            }
            Settlement::Release => store.release(id, token),
            Settlement::Abandon => store.abandon(id, token),
        };
        self.store_call(&call.operation, settlement.as_str(), answer)
            .await
    }

    /// Tries to end an attempt until the store answers, or until the given time and one last
    /// try. Repeating is safe: only the token's holder changes the record.
    pub(super) async fn settle_until(
        &self,
        call: &Call,
        token: &Token,
        settlement: &Settlement,
        until: Instant,
    ) -> Option<Change> {
        let mut pause = FIRST_RETRY;
        loop {
            let last = Instant::now() >= until;
            match self.settle_once(call, token, settlement).await {
                Ok(change) => return Some(change),
                Err(_) if last => return None,
                Err(_) => observe::settling_again(&call.operation, &call.id, settlement.as_str()),
            }
            let jittered = pause.mul_f64(rand::random_range(0.5..1.0));
            sleep_until((Instant::now() + jittered).min(until)).await;
            pause = (pause * 2).min(LAST_RETRY);
        }
    }
}

/// The right to run the body once.
///
/// [`drive`](Self::drive) does it. Dropped before or while it is driven, the attempt is
/// abandoned in the background: its lease is over, and the next claim follows `on_crash`.
/// Dropped after the body has returned, its outcome is stored in the background.
#[must_use = "a claimed attempt that is not driven counts as crashed"]
pub struct Execution {
    held: Option<Held>,
    runtime: Handle,
    /// What to do when dropped.
    settlement: Settlement,
}

impl Execution {
    pub(super) const fn new(held: Held, runtime: Handle) -> Self {
        Self {
            held: Some(held),
            runtime,
            settlement: Settlement::Abandon,
        }
    }

    /// Runs the body, renews the lease meanwhile, and stores the verdict before it returns the
    /// body's value. A store that does not take the verdict is asked again in the background
    /// while the lease holds, and the value is returned at once.
    ///
    /// The body is driven on the caller's task. Pass it boxed when it is large.
    ///
    /// # Errors
    /// The body's panic, after the attempt has been abandoned.
    pub async fn drive<F, T>(mut self, body: F) -> Result<T, Panic>
    where
        F: Future<Output = (Verdict, T)>,
    {
        let Some(held) = &self.held else {
            return Err(Box::new("an execution is driven once"));
        };
        let (attempt, call) = (held.attempt.clone(), held.call.clone());
        let max_bytes = held.engine.inner.settings.max_outcome_bytes;
        let renewal = Renewal::start(&self.runtime, held);
        let started = Instant::now();
        let span = observe::attempt(&call.operation, attempt.number());
        let ended = CURRENT
            .scope(attempt.clone(), AssertUnwindSafe(body).catch_unwind())
            .instrument(span)
            .await;
        observe::body_took(&call.operation, started.elapsed());
        drop(renewal);
        match ended {
            Ok((verdict, value)) => {
                self.settlement = if attempt.is_released() {
                    Settlement::Release
                } else {
                    settlement(verdict, &call, max_bytes)
                };
                self.settle().await;
                Ok(value)
            }
            Err(panic) => {
                observe::crashed(&call.operation, &call.id, attempt.number(), "panic");
                self.settle().await;
                Err(panic)
            }
        }
    }

    /// Like [`drive`](Self::drive), at once, on a task of its own: dropping this future, as a server does
    /// when a client hangs up, does not stop the body, and its outcome is stored.
    ///
    /// The task inherits the caller's tracing span, and no other task-local value.
    ///
    /// # Errors
    /// The body's panic, after the attempt has been abandoned.
    pub fn drive_detached<F, T>(self, body: F) -> impl Future<Output = Result<T, Panic>> + Send
    where
        F: Future<Output = (Verdict, T)> + Send + 'static,
        T: Send + 'static,
    {
        let runtime = self.runtime.clone();
        let running = runtime.spawn(self.drive(body).in_current_span());
        async move {
            match running.await {
                Ok(ended) => ended,
                Err(error) => Err(match error.try_into_panic() {
                    Ok(panic) => panic,
                    Err(_) => Box::new("the runtime is shutting down"),
                }),
            }
        }
    }

    async fn settle(mut self) {
        let Some(held) = &self.held else { return };
        let settled = held
            .engine
            .settle_once(&held.call, &held.token, &self.settlement)
            .await;
        match settled {
            Ok(change) => {
                if let Some(held) = self.held.take() {
                    held.close(self.settlement.clone(), change);
                }
            }
            // The drop goes on in the background.
            Err(_) => observe::settling_again(
                &held.call.operation,
                &held.call.id,
                self.settlement.as_str(),
            ),
        }
    }
}

impl Drop for Execution {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else { return };
        if let Settlement::Abandon = self.settlement {
            let number = held.attempt.number();
            observe::crashed(&held.call.operation, &held.call.id, number, "dropped");
        }
        let settlement = std::mem::replace(&mut self.settlement, Settlement::Abandon);
        self.runtime.spawn(held.settle_persistently(settlement));
    }
}

impl fmt::Debug for Execution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Execution")
            .field("attempt", &self.held.as_ref().map(|held| &held.attempt))
            .finish_non_exhaustive()
    }
}

fn settlement(verdict: Verdict, call: &Call, max_bytes: usize) -> Settlement {
    let Verdict::Final(outcome) = verdict else {
        return Settlement::Release;
    };
    let mut encoded = outcome.encode();
    observe::outcome_size(&call.operation, encoded.len());
    if encoded.len() > max_bytes {
        encoded = Outcome::NotReplayable(NotReplayable::TooLarge).encode();
    }
    Settlement::Complete(encoded)
}

/// The task that renews a lease while the body runs, wherever the body may block.
struct Renewal(JoinHandle<()>);

impl Renewal {
    fn start(runtime: &Handle, held: &Held) -> Self {
        let engine = held.engine.clone();
        let (call, token, attempt) = (held.call.clone(), held.token, held.attempt.clone());
        Self(runtime.spawn(async move { keep(&engine, &call, &token, &attempt).await }))
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn keep(engine: &Engine, call: &Call, token: &Token, attempt: &Attempt) {
    let lease = call.policy.lease;
    let mut pause = lease / 3;
    loop {
        sleep(pause).await;
        pause = match renew(engine, call, token, attempt).await {
            Ok(Change::Applied) => lease / 3,
            Ok(Change::LeaseLost) => {
                attempt.lose();
                observe::lease_lost(&call.operation, &call.id, attempt.number());
                return;
            }
            // Sooner than usual: the lease is running out.
            Err(_) => lease / 10,
        };
    }
}

async fn renew(
    engine: &Engine,
    call: &Call,
    token: &Token,
    attempt: &Attempt,
) -> Result<Change, StoreError> {
    let sent = Instant::now();
    let policy = &call.policy;
    let answer = engine
        .store()
        .renew(&call.id, token, policy.lease, policy.ttl);
    let change = engine.store_call(&call.operation, "renew", answer).await?;
    if change == Change::Applied {
        attempt.hold_until(sent + policy.lease);
    }
    Ok(change)
}
