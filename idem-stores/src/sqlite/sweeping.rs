//! Deleting expired records, in small batches: other writes go in between.

use std::time::Duration;

use idem_core::StoreError;
use tokio::time::sleep;
use tracing::{debug, warn};

/// The most records that one transaction deletes, and the pause after it.
pub(super) const SWEEP_BATCH: u32 = 256;
pub(super) const BATCH_PAUSE: Duration = Duration::from_millis(20);

pub(super) const DEFAULT_INTERVAL: Duration = Duration::from_secs(60);

/// About how often expired records are deleted. `None`: never.
pub(super) type SweepInterval = Option<Duration>;

/// Sweeps one batch.
pub(super) trait Sweeper: Send + 'static {
    /// Deletes up to `batch` records, and returns how many. `None` if the database is not used any
    /// more.
    fn sweep(&mut self, batch: u32)
    -> impl Future<Output = Option<Result<u64, StoreError>>> + Send;
}

/// Sweeps until the database is not used any more.
pub(super) async fn sweep_periodically(mut sweeper: impl Sweeper, every: Duration) {
    let every = every.max(Duration::from_millis(1));
    let mut has_warned = false;
    loop {
        sleep(every.mul_f64(rand::random_range(0.5..1.0))).await;
        loop {
            match sweeper.sweep(SWEEP_BATCH).await {
                None => return,
                Some(Ok(0)) => break,
                Some(Ok(_)) => {
                    has_warned = false;
                    sleep(BATCH_PAUSE).await;
                }
                Some(Err(error)) => {
                    report(&error, &mut has_warned);
                    break;
                }
            }
        }
    }
}

/// Warns once of an error that does not pass by itself.
fn report(error: &StoreError, has_warned: &mut bool) {
    let passes = matches!(
        error,
        StoreError::Busy { .. } | StoreError::NotSent { .. } | StoreError::Overloaded { .. }
    );
    if passes || *has_warned {
        debug!(
            target: "idem",
            error = error as &dyn std::error::Error,
            "the sqlite database could not be swept"
        );
        return;
    }
    *has_warned = true;
    warn!(
        target: "idem",
        error = error as &dyn std::error::Error,
        "the sqlite database cannot be swept: expired records stay in it, and it grows"
    );
}
