//! Steps: parts of a body that run once, across crashes.

use std::future::Future;
use std::sync::Arc;

use crate::attempt::{Attempt, OwnedLease, Protected};
use crate::current;
use crate::error::Error;
use crate::observe;
use crate::observer::{Event, EventKind};
use crate::replay::{CarriesRefusal, StorableValue};
use crate::steps::{Begun, StepError};

/// Runs a part of an idempotent body, and keeps its value in the operation's record as soon as it has
/// finished: a later attempt is given the value, and does not run the part again.
///
/// ```
/// # use idem_core::Error;
/// # struct Bank; struct Order; type Charge = u32;
/// # impl Bank { async fn charge(&self, _: &Order) -> Result<Charge, Error> { Ok(1) } }
/// # async fn example(bank: Bank, order: Order) -> Result<(), Error> {
/// let charge = idem_core::step("charge_card", bank.charge(&order)).await?;
/// # drop(charge); Ok(())
/// # }
/// ```
///
/// A future does nothing until it is awaited: where the step is finished, `work` is dropped without
/// being polled. An `Ok` is kept, in one round trip to the store. An `Err` is the body's to judge, and
/// nothing of it is kept: the step may be tried again, also under its name.
///
/// A step's own crash window stays: its effect may have happened while its value was not stored yet,
/// and then it runs again. [`Attempt::downstream_key`] closes it where the other side knows keys.
///
/// Steps are given back after a crash, a panic, a deadline, and where the body released its key: by
/// an `Err`, a status that frees the key, or [`Attempt::release`]. With a finished step such a record
/// is suspended instead of freed, and the next attempt continues it whatever `on_crash` says.
///
/// Without protection (a request without a key under `required = false`, or a store that failed
/// under `fail_open`) `work` runs and nothing is kept.
///
/// Dropping this future while `work` runs drops `work`. Dropped later it may have been kept or not.
///
/// # Errors
/// What `work` returns, and as an [`Error`]:
///
/// - [`Error::Step`]: the name is taken or not acceptable, the value is of another type than an earlier
///   version of the program has stored, it is too large, or there can be no step here: see
///   [`StepError`].
/// - [`Error::LeaseLost`]: another attempt may run. Where `work` had run, its value is not kept.
/// - [`Error::StepNotStored`]: the value could not be stored while the lease held. It is offered again with
///   the next step, and when the attempt ends.
pub async fn step<T, E, F>(name: &str, work: F) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
    T: StorableValue,
    E: CarriesRefusal,
{
    match current::attempt_here() {
        Some(attempt) => attempt.step(name, work).await,
        None => Err(E::from(Error::Step(StepError::OutsideOfBody))),
    }
}

impl Attempt {
    /// [`step`](crate::step()) of this attempt, for tasks that its body has spawned.
    ///
    /// # Errors
    /// As [`step`](crate::step()).
    pub async fn step<T, E, F>(&self, name: &str, work: F) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
        T: StorableValue,
        E: CarriesRefusal,
    {
        let lease = match self.protected() {
            Protected::Lease(lease) => lease,
            Protected::Transaction => return Err(self.fail(StepError::InTransaction.into())),
            Protected::Nothing => return work.await,
        };
        let max_bytes = lease.keeper.max_bytes();
        let begun = lease.steps().begin(name, max_bytes);
        let running = match begun.map_err(|error| self.fail(error.into()))? {
            Begun::GiveBack(value) => {
                tell_observers(lease, name, true);
                return serde_json::from_slice(&value).map_err(|_| {
                    let name = name.to_owned();
                    self.fail(StepError::OtherType { name }.into())
                });
            }
            Begun::Run(running) => running,
        };
        if lease.is_lost() {
            return Err(self.fail(Error::LeaseLost));
        }
        let value = work.await?;
        let finished = match serde_json::to_vec(&value) {
            Ok(written) => running.finish(&written, max_bytes),
            Err(_) => Err(running.lose()),
        };
        let end = finished.map_err(|error| self.fail(error.into()))?;
        tell_observers(lease, name, false);
        match tell(lease, end).await {
            Ok(()) => Ok(value),
            Err(error) => Err(self.fail(error)),
        }
    }

    pub(crate) fn refuse<E: From<Error>>(&self, error: StepError) -> E {
        self.fail(error.into())
    }

    /// The attempt's end is judged by it.
    fn fail<E: From<Error>>(&self, error: Error) -> E {
        self.note_failed_step();
        if let Protected::Lease(lease) = self.protected() {
            let call = &lease.call;
            observe::step_failed(&call.operation, &call.id, lease.number, &error);
        }
        E::from(error)
    }

    /// The names of the steps that this attempt and those before it have finished, in the order in
    /// which they finished.
    pub fn steps(&self) -> Vec<String> {
        match self.protected() {
            Protected::Lease(lease) => lease.finished_steps(),
            Protected::Transaction | Protected::Nothing => Vec::new(),
        }
    }
}

fn tell_observers(lease: &OwnedLease, name: &str, given_back: bool) {
    lease.keeper.observers().tell(&Event {
        operation: &lease.call.operation,
        record: Some(lease.call.id),
        kind: EventKind::Step {
            attempt: lease.number,
            name,
            given_back,
        },
    });
}

/// Tells the store of the steps up to this byte. Steps that finish together are told together.
async fn tell(lease: &Arc<OwnedLease>, end: usize) -> Result<(), Error> {
    let steps = lease.steps();
    let _turn = steps.telling.lock().await;
    if steps.acknowledged() >= end {
        return Ok(());
    }
    let keeper = Arc::clone(&lease.keeper);
    keeper.keep_steps(Arc::clone(lease)).await
}
