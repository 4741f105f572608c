//! Bounded queues for calls that hold no lease.

use std::fmt;
use std::sync::Arc;

use idem_core::StoreError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::NAME;

#[derive(Clone)]
pub(super) struct Queue(Arc<Semaphore>);

/// A place in the queue, until it is dropped.
pub(super) struct QueuePlace {
    _permit: OwnedSemaphorePermit,
}

impl Queue {
    pub(super) fn bounded(places: usize) -> Self {
        let places = places.clamp(1, Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(places)))
    }

    /// # Errors
    /// When it is full.
    pub(super) fn enter(&self) -> Result<QueuePlace, StoreError> {
        match Arc::clone(&self.0).try_acquire_owned() {
            Ok(permit) => Ok(QueuePlace { _permit: permit }),
            Err(_) => Err(StoreError::Overloaded { store: NAME }),
        }
    }
}

/// The error of a call that waited in this process until its time was over.
pub(super) fn waited_too_long() -> StoreError {
    StoreError::not_sent(NAME, WaitedTooLong)
}

#[derive(Debug)]
struct WaitedTooLong;

impl fmt::Display for WaitedTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the call waited behind other calls of this process until its time was over")
    }
}

impl std::error::Error for WaitedTooLong {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_has_a_fixed_number_of_places_and_reuses_them() {
        let queue = Queue::bounded(2);
        let places = [queue.enter().unwrap(), queue.enter().unwrap()];
        let refused = queue.enter().err().unwrap();
        assert!(
            matches!(refused, StoreError::Overloaded { .. }),
            "{refused:?}"
        );
        drop(places);
        assert!(queue.enter().is_ok());
        // Otherwise no call could be served.
        assert!(Queue::bounded(0).enter().is_ok());
    }
}
