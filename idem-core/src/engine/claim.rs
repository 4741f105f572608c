//! Claims in the store: sent, waited for, and, where nobody knows whether they were made, undone.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use super::backoff::jittered;
use super::decision::{
    Begun, Conclusion, Decided, Leader, Patience, Unprotected, conclude, gave_up,
};
use super::execution::{ClaimedLease, Execution};
use super::flight::{Ending, FlightGuard};
use super::handle::Engine;
use super::settlement::Settlement;
use crate::attempt::Acquired;
use crate::call::Call;
use crate::observe;
use crate::observer::Decision;
use crate::record::{Claim, Claimed, Lease};
use crate::store::{StoreError, Watch};

/// How often a waiter asks the store by itself, in case a notification was lost. The pause is
/// drawn between half of this and all of it.
const POLL: Duration = Duration::from_secs(1);

/// The first pause after a notification that brought no news; doubled up to [`POLL`].
const FIRST_BACKOFF: Duration = Duration::from_millis(10);

/// Claims in the store.
pub(super) struct StoreLeader<'a> {
    engine: &'a Engine,
    call: &'a Call,
    runtime: Handle,
}

impl<'a> StoreLeader<'a> {
    pub(super) const fn new(engine: &'a Engine, call: &'a Call, runtime: Handle) -> Self {
        Self {
            engine,
            call,
            runtime,
        }
    }
}

impl Leader for StoreLeader<'_> {
    type Run = Begun;

    async fn lead(&self, patience: Patience, mut flight: FlightGuard) -> Decided<Begun> {
        let Self { engine, call, .. } = *self;
        let claim = call.claim(engine.inner.cache.is_on());
        let mut waiter = None;
        loop {
            let sent = Instant::now();
            let answer = self.claim(&claim).await;
            let waited = waiter.is_some();
            match answer {
                Ok(Answer {
                    claimed: Claimed::Acquired { attempt, steps },
                    may_come_again,
                }) => {
                    let acquired = Acquired {
                        number: attempt,
                        token: claim.token,
                        steps,
                    };
                    let claimed = ClaimedLease::new(engine, call, acquired, sent, flight);
                    claimed.expect_late_calls(may_come_again);
                    let execution = Execution::new(claimed, self.runtime.clone());
                    // Dropped where it is not begun, it frees the key.
                    return match execution.confirm_lease().await {
                        Ok(true) => Decided::Run(Begun::Execute(execution), Decision::Executed),
                        Ok(false) => Decided::AskAgain,
                        Err(error) => Decided::Refused(error.into()),
                    };
                }
                Ok(Answer { claimed, .. }) => {
                    match conclude(engine, call, claimed, sent, waited, patience, flight) {
                        Conclusion::Decided(decided) => return decided,
                        Conclusion::Wait(guard, lease_left) => {
                            flight = guard;
                            let waiter = waiter.get_or_insert_with(ClaimWaiter::default);
                            tokio::select! {
                                biased;
                                () = patience.end() => return gave_up(engine, flight),
                                // Boxed: a waiting call is rare, and its future is large.
                                () = Box::pin(waiter.wait(engine, call, lease_left)) => {}
                            }
                        }
                    }
                }
                // No outage: a record that cannot be read may be finished, one that was seen to run
                // may still be, and a store that refuses is not away.
                Err(error) if engine.inner.settings.fail_open && !waited && error.is_outage() => {
                    flight.occupy();
                    observe::failing_open(&call.operation, &error);
                    let unprotected = Unprotected::under_key(flight);
                    return Decided::Run(Begun::Unprotected(unprotected), Decision::Unprotected);
                }
                Err(error) => {
                    flight.end(Ending::Failed(error.clone()));
                    return Decided::Refused(error.into());
                }
            }
        }
    }
}

/// The answer to a claim.
struct Answer {
    claimed: Claimed,
    /// A try of the claim was not answered, and may arrive later.
    may_come_again: bool,
}

impl StoreLeader<'_> {
    /// Sends a claim; a transient failure is followed by one more try with the same token, which
    /// recognises itself if the first one had its effect. Both are inside one store timeout.
    async fn claim(&self, claim: &Claim) -> Result<Answer, StoreError> {
        let Self { engine, call, .. } = *self;
        engine.refuse_where_too_much_is_unsettled()?;
        let sent = SentClaim {
            leader: self,
            claim,
            unanswered: AtomicU32::new(0),
        };
        let tries = async {
            match sent.once().await {
                Err(error) if error.is_transient() => {
                    observe::store_failed(&call.operation, "claim", &error);
                    sent.once().await
                }
                answer => answer,
            }
        };
        let claimed = engine.store_call(&call.operation, "claim", tries).await?;
        Ok(Answer {
            // Whoever holds the lease undoes it when the attempt has ended.
            may_come_again: matches!(claimed, Claimed::Acquired { .. })
                && sent.unanswered.swap(0, Ordering::Relaxed) > 0,
            claimed,
        })
    }
}

/// A claim on its way. Dropped while tries of it are unanswered, it is undone in the background: it
/// may take a lease that nobody will use.
struct SentClaim<'a> {
    leader: &'a StoreLeader<'a>,
    claim: &'a Claim,
    unanswered: AtomicU32,
}

impl SentClaim<'_> {
    async fn once(&self) -> Result<Claimed, StoreError> {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        let answer = self.leader.engine.store().claim(self.claim).await;
        if !answer.as_ref().is_err_and(StoreError::may_have_effect) {
            self.unanswered.fetch_sub(1, Ordering::Relaxed);
        }
        answer
    }
}

impl Drop for SentClaim<'_> {
    fn drop(&mut self) {
        let unanswered = *self.unanswered.get_mut();
        if unanswered > 0 {
            let StoreLeader {
                engine,
                call,
                runtime,
            } = self.leader;
            let lease = Lease {
                unbroken: false,
                ..Lease::of(self.claim, 1)
            };
            engine.undo_late_calls(runtime, call, lease, Settlement::Release, unanswered == 1);
        }
    }
}

/// What a waiting leader knows of the record's changes in the store.
#[derive(Default)]
struct ClaimWaiter {
    watch: Option<Watch>,
    /// How long to wait before the next watch begins.
    backoff: Duration,
}

impl ClaimWaiter {
    /// Resolves when it is time to claim again.
    async fn wait(&mut self, engine: &Engine, call: &Call, lease_left: Duration) {
        let Some(watch) = &mut self.watch else {
            // A store may wake without a change: pauses keep that from becoming a storm.
            sleep(self.backoff).await;
            self.backoff = (self.backoff * 2).clamp(FIRST_BACKOFF, POLL);
            let watch = engine.store().watch(&call.id);
            let watch = engine.store_call(&call.operation, "watch", watch).await;
            // What changed before the watch began is seen by the next claim.
            self.watch = Some(watch.unwrap_or_else(|_| Watch::never()));
            return;
        };
        // A crash is announced by nobody: look again when the lease would be over.
        let pause = jittered(POLL).min(lease_left);
        tokio::select! {
            biased;
            () = watch => self.watch = None,
            () = sleep(pause.max(Duration::from_millis(1))) => {}
        }
    }
}
