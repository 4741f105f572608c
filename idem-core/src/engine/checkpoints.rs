//! Finished steps, on their way to the record.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::sleep;

use super::backoff::Backoff;
use super::handle::{Engine, Inner};
use super::renewal::renew;
use crate::attempt::{OwnedLease, StepKeeper};
use crate::error::Error;
use crate::observe::Observers;
use crate::observer::EventKind;
use crate::record::Change;

/// Pauses between tries: doubled from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);

impl StepKeeper for Inner {
    fn max_bytes(&self) -> usize {
        self.settings.max_outcome_bytes
    }

    fn observers(&self) -> &Observers {
        &self.observers
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }

    fn keep_steps(
        self: Arc<Self>,
        lease: Arc<OwnedLease>,
    ) -> BoxFuture<'static, Result<(), Error>> {
        let engine = Engine { inner: self };
        async move { checkpoint(&engine, &lease).await }.boxed()
    }
}

/// Tells the store of what it has not acknowledged, for as long as the lease holds: what has run
/// must not run again.
async fn checkpoint(engine: &Engine, lease: &OwnedLease) -> Result<(), Error> {
    let call = &lease.call;
    let mut backoff = Backoff::new(FIRST_PAUSE);
    let mut all = false;
    loop {
        let (at, steps) = lease.steps().unacknowledged(all);
        let end = at + steps.len();
        let told = lease.told();
        let sent = engine.store().checkpoint(&told, at, steps);
        let answer = engine.store_call(&call.operation, "checkpoint", sent).await;
        let error = match answer {
            Ok(Change::Applied) => {
                lease.steps().acknowledge(end);
                return Ok(());
            }
            // A failover may have forgotten the record, or the last of its steps. A renewal knows,
            // and creates it again.
            Ok(Change::LeaseLost) if told.unbroken && !all => match renew(engine, lease).await {
                Ok(Change::Applied) => {
                    all = true;
                    continue;
                }
                Ok(Change::LeaseLost) => return Err(lost(engine, lease)),
                Err(error) => error,
            },
            Ok(Change::LeaseLost) => return Err(lost(engine, lease)),
            Err(error) => error,
        };
        if error.is_lasting() || lease.is_lost() {
            return Err(Error::StepNotStored(error));
        }
        engine.tell(
            call,
            EventKind::ChangeRetried {
                change: "checkpoint",
            },
        );
        sleep(backoff.pause(LAST_PAUSE)).await;
    }
}

fn lost(engine: &Engine, lease: &OwnedLease) -> Error {
    lease.lose();
    let attempt = lease.number;
    engine.tell(&lease.call, EventKind::LeaseLost { attempt });
    Error::LeaseLost
}
