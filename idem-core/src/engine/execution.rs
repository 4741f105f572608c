//! One attempt from its acknowledged claim to its stored end: the body, the renewal of its
//! lease, and what happens when it returns, panics, is dropped, or the store is away.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::task::JoinError;
use tokio::time::{Instant, timeout_at};

use super::background::Entry;
use super::detaching::Detaching;
#[cfg(feature = "http")]
use super::flight::LiveAnswer;
use super::flight::{Ending, FlightGuard};
use super::handle::Engine;
use super::renewal::{keep, renew};
use super::settlement::Settlement;
use crate::attempt::{Acquired, Attempt, OwnedLease, after};
use crate::call::Call;
use crate::current::{self, CURRENT};
use crate::error::Error;
use crate::observe;
use crate::observer::EventKind;
use crate::outcome::{Outcome, Verdict};
#[cfg(feature = "http")]
use crate::policy::InFlight;
use crate::record::Change;
use crate::store::StoreError;

/// The panic of a body, as [`std::panic::resume_unwind`] takes it.
pub type Panic = Box<dyn Any + Send + 'static>;

/// Why an [`Execution`] that was driven gave no value.
pub enum ExecutionError {
    /// The body did not run: the lease was over, and it could not be had again.
    NotRun(Error),
    /// The body was stopped at its deadline, and the attempt was abandoned:
    /// [`Error::DeadlineExceeded`].
    Stopped(Error),
    /// The body panicked, and the attempt was abandoned.
    Panicked(Panic),
}

impl fmt::Debug for ExecutionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRun(error) => f.debug_tuple("NotRun").field(error).finish(),
            Self::Stopped(error) => f.debug_tuple("Stopped").field(error).finish(),
            Self::Panicked(_) => f.write_str("Panicked(…)"),
        }
    }
}

impl fmt::Display for ExecutionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRun(error) | Self::Stopped(error) => error.fmt(f),
            Self::Panicked(_) => f.write_str("the body panicked, and its attempt was abandoned"),
        }
    }
}

impl std::error::Error for ExecutionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotRun(error) | Self::Stopped(error) => error.source(),
            Self::Panicked(_) => None,
        }
    }
}

/// An acknowledged claim with everything needed to end its attempt.
#[derive(Debug)]
pub(crate) struct ClaimedLease {
    engine: Engine,
    lease: Arc<OwnedLease>,
    flight: FlightGuard,
    /// When the body ended: no completion was sent before, and so no retention began.
    ended: Option<Instant>,
}

impl ClaimedLease {
    pub(super) fn new(
        engine: &Engine,
        call: &Call,
        acquired: Acquired,
        claimed: Instant,
        flight: FlightGuard,
    ) -> Self {
        let keeper = Arc::clone(&engine.inner);
        let lease = Arc::new(OwnedLease::new(
            keeper,
            call.clone(),
            acquired,
            claimed + call.policy.lease,
            current::attempt_here(),
        ));
        flight.hold(&lease);
        Self {
            engine: engine.clone(),
            lease,
            flight,
            ended: None,
        }
    }

    /// A try of the claim was not answered, and may arrive after the attempt's end.
    pub(super) fn expect_late_calls(&self, expected: bool) {
        self.lease.expect_late_calls(expected);
    }

    fn call(&self) -> &Call {
        &self.lease.call
    }

    /// Renews a lease that may be over. `Ok(false)` says that another attempt holds it.
    async fn regain(&self) -> Result<bool, StoreError> {
        match renew(&self.engine, &self.lease).await? {
            Change::LeaseLost => Ok(false),
            Change::Applied if self.lease.is_lost() => Err(StoreError::TimedOut {
                store: self.engine.store().name(),
                after: self.call().policy.lease,
            }),
            Change::Applied => Ok(true),
        }
    }

    fn close(self, runtime: &Handle, settlement: Settlement, change: Change) {
        let call = self.call();
        self.lease.stop_renewing();
        // A release or an abandonment that is sent again after its answer was lost finds nothing
        // to change: only a completion says that the lease was lost.
        let Settlement::Complete(outcome) = settlement else {
            // A claim or a renewal that arrives from now on takes a lease that nobody will use.
            let attempt = self.lease.number;
            let late = self.lease.may_have_late_calls();
            match settlement {
                Settlement::Release => self.engine.tell(call, EventKind::Released { attempt }),
                Settlement::Suspend(_) => self.engine.tell(call, EventKind::Suspended { attempt }),
                // It was told when it crashed.
                Settlement::Abandon | Settlement::Complete(_) => {}
            }
            if late {
                let told = self.lease.told();
                self.engine
                    .undo_late_calls(runtime, call, told, settlement, false);
            }
            return;
        };
        match change {
            Change::Applied => {
                let until = self.ended.and_then(|at| at.checked_add(call.policy.ttl));
                let cache = &self.engine.inner.cache;
                cache.keep(call.flight_key, call.fingerprint, outcome.clone(), until);
                let attempt = self.lease.number;
                self.engine.tell(call, EventKind::Finished { attempt });
                self.flight.end(Ending::Outcome(outcome));
            }
            Change::LeaseLost => {
                self.lease.lose();
                let attempt = self.lease.number;
                self.engine.tell(call, EventKind::LeaseLost { attempt });
            }
        }
        // Where the flight was not ended it ends with its guard: ask the store.
    }

    /// Ends the attempt, however long the store is away. An outcome is offered for as long as
    /// it would be kept, also when the lease is over: the token still changes the record if
    /// nobody has claimed it since. Meanwhile the flight keeps duplicates of this process out.
    async fn settle_persistently(self, runtime: Handle, settlement: Settlement, entry: Entry) {
        self.flight.unlink();
        let until = match settlement {
            Settlement::Abandon => self.lease.held_until(),
            _ => after(self.call().policy.ttl),
        };
        let change = self
            .engine
            .settle_until(self.call(), || self.lease.told(), &settlement, until)
            .await;
        match change {
            Some(change) => self.close(&runtime, settlement, change),
            None => {
                let call = self.call();
                let change = settlement.as_str();
                self.engine.tell(call, EventKind::ChangeGivenUp { change });
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
    claimed: Option<ClaimedLease>,
    runtime: Handle,
    /// What to do when dropped.
    settlement: Settlement,
}

impl Execution {
    pub(super) const fn new(claimed: ClaimedLease, runtime: Handle) -> Self {
        Self {
            claimed: Some(claimed),
            runtime,
            settlement: Settlement::Release,
        }
    }

    /// Makes sure that the lease holds when the body begins: a process that slept between the
    /// claim and here may have been overtaken. `Ok(false)` says that it was.
    pub(super) async fn confirm_lease(&self) -> Result<bool, StoreError> {
        let Some(claimed) = &self.claimed else {
            return Ok(false);
        };
        if claimed.lease.is_lost() && !Box::pin(claimed.regain()).await? {
            return Ok(false);
        }
        self.report_start();
        Ok(true)
    }

    /// Duplicates learn that the record is taken.
    pub(super) fn report_start(&self) {
        if let Some(claimed) = &self.claimed {
            claimed.flight.occupy();
            let call = claimed.call();
            let attempt = claimed.lease.number;
            claimed.engine.tell(call, EventKind::Started { attempt });
        }
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
    /// [`ExecutionError::Stopped`] when the body took longer than [`Policy::deadline`]; it has been
    /// dropped, and the attempt abandoned.
    /// [`ExecutionError::Panicked`] when the body panicked; the attempt has been abandoned.
    ///
    /// [`Policy::deadline`]: crate::Policy::deadline
    pub async fn drive<F, T>(self, body: F) -> Result<T, ExecutionError>
    where
        F: Future<Output = (Verdict, T)>,
    {
        self.drive_flowing(body.map(Driven::<T, NeverFlows>::from))
            .await
    }

    /// [`drive`](Self::drive) for a body whose value may flow.
    ///
    /// # Errors
    /// As [`drive`](Self::drive).
    #[doc(hidden)]
    pub async fn drive_flowing<F, T, R>(mut self, body: F) -> Result<T, ExecutionError>
    where
        F: Future<Output = Driven<T, R>>,
        R: Flow<T>,
    {
        if self.keep_lease() {
            // See `keep`.
            tokio::task::yield_now().await;
        }
        let Some(claimed) = &self.claimed else {
            return Err(ExecutionError::Panicked(Box::new("it was driven before")));
        };
        // It may have waited long to be driven.
        if claimed.lease.is_lost() && !Box::pin(claimed.regain()).await.map_err(not_run)? {
            return Err(not_run(claimed.engine.in_flight()));
        }
        let attempt = Attempt::leased(&claimed.lease);
        // From here on there may be an effect.
        self.settlement = Settlement::Abandon;
        let clock = observe::clock();
        let deadline = claimed.lease.begin();
        let limit = claimed.call().policy.body_limit();
        // At the deadline it has been dropped when this is over, and a panic there is the body's, too.
        let body = async move { timeout_at(deadline, body).await };
        let body = AssertUnwindSafe(body).catch_unwind();
        let ended = CURRENT.scope(attempt, body).await;
        let running = Running {
            execution: self,
            clock,
        };
        let (unsettled, ended) = match ended {
            Ok(Ok(Driven::Ended(verdict, value))) => (running.judge(verdict), Ok(value)),
            Ok(Ok(Driven::Flows(value))) => (None, Ok(value.begin(running))),
            Err(panic) => {
                let crashed = running.crashed("panic");
                (Some(crashed), Err(ExecutionError::Panicked(panic)))
            }
            Ok(Err(_)) => {
                let stopped = Error::DeadlineExceeded {
                    after: limit,
                    rolled_back: false,
                };
                let crashed = running.crashed("deadline");
                (Some(crashed), Err(ExecutionError::Stopped(stopped)))
            }
        };
        if let Some(unsettled) = unsettled {
            // Boxed: it is large, and gone with most attempts over a store in this process.
            Box::pin(unsettled.settle()).await;
        }
        ended
    }

    fn keep_lease(&self) -> bool {
        let claimed = self.claimed.as_ref();
        claimed.is_some_and(|claimed| keep(&claimed.engine, &self.runtime, &claimed.lease))
    }

    /// Like [`drive`](Self::drive), and dropping this future, as a server does when a client hangs
    /// up, does not stop the body: it goes on on a task of its own, and its outcome is stored.
    ///
    /// That task inherits the caller's tracing span, and no other task-local value.
    ///
    /// # Errors
    /// As [`drive`](Self::drive).
    pub fn drive_detached<F, T>(
        self,
        body: F,
    ) -> impl Future<Output = Result<T, ExecutionError>> + Send
    where
        F: Future<Output = (Verdict, T)> + Send + 'static,
        T: Send + 'static,
    {
        self.drive_flowing_detached(body.map(Driven::<T, NeverFlows>::from))
    }

    /// [`drive_detached`](Self::drive_detached) for a body whose value may flow.
    ///
    /// # Errors
    /// As [`drive`](Self::drive).
    #[doc(hidden)]
    pub fn drive_flowing_detached<F, T, R>(
        self,
        body: F,
    ) -> impl Future<Output = Result<T, ExecutionError>> + Send
    where
        F: Future<Output = Driven<T, R>> + Send + 'static,
        T: Send + 'static,
        R: Flow<T> + Send + 'static,
    {
        Detaching::new(self.runtime.clone(), self.drive_flowing(body))
    }

    /// Stores the outcome where the store needs no wait. `false` has changed nothing.
    fn complete_at_once(&mut self) -> bool {
        let (Some(claimed), Settlement::Complete(outcome)) = (&self.claimed, &self.settlement)
        else {
            return false;
        };
        let engine = &claimed.engine;
        let Some(store) = engine.store().immediate() else {
            return false;
        };
        let complete = || store.complete_held(&claimed.lease.told(), outcome);
        let completed = engine.immediate_call(
            &claimed.call().operation,
            self.settlement.as_str(),
            complete,
        );
        if completed {
            self.close(Change::Applied);
        }
        completed
    }

    /// The store has taken the attempt's end.
    fn close(&mut self, change: Change) {
        if let Some(claimed) = self.claimed.take() {
            let settlement = std::mem::replace(&mut self.settlement, Settlement::Abandon);
            claimed.close(&self.runtime, settlement, change);
        }
    }

    async fn settle(mut self) {
        let Some(claimed) = &self.claimed else {
            return;
        };
        if !matches!(self.settlement, Settlement::Complete(_)) {
            claimed.lease.give_up();
        }
        let call = claimed.call();
        let settled = claimed
            .engine
            .settle_now(call, &claimed.lease.told(), &self.settlement)
            .await;
        match settled {
            Ok(change) => self.close(change),
            // The drop goes on in the background.
            Err(_) => {
                let change = self.settlement.as_str();
                claimed
                    .engine
                    .tell(call, EventKind::ChangeRetried { change });
            }
        }
    }
}

/// What a body has come to when its value is there.
#[doc(hidden)]
#[derive(Debug)]
pub enum Driven<T, R> {
    /// It has ended with this verdict.
    Ended(Verdict, T),
    /// The attempt runs on until its value has been consumed.
    Flows(R),
}

/// A value that is consumed while its attempt runs on: a response whose body flows, for example.
#[doc(hidden)]
pub trait Flow<T> {
    /// The value for the caller. It ends the attempt.
    fn begin(self, running: Running) -> T;
}

/// A value that is there at once.
enum NeverFlows {}

impl<T> Flow<T> for NeverFlows {
    fn begin(self, _: Running) -> T {
        match self {}
    }
}

impl<T, R> From<(Verdict, T)> for Driven<T, R> {
    fn from((verdict, value): (Verdict, T)) -> Self {
        Self::Ended(verdict, value)
    }
}

/// An attempt whose body has returned, and which runs on: its lease is renewed, and duplicates are in
/// flight or wait. Dropped without an [`end`](Self::end) it counts as crashed.
#[must_use = "an attempt that is not ended counts as crashed"]
pub struct Running {
    execution: Execution,
    clock: observe::Clock,
}

impl Running {
    /// Stores the verdict, as [`Execution::drive`] does.
    pub async fn end(self, verdict: Verdict) {
        if let Some(unsettled) = self.judge(verdict) {
            unsettled.settle().await;
        }
    }

    /// Ends the attempt with this verdict. What is left is to be settled.
    fn judge(mut self, verdict: Verdict) -> Option<Execution> {
        let claimed = self.execution.claimed.as_mut()?;
        claimed.ended = Some(Instant::now());
        let attempt = Attempt::leased(&claimed.lease);
        attempt.end();
        let call = claimed.call();
        observe::body_took(&call.operation, &self.clock);
        let is_whole = matches!(verdict, Verdict::Final(Outcome::Response(_)));
        let settlement = match (attempt.is_released(), verdict) {
            // Of an outcome that is not stored nobody is told anything.
            (true, _) | (_, Verdict::Released) => Settlement::releasing(&claimed.lease),
            (false, verdict) => Settlement::of(verdict, call, &claimed.engine),
        };
        if matches!(settlement, Settlement::Abandon) {
            let (attempt, how) = (attempt.number(), "no outcome");
            claimed
                .engine
                .tell(call, EventKind::Crashed { attempt, how });
        }
        if !is_whole || !matches!(settlement, Settlement::Complete(_)) {
            claimed.flight.unshare();
        }
        self.execution.settlement = settlement;
        let is_settled = self.execution.complete_at_once();
        (!is_settled).then_some(self.execution)
    }

    /// Abandons the attempt: the next claim follows `on_crash`.
    #[cfg(feature = "http")]
    pub(crate) async fn crash(self, how: &'static str) {
        self.crashed(how).settle().await;
    }

    /// What is left is to be settled.
    fn crashed(self, how: &'static str) -> Execution {
        if let Some(claimed) = &self.execution.claimed {
            let call = claimed.call();
            claimed.lease.end();
            claimed.flight.unshare();
            observe::body_took(&call.operation, &self.clock);
            let attempt = claimed.lease.number;
            claimed
                .engine
                .tell(call, EventKind::Crashed { attempt, how });
        }
        self.execution
    }

    /// Whether duplicates may be given the answer while it is on its way.
    #[cfg(feature = "http")]
    pub(crate) fn is_attachable(&self) -> bool {
        let claimed = self.execution.claimed.as_ref();
        claimed
            .is_some_and(|claimed| matches!(claimed.call().policy.in_flight, InFlight::Attach(_)))
    }

    /// Gives duplicates this answer while it is on its way.
    #[cfg(feature = "http")]
    pub(crate) fn share(&self, live: LiveAnswer) {
        if let Some(claimed) = &self.execution.claimed {
            claimed.flight.share(live);
        }
    }

    /// When the body is stopped.
    #[cfg(feature = "http")]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let claimed = self.execution.claimed.as_ref();
        claimed.map(|claimed| claimed.lease.begin())
    }

    /// For parts of the body that run on.
    #[cfg(feature = "http")]
    pub(crate) fn attempt(&self) -> Option<Attempt> {
        let claimed = self.execution.claimed.as_ref();
        claimed.map(|claimed| Attempt::leased(&claimed.lease))
    }

    /// Where what is left of the body can go on when its caller is gone.
    pub const fn runtime(&self) -> &Handle {
        &self.execution.runtime
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("execution", &self.execution)
            .finish_non_exhaustive()
    }
}

fn not_run(error: impl Into<Error>) -> ExecutionError {
    ExecutionError::NotRun(error.into())
}

impl Drop for Execution {
    fn drop(&mut self) {
        let Some(claimed) = self.claimed.take() else {
            return;
        };
        let lease = &claimed.lease;
        // A panic has said so already.
        if matches!(self.settlement, Settlement::Abandon) && !lease.is_ending() {
            let call = claimed.call();
            let (attempt, how) = (lease.number, "dropped");
            claimed
                .engine
                .tell(call, EventKind::Crashed { attempt, how });
        }
        lease.end();
        if !matches!(self.settlement, Settlement::Complete(_)) {
            claimed.flight.unshare();
            // What is given up is not renewed.
            lease.give_up();
            lease.stop_renewing();
        }
        let settlement = std::mem::replace(&mut self.settlement, Settlement::Abandon);
        let entry = Entry::new(&claimed.engine, &settlement);
        let runtime = self.runtime.clone();
        self.runtime
            .spawn(claimed.settle_persistently(runtime, settlement, entry));
    }
}

impl fmt::Debug for Execution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Execution")
            .field(
                "lease",
                &self.claimed.as_ref().map(|claimed| &claimed.lease),
            )
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
