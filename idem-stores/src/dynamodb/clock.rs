//! DynamoDB's clock, as this process knows it.
//!
//! Every answer has a `Date` header: the server's clock, cut to a second. It is used in two ways.
//!
//! **Judging.** Whether a lease or a retention is over is judged by the `Date` of the very answer that
//! carries the item. No clock of this process takes part.
//!
//! **Writing.** The end of a lease is written before its answer is there. So the offset between the
//! server's clock and this process's monotonic one is kept as an interval: a request that was sent at `s`
//! and answered at `r` with `Date` `D` says that the server's clock at `r` is between `D` and
//! `D + 1 s + (r − s)`. Intervals of many answers are intersected, and widen with time. A lease ends at the
//! interval's upper end, plus its duration, plus [`MARGIN`].
//!
//! The answer proves afterwards that this was late enough. The owner counts its lease from `s`; the server's
//! clock at `s` was less than `D + 1 s`. So if `D` is not past what was taken for the upper end, the lease
//! that was written lasts at least as long as its owner believes in it, whatever this process's clocks
//! did: a virtual machine may have been stopped, and its monotonic clock with it. Otherwise the lease is
//! written once more, with a clock that knows `D`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How much longer a lease is than its owner believes: a second for what the `Date` header leaves open, and
/// a second by which the clocks of two servers may differ.
pub(super) const MARGIN: Duration = Duration::from_secs(2);

/// The resolution of a `Date` header.
const SECOND: i64 = 1000;

/// Two clocks drift apart by at most one part in so many.
const DRIFT: i64 = 1000;

/// What is known of the server's clock.
#[derive(Debug, Default)]
pub(super) struct Clock(Mutex<Option<Estimate>>);

/// The server's clock at an instant, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Estimate {
    at: Instant,
    low: i64,
    high: i64,
}

/// One answer's `Date`, and when its request was sent and answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) sent: Instant,
    pub(super) received: Instant,
    /// Whole seconds since 1970.
    pub(super) date: i64,
}

/// The server's clock, in milliseconds since 1970: somewhere from one to the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Now {
    pub(super) earliest: i64,
    pub(super) latest: i64,
}

impl Now {
    /// The likeliest.
    pub(super) const fn middle(self) -> i64 {
        self.earliest + (self.latest - self.earliest) / 2
    }
}

impl Estimate {
    fn of(reading: &Reading) -> Self {
        let low = reading.date.saturating_mul(SECOND);
        let round_trip = millis(reading.received.saturating_duration_since(reading.sent));
        Self {
            at: reading.received,
            low,
            high: low.saturating_add(SECOND).saturating_add(round_trip),
        }
    }

    fn at(self, at: Instant) -> Self {
        let since = millis(at.saturating_duration_since(self.at));
        let drift = since / DRIFT + i64::from(since % DRIFT > 0);
        Self {
            at: at.max(self.at),
            low: self.low.saturating_add(since - drift),
            high: self.high.saturating_add(since + drift),
        }
    }

    /// What both say. Where they contradict each other, a clock has jumped or stood still, and the newer
    /// one counts.
    fn and(self, newer: Self) -> Self {
        let at = self.at.max(newer.at);
        let (old, newer) = (self.at(at), newer.at(at));
        let both = Self {
            at,
            low: old.low.max(newer.low),
            high: old.high.min(newer.high),
        };
        if both.low < both.high { both } else { newer }
    }
}

impl Clock {
    pub(super) fn learn(&self, reading: &Reading) {
        let newer = Estimate::of(reading);
        let mut known = self.lock();
        *known = Some(known.map_or(newer, |known| known.and(newer)));
    }

    /// The server's clock now. `None` until an answer has told it.
    pub(super) fn now(&self) -> Option<Now> {
        self.at(Instant::now())
    }

    fn at(&self, at: Instant) -> Option<Now> {
        let known = (*self.lock())?.at(at);
        Some(Now {
            earliest: known.low,
            latest: known.high,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Estimate>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the answer proves that the clock from which an end was written was late enough: `now` is what was
/// taken for the server's clock when the call began, at `began`.
pub(super) fn is_proven(now: Now, began: Instant, answer: &Reading) -> bool {
    // The last try was sent that much later, and the server's clock has gone on at least as long.
    let later = millis(answer.sent.saturating_duration_since(began));
    answer.date.saturating_mul(SECOND).saturating_sub(later) <= now.latest
}

/// The last whole second at which a lease that begins now is alive.
pub(super) fn lease_end(now: Now, lease: Duration) -> i64 {
    second_after(now, lease.saturating_add(MARGIN))
}

/// The last whole second at which a record is kept that is to be kept for so long from now.
pub(super) fn second_after(now: Now, by: Duration) -> i64 {
    now.latest.saturating_add(millis(by)) / SECOND
}

/// Whether the second `end` is over at `date`.
pub(super) const fn is_over(end: i64, date: i64) -> bool {
    date > end
}

/// How long it is until others see that the second `end` is over.
pub(super) fn left_of(end: i64, now: Now) -> Duration {
    const LEAST: i64 = 50;
    let to_its_begin = end.saturating_mul(SECOND).saturating_sub(now.middle());
    // Within its last second it is looked at again when that is over.
    let left = match to_its_begin {
        left if left > 0 => left,
        left => left.saturating_add(SECOND).max(LEAST),
    };
    Duration::from_millis(u64::try_from(left).unwrap_or_default())
}

/// Whole milliseconds, rounded up.
fn millis(duration: Duration) -> i64 {
    let millis = duration.as_micros().div_ceil(1000);
    // Half of what fits, so that sums do, too.
    i64::try_from(millis).unwrap_or(i64::MAX).min(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    fn reading(start: Instant, sent: u64, received: u64, date: i64) -> Reading {
        Reading {
            sent: after(start, sent),
            received: after(start, received),
            date,
        }
    }

    #[test]
    fn one_answer_leaves_its_second_and_its_round_trip_open() {
        let (clock, start) = (Clock::default(), Instant::now());
        assert_eq!(clock.now(), None);
        clock.learn(&reading(start, 0, 20, 1_800_000_000));
        let now = clock.at(after(start, 20)).unwrap();
        assert_eq!(now.earliest, 1_800_000_000_000);
        assert_eq!(now.latest, 1_800_000_001_020);
        // It goes on, and gets less certain.
        let now = clock.at(after(start, 10_020)).unwrap();
        assert_eq!(now.earliest, 1_800_000_009_990);
        assert_eq!(now.latest, 1_800_000_011_030);
    }

    #[test]
    fn answers_around_the_end_of_a_second_say_more() {
        let (clock, start) = (Clock::default(), Instant::now());
        clock.learn(&reading(start, 0, 10, 100));
        clock.learn(&reading(start, 500, 510, 101));
        let now = clock.at(after(start, 510)).unwrap();
        // The first says before 101.51 or so, the second says 101 at least.
        assert!(now.earliest >= 101_000 && now.latest <= 101_512, "{now:?}");
    }

    #[test]
    fn after_a_stop_of_the_monotonic_clock_the_newest_answer_counts() {
        let (clock, start) = (Clock::default(), Instant::now());
        clock.learn(&reading(start, 0, 10, 100));
        clock.learn(&reading(start, 20, 30, 100 + 3600));
        let now = clock.at(after(start, 30)).unwrap();
        assert_eq!((now.earliest, now.latest), (3_700_000, 3_701_010));
        // And what comes late and is older says nothing against it.
        clock.learn(&reading(start, 15, 40, 100 + 3600));
        let now = clock.at(after(start, 40)).unwrap();
        assert!(now.earliest >= 3_700_009, "{now:?}");
    }

    #[test]
    fn an_end_that_was_written_too_early_is_not_proven() {
        let start = Instant::now();
        let now = Now {
            earliest: 99_500,
            latest: 100_600,
        };
        assert!(is_proven(now, start, &reading(start, 0, 10, 100)));
        // The machine slept for an hour between the clock and the call.
        assert!(!is_proven(now, start, &reading(start, 0, 10, 3700)));
        // The call was sent a second time, three seconds later.
        assert!(is_proven(now, start, &reading(start, 3000, 3010, 103)));
        assert!(!is_proven(now, start, &reading(start, 3000, 3010, 104)));
    }

    /// The promise: whoever judges by an answer's `Date` sees a lease that is proven alive for as long as
    /// its owner believes in it, for every offset, round trip and stop of a clock.
    #[test]
    fn no_proven_lease_is_over_before_its_owner_gives_it_up() {
        let start = Instant::now();
        let lease = 5_000;
        let mut proven = 0;
        // The server's clock when the owner sends its claim, and what it takes for it.
        for true_now in (100_000..102_000).step_by(97) {
            for error in (-1_500..1_500).step_by(83) {
                for round_trip in [0, 10, 900, 2_500] {
                    let now = Now {
                        earliest: true_now + error - 1_000,
                        latest: true_now + error,
                    };
                    let end = lease_end(now, Duration::from_millis(lease));
                    // The server answers somewhere on the way.
                    let date = (true_now + round_trip / 2) / 1000;
                    let round_trip = u64::try_from(round_trip).unwrap();
                    if !is_proven(now, start, &reading(start, 0, round_trip, date)) {
                        continue;
                    }
                    proven += 1;
                    let given_up = true_now + i64::try_from(lease).unwrap();
                    // A judge's answer at the last moment, of a server whose clock is a second ahead.
                    let judged = (given_up + 999) / 1000;
                    assert!(!is_over(end, judged), "{true_now} {error} {round_trip}");
                }
            }
        }
        assert!(proven > 1000, "{proven}");
    }

    #[test]
    fn ends_do_not_overflow() {
        let now = Now {
            earliest: 0,
            latest: 1_800_000_000_000,
        };
        assert!(lease_end(now, Duration::MAX) > 1_800_000_000);
        assert!(second_after(now, Duration::MAX) > 1_800_000_000);
        assert!(left_of(i64::MAX / 4, now) > HOUR);
        assert!(left_of(0, now) >= Duration::from_millis(50));
    }
}
