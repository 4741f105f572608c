//! The bound of what a store has not taken yet.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

/// How many calls are made in the background at once: the store's connections are for others, too.
const CALLS_AT_ONCE: usize = 64;

/// Counts what is unsettled in an engine.
#[derive(Debug)]
pub(super) struct Unsettled {
    pub(super) attempts: AtomicUsize,
    pub(super) bytes: AtomicUsize,
    max_attempts: usize,
    max_bytes: usize,
    pub(super) calls: Semaphore,
}

impl Unsettled {
    pub(super) fn bounded(max_attempts: usize, max_bytes: usize) -> Self {
        Self {
            attempts: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            max_attempts,
            max_bytes,
            calls: Semaphore::new(CALLS_AT_ONCE),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.attempts.load(Ordering::Acquire) >= self.max_attempts
            || self.bytes.load(Ordering::Acquire) >= self.max_bytes
    }
}
