//! How an attempt ends in the store.

use bytes::Bytes;

use super::handle::Engine;
use crate::attempt::OwnedLease;
use crate::call::Call;
use crate::observe;
use crate::observer::EventKind;
use crate::outcome::{NotReplayable, Outcome, Verdict};
use crate::record::{Change, Lease};
use crate::store::StoreError;

#[derive(Clone, Debug)]
pub(crate) enum Settlement {
    Complete(Bytes),
    Release,
    /// The next attempt goes on with these steps.
    Suspend(Bytes),
    Abandon,
}

impl Settlement {
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Self::Complete(_) => "complete",
            Self::Release => "release",
            Self::Suspend(_) => "suspend",
            Self::Abandon => "abandon",
        }
    }

    /// What a body leaves behind that says that nothing happened. Finished steps have: the key is not
    /// freed then.
    pub(super) fn releasing(lease: &OwnedLease) -> Self {
        let steps = lease.step_bytes();
        match (lease.has_lost_a_step(), steps.is_empty()) {
            (true, _) => Self::Abandon,
            (false, true) => Self::Release,
            (false, false) => Self::Suspend(steps),
        }
    }

    /// What a verdict leaves behind. An outcome over the bound leaves a tombstone.
    pub(super) fn of(verdict: Verdict, call: &Call, engine: &Engine) -> Self {
        let mut outcome = match verdict {
            Verdict::Final(outcome) => outcome,
            Verdict::Released => return Self::Release,
            Verdict::Crashed => return Self::Abandon,
        };
        let mut encoded = outcome.encode();
        observe::outcome_size(&call.operation, encoded.len());
        if encoded.len() > engine.max_outcome_bytes() {
            outcome = Outcome::NotReplayable(NotReplayable::TooLarge);
            encoded = outcome.encode();
        }
        if let Outcome::NotReplayable(reason) = outcome {
            engine
                .inner
                .replays
                .check_tombstone(&call.operation, reason);
        }
        Self::Complete(encoded)
    }
}

impl Engine {
    /// Sends the end of an attempt once.
    pub(super) async fn settle(
        &self,
        call: &Call,
        lease: &Lease,
        settlement: &Settlement,
    ) -> Result<Change, StoreError> {
        let sent = self.send(lease, settlement);
        self.store_call(&call.operation, settlement.as_str(), sent)
            .await
    }

    /// Sends the end of an attempt, and once more where the connection was at fault: a crash before
    /// it is stored would run the body again. Both are inside one store timeout.
    pub(super) async fn settle_now(
        &self,
        call: &Call,
        lease: &Lease,
        settlement: &Settlement,
    ) -> Result<Change, StoreError> {
        let tries = async {
            match self.send(lease, settlement).await {
                Err(error) if error.is_transient() || error.is_unsent() => {
                    observe::store_failed(&call.operation, settlement.as_str(), &error);
                    self.tell(
                        call,
                        EventKind::ChangeRetried {
                            change: settlement.as_str(),
                        },
                    );
                    self.send(lease, settlement).await
                }
                answer => answer,
            }
        };
        self.store_call(&call.operation, settlement.as_str(), tries)
            .await
    }

    async fn send(&self, lease: &Lease, settlement: &Settlement) -> Result<Change, StoreError> {
        let store = self.store();
        match settlement {
            Settlement::Complete(outcome) => store.complete(lease, outcome.clone()).await,
            Settlement::Release => store.release(&lease.id, &lease.token).await,
            Settlement::Suspend(steps) => {
                // All of them: the store may have forgotten some, or not been told.
                let _ = store.checkpoint(lease, 0, steps.clone()).await?;
                store.suspend(&lease.id, &lease.token).await
            }
            Settlement::Abandon => store.abandon(&lease.id, &lease.token).await,
        }
    }
}
