//! How long to wait before the next try: `Retry-After`, and exponential backoff with full jitter.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::{DATE, RETRY_AFTER};

/// Waits that double from the first bound to the last. Each is drawn between nothing and its bound
/// ("full jitter"), so that clients that failed together do not come back together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) last: Duration,
}

impl Backoff {
    /// The longest wait after so many tries.
    pub(crate) fn bound(&self, tries: u32) -> Duration {
        let doublings = tries.saturating_sub(1);
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.last)
    }

    /// The wait after so many tries. What the server asks for is waited for in full, and the jitter
    /// comes on top.
    pub(crate) fn draw(&self, tries: u32, asked_for: Option<Duration>) -> Duration {
        let jitter = self.bound(tries).mul_f64(fastrand::f64());
        asked_for.unwrap_or_default().saturating_add(jitter)
    }
}

/// What `Retry-After` asks for: seconds, or a date. A date is read against the answer's own `Date`,
/// where it has one, so that the client's clock does not matter.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that is too large for any clock is still a wish to be left alone.
        return Some(Duration::from_secs(
            value.parse().unwrap_or(u64::from(u32::MAX)),
        ));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let date = headers.get(DATE).and_then(|it| it.to_str().ok());
    let servers_now = date.and_then(|it| httpdate::parse_http_date(it).ok());
    Some(
        until
            .duration_since(servers_now.unwrap_or(now))
            .unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_by_the_servers_clock() {
        let read = |lines: &[(_, &'static str)]| {
            let lines = lines.iter().cloned();
            let headers = lines.map(|(name, value)| (name, HeaderValue::from_static(value)));
            let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
            retry_after(&headers.collect(), now).map(|it| it.as_secs())
        };
        let later = (RETRY_AFTER, "Sun, 06 Nov 1994 08:50:37 GMT");
        assert_eq!(read(&[(RETRY_AFTER, "7")]), Some(7));
        assert_eq!(
            read(&[(RETRY_AFTER, "99999999999999999999")]),
            Some(u64::from(u32::MAX))
        );
        assert_eq!(read(std::slice::from_ref(&later)), Some(60));
        assert_eq!(
            read(&[later.clone(), (DATE, "Sun, 06 Nov 1994 08:50:35 GMT")]),
            Some(2)
        );
        assert_eq!(
            read(&[later, (DATE, "Sun, 06 Nov 1994 08:51:35 GMT")]),
            Some(0)
        );
        for strange in ["", "-1", "1.5", "soon"] {
            assert_eq!(read(&[(RETRY_AFTER, strange)]), None, "{strange}");
        }
        assert_eq!(read(&[]), None);
    }

    proptest! {
        #[test]
        fn a_wait_is_between_what_was_asked_for_and_its_bound(
            tries in 0_u32.., first in 0_u64..10_000, last in 0_u64..100_000, asked in 0_u64..100_000,
        ) {
            let [first, last, asked] = [first, last, asked].map(Duration::from_millis);
            let backoff = Backoff { first, last };
            prop_assert!(backoff.bound(tries) <= last);
            let wait = backoff.draw(tries, Some(asked));
            prop_assert!(asked <= wait && wait <= asked + backoff.bound(tries));
        }
    }
}
