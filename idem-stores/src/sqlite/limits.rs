//! Limits of a store.

use std::time::Duration;

use super::sweeping::SweepInterval;

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How long a call waits for the lock of another process.
    pub(super) lock_timeout: Duration,
    pub(super) max_waiting: usize,
    pub(super) sweep_every: SweepInterval,
}

impl Limits {
    /// How long a claim or a look waits behind other calls of this process: as long as for the lock of
    /// another process, and at least a second.
    pub(super) fn max_queue_wait(&self) -> Duration {
        max_queue_wait(self.lock_timeout)
    }
}

/// See [`Limits::max_queue_wait`].
pub(super) fn max_queue_wait(lock_timeout: Duration) -> Duration {
    lock_timeout.max(Duration::from_secs(1))
}
