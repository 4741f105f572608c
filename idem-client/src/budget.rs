//! The share of requests that may be retries, for each host.
//!
//! A server that fails is not helped by clients that all try again. Every operation pays a share of
//! a retry into its host's account, and time pays a little, so that a lonely operation is retried,
//! too. A retry is paid from the account; one that cannot be paid yet waits until it can.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// More hosts than this are not told apart.
const MAX_HOSTS: usize = 1024;

/// How many retries each host gets: see [`Policy::budget`](crate::Policy::budget). Clones share their
/// accounts.
///
/// ```
/// use idem_client::RetryBudget;
///
/// // One retry for every ten operations, and one in ten seconds besides.
/// let budget = RetryBudget::new(0.1).per_second(0.1).reserve(5);
/// ```
#[derive(Clone, Debug)]
pub struct RetryBudget {
    share: f64,
    per_second: f64,
    reserve: f64,
    accounts: Arc<Mutex<HashMap<Box<str>, Account>>>,
}

#[derive(Clone, Copy, Debug)]
struct Account {
    retries: f64,
    as_of: Instant,
}

impl Default for RetryBudget {
    /// A share of 0.2, one retry a second, and a reserve of 10.
    fn default() -> Self {
        Self::new(0.2)
    }
}

impl RetryBudget {
    /// So many retries for each operation. A share that is no number, or negative, is none.
    pub fn new(share: f64) -> Self {
        Self {
            share: positive(share),
            per_second: 1.0,
            reserve: 10.0,
            accounts: Arc::default(),
        }
    }

    /// So many retries in a second, however few operations there are. 1 unless given.
    #[must_use]
    pub fn per_second(mut self, retries: f64) -> Self {
        self.per_second = positive(retries);
        self
    }

    /// The retries that a host has when it is first met, and the most that it saves up. 10 unless
    /// given.
    #[must_use]
    pub fn reserve(mut self, retries: u32) -> Self {
        self.reserve = f64::from(retries);
        self
    }

    /// An operation begins.
    pub(crate) fn deposit(&self, host: &str, now: Instant) {
        self.with(host, now, |account| account.retries += self.share);
    }

    /// Takes a retry, and says how long it has to wait for it. Nothing is taken where that is longer
    /// than `patience`.
    pub(crate) fn withdraw(
        &self,
        host: &str,
        now: Instant,
        patience: Duration,
    ) -> Option<Duration> {
        self.with(host, now, |account| {
            let missing = (1.0 - account.retries).max(0.0);
            let wait = match missing > 0.0 {
                true => Duration::try_from_secs_f64(missing / self.per_second).ok()?,
                false => Duration::ZERO,
            };
            (wait <= patience).then(|| {
                account.retries -= 1.0;
                wait
            })
        })
    }

    fn with<T>(&self, host: &str, now: Instant, act: impl FnOnce(&mut Account) -> T) -> T {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let new = Account {
            retries: self.reserve,
            as_of: now,
        };
        if !accounts.contains_key(host) && accounts.len() >= MAX_HOSTS {
            // A full account is as good as a new one.
            accounts.retain(|_, account| {
                account.settle(self, now);
                account.retries < self.reserve
            });
        }
        // Where so many hosts are in trouble, those that come share one account.
        let known = accounts.contains_key(host) || accounts.len() < MAX_HOSTS;
        let name = if known { host } else { "" };
        let account = accounts.entry(name.into()).or_insert(new);
        account.settle(self, now);
        let result = act(account);
        account.retries = account.retries.min(self.reserve);
        result
    }
}

impl Account {
    fn settle(&mut self, budget: &RetryBudget, now: Instant) {
        let passed = now.saturating_duration_since(self.as_of).as_secs_f64();
        self.retries = (self.retries + passed * budget.per_second).min(budget.reserve);
        self.as_of = self.as_of.max(now);
    }
}

fn positive(number: f64) -> f64 {
    // Not a number is neither.
    if number > 0.0 { number } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_overdrawn_account_makes_retries_wait_and_then_refuses_them() {
        let now = Instant::now();
        let budget = RetryBudget::new(0.5).per_second(2.0).reserve(1);
        let withdraw = |now| budget.withdraw("a", now, Duration::from_secs(1));
        assert_eq!(withdraw(now), Some(Duration::ZERO));
        assert_eq!(withdraw(now), Some(Duration::from_millis(500)));
        assert_eq!(withdraw(now), Some(Duration::from_millis(1000)));
        assert_eq!(withdraw(now), None);
        budget.deposit("a", now);
        budget.deposit("a", now);
        assert_eq!(withdraw(now), Some(Duration::from_millis(1000)));
        // Another host has its own.
        assert_eq!(
            budget.withdraw("b", now, Duration::ZERO),
            Some(Duration::ZERO)
        );
        let none = RetryBudget::new(f64::NAN).per_second(0.0).reserve(0);
        assert_eq!(none.withdraw("a", now, Duration::MAX), None);
    }

    #[test]
    fn hosts_are_bounded() {
        let now = Instant::now();
        let budget = RetryBudget::default();
        for host in 0..3 * MAX_HOSTS {
            let _ = budget.withdraw(&host.to_string(), now, Duration::ZERO);
        }
        let held = || budget.accounts.lock().unwrap().len();
        assert!(held() <= MAX_HOSTS + 1, "{}", held());
        let later = now + Duration::from_secs(60);
        budget.deposit("another", later);
        assert_eq!(held(), 1);
    }

    proptest! {
        #[test]
        fn retries_are_at_most_their_share(
            share in 0.0_f64..1.0, per_second in 0.0_f64..5.0, reserve in 0_u32..20,
            events in prop::collection::vec((any::<bool>(), 0_u64..1_000), 0..400),
        ) {
            let budget = RetryBudget::new(share).per_second(per_second).reserve(reserve);
            let begun = Instant::now();
            let (mut now, mut operations, mut retries) = (begun, 0, 0);
            for (retry, millis) in events {
                now += Duration::from_millis(millis);
                if retry {
                    retries += i32::from(budget.withdraw("host", now, Duration::ZERO).is_some());
                } else {
                    budget.deposit("host", now);
                    operations += 1;
                }
            }
            let passed = now.duration_since(begun).as_secs_f64();
            let most = f64::from(reserve) + share * f64::from(operations) + per_second * passed;
            prop_assert!(f64::from(retries) <= most + 1e-6, "{retries} of {most}");
        }
    }
}
