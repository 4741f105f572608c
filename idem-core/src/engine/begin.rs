//! From a request to a decision: run the body, give an outcome back, or refuse.
//!
//! Duplicates of one process meet here; whoever leads them asks the store.

use std::future::Future;

use tokio::time::sleep;

use super::cache::Cached;
use super::claim::StoreLeader;
use super::decision::{Begun, Decided, Granted, Leader, Patience, Report, replay};
use super::flight::{Ending, Entry, FlightGuard, Joined, LiveAnswer, Progress, Woken};
use super::handle::Engine;
use super::runtime;
use crate::call::Call;
use crate::caller::Caller;
use crate::current;
use crate::error::Error;
use crate::fingerprint::FormerFingerprint;
use crate::observe;
use crate::observer::Decision;

/// Decides what `call` may do, and reports it.
#[allow(
    clippy::manual_async_fn,
    reason = "an `async fn` holds its arguments twice, and thousands of calls may wait here"
)]
pub(super) fn begin(
    engine: Engine,
    mut call: Call,
    former: Option<FormerFingerprint>,
) -> impl Future<Output = Result<Granted<Begun>, Error>> + Send {
    async move {
        let runtime = runtime::current()?;
        let leader = StoreLeader::new(&engine, &call, runtime.clone());
        let mut decided = decide_or_go(&engine, &call, &leader).await?;
        if is_known_by(&mut call, &decided, former) {
            let leader = StoreLeader::new(&engine, &call, runtime);
            decided = Box::pin(decide_or_go(&engine, &call, &leader)).await?;
        }
        report(&engine, &call, decided)
    }
}

/// What is decided, and how it is called in metrics.
pub(super) type Answer<Run> = Result<(Granted<Run>, Report), Error>;

/// Whether a mismatch may be with a record that an earlier version wrote for this very request. Then
/// the call goes on under the earlier fingerprint, which the record keeps.
pub(super) fn is_known_by<Run>(
    call: &mut Call,
    decided: &Answer<Run>,
    former: Option<FormerFingerprint>,
) -> bool {
    let (Err(Error::Mismatch), Some(former)) = (decided, former) else {
        return false;
    };
    let former = former.finish();
    std::mem::replace(&mut call.fingerprint, former) != former
}

/// Decides with this leader. An `Err` is that nobody waits for the answer any more: nobody is told,
/// and what was claimed is freed.
pub(super) async fn decide_or_go<L: Leader>(
    engine: &Engine,
    call: &Call,
    leader: &L,
) -> Result<Answer<L::Run>, Error> {
    let result = tokio::select! {
        biased;
        () = Caller::gone() => return Err(engine.in_flight()),
        result = decide(engine, call, leader) => result,
    };
    if matches!(result, Ok((Granted::Run(_), _))) && !Caller::begin() {
        return Err(engine.in_flight());
    }
    Ok(result)
}

/// Reports what is decided.
pub(super) fn report<Run>(
    engine: &Engine,
    call: &Call,
    result: Answer<Run>,
) -> Result<Granted<Run>, Error> {
    let report = match &result {
        Ok((_, report)) => *report,
        Err(error) => Decision::of(error).into(),
    };
    engine.tell(call, report.into());
    if let Err(Error::OutcomeUnknown { attempt }) = &result {
        observe::outcome_unknown(&call.operation, &call.id, *attempt);
    }
    result.map(|(granted, _)| granted)
}

async fn decide<L: Leader>(engine: &Engine, call: &Call, leader: &L) -> Answer<L::Run> {
    if current::is_within(&call.id) {
        // A body that calls its own operation under its own key, directly or through others, would
        // wait for itself.
        return Err(engine.in_flight());
    }
    match engine.inner.cache.find(&call.flight_key, &call.fingerprint) {
        Some(Cached::Outcome(outcome)) => {
            if let Some(begun) = into_result(replay(&outcome, false, None)) {
                return begun;
            }
        }
        Some(Cached::Mismatch) => return Err(Error::Mismatch),
        None => {}
    }
    let patience = Patience::of(&call.policy);
    loop {
        let flights = &engine.inner.flights;
        let flight = match flights.enter(call.flight_key, call.fingerprint) {
            Entry::Leader(flight) => flight,
            Entry::Duplicate(joined) => match join(engine, call, patience, joined).await {
                Join::Leads(flight) => flight,
                Join::Attaches(live) => {
                    return Ok((Granted::Attach(live), Decision::Attached.into()));
                }
                Join::Decided(decided) => match into_result(decided) {
                    Some(begun) => return begun,
                    None => continue,
                },
            },
        };
        // Boxed: it is large, and those who wait have no use for it.
        let decided = Box::pin(leader.lead(patience, flight)).await;
        if let Some(begun) = into_result(decided) {
            return begun;
        }
    }
}

/// `None` is to ask again.
fn into_result<Run>(decided: Decided<Run>) -> Option<Answer<Run>> {
    match decided {
        Decided::Run(run, decision) => Some(Ok((Granted::Run(run), decision.into()))),
        Decided::Replay(outcome, report) => Some(Ok((Granted::Replay(outcome), report))),
        Decided::Refused(error) => Some(Err(error)),
        Decided::AskAgain => None,
    }
}

/// What has become of a call that joined a flight.
#[allow(clippy::large_enum_variant, reason = "as for `Begun`")]
enum Join<Run> {
    Decided(Decided<Run>),
    /// It is given what is on its way.
    Attaches(LiveAnswer),
    /// It leads the flight on: nobody before it has left an answer.
    Leads(FlightGuard),
}

/// Waits for the answer to the leader's claim, which is bounded by the store timeout if somebody polls
/// the leader. `None`: it does not come.
async fn claim_answered(engine: &Engine, patience: Patience, joined: &mut Joined) -> Option<Woken> {
    tokio::select! {
        biased;
        woken = joined.answered() => Some(woken),
        () = sleep(engine.inner.settings.store_timeout) => None,
        () = patience.end(), if !patience.is_none() => None,
    }
}

/// Joins a flight: no store traffic.
#[allow(clippy::manual_async_fn, reason = "as for `begin`")]
fn join<Run>(
    engine: &Engine,
    call: &Call,
    patience: Patience,
    mut joined: Joined,
) -> impl Future<Output = Join<Run>> {
    async move {
        let refused = || Join::Decided(Decided::Refused(engine.in_flight()));
        if let Progress::Claiming = joined.progress() {
            // Boxed: most find an answer.
            match Box::pin(claim_answered(engine, patience, &mut joined)).await {
                Some(Woken::Reached) => {}
                Some(Woken::Leads(flight)) => return Join::Leads(flight),
                None => return refused(),
            }
        }
        let same = *joined.fingerprint() == call.fingerprint;
        let mut waited = false;
        if let Progress::Occupied = joined.progress() {
            if !same {
                return Join::Decided(Decided::Refused(Error::Mismatch));
            }
            let woken = tokio::select! {
                biased;
                woken = joined.ended(call.attaches) => woken,
                () = patience.end() => {
                    joined.link();
                    return refused();
                }
            };
            if let Woken::Leads(flight) = woken {
                return Join::Leads(flight);
            }
            if let (true, Progress::Occupied, Some(live)) =
                (call.attaches, joined.progress(), joined.live())
            {
                joined.link();
                return Join::Attaches(live);
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
            (Ending::Outcome(outcome), true) => {
                joined.link();
                replay(outcome, waited, None)
            }
            (Ending::OutcomeUnknown { attempt }, true) => {
                Decided::Refused(Error::OutcomeUnknown { attempt: *attempt })
            }
            (Ending::InFlightElsewhere, true) if patience.is_none() => {
                Decided::Refused(engine.in_flight())
            }
            (Ending::InFlightElsewhere, true) => Decided::AskAgain,
        })
    }
}
