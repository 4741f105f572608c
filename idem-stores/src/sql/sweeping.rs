//! Deleting expired records in batches. Each batch is a short transaction that skips locked rows.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use idem_core::StoreError;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tracing::warn;

/// The most records of a batch. Batches of large outcomes take longer, and are smaller.
const MAX_BATCH: u32 = 1000;

/// The least pause between two sweeps.
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// How often a sweep starts from the beginning, and finds the rows that were locked before.
const RESTART_INTERVAL: Duration = Duration::from_secs(30 * 60);

/// The most records that one sweep deletes which nobody waits for.
const MAX_SWEPT: u64 = 10_000;

/// The pause after the server has refused to delete.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_secs(60 * 60);

/// Deletes expired records.
pub(crate) trait Deletes: Send + Sync + 'static {
    /// How long a call may take.
    fn timeout(&self) -> Duration;

    /// Deletes up to `batch` records, oldest first, from where the last batch has ended, in microseconds
    /// since 1970. Returns how many, and where it has ended.
    fn delete(
        &self,
        batch: u32,
        from: Option<i64>,
    ) -> impl Future<Output = Result<(u64, Option<i64>), StoreError>> + Send;

    /// Whether a batch was given up because it took too long.
    fn is_timeout(error: &StoreError) -> bool;
}

/// Sweeps one database, and remembers how.
#[derive(Debug)]
pub(crate) struct Sweeper {
    /// The size of batches that end in time.
    batch: AtomicU32,
}

impl Default for Sweeper {
    fn default() -> Self {
        Self {
            batch: AtomicU32::new(MAX_BATCH),
        }
    }
}

/// How far sweeps have come. The index keeps the entries of deleted rows for as long as any transaction
/// of the database might still see them. A sweep from the beginning would read ever more of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    /// In microseconds since 1970.
    to: Option<i64>,
    began: Instant,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            to: None,
            began: Instant::now(),
        }
    }
}

impl Progress {
    /// Where the next sweep begins.
    pub(crate) fn next(self) -> Self {
        match self.began.elapsed() > RESTART_INTERVAL {
            true => Self::default(),
            false => self,
        }
    }
}

impl Sweeper {
    /// Deletes up to `max_records`, and returns how many. If it returns fewer, there are no more.
    pub(crate) async fn sweep(
        &self,
        records: &impl Deletes,
        max_records: u64,
        progress: &mut Progress,
    ) -> Result<u64, StoreError> {
        let mut deleted = 0;
        while deleted < max_records {
            let batch = self.batch.load(Ordering::Relaxed);
            let batch = batch.min(u32::try_from(max_records - deleted).unwrap_or(batch));
            let began = Instant::now();
            let (swept, to) = match records.delete(batch, progress.to).await {
                Err(error) if is_timeout_of(records, &error) && batch > 1 => {
                    self.batch.store(batch / 2, Ordering::Relaxed);
                    continue;
                }
                swept => swept?,
            };
            progress.to = to.or(progress.to);
            deleted += swept;
            if swept < batch.into() {
                break;
            }
            let took = began.elapsed();
            if took < records.timeout() / 8 {
                let larger = batch.saturating_mul(2).min(MAX_BATCH);
                self.batch.fetch_max(larger, Ordering::Relaxed);
            }
            if deleted < max_records {
                // Sweeping takes at most half of one connection's time.
                sleep(took).await;
            }
        }
        Ok(deleted)
    }
}

fn is_timeout_of<D: Deletes>(_: &D, error: &StoreError) -> bool {
    D::is_timeout(error)
}

/// The task that sweeps in the background. Dropping this ends it.
pub(crate) struct SweepTask(JoinHandle<()>);

impl SweepTask {
    pub(crate) fn start(records: impl Deletes, every: Duration) -> Self {
        Self(tokio::spawn(sweep_periodically(records, every)))
    }
}

impl Drop for SweepTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn sweep_periodically(records: impl Deletes, every: Duration) {
    let every = every.max(MIN_PAUSE);
    let sweeper = Sweeper::default();
    let mut progress = Progress::default();
    loop {
        sleep(every.mul_f64(rand::random_range(0.5..1.0))).await;
        progress = progress.next();
        let swept = sweeper.sweep(&records, u64::MAX, &mut progress);
        if let Err(error) = swept.await {
            warn_of_failure(&error);
        }
    }
}

fn warn_of_failure(error: &StoreError) {
    warn!(
        target: "idem",
        error = error as &dyn std::error::Error,
        "expired records could not be deleted; the next sweep tries again"
    );
}

impl fmt::Debug for SweepTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SweepTask").finish_non_exhaustive()
    }
}

/// The sweeps of an application's database, which happen while it is used.
#[derive(Debug, Default)]
pub(crate) struct SweepsOnUse {
    times: Mutex<Times>,
    sweeper: Sweeper,
}

impl SweepsOnUse {
    /// Deletes expired records in the background, if it is time to.
    pub(crate) fn sweep_if_due<D: Deletes>(
        self: &Arc<Self>,
        every: Duration,
        records: impl FnOnce() -> D,
    ) {
        if self.times().begin(every) {
            let sweep = Sweep(Arc::clone(self));
            tokio::spawn(sweep.run(records()));
        }
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When to delete expired records.
#[derive(Debug, Default)]
struct Times {
    runs: bool,
    /// `None`: now.
    next: Option<Instant>,
    progress: Progress,
    has_warned: bool,
}

impl Times {
    /// Whether to sweep now: it is time to, and no sweep runs.
    fn begin(&mut self, every: Duration) -> bool {
        let now = Instant::now();
        if self.runs || self.next.is_some_and(|next| now < next) {
            return false;
        }
        // Processes do not sweep at the same time.
        let pause = every.mul_f64(rand::random_range(0.5..1.0));
        self.next = Some(now.checked_add(pause).unwrap_or(now));
        self.runs = true;
        true
    }
}

/// A sweep, until it ends or its runtime does.
struct Sweep(Arc<SweepsOnUse>);

impl Sweep {
    /// A sweep is bounded, so it does not keep the pool open for long.
    async fn run(self, records: impl Deletes) {
        let mut progress = self.0.times().progress.next();
        let swept = self.0.sweeper.sweep(&records, MAX_SWEPT, &mut progress);
        let swept = swept.await;
        let mut sweeps = self.0.times();
        sweeps.progress = progress;
        match swept {
            // There are more, so the next sweep need not wait.
            Ok(MAX_SWEPT..) => sweeps.next = None,
            Ok(_) => {}
            Err(error @ StoreError::Rejected { .. }) => {
                sweeps.next = Instant::now().checked_add(PAUSE_AFTER_REFUSAL);
                if !std::mem::replace(&mut sweeps.has_warned, true) {
                    warn!(
                        target: "idem",
                        error = &error as &dyn std::error::Error,
                        "expired records are not deleted, and take up ever more space: the login lacks the right; grant it DELETE on idem_records, or let another process sweep"
                    );
                }
            }
            Err(error) => warn_of_failure(&error),
        }
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        self.0.times().runs = false;
    }
}
