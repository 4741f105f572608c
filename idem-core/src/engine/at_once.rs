//! Calls that need no wait: what the local cache or a store in this process answers at once. Most calls
//! over such a store are decided here, and no future is made for them.

use bytes::Bytes;
use tokio::time::Instant;

use super::cache::Cached;
use super::decision::{Begun, Granted, Report};
use super::execution::{ClaimedLease, Execution};
use super::handle::Engine;
use super::runtime;
use crate::attempt::Acquired;
use crate::call::Call;
use crate::caller::Caller;
use crate::current;
use crate::observer::Decision;
use crate::outcome::Outcome;

/// Decides what `call` may do, and reports it. `None` has changed nothing: [`begin`](super::begin::begin)
/// decides.
pub(super) fn begin_at_once(engine: &Engine, call: &Call) -> Option<Granted<Begun>> {
    // A call within its own attempt is refused there.
    if current::is_within(&call.id) {
        return None;
    }
    let runtime = runtime::current().ok()?;
    if let Some(outcome) = replay_at_once(engine, call) {
        engine.tell(call, Report::from(Decision::Replayed).into());
        return Some(Granted::Replay(outcome));
    }
    let store = engine.store().immediate()?;
    if engine.inner.unsettled.is_full() {
        return None;
    }
    let flights = &engine.inner.flights;
    let flight = flights.lead(call.flight_key, call.fingerprint)?;
    let claim = call.claim(false);
    let sent = Instant::now();
    if !engine.immediate_call(&call.operation, "claim", || store.claim_absent(&claim)) {
        return None;
    }
    let acquired = Acquired {
        number: 1,
        token: claim.token,
        steps: Bytes::new(),
    };
    let claimed = ClaimedLease::new(engine, call, acquired, sent, flight);
    let execution = Execution::new(claimed, runtime);
    // Dropped, it frees the key. The caller has gone, and is refused by who is asked next.
    if !Caller::begin() {
        return None;
    }
    execution.report_start();
    engine.tell(call, Report::from(Decision::Executed).into());
    Some(Granted::Run(Begun::Execute(execution)))
}

fn replay_at_once(engine: &Engine, call: &Call) -> Option<Outcome> {
    let cached = engine.inner.cache.find(&call.flight_key, &call.fingerprint);
    let outcome = match cached {
        Some(Cached::Outcome(outcome)) => outcome,
        Some(Cached::Mismatch) => return None,
        None => {
            let store = engine.store().immediate()?;
            store.find_finished(&call.id, &call.fingerprint)?
        }
    };
    match Outcome::decode(&outcome) {
        Ok(Outcome::NotReplayable(_)) | Err(_) => None,
        Ok(outcome) => Some(outcome),
    }
}
