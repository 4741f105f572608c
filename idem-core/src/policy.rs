//! What an operation promises: retention, lease, and what to do with duplicates and crashes.

use std::fmt;
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
    /// As [`Wait`](Self::Wait), and joins an HTTP response that is on its way in this process: it is
    /// given what has been sent so far, and the rest as it comes. A response whose length is known, an
    /// attempt of another process and a call that is no HTTP request are waited for.
    Attach(Duration),
}

/// Why an operation's rules promise nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PolicyError {
    /// The ttl is shorter than [`Policy::MIN_TTL`].
    TtlTooShort,
    /// The lease is zero.
    LeaseIsZero,
    /// The deadline is zero.
    DeadlineIsZero,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TtlTooShort => {
                "the operation's ttl is zero, or less than a millisecond: its outcomes would be forgotten at once, and every retry would run; give the time for which clients retry, such as 24 hours"
            }
            Self::DeadlineIsZero => {
                "the operation's deadline is zero: every body would be stopped; give the longest time that a body may take, such as 2 minutes"
            }
            Self::LeaseIsZero => {
                "the operation's lease is zero: give the time after which an attempt that is not heard of counts as crashed, such as 30 seconds"
            }
        })
    }
}

impl std::error::Error for PolicyError {}

/// The rules of one operation.
///
/// Calls are refused with [`Error::Policy`](crate::Error::Policy) where the ttl is shorter than
/// [`Policy::MIN_TTL`] or the lease is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub(crate) ttl: Duration,
    pub(crate) lease: Duration,
    pub(crate) in_flight: InFlight,
    pub(crate) on_crash: OnCrash,
    /// `None`: the ttl.
    deadline: Option<Duration>,
}

impl Policy {
    /// The lease's length unless another is given: 30 seconds.
    pub const DEFAULT_LEASE: Duration = Duration::from_secs(30);

    /// The shortest ttl: 1 millisecond. Stores count no finer.
    pub const MIN_TTL: Duration = Duration::from_millis(1);

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
            deadline: None,
        }
    }

    /// How long a finished record is kept: from [`Policy::MIN_TTL`], below which calls are refused,
    /// to [`Policy::MAX`], to which it is cut. A retry that comes later runs again.
    #[must_use]
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = at_most(ttl, Self::MAX);
        self
    }

    /// How long an attempt that is not heard of keeps its right. Renewed at a third of it while
    /// the body runs, so it bounds the time to notice a crash, not the time a body may take.
    /// Between [`Policy::MIN_LEASE`] and [`Policy::MAX`], to which others are raised or cut; with
    /// zero, calls are refused.
    #[must_use]
    pub const fn lease(mut self, lease: Duration) -> Self {
        let is_short = !lease.is_zero() && lease.as_nanos() < Self::MIN_LEASE.as_nanos();
        let longer = if is_short { Self::MIN_LEASE } else { lease };
        self.lease = at_most(longer, Self::MAX);
        self
    }

    /// How long one attempt's body may take, its response's body included: the ttl unless given.
    /// Then the body is dropped, the attempt counts as crashed (in a transaction everything is rolled
    /// back), and the call ends with [`Error::DeadlineExceeded`](crate::Error::DeadlineExceeded). A body
    /// that blocks its thread cannot be stopped. A response whose client reads no more is given up in
    /// time, and dropped when the client reads again or goes. At most [`Policy::MAX`], to which others are cut; with
    /// zero, calls are refused. An unprotected run has no deadline.
    #[must_use]
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(at_most(deadline, Self::MAX));
        self
    }

    /// Whether a crash is followed by another run.
    #[doc(hidden)]
    pub fn runs_again(&self) -> bool {
        self.on_crash == OnCrash::Rerun
    }

    pub(crate) const fn body_limit(&self) -> Duration {
        match self.deadline {
            Some(deadline) => deadline,
            None => self.ttl,
        }
    }

    /// Whether it promises anything.
    pub(crate) const fn check(&self) -> Result<(), PolicyError> {
        if self.ttl.as_nanos() < Self::MIN_TTL.as_nanos() {
            return Err(PolicyError::TtlTooShort);
        }
        if self.lease.is_zero() {
            return Err(PolicyError::LeaseIsZero);
        }
        if self.body_limit().is_zero() {
            return Err(PolicyError::DeadlineIsZero);
        }
        Ok(())
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
        assert_eq!(
            policy.lease(Duration::from_nanos(1)).lease,
            Policy::MIN_LEASE
        );
        assert_eq!(
            policy.lease(Duration::ZERO).check(),
            Err(PolicyError::LeaseIsZero)
        );
    }
}
