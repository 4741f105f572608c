//! The attempt behind a body, which ends at its deadline even where nobody polls the body.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::engine::Running;

/// An attempt that a body's consumer holds.
pub(super) struct Held {
    /// Locked while the body is polled. Empty where the attempt has been given up.
    running: Arc<Mutex<Option<Running>>>,
    runtime: Handle,
    watcher: Option<JoinHandle<()>>,
}

impl Held {
    pub(super) fn new(running: Running) -> Self {
        Self {
            runtime: running.runtime().clone(),
            running: Arc::new(Mutex::new(Some(running))),
            watcher: None,
        }
    }

    /// Gives the attempt up at the deadline, unless the body is being polled then: a client that reads
    /// no more polls nothing.
    pub(super) fn watch(&mut self, deadline: Instant) {
        let running = Arc::downgrade(&self.running);
        self.watcher = Some(self.runtime.spawn(async move {
            sleep_until(deadline).await;
            let overdue = running.upgrade().and_then(|running| {
                match running.try_lock() {
                    Ok(mut running) => running.take(),
                    Err(TryLockError::Poisoned(running)) => running.into_inner().take(),
                    // Whoever polls looks at the time.
                    Err(TryLockError::WouldBlock) => None,
                }
            });
            if let Some(running) = overdue {
                running.crash("deadline").await;
            }
        }));
    }

    pub(super) fn unwatch(&mut self) {
        if let Some(watcher) = self.watcher.take() {
            watcher.abort();
        }
    }

    pub(super) const fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Locked: nobody gives the attempt up meanwhile.
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` where the attempt has been given up.
    pub(super) fn take(&self) -> Option<Running> {
        self.lock().take()
    }

    /// Resolves when an attempt that was given up has ended in the store.
    pub(super) async fn given_up(mut self) {
        if let Some(watcher) = self.watcher.take() {
            // It may have ended with its runtime.
            let _ = watcher.await;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.unwatch();
    }
}
