//! What an operation promises: retention, lease, and what to do with duplicates and crashes.

use std::time::Duration;

use crate::record::OnCrash;

/// What a duplicate does while the first attempt runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
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

    /// The shortest lease: 100 milliseconds.
    pub const MIN_LEASE: Duration = Duration::from_millis(100);

    /// The longest lease and retention: 100 years. Clocks cannot count much further.
    pub const MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

    /// A policy that keeps finished records for `ttl`, and everything else at its default.
    pub const fn new(ttl: Duration) -> Self {
        Self {
            ttl: at_most(ttl, Self::MAX),
            lease: Self::DEFAULT_LEASE,
            in_flight: InFlight::Reject,
            on_crash: OnCrash::Rerun,
        }
    }

    /// How long a finished record is kept, [`Policy::MAX`] at most. A retry that comes later
    /// runs again.
    #[must_use]
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = at_most(ttl, Self::MAX);
        self
    }

    /// How long an attempt that is not heard of keeps its right. Renewed at a third of it while
    /// the body runs, so it bounds the time to notice a crash, not the time a body may take.
    /// From [`Policy::MIN_LEASE`] to [`Policy::MAX`].
    #[must_use]
    pub const fn lease(mut self, lease: Duration) -> Self {
        let longer = if lease.as_nanos() < Self::MIN_LEASE.as_nanos() {
            Self::MIN_LEASE
        } else {
            lease
        };
        self.lease = at_most(longer, Self::MAX);
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

pub(crate) const fn at_most(duration: Duration, most: Duration) -> Duration {
    if duration.as_nanos() > most.as_nanos() {
        most
    } else {
        duration
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_duration_is_out_of_what_clocks_can_count() {
        let policy = Policy::new(Duration::MAX).lease(Duration::MAX);
        assert_eq!((policy.ttl, policy.lease), (Policy::MAX, Policy::MAX));
        assert_eq!(policy.lease(Duration::ZERO).lease, Policy::MIN_LEASE);
    }
}
