//! Deleting what has expired, a little at a time: in between, others write.

use std::time::Duration;

use idem_core::StoreError;
use tokio::sync::watch;
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

/// Sweeps until the database is not used any more, or nobody can change the pause.
pub(super) async fn now_and_then(mut sweeper: impl Sweeper, mut pause: watch::Receiver<Pause>) {
    let mut has_warned = false;
    loop {
        let every = *pause.borrow_and_update();
        let waited = async {
            match every {
                Some(every) => {
                    let every = every.max(Duration::from_millis(1));
                    sleep(every.mul_f64(rand::random_range(0.5..1.0))).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            changed = pause.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            () = waited => {}
        }
        while !pause.has_changed().is_ok_and(|changed| changed) {
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
