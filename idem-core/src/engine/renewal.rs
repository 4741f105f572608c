//! Leases of attempts that take their time. Most attempts end long before a renewal is due, and cost
//! nothing here: one task in each runtime, the keeper, looks at all leases of an engine's attempts
//! and renews those that are due.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::{self, Handle};
use tokio::time::Instant;

use super::handle::{Engine, Inner};
use super::keepers::Keeper;
use crate::attempt::OwnedLease;
use crate::observer::EventKind;
use crate::record::Change;
use crate::store::StoreError;

/// The keeper looks as often as this part of the shortest lease at most, and renews what would be
/// due before its next look. A renewal is due after a third of its lease.
const LOOKS_PER_LEASE: u32 = 24;

/// How long a keeper stays that has nothing to keep.
const IDLE: Duration = Duration::from_secs(10);

/// Has the lease renewed from now on, for as long as its flight holds it. Answers whether its runtime's
/// keeper begins with it: what a task spawns waits for that very worker at first, so that a body which
/// blocked it would keep its own lease from being renewed.
pub(super) fn keep(engine: &Engine, runtime: &Handle, lease: &OwnedLease) -> bool {
    let due = Instant::now() + lease.call.policy.lease / 3;
    lease.keep_in(runtime.id(), due);
    let mut keepers = engine.inner.keepers.lock();
    if let Some(keeper) = keepers.get(&runtime.id()) {
        keeper.look_at(due);
        return false;
    }
    let keeper = Arc::new(Keeper::new(due));
    keepers.insert(runtime.id(), Arc::clone(&keeper));
    drop(keepers);
    let own = OwnKeeper {
        engine: Arc::downgrade(&engine.inner),
        runtime: runtime.id(),
        keeper,
    };
    runtime.spawn(own.run());
    true
}

/// A keeper's task. Whatever ends it, the next attempt in its runtime begins another one.
struct OwnKeeper {
    /// It keeps no engine alive that nobody has any more.
    engine: Weak<Inner>,
    runtime: runtime::Id,
    keeper: Arc<Keeper>,
}

impl OwnKeeper {
    async fn run(self) {
        let mut was_idle = false;
        loop {
            self.keeper.sleep().await;
            let Some(inner) = self.engine.upgrade() else {
                return;
            };
            let engine = Engine { inner };
            // Whoever comes while it looks says so in its place.
            let longest = Instant::now() + IDLE;
            *self.keeper.next_look() = longest;
            let next_look = self.renew_what_is_due(&engine);
            if next_look.is_none() && was_idle && self.ends(&engine) {
                return;
            }
            was_idle = next_look.is_none();
            let mut said = self.keeper.next_look();
            *said = (*said).min(next_look.unwrap_or(longest));
        }
    }

    /// Renews, and says when to look again; `None` where there is nothing to keep.
    fn renew_what_is_due(&self, engine: &Engine) -> Option<Instant> {
        let now = Instant::now();
        let mut kept = Vec::new();
        let mut shortest: Option<Duration> = None;
        engine.inner.flights.leases(|lease| {
            if lease.is_kept_in(self.runtime) {
                let length = lease.call.policy.lease;
                shortest = Some(shortest.map_or(length, |shortest| shortest.min(length)));
                kept.push(Arc::clone(lease));
            }
        });
        let pause = shortest? / LOOKS_PER_LEASE;
        let mut next = now + IDLE;
        for lease in kept {
            if lease.is_left_alone(now) {
                lease.stop_renewing();
            } else if lease.take_renewal(now + pause) {
                tokio::spawn(renew_kept(engine.clone(), Arc::clone(&self.keeper), lease));
            } else if let Some(due) = lease.renewal_due() {
                next = next.min(due);
            }
        }
        Some(next.max(now + pause))
    }

    /// Ends, unless somebody has come meanwhile.
    fn ends(&self, engine: &Engine) -> bool {
        let mut keepers = engine.inner.keepers.lock();
        let mut any = false;
        let flights = &engine.inner.flights;
        flights.leases(|lease| any |= lease.is_kept_in(self.runtime));
        if !any {
            keepers.remove(&self.runtime);
        }
        !any
    }
}

impl Drop for OwnKeeper {
    fn drop(&mut self) {
        let Some(inner) = self.engine.upgrade() else {
            return;
        };
        let mut keepers = inner.keepers.lock();
        let own = keepers.get(&self.runtime);
        if own.is_some_and(|keeper| Arc::ptr_eq(keeper, &self.keeper)) {
            keepers.remove(&self.runtime);
        }
    }
}

async fn renew_kept(engine: Engine, keeper: Arc<Keeper>, lease: Arc<OwnedLease>) {
    let length = lease.call.policy.lease;
    let pause = match renew(&engine, &lease).await {
        Ok(Change::Applied) => length / 3,
        // A renewal that meets the attempt's own end is no loss.
        Ok(Change::LeaseLost) if lease.is_ending() => return,
        Ok(_) => {
            lease.lose();
            engine.tell(
                &lease.call,
                EventKind::LeaseLost {
                    attempt: lease.number,
                },
            );
            return;
        }
        // Sooner than usual: the lease is running out.
        Err(_) => length / 10,
    };
    let due = Instant::now() + pause;
    lease.renew_again_at(due);
    keeper.look_at(due);
}

/// Renews once, and counts the lease from before the request was sent.
pub(super) async fn renew(engine: &Engine, lease: &OwnedLease) -> Result<Change, StoreError> {
    let sent = Instant::now();
    let policy = &lease.call.policy;
    let expected = lease.may_have_late_calls();
    // It may be dropped while it is on its way. Said before the lease is looked at: who gives the
    // attempt up says so first and looks here then.
    lease.expect_late_calls(true);
    let told = lease.told();
    let answer = engine.store().renew(&told);
    // One that hangs must leave time for another.
    let after = engine.inner.settings.store_timeout.min(policy.lease / 3);
    let change = engine
        .store_call_within(after, &lease.call.operation, "renew", answer)
        .await;
    if !change.as_ref().is_err_and(StoreError::may_have_effect) {
        lease.expect_late_calls(expected);
    }
    let change = change?;
    if change == Change::Applied {
        lease.hold_until(sent + policy.lease);
    }
    Ok(change)
}
