//! Deleting what has expired, a little at a time: in between, others write.

use std::time::Duration;

use idem_core::StoreError;
use tokio::time::sleep;
use tracing::{debug, warn};

/// Records that are swept in one transaction, and the pause after it.
const SWEPT: u32 = 256;
const PAUSE: Duration = Duration::from_millis(20);

/// Unless told otherwise.
pub(super) const EVERY: Duration = Duration::from_secs(60);

/// How often: about, and never where there is none.
pub(super) type Pause = Option<Duration>;

/// Whoever can sweep a batch.
pub(super) trait Sweeper: Send + 'static {
    /// Deletes up to so many records, and says how many; `None` where the database is not used
    /// any more.
    fn sweep(&mut self, batch: u32)
    -> impl Future<Output = Option<Result<u64, StoreError>>> + Send;
}

/// Sweeps every so often, until the database is not used any more.
pub(super) async fn now_and_then(mut sweeper: impl Sweeper, every: Duration) {
    let every = every.max(Duration::from_millis(1));
    let mut has_warned = false;
    loop {
        sleep(every.mul_f64(rand::random_range(0.5..1.0))).await;
        loop {
            match sweeper.sweep(SWEPT).await {
                None => return,
                Some(Ok(0)) => break,
                Some(Ok(_)) => {
                    has_warned = false;
                    sleep(PAUSE).await;
                }
                Some(Err(error)) => {
                    report(&error, &mut has_warned);
                    break;
                }
            }
        }
    }
}

/// Warns once of what does not pass by itself.
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
        "the sqlite database cannot be swept: what has expired stays in it, and it grows"
    );
}
