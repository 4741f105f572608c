//! From a request to a decision: run the body, give an outcome back, or refuse.
//!
//! This is the one place where claims are sent and the answers of the state table are judged.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::Instrument;

use super::Engine;
use super::cache::Cached;
use super::execution::{Execution, Held, Panic, Settlement, panic_of};
use super::flight::{Ending, Entry, Flight, FlightGuard, Progress};
use super::policy::{InFlight, Policy};
use crate::attempt::{Attempt, CURRENT};
use crate::error::Error;
use crate::fingerprint::Fingerprint;
use crate::observe::{self, Decision};
use crate::outcome::Outcome;
use crate::record::{Change, Claim, Claimed, OnCrash, RecordId, Token};
use crate::store::{StoreError, Watch};

/// How often a waiter asks the store by itself, in case a notification was lost. The pause is
/// drawn between half of this and all of it.
const POLL: Duration = Duration::from_secs(1);

/// The first pause after a notification that brought no news; doubled up to [`POLL`].
const FIRST_CALM: Duration = Duration::from_millis(10);

/// How long a claim may be on its way after its store has answered another call: what lies in a
/// connection's buffers when a server that was paused goes on.
const STRAGGLING: Duration = Duration::from_secs(5);

/// One request, reduced to what the engine needs.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) operation: Cow<'static, str>,
    pub(crate) policy: Policy,
    pub(crate) id: RecordId,
    /// By what calls of this process meet: the record's id, but for one in a database that a
    /// transaction names, which others may keep under the same id.
    pub(crate) meets_by: RecordId,
    pub(crate) fingerprint: Fingerprint,
}

impl Call {
    /// A claim of its own.
    pub(super) fn claim(&self, engine: &Engine) -> Claim {
        Claim {
            id: self.id,
            token: Token::random(),
            fingerprint: self.fingerprint,
            lease: self.policy.lease,
            retention: self.policy.ttl,
            on_crash: self.policy.on_crash,
            ask_retention: engine.inner.cache.is_on(),
        }
    }
}

/// What a request may do.
#[derive(Debug)]
#[must_use]
#[allow(
    clippy::large_enum_variant,
    reason = "moved twice in its life; a box would cost every first call an allocation"
)]
pub enum Begun {
    /// Run the body, through [`Execution::drive`].
    Execute(Execution),
    /// Give this outcome back.
    Replay(Outcome),
    /// Run the body without a record: the store cannot answer, and the engine fails open.
    Unprotected(Unprotected),
}

/// A run without a record. Duplicates in this process are still kept out while it lives, where
/// there is a key.
#[derive(Debug)]
pub struct Unprotected {
    flight: Option<FlightGuard>,
}

impl Unprotected {
    pub(super) const fn without_key() -> Self {
        Self { flight: None }
    }

    /// Runs the body on the caller's task. [`crate::attempt()`] inside of it says that it is
    /// not protected.
    pub async fn drive<F: Future>(self, body: F) -> F::Output {
        let output = CURRENT.scope(Attempt::unprotected(), body).await;
        drop(self.flight);
        output
    }

    /// Runs the body on a task of its own, which a caller that goes away does not stop.
    ///
    /// # Errors
    /// The body's panic.
    pub async fn drive_detached<F>(self, body: F) -> Result<F::Output, Panic>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let body = self.drive(body).in_current_span();
        match Handle::try_current() {
            Ok(runtime) => runtime.spawn(body).await.map_err(panic_of),
            Err(_) => Ok(body.await),
        }
    }
}

/// How long a call is ready to wait for another's attempt.
#[derive(Clone, Copy)]
pub(super) enum Patience {
    None,
    /// `None` is forever.
    Until(Option<Instant>),
}

impl Patience {
    fn of(policy: &Policy) -> Self {
        match policy.in_flight {
            InFlight::Reject => Self::None,
            InFlight::Wait(time) => Self::Until(Instant::now().checked_add(time)),
        }
    }

    /// Resolves when the patience is at its end.
    pub(super) async fn over(self) {
        match self {
            Self::None => {}
            Self::Until(Some(at)) => sleep_until(at).await,
            Self::Until(None) => std::future::pending().await,
        }
    }

    pub(super) fn is_none(self) -> bool {
        matches!(self, Self::None)
    }
}

/// A decision that needs no further look at the store. `Run` is the right to run a body.
#[allow(clippy::large_enum_variant, reason = "as for `Begun`")]
pub(super) enum Decided<Run> {
    Run(Run, Decision),
    Replay(Outcome, Decision),
    Refused(Error),
    /// What was joined is over and said nothing about this call.
    AskAgain,
}

/// The one of a process's equal calls that asks.
pub(super) trait Leader {
    /// The right to run a body.
    type Run;

    /// Claims, and where another process runs an attempt, waits for it.
    async fn lead(&self, patience: Patience, flight: FlightGuard) -> Decided<Self::Run>;
}

/// What a request may do.
#[derive(Debug)]
#[doc(hidden)]
#[must_use]
#[allow(clippy::large_enum_variant, reason = "as for `Begun`")]
pub enum Granted<Run> {
    /// Run the body.
    Run(Run),
    /// Give this outcome back.
    Replay(Outcome),
}

/// Decides what `call` may do, and reports it.
pub(super) async fn begin(engine: &Engine, call: &Call) -> Result<Begun, Error> {
    let runtime = Handle::try_current().map_err(|_| Error::NoRuntime)?;
    let leader = StoreLeader {
        engine,
        call,
        runtime,
    };
    Ok(match grant(engine, call, &leader).await? {
        Granted::Run(begun) => begun,
        Granted::Replay(outcome) => Begun::Replay(outcome),
    })
}

/// Decides with this leader, and reports it.
pub(super) async fn grant<L: Leader>(
    engine: &Engine,
    call: &Call,
    leader: &L,
) -> Result<Granted<L::Run>, Error> {
    let result = decide(engine, call, leader).await;
    let decision = match &result {
        Ok((_, decision)) => *decision,
        Err(error) => Decision::of(error),
    };
    observe::decided(&call.operation, decision);
    result.map(|(granted, _)| granted)
}

async fn decide<L: Leader>(
    engine: &Engine,
    call: &Call,
    leader: &L,
) -> Result<(Granted<L::Run>, Decision), Error> {
    let own = CURRENT.try_with(|attempt| attempt.is_of(&call.id));
    if own.unwrap_or(false) {
        // A body that calls its own operation under its own key would wait for itself.
        return Err(in_flight(engine));
    }
    match engine.inner.cache.find(&call.meets_by, &call.fingerprint) {
        Some(Cached::Outcome(outcome)) => {
            if let Some(begun) = finally(replay(&outcome, false)) {
                return begun;
            }
        }
        Some(Cached::Mismatch) => return Err(Error::Mismatch),
        None => {}
    }
    let patience = Patience::of(&call.policy);
    loop {
        let decided = match engine.inner.flights.enter(call.meets_by, call.fingerprint) {
            Entry::Leader(flight) => leader.lead(patience, flight).await,
            Entry::Duplicate(flight) => join(engine, call, patience, &flight).await,
        };
        if let Some(begun) = finally(decided) {
            return begun;
        }
    }
}

/// `None` is to ask again.
fn finally<Run>(decided: Decided<Run>) -> Option<Result<(Granted<Run>, Decision), Error>> {
    match decided {
        Decided::Run(run, decision) => Some(Ok((Granted::Run(run), decision))),
        Decided::Replay(outcome, decision) => Some(Ok((Granted::Replay(outcome), decision))),
        Decided::Refused(error) => Some(Err(error)),
        Decided::AskAgain => None,
    }
}

/// Joins a flight: no store traffic.
async fn join<Run>(
    engine: &Engine,
    call: &Call,
    patience: Patience,
    flight: &Arc<Flight>,
) -> Decided<Run> {
    // The leader's claim is bounded by the store timeout, if somebody polls the leader.
    tokio::select! {
        biased;
        () = flight.answered() => {}
        () = sleep(engine.inner.settings.store_timeout) => return Decided::Refused(in_flight(engine)),
        () = patience.over(), if !patience.is_none() => return Decided::Refused(in_flight(engine)),
    }
    let same = flight.fingerprint == call.fingerprint;
    let mut waited = false;
    if let Progress::Occupied = flight.progress() {
        if !same {
            return Decided::Refused(Error::Mismatch);
        }
        tokio::select! {
            biased;
            () = flight.ended() => waited = true,
            () = patience.over() => return Decided::Refused(in_flight(engine)),
        }
    }
    let Progress::Ended(ending) = flight.progress() else {
        return Decided::AskAgain;
    };
    match (ending, same) {
        // A leader that was refused for its own fingerprint says nothing of another one.
        (Ending::Mismatch, false) | (Ending::Unknown, _) => Decided::AskAgain,
        (Ending::Failed(error), _) => Decided::Refused(error.clone().into()),
        (Ending::Mismatch, true) | (_, false) => Decided::Refused(Error::Mismatch),
        (Ending::Outcome(outcome), true) => replay(outcome, waited),
        (Ending::OutcomeUnknown { attempt }, true) => {
            Decided::Refused(Error::OutcomeUnknown { attempt: *attempt })
        }
        (Ending::InFlightElsewhere, true) if patience.is_none() => {
            Decided::Refused(in_flight(engine))
        }
        (Ending::InFlightElsewhere, true) => Decided::AskAgain,
    }
}

/// Claims in the store.
struct StoreLeader<'a> {
    engine: &'a Engine,
    call: &'a Call,
    runtime: Handle,
}

impl Leader for StoreLeader<'_> {
    type Run = Begun;

    async fn lead(&self, patience: Patience, flight: FlightGuard) -> Decided<Begun> {
        lead(self.engine, self.call, &self.runtime, patience, flight).await
    }
}

async fn lead(
    engine: &Engine,
    call: &Call,
    runtime: &Handle,
    patience: Patience,
    mut flight: FlightGuard,
) -> Decided<Begun> {
    let claim = call.claim(engine);
    let mut news = None;
    loop {
        let sent = Instant::now();
        let answer = claim_once(engine, call, runtime, &claim).await;
        let waited = news.is_some();
        match answer {
            Ok(Claimed::Acquired { attempt }) => {
                let held = Held::new(engine, call, claim.token, attempt, sent, flight);
                let execution = Execution::new(held, runtime.clone());
                // Dropped where it is not begun, it frees the key.
                return match execution.take_off().await {
                    Ok(true) => Decided::Run(Begun::Execute(execution), Decision::Executed),
                    Ok(false) => Decided::AskAgain,
                    Err(error) => Decided::Refused(error.into()),
                };
            }
            Ok(answer) => match conclude(engine, call, answer, sent, waited, patience, flight) {
                Ok(decided) => return decided,
                Err((guard, lease_left)) => {
                    flight = guard;
                    let news = news.get_or_insert_with(News::default);
                    tokio::select! {
                        biased;
                        () = patience.over() => return gave_up(engine, flight),
                        // Boxed: a waiting call is rare, and its future is large.
                        () = Box::pin(news.of(engine, call, lease_left)) => {}
                    }
                }
            },
            // No outage: a record that cannot be read may be finished, one that was seen to run may
            // still be, and a store that refuses is not away.
            Err(error) if engine.inner.settings.fail_open && !waited && error.is_outage() => {
                flight.occupy();
                observe::failing_open(&call.operation, &error);
                let begun = Begun::Unprotected(Unprotected {
                    flight: Some(flight),
                });
                return Decided::Run(begun, Decision::Unprotected);
            }
            Err(error) => {
                flight.end(Ending::Failed(error.clone()));
                return Decided::Refused(error.into());
            }
        }
    }
}

/// What an answer means that is no right to run. `Err` is to wait: another attempt holds the
/// record, for so long if it is not heard of.
pub(super) fn conclude<Run>(
    engine: &Engine,
    call: &Call,
    answer: Claimed,
    sent: Instant,
    waited: bool,
    patience: Patience,
    flight: FlightGuard,
) -> Result<Decided<Run>, (FlightGuard, Duration)> {
    Ok(match answer {
        // Not for here: whoever has acquired runs.
        Claimed::Acquired { .. } => Decided::AskAgain,
        Claimed::Finished {
            outcome,
            retention_left,
        } => {
            let until = retention_left.and_then(|left| sent.checked_add(left));
            let cache = &engine.inner.cache;
            cache.keep(call.meets_by, call.fingerprint, outcome.clone(), until);
            let decided = replay(&outcome, waited);
            flight.end(Ending::Outcome(outcome));
            decided
        }
        Claimed::Mismatch => {
            flight.end(Ending::Mismatch);
            Decided::Refused(Error::Mismatch)
        }
        Claimed::OutcomeUnknown { attempt } => {
            flight.end(Ending::OutcomeUnknown { attempt });
            Decided::Refused(Error::OutcomeUnknown { attempt })
        }
        Claimed::InFlight { .. } if patience.is_none() => gave_up(engine, flight),
        Claimed::InFlight { lease_left } => {
            flight.occupy();
            return Err((flight, lease_left));
        }
    })
}

/// Another process runs an attempt, and this call waits no longer.
pub(super) fn gave_up<Run>(engine: &Engine, flight: FlightGuard) -> Decided<Run> {
    flight.end(Ending::InFlightElsewhere);
    Decided::Refused(in_flight(engine))
}

/// Sends a claim; a transient failure is followed by one more try with the same token, which
/// recognises itself if the first one had its effect. Both are inside one store timeout.
async fn claim_once(
    engine: &Engine,
    call: &Call,
    runtime: &Handle,
    claim: &Claim,
) -> Result<Claimed, StoreError> {
    let mut ghost = Ghost {
        engine,
        call,
        runtime,
        token: claim.token,
        armed: true,
    };
    let tries = async {
        match engine.store().claim(claim).await {
            Err(error) if error.is_transient() => {
                observe::store_failed(&call.operation, "claim", &error);
                engine.store().claim(claim).await
            }
            answer => answer,
        }
    };
    let answer = engine.store_call(&call.operation, "claim", tries).await;
    ghost.armed = matches!(
        answer,
        Err(StoreError::Unavailable { .. } | StoreError::TimedOut { .. })
    );
    answer
}

/// A claim whose answer did not come: it may hold a lease that nobody will use. Dropped while
/// armed, it frees the key in the background, so that a retry need not wait for the lease.
struct Ghost<'a> {
    engine: &'a Engine,
    call: &'a Call,
    runtime: &'a Handle,
    token: Token,
    armed: bool,
}

impl Drop for Ghost<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        // Bounded: in an outage every request leaves one, and the lease ends without them.
        let Ok(permit) = Arc::clone(&self.engine.inner.ghosts).try_acquire_owned() else {
            return;
        };
        let (engine, call, token) = (self.engine.clone(), self.call.clone(), self.token);
        let until = Instant::now() + call.policy.lease;
        self.runtime.spawn(async move {
            // Until it was there to be released: the claim may arrive after its release.
            let mut not_there_since = None;
            let _ = engine
                .settle_until(&call, &token, &Settlement::Release, until, |change| {
                    change == Change::Applied
                        // Where a crash refuses, one that arrives later would be one for good.
                        || call.policy.on_crash == OnCrash::Rerun
                            && not_there_since.get_or_insert_with(Instant::now).elapsed() >= STRAGGLING
                })
                .await;
            drop(permit);
        });
    }
}

/// What a waiting leader knows of the record's changes in the store.
#[derive(Default)]
struct News {
    watch: Option<Watch>,
    /// How long to wait before the next watch begins.
    calm: Duration,
}

impl News {
    /// Resolves when it is time to claim again.
    async fn of(&mut self, engine: &Engine, call: &Call, lease_left: Duration) {
        let Some(watch) = &mut self.watch else {
            // A store may wake without a change: pauses keep that from becoming a storm.
            sleep(self.calm).await;
            self.calm = (self.calm * 2).clamp(FIRST_CALM, POLL);
            let watch = engine.store().watch(&call.id);
            let watch = engine.store_call(&call.operation, "watch", watch).await;
            // What changed before the watch began is seen by the next claim.
            self.watch = Some(watch.unwrap_or_else(|_| Watch::never()));
            return;
        };
        // A crash is announced by nobody: look again when the lease would be over.
        let pause = POLL.mul_f64(rand::random_range(0.5..1.0)).min(lease_left);
        tokio::select! {
            biased;
            () = watch => self.watch = None,
            () = sleep(pause.max(Duration::from_millis(1))) => {}
        }
    }
}

pub(super) fn replay<Run>(outcome: &Bytes, waited: bool) -> Decided<Run> {
    match Outcome::decode(outcome) {
        Ok(Outcome::NotReplayable(reason)) => Decided::Refused(reason.into()),
        Ok(outcome) => {
            let decision = if waited {
                Decision::Waited
            } else {
                Decision::Replayed
            };
            Decided::Replay(outcome, decision)
        }
        Err(error) => Decided::Refused(error.into()),
    }
}

pub(super) fn in_flight(engine: &Engine) -> Error {
    Error::InFlight {
        retry_after: engine.inner.settings.retry_after,
    }
}
