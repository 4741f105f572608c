//! The store's clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Tells the store the time.
pub(super) trait Clock: Send + Sync + 'static {
    /// The time since some fixed instant. It must not go back.
    fn now(&self) -> Duration;

    /// When that instant was.
    fn origin(&self) -> SystemTime;

    /// A time of this clock, as people tell it.
    fn time(&self, at: Duration) -> Option<SystemTime> {
        self.origin().checked_add(at)
    }
}

/// A clock that stands until it is moved: for tests of what happens after hours.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use idem_stores::memory::{ManualClock, MemoryStore};
///
/// let clock = ManualClock::new();
/// let store = MemoryStore::builder().manual_clock(clock.clone()).build();
/// clock.advance(Duration::from_secs(24 * 60 * 60));
/// # drop(store);
/// ```
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// A clock at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves the clock forward, for all its clones.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        // Cannot fail: the closure always gives a value.
        let _ = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
                Some(now.saturating_add(nanos))
            });
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Acquire))
    }

    fn origin(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }
}

/// The monotonic clock that tokio's timers use, so that a test that pauses one pauses both.
pub(super) struct RuntimeClock {
    origin: SystemTime,
    started: tokio::time::Instant,
}

impl RuntimeClock {
    pub(super) fn new() -> Self {
        Self {
            origin: SystemTime::now(),
            started: tokio::time::Instant::now(),
        }
    }
}

impl Clock for RuntimeClock {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn origin(&self) -> SystemTime {
        self.origin
    }
}
