//! Everything that is under way in an engine, counted: calls, bodies, and what is settled in the
//! background.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(crate) struct Activity {
    ongoing: AtomicUsize,
    idle: Notify,
}

/// One thing that is under way, until this is dropped.
#[derive(Debug)]
pub(crate) struct Ongoing(Arc<Activity>);

impl Activity {
    pub(crate) fn begin(self: &Arc<Self>) -> Ongoing {
        self.ongoing.fetch_add(1, Ordering::AcqRel);
        Ongoing(Arc::clone(self))
    }

    /// Resolves when nothing is under way.
    pub(crate) async fn idle(&self) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            // Registered before the look, so that no end falls between the two.
            idle.as_mut().enable();
            if self.ongoing.load(Ordering::Acquire) == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        if self.0.ongoing.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}
