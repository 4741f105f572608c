//! What a request may do, and what the store's answers mean for it: the one place where the state
//! table's answers are judged.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};

use super::activity::Ongoing;
use super::detaching::Detaching;
use super::execution::{Execution, Panic};
use super::flight::{Ending, FlightGuard, LiveAnswer};
use super::handle::Engine;
use crate::attempt::Attempt;
use crate::call::Call;
use crate::current::{self, CURRENT};
use crate::error::Error;
use crate::observer::{Decision, EventKind};
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

    /// Runs the body, which a caller that goes away does not stop: it goes on on a task of its own.
    ///
    /// # Errors
    /// The body's panic.
    pub async fn drive_detached<F>(self, body: F) -> Result<F::Output, Panic>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let body = AssertUnwindSafe(self.drive(body)).catch_unwind();
        match Handle::try_current() {
            Ok(runtime) => Detaching::new(runtime, body).await,
            Err(_) => body.await,
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
    pub(super) fn of(policy: &Policy) -> Self {
        match policy.in_flight {
            InFlight::Reject => Self::None,
            InFlight::Wait(time) | InFlight::Attach(time) => {
                Self::Until(Instant::now().checked_add(time))
            }
        }
    }

    /// Resolves when the patience is at its end.
    pub(super) async fn end(self) {
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
    Replay(Outcome, Report),
    Refused(Error),
    /// What was joined is over and said nothing about this call.
    AskAgain,
}

/// A decision as observers are told of it.
#[derive(Clone, Copy)]
pub(super) struct Report {
    pub(super) decision: Decision,
    /// Of a replay, where the store has said it.
    pub(super) first_claimed_at: Option<SystemTime>,
}

impl From<Decision> for Report {
    fn from(decision: Decision) -> Self {
        Self {
            decision,
            first_claimed_at: None,
        }
    }
}

impl From<Report> for EventKind<'_> {
    fn from(report: Report) -> Self {
        Self::Decided {
            decision: report.decision,
            first_claimed_at: report.first_claimed_at,
        }
    }
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
    /// Give what is on its way. Only where the call attaches.
    Attach(LiveAnswer),
}

impl Granted<Begun> {
    /// For a call that does not attach.
    pub(super) fn into_begun(self, engine: &Engine) -> Result<Begun, Error> {
        match self {
            Self::Run(begun) => Ok(begun),
            Self::Replay(outcome) => Ok(Begun::Replay(outcome)),
            Self::Attach(_) => Err(engine.in_flight()),
        }
    }
}

/// What a store's answer means that is no right to run.
#[allow(clippy::large_enum_variant, reason = "as for `Begun`")]
pub(super) enum Conclusion<Run> {
    Decided(Decided<Run>),
    /// Another attempt holds the record, for so long unless it renews its lease.
    Wait(FlightGuard, Duration),
}

/// Judges an answer of the state table that is no right to run.
pub(super) fn conclude<Run>(
    engine: &Engine,
    call: &Call,
    answer: Claimed,
    sent: Instant,
    waited: bool,
    patience: Patience,
    flight: FlightGuard,
) -> Conclusion<Run> {
    Conclusion::Decided(match answer {
        // Not for here: whoever has acquired runs.
        Claimed::Acquired { .. } => Decided::AskAgain,
        Claimed::Finished {
            outcome,
            retention_left,
            claimed_at,
        } => {
            let until = retention_left.and_then(|left| sent.checked_add(left));
            let cache = &engine.inner.cache;
            cache.keep(call.flight_key, call.fingerprint, outcome.clone(), until);
            let decided = replay(&outcome, waited, claimed_at);
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
        Claimed::InFlight { lease_left } if patience.is_none() => {
            flight.end(Ending::InFlightElsewhere);
            Decided::Refused(engine.in_flight_for(lease_left))
        }
        Claimed::InFlight { lease_left } => {
            flight.occupy();
            return Conclusion::Wait(flight, lease_left);
        }
    })
}

/// Another process runs an attempt, and this call waits no longer.
pub(super) fn gave_up<Run>(engine: &Engine, flight: FlightGuard) -> Decided<Run> {
    flight.end(Ending::InFlightElsewhere);
    Decided::Refused(engine.in_flight())
}

pub(super) fn replay<Run>(
    outcome: &Bytes,
    waited: bool,
    first_claimed_at: Option<SystemTime>,
) -> Decided<Run> {
    match Outcome::decode(outcome) {
        Ok(Outcome::NotReplayable(reason)) => Decided::Refused(reason.into()),
        Ok(outcome) => {
            let decision = if waited {
                Decision::Waited
            } else {
                Decision::Replayed
            };
            let report = Report {
                decision,
                first_claimed_at,
            };
            Decided::Replay(outcome, report)
        }
        Err(error) => Decided::Refused(error.into()),
    }
}
