//! From a request to a decision: run the body, give an outcome back, or refuse.
//!
//! This is the one place where the answers of the state table are judged.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::Instrument;

use super::activity::Ongoing;
use super::cache::Cached;
use super::claim::StoreLeader;
use super::execution::{Execution, Panic, panic_of};
use super::flight::{Ending, Entry, FlightGuard, Joined, Progress, Woken};
use super::{Engine, runtime};
use crate::attempt::Attempt;
use crate::call::Call;
use crate::caller::Caller;
use crate::current::{self, CURRENT};
use crate::error::Error;
use crate::observe::{self, Decision};
use crate::outcome::Outcome;
use crate::policy::{InFlight, Policy};
use crate::record::Claimed;

/// What a request may do. Exhaustive on purpose: who drives it has to know every way.
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
    under_way: UnderWay,
}

/// What says that a body runs, and keeps out duplicates where there is a key.
#[derive(Debug)]
enum UnderWay {
    Keyless(#[allow(dead_code, reason = "it counts until it is dropped")] Ongoing),
    Keyed(#[allow(dead_code, reason = "it counts until it is dropped")] FlightGuard),
}

impl Unprotected {
    pub(super) const fn without_key(ongoing: Ongoing) -> Self {
        Self {
            under_way: UnderWay::Keyless(ongoing),
        }
    }

    pub(super) const fn under_key(flight: FlightGuard) -> Self {
        Self {
            under_way: UnderWay::Keyed(flight),
        }
    }

    /// Runs the body on the caller's task. [`crate::attempt()`] inside of it says that it is
    /// not protected.
    pub async fn drive<F: Future>(self, body: F) -> F::Output {
        let output = CURRENT
            .scope(Attempt::unprotected(current::attempt_here()), body)
            .await;
        drop(self.under_way);
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
    let runtime = runtime::current()?;
    let leader = StoreLeader::new(engine, call, runtime);
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
    let result = tokio::select! {
        biased;
        // Nobody is told. What was claimed is freed.
        () = Caller::gone() => return Err(in_flight(engine)),
        result = decide(engine, call, leader) => result,
    };
    if matches!(result, Ok((Granted::Run(_), _))) && !Caller::begin() {
        return Err(in_flight(engine));
    }
    let decision = match &result {
        Ok((_, decision)) => *decision,
        Err(error) => Decision::of(error),
    };
    observe::decided(&call.operation, decision);
    if let Err(Error::OutcomeUnknown { attempt }) = &result {
        observe::outcome_unknown(&call.operation, &call.id, *attempt);
    }
    result.map(|(granted, _)| granted)
}

async fn decide<L: Leader>(
    engine: &Engine,
    call: &Call,
    leader: &L,
) -> Result<(Granted<L::Run>, Decision), Error> {
    if current::is_within(&call.id) {
        // A body that calls its own operation under its own key, directly or through others, would
        // wait for itself.
        return Err(in_flight(engine));
    }
    match engine.inner.cache.find(&call.flight_key, &call.fingerprint) {
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
        let entry = engine
            .inner
            .flights
            .enter(call.flight_key, call.fingerprint);
        let joined = match entry {
            Entry::Leader(flight) => Join::Leads(flight),
            Entry::Duplicate(joined) => join(engine, call, patience, joined).await,
        };
        let decided = match joined {
            Join::Leads(flight) => leader.lead(patience, flight).await,
            Join::Decided(decided) => decided,
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

/// What has become of a call that joined a flight.
#[allow(clippy::large_enum_variant, reason = "as for `Begun`")]
enum Join<Run> {
    Decided(Decided<Run>),
    /// It leads the flight on: nobody before it has left an answer.
    Leads(FlightGuard),
}

/// Joins a flight: no store traffic.
async fn join<Run>(
    engine: &Engine,
    call: &Call,
    patience: Patience,
    mut joined: Joined,
) -> Join<Run> {
    let refused = || Join::Decided(Decided::Refused(in_flight(engine)));
    // The leader's claim is bounded by the store timeout, if somebody polls the leader.
    let woken = tokio::select! {
        biased;
        woken = joined.answered() => woken,
        () = sleep(engine.inner.settings.store_timeout) => return refused(),
        () = patience.over(), if !patience.is_none() => return refused(),
    };
    if let Woken::Leads(flight) = woken {
        return Join::Leads(flight);
    }
    let same = *joined.fingerprint() == call.fingerprint;
    let mut waited = false;
    if let Progress::Occupied = joined.progress() {
        if !same {
            return Join::Decided(Decided::Refused(Error::Mismatch));
        }
        let woken = tokio::select! {
            biased;
            woken = joined.ended() => woken,
            () = patience.over() => return refused(),
        };
        if let Woken::Leads(flight) = woken {
            return Join::Leads(flight);
        }
        waited = true;
    }
    let Progress::Ended(ending) = joined.progress() else {
        return Join::Decided(Decided::AskAgain);
    };
    Join::Decided(match (ending, same) {
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
    })
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
            cache.keep(call.flight_key, call.fingerprint, outcome.clone(), until);
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
