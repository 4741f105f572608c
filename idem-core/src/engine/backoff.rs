//! Pauses between tries.

use std::time::Duration;

/// Pauses that double from a first one up to a longest one. Each is shortened at random by up to a
/// half, so that many callers do not try at one instant.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) const fn new(first: Duration) -> Self {
        Self { next: first }
    }

    /// The next pause. What follows it is not longer than `longest`.
    pub(super) fn pause(&mut self, longest: Duration) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(longest);
        jittered(pause)
    }
}

/// A pause that is shortened at random by up to a half.
pub(super) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..1.0))
}
