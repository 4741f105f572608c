//! One attempt from its acknowledged claim to its stored end: the body, the renewal of its
//! lease, and what happens when it returns, panics, is dropped, or the store is away.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep};
use tracing::Instrument;

use super::Engine;
use super::begin::in_flight;
use super::call::Call;
use super::flight::{Ending, FlightGuard};
use super::settlement::Settlement;
use super::unsettled::{Entry, after};
use crate::attempt::{Attempt, CURRENT};
use crate::error::Error;
use crate::observe;
use crate::outcome::Verdict;
use crate::record::{Change, Lease, Token};
use crate::store::StoreError;

/// The panic of a body, as [`std::panic::resume_unwind`] takes it.
pub type Panic = Box<dyn Any + Send + 'static>;

/// Why an [`Execution`] that was driven gave no value.
pub enum ExecutionError {
    /// The body did not run: the lease was over, and it could not be had again.
    NotRun(Error),
    /// The body panicked, and the attempt was abandoned.
    Panicked(Panic),
}

impl fmt::Debug for ExecutionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRun(error) => f.debug_tuple("NotRun").field(error).finish(),
            Self::Panicked(_) => f.write_str("Panicked(…)"),
        }
    }
}

impl fmt::Display for ExecutionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRun(error) => error.fmt(f),
            Self::Panicked(_) => f.write_str("the body panicked, and its attempt was abandoned"),
        }
    }
}

impl std::error::Error for ExecutionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotRun(error) => error.source(),
            Self::Panicked(_) => None,
        }
    }
}

/// An acknowledged claim with everything needed to end it.
#[derive(Debug)]
pub(crate) struct Held {
    engine: Engine,
    call: Call,
    token: Token,
    attempt: Attempt,
    flight: FlightGuard,
    /// Goes on until the end is stored.
    renewal: Option<Renewal>,
    /// When the body ended: no completion was sent before, and so no retention began.
    ended: Option<Instant>,
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
            attempt: Attempt::protected(
                attempt,
                call.id,
                call.fingerprint,
                claimed + call.policy.lease,
            ),
            flight,
            renewal: None,
            ended: None,
        }
    }

    /// A try of the claim was not answered, and may arrive after the attempt's end.
    pub(super) fn expect_late_calls(&self, expected: bool) {
        self.attempt.expect_late_calls(expected);
    }

    fn lease(&self) -> Lease {
        self.attempt.lease(&self.call, self.token)
    }

    /// Renews a lease that may be over. `Ok(false)` says that another attempt holds it.
    async fn regain(&self) -> Result<bool, StoreError> {
        let Self { engine, call, .. } = self;
        match renew(engine, call, self.token, &self.attempt).await? {
            Change::LeaseLost => Ok(false),
            Change::Applied if self.attempt.lease_lost() => Err(StoreError::TimedOut {
                store: engine.store().name(),
                after: call.policy.lease,
            }),
            Change::Applied => Ok(true),
        }
    }

    fn close(self, runtime: &Handle, settlement: Settlement, change: Change) {
        let call = &self.call;
        // A release or an abandonment that is sent again after its answer was lost finds nothing
        // to change: only a completion says that the lease was lost.
        let Settlement::Complete(outcome) = settlement else {
            drop(self.renewal);
            // A claim or a renewal that arrives from now on takes a lease that nobody will use.
            if self.attempt.may_have_late_calls() {
                let lease = self.attempt.lease(call, self.token);
                self.engine
                    .undo_late_calls(runtime, call, lease, settlement, false);
            }
            return;
        };
        match change {
            Change::Applied => {
                let until = self.ended.and_then(|at| at.checked_add(call.policy.ttl));
                let cache = &self.engine.inner.cache;
                cache.keep(call.flight_key, call.fingerprint, outcome.clone(), until);
                self.flight.end(Ending::Outcome(outcome));
            }
            Change::LeaseLost => {
                self.attempt.lose();
                observe::lease_lost(&call.operation, &call.id, self.attempt.number());
            }
        }
        // Where the flight was not ended it ends with its guard: ask the store.
    }

    /// Ends the attempt, however long the store is away. An outcome is offered for as long as
    /// it would be kept, also when the lease is over: the token still changes the record if
    /// nobody has claimed it since. Meanwhile the flight keeps duplicates of this process out.
    async fn settle_persistently(self, runtime: Handle, settlement: Settlement, entry: Entry) {
        let until = match settlement {
            Settlement::Abandon => self.attempt.held_until().unwrap_or_else(Instant::now),
            _ => after(self.call.policy.ttl),
        };
        let change = self
            .engine
            .settle_until(&self.call, || self.lease(), &settlement, until)
            .await;
        match change {
            Some(change) => self.close(&runtime, settlement, change),
            None => {
                observe::settling_gave_up(&self.call.operation, &self.call.id, settlement.as_str())
            }
        }
        drop(entry);
    }
}

/// The right to run the body once.
///
/// [`drive`](Self::drive) does it. What happens when it is dropped, in the background: before
/// the body has begun, the key is freed; while the body runs, the attempt is abandoned (its
/// lease is over, and the next claim follows `on_crash`); after the body has returned, its
/// outcome is stored.
#[must_use = "a claimed attempt that is not driven frees its key"]
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
            settlement: Settlement::Release,
        }
    }

    /// Makes sure that the lease holds when the body begins: a process that slept between the
    /// claim and here may have been overtaken. `Ok(false)` says that it was.
    pub(super) async fn confirm_lease(&self) -> Result<bool, StoreError> {
        let Some(held) = &self.held else {
            return Ok(false);
        };
        if held.attempt.lease_lost() && !Box::pin(held.regain()).await? {
            return Ok(false);
        }
        held.flight.occupy();
        observe::started(&held.call.operation, &held.call.id, held.attempt.number());
        Ok(true)
    }

    /// Runs the body, renews the lease meanwhile, and stores the verdict before it returns the
    /// body's value. A store that does not take the verdict is asked again in the background, for
    /// up to the operation's ttl, and the value is returned at once.
    ///
    /// The body is driven on the caller's task. Pass it boxed when it is large. On a runtime
    /// with one thread, a body that blocks it keeps its lease from being renewed.
    ///
    /// # Errors
    /// [`ExecutionError::NotRun`] when so much time has passed since the claim that the lease was
    /// over, and another attempt has taken it or the store does not answer.
    /// [`ExecutionError::Panicked`] when the body panicked; the attempt has been abandoned.
    pub async fn drive<F, T>(mut self, body: F) -> Result<T, ExecutionError>
    where
        F: Future<Output = (Verdict, T)>,
    {
        self.start_renewal();
        // What a task spawns waits for that very worker, at first: a body that blocked it would
        // keep its own lease from being renewed.
        tokio::task::yield_now().await;
        self.run(body).await
    }

    fn start_renewal(&mut self) {
        if let Some(held) = &mut self.held {
            held.renewal = Some(Renewal::start(&self.runtime, held));
        }
    }

    async fn run<F, T>(mut self, body: F) -> Result<T, ExecutionError>
    where
        F: Future<Output = (Verdict, T)>,
    {
        let Some(held) = &self.held else {
            return Err(ExecutionError::Panicked(Box::new("it was driven before")));
        };
        // It may have waited long to be driven.
        if held.attempt.lease_lost() && !Box::pin(held.regain()).await.map_err(not_run)? {
            return Err(not_run(in_flight(&held.engine)));
        }
        let (attempt, call) = (held.attempt.clone(), held.call.clone());
        let engine = held.engine.clone();
        // From here on there may be an effect.
        self.settlement = Settlement::Abandon;
        let clock = observe::clock();
        let ended = CURRENT
            .scope(attempt.clone(), AssertUnwindSafe(body).catch_unwind())
            .await;
        observe::body_took(&call.operation, &clock);
        attempt.end();
        if let Some(held) = &mut self.held {
            held.ended = Some(Instant::now());
        }
        match ended {
            Ok((verdict, value)) => {
                self.settlement = if attempt.is_released() {
                    Settlement::Release
                } else {
                    Settlement::of(verdict, &call, &engine)
                };
                if matches!(self.settlement, Settlement::Abandon) {
                    observe::crashed(&call.operation, &call.id, attempt.number(), "no outcome");
                }
                self.settle().await;
                Ok(value)
            }
            Err(panic) => {
                observe::crashed(&call.operation, &call.id, attempt.number(), "panic");
                self.settle().await;
                Err(ExecutionError::Panicked(panic))
            }
        }
    }

    /// Like [`drive`](Self::drive), at once, on a task of its own: dropping this future, as a
    /// server does when a client hangs up, does not stop the body, and its outcome is stored.
    ///
    /// The task inherits the caller's tracing span, and no other task-local value.
    ///
    /// # Errors
    /// As [`drive`](Self::drive).
    pub fn drive_detached<F, T>(
        mut self,
        body: F,
    ) -> impl Future<Output = Result<T, ExecutionError>> + Send
    where
        F: Future<Output = (Verdict, T)> + Send + 'static,
        T: Send + 'static,
    {
        let runtime = self.runtime.clone();
        // Spawned before the body, which takes its place as the worker's next task, so that
        // another worker finds it if the body blocks this one.
        self.start_renewal();
        let running = runtime.spawn(self.run(body).in_current_span());
        async move {
            match running.await {
                Ok(ended) => ended,
                Err(error) => Err(ExecutionError::Panicked(panic_of(error))),
            }
        }
    }

    async fn settle(mut self) {
        let Some(held) = &self.held else { return };
        if !matches!(self.settlement, Settlement::Complete(_)) {
            held.attempt.give_up();
        }
        let settled = held
            .engine
            .settle_now(&held.call, &held.lease(), &self.settlement)
            .await;
        match settled {
            Ok(change) => {
                if let Some(held) = self.held.take() {
                    held.close(&self.runtime, self.settlement.clone(), change);
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

fn not_run(error: impl Into<Error>) -> ExecutionError {
    ExecutionError::NotRun(error.into())
}

impl Drop for Execution {
    fn drop(&mut self) {
        let Some(mut held) = self.held.take() else {
            return;
        };
        // A panic has said so already.
        if matches!(self.settlement, Settlement::Abandon) && !held.attempt.is_ending() {
            let number = held.attempt.number();
            observe::crashed(&held.call.operation, &held.call.id, number, "dropped");
        }
        held.attempt.end();
        if !matches!(self.settlement, Settlement::Complete(_)) {
            held.attempt.give_up();
            held.renewal = None;
        }
        let settlement = std::mem::replace(&mut self.settlement, Settlement::Abandon);
        let entry = Entry::new(&held.engine, &settlement);
        let runtime = self.runtime.clone();
        self.runtime
            .spawn(held.settle_persistently(runtime, settlement, entry));
    }
}

impl fmt::Debug for Execution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Execution")
            .field("attempt", &self.held.as_ref().map(|held| &held.attempt))
            .finish_non_exhaustive()
    }
}

/// The panic of a task, or what stands for it when the runtime has ended the task.
pub(crate) fn panic_of(error: JoinError) -> Panic {
    match error.try_into_panic() {
        Ok(panic) => panic,
        Err(_) => Box::new("the runtime is shutting down"),
    }
}

/// The task that renews a lease until the attempt's end is stored.
#[derive(Debug)]
struct Renewal(JoinHandle<()>);

impl Renewal {
    fn start(runtime: &Handle, held: &Held) -> Self {
        let engine = held.engine.clone();
        let (call, token, attempt) = (held.call.clone(), held.token, held.attempt.clone());
        Self(runtime.spawn(async move { renew_loop(&engine, &call, token, &attempt).await }))
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn renew_loop(engine: &Engine, call: &Call, token: Token, attempt: &Attempt) {
    let lease = call.policy.lease;
    let mut pause = lease / 3;
    loop {
        sleep(pause).await;
        pause = match renew(engine, call, token, attempt).await {
            Ok(Change::Applied) => lease / 3,
            // A renewal that meets the attempt's own end is no loss.
            Ok(Change::LeaseLost) if attempt.is_ending() => return,
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
    token: Token,
    attempt: &Attempt,
) -> Result<Change, StoreError> {
    let sent = Instant::now();
    let policy = &call.policy;
    let expected = attempt.may_have_late_calls();
    // It may be dropped while it is on its way. Said before the lease is looked at: who gives the
    // attempt up says so first and looks here then.
    attempt.expect_late_calls(true);
    let lease = attempt.lease(call, token);
    let answer = engine.store().renew(&lease);
    // One that hangs must leave time for another.
    let after = engine.inner.settings.store_timeout.min(policy.lease / 3);
    let change = engine
        .store_call_within(after, &call.operation, "renew", answer)
        .await;
    if !change.as_ref().is_err_and(StoreError::may_have_effect) {
        attempt.expect_late_calls(expected);
    }
    let change = change?;
    if change == Change::Applied {
        attempt.hold_until(sent + policy.lease);
    }
    Ok(change)
}
