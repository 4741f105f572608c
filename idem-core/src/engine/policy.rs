//! What an operation promises: retention, lease, and what to do with duplicates and crashes.

use std::time::Duration;

use crate::record::OnCrash;

/// What a duplicate does while the first attempt runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InFlight {
    /// Is refused at once.
    #[default]
    Reject,
    /// Waits for the outcome for so long, then is refused. It holds no connection meanwhile.
    Wait(Duration),
}

/// The rules of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub(crate) ttl: Duration,
    pub(crate) lease: Duration,
    pub(crate) in_flight: InFlight,
    pub(crate) on_crash: OnCrash,
}

impl Policy {
    /// The lease's length unless another is given: 30 seconds.
    pub const DEFAULT_LEASE: Duration = Duration::from_secs(30);

    /// A policy that keeps finished records for `ttl`, and everything else at its default.
    pub const fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            lease: Self::DEFAULT_LEASE,
            in_flight: InFlight::Reject,
            on_crash: OnCrash::Rerun,
        }
    }

    /// How long a finished record is kept. A retry that comes later runs again.
    #[must_use]
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How long an attempt that is not heard of keeps its right. Renewed at a third of it while
    /// the body runs, so it bounds the time to notice a crash, not the time a body may take.
    #[must_use]
    pub const fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// What a duplicate does while the first attempt runs.
    #[must_use]
    pub const fn in_flight(mut self, in_flight: InFlight) -> Self {
        self.in_flight = in_flight;
        self
    }

    /// What a claim does after a crash.
    #[must_use]
    pub const fn on_crash(mut self, on_crash: OnCrash) -> Self {
        self.on_crash = on_crash;
        self
    }
}
