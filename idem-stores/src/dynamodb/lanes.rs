//! Priority: calls of lease holders do not wait behind claims. Knows nothing of records.
//!
//! Each call that is under way has an HTTP connection, so a bound on calls is a bound on connections.
//!
//! | calls | at once | when there are more |
//! |---|---|---|
//! | renewals | [`MAX_RENEWALS`] | wait until their time is over |
//! | ends of attempts, checkpoints | [`MAX_ENDS`] | wait until their time is over |
//! | claims, inspections, forgetting | [`DEFAULT_CLAIMS`] | wait in the queue; refused when it is full |
//! | pages of records | [`MAX_LISTINGS`] | wait until their time is over |

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use idem_core::StoreError;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::NAME;
use super::errors::Said;

/// How many claims are under way at once. With a service that is 5 ms away these are 25,000 a second.
pub(super) const DEFAULT_CLAIMS: usize = 128;

/// How many claims wait in the queue: what is served in a fraction of a call's time.
pub(super) const DEFAULT_WAITING: usize = 4096;

const MAX_RENEWALS: usize = 64;
const MAX_ENDS: usize = 128;
const MAX_LISTINGS: usize = 2;

/// Bounds on claims.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) claims: usize,
    pub(super) waiting: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            claims: DEFAULT_CLAIMS,
            waiting: DEFAULT_WAITING,
        }
    }
}

#[derive(Debug)]
pub(super) struct Lanes {
    renewals: Semaphore,
    ends: Semaphore,
    claims: Semaphore,
    listings: Semaphore,
    /// Claims in the queue.
    waiting: AtomicUsize,
    max_waiting: usize,
    timeout: Duration,
}

impl Lanes {
    pub(super) fn new(bounds: Bounds, timeout: Duration) -> Self {
        Self {
            renewals: Semaphore::new(MAX_RENEWALS),
            ends: Semaphore::new(MAX_ENDS),
            claims: Semaphore::new(bounds.claims.clamp(1, Semaphore::MAX_PERMITS)),
            listings: Semaphore::new(MAX_LISTINGS),
            waiting: AtomicUsize::new(0),
            max_waiting: bounds.waiting,
            timeout,
        }
    }

    pub(super) async fn renewal(&self) -> Result<SemaphorePermit<'_>, StoreError> {
        within(self.timeout, &self.renewals).await
    }

    pub(super) async fn end(&self) -> Result<SemaphorePermit<'_>, StoreError> {
        within(self.timeout, &self.ends).await
    }

    pub(super) async fn listing(&self) -> Result<SemaphorePermit<'_>, StoreError> {
        within(self.timeout, &self.listings).await
    }

    /// The right to claim or to look. Half of a call's time is left for the call itself.
    pub(super) async fn claim(&self) -> Result<SemaphorePermit<'_>, StoreError> {
        if let Ok(permit) = self.claims.try_acquire() {
            return Ok(permit);
        }
        let _place = self.enter_queue()?;
        within(self.timeout / 2, &self.claims).await
    }

    fn enter_queue(&self) -> Result<QueuePlace<'_>, StoreError> {
        let entered = self
            .waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |waiting| {
                (waiting < self.max_waiting).then_some(waiting + 1)
            });
        match entered {
            Ok(_) => Ok(QueuePlace(&self.waiting)),
            Err(_) => Err(StoreError::Overloaded { store: NAME }),
        }
    }
}

/// A place in the queue of claims, until it is dropped.
struct QueuePlace<'a>(&'a AtomicUsize);

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn within(
    patience: Duration,
    semaphore: &Semaphore,
) -> Result<SemaphorePermit<'_>, StoreError> {
    if let Ok(permit) = semaphore.try_acquire() {
        return Ok(permit);
    }
    match timeout(patience, semaphore.acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => {
            let why = "the call waited in the queue until its time was over";
            Err(StoreError::not_sent(NAME, Said::new(why)))
        }
    }
}
