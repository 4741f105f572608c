//! Pauses between attempts that fail.

use std::time::Duration;

/// Pauses that double from the first to the last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    last: Duration,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, last: Duration) -> Self {
        Self { first, last }
    }

    /// The pause after this many failures in a row. There is none before the first.
    pub(crate) fn after(&self, failures: u32) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else {
            return Duration::ZERO;
        };
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_from_the_first_to_the_last() {
        let backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(70));
        let millis = [0, 1, 2, 3, 4, 32, 33, u32::MAX].map(|failures| {
            let pause = backoff.after(failures);
            pause.as_millis()
        });
        assert_eq!(millis, [0, 10, 20, 40, 70, 70, 70, 70]);
    }
}
