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
use tokio::task::{JoinError, JoinHandle};
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
            attempt: Attempt::protected(attempt, call.id, claimed + call.policy.lease),
            flight,
            renewal: None,
            ended: None,
        }
    }

    /// Renews a lease that may be over. `Ok(false)` says that another attempt holds it.
    async fn regain(&self) -> Result<bool, StoreError> {
        let Self { engine, call, .. } = self;
        match renew(engine, call, &self.token, &self.attempt).await? {
            Change::LeaseLost => Ok(false),
            Change::Applied if self.attempt.lease_lost() => Err(StoreError::TimedOut {
                store: engine.store().name(),
                after: call.policy.lease,
            }),
            Change::Applied => Ok(true),
        }
    }

    fn close(self, settlement: Settlement, change: Change) {
        // A release or an abandonment that is sent again after its answer was lost finds nothing
        // to change: only a completion says that the lease was lost.
        let Settlement::Complete(outcome) = settlement else {
            return;
        };
        match change {
            Change::Applied => {
                let call = &self.call;
                let until = self.ended.and_then(|at| at.checked_add(call.policy.ttl));
                let cache = &self.engine.inner.cache;
                cache.keep(call.meets_by, call.fingerprint, outcome.clone(), until);
                self.flight.end(Ending::Outcome(outcome));
            }
            Change::LeaseLost => {
                self.attempt.lose();
                observe::lease_lost(&self.call.operation, &self.call.id, self.attempt.number());
            }
        }
        // Where the flight was not ended it ends with its guard: ask the store.
    }

    /// Ends the attempt, however long the store is away. An outcome is offered for as long as
    /// it would be kept, also when the lease is over: the token still changes the record if
    /// nobody has claimed it since. Meanwhile the flight keeps duplicates of this process out.
    /// While a store is away nothing is claimed, so what is held here is bounded by what ran
    /// when it went.
    async fn settle_persistently(self, settlement: Settlement) {
        let until = match settlement {
            Settlement::Abandon => self.attempt.held_until().unwrap_or_else(Instant::now),
            _ => Instant::now() + self.call.policy.ttl,
        };
        let change = self
            .engine
            .settle_until(&self.call, &self.token, &settlement, until, |_| true)
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

    /// Tries to end an attempt until the store's answer will do, or until the given time and one
    /// last try. Repeating is safe: only the token's holder changes the record.
    pub(super) async fn settle_until(
        &self,
        call: &Call,
        token: &Token,
        settlement: &Settlement,
        until: Instant,
        mut will_do: impl FnMut(Change) -> bool,
    ) -> Option<Change> {
        let mut pause = FIRST_RETRY;
        loop {
            let last = Instant::now() >= until;
            match self.settle_once(call, token, settlement).await {
                Ok(change) if last || will_do(change) => return Some(change),
                Ok(_) => {}
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
    pub(super) async fn take_off(&self) -> Result<bool, StoreError> {
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
    /// The body's panic, after the attempt has been abandoned.
    pub async fn drive<F, T>(mut self, body: F) -> Result<T, Panic>
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

    async fn run<F, T>(mut self, body: F) -> Result<T, Panic>
    where
        F: Future<Output = (Verdict, T)>,
    {
        let Some(held) = &self.held else {
            return Err(Box::new("an execution is driven once"));
        };
        let (attempt, call) = (held.attempt.clone(), held.call.clone());
        let max_bytes = held.engine.inner.settings.max_outcome_bytes;
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
                    settlement(verdict, &call, max_bytes)
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
                Err(panic)
            }
        }
    }

    /// Like [`drive`](Self::drive), at once, on a task of its own: dropping this future, as a
    /// server does when a client hangs up, does not stop the body, and its outcome is stored.
    ///
    /// The task inherits the caller's tracing span, and no other task-local value.
    ///
    /// # Errors
    /// The body's panic, after the attempt has been abandoned.
    pub fn drive_detached<F, T>(mut self, body: F) -> impl Future<Output = Result<T, Panic>> + Send
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
                Err(error) => Err(panic_of(error)),
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
            // What is given up is not renewed.
            held.renewal = None;
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

/// The panic of a task, or what stands for it when the runtime has ended the task.
pub(crate) fn panic_of(error: JoinError) -> Panic {
    match error.try_into_panic() {
        Ok(panic) => panic,
        Err(_) => Box::new("the runtime is shutting down"),
    }
}

pub(super) fn settlement(verdict: Verdict, call: &Call, max_bytes: usize) -> Settlement {
    let outcome = match verdict {
        Verdict::Final(outcome) => outcome,
        Verdict::Released => return Settlement::Release,
        Verdict::Crashed => return Settlement::Abandon,
    };
    let mut encoded = outcome.encode();
    observe::outcome_size(&call.operation, encoded.len());
    if encoded.len() > max_bytes {
        encoded = Outcome::NotReplayable(NotReplayable::TooLarge).encode();
    }
    Settlement::Complete(encoded)
}

/// The task that renews a lease until the attempt's end is stored.
#[derive(Debug)]
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
    token: &Token,
    attempt: &Attempt,
) -> Result<Change, StoreError> {
    let sent = Instant::now();
    let policy = &call.policy;
    let answer = engine
        .store()
        .renew(&call.id, token, policy.lease, policy.ttl);
    // One that hangs must leave time for another.
    let after = engine.inner.settings.store_timeout.min(policy.lease / 3);
    let change = engine
        .store_call_within(after, &call.operation, "renew", answer)
        .await?;
    if change == Change::Applied {
        attempt.hold_until(sent + policy.lease);
    }
    Ok(change)
}
