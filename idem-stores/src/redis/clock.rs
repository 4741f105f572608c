//! What a process knows of the server's clock: a reading when a connection is opened, and the time that
//! has passed since by its own monotonic clock. It tells people when a claim was made, and decides nothing;
//! leases need no clock but the server's own.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

/// How long a reading is good for. Two clocks drift apart by less than a second a day.
const FRESH: Duration = Duration::from_secs(600);

/// The last reading of the server's clock.
#[derive(Debug, Default)]
pub(super) struct ServerClock(Mutex<Option<Reading>>);

#[derive(Clone, Copy, Debug)]
struct Reading {
    millis: u64,
    at: Instant,
}

impl ServerClock {
    /// Takes the answer to `TIME`, which was asked for at this instant. Answers of another kind are
    /// passed over.
    pub(super) fn learn(&self, answer: &Value, asked: Instant) {
        let now = Instant::now();
        if let Some(millis) = millis_of(answer) {
            let at = asked + now.saturating_duration_since(asked) / 2;
            *self.lock() = Some(Reading { millis, at });
        }
    }

    /// Milliseconds since 1970 by the server's clock; 0 if it is not known. And whether it is time for
    /// another reading: said once.
    pub(super) fn now(&self) -> (u64, bool) {
        let mut reading = self.lock();
        let Some(reading) = &mut *reading else {
            return (0, false);
        };
        let now = Instant::now();
        let since = now.saturating_duration_since(reading.at);
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let millis = reading.millis.saturating_add(millis);
        let is_due = since > FRESH;
        if is_due {
            // It goes on as it was until the answer is there.
            *reading = Reading { millis, at: now };
        }
        (millis, is_due)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Reading>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn millis_of(answer: &Value) -> Option<u64> {
    let Value::Array(parts) = answer else {
        return None;
    };
    let number = |part: &Value| match part {
        Value::BulkString(digits) => std::str::from_utf8(digits).ok()?.parse::<u64>().ok(),
        _ => None,
    };
    match &parts[..] {
        [seconds, micros] => Some(number(seconds)?.checked_mul(1000)? + number(micros)? / 1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_goes_on_from_the_last_reading() {
        let clock = ServerClock::default();
        assert_eq!(clock.now(), (0, false));
        clock.learn(&Value::Okay, Instant::now());
        assert_eq!(clock.now(), (0, false));
        let parts = [b"1800000000".to_vec(), b"999999".to_vec()];
        let answer = Value::Array(parts.map(Value::BulkString).to_vec());
        let asked = Instant::now();
        tokio::time::advance(Duration::from_millis(20)).await;
        clock.learn(&answer, asked);
        assert_eq!(clock.now(), (1_800_000_000_999 + 10, false));
        tokio::time::advance(FRESH).await;
        let later = 1_800_000_000_999 + 10 + 600_000;
        assert_eq!(clock.now(), (later, true));
        assert_eq!(clock.now(), (later, false));
    }
}
