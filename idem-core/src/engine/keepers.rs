//! The keepers of an engine's leases, and when each of them looks next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// The keepers of an engine, one in each runtime that its attempts run in: a body that blocks its
/// thread must not keep another runtime's leases from being renewed.
#[derive(Debug, Default)]
pub(super) struct Keepers(Mutex<HashMap<runtime::Id, Arc<Keeper>>>);

#[derive(Debug)]
pub(super) struct Keeper {
    /// Until when the keeper sleeps.
    next_look: Mutex<Instant>,
    sooner: Notify,
}

impl Keepers {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<runtime::Id, Arc<Keeper>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keeper {
    pub(super) fn new(next_look: Instant) -> Self {
        Self {
            next_look: Mutex::new(next_look),
            sooner: Notify::new(),
        }
    }

    /// Wakes the keeper in time for this.
    pub(super) fn look_at(&self, due: Instant) {
        let mut next_look = self.next_look();
        if due < *next_look {
            *next_look = due;
            self.sooner.notify_one();
        }
    }

    pub(super) fn next_look(&self) -> MutexGuard<'_, Instant> {
        self.next_look
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when it is time to look.
    pub(super) async fn sleep(&self) {
        loop {
            let until = *self.next_look();
            if timeout_at(until, self.sooner.notified()).await.is_err() {
                return;
            }
        }
    }
}
