//! An operation from its first try to its outcome, by hand-held clocks.

use std::time::{Duration, Instant};

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, StatusCode};
use idem_client::{
    IdempotencyKey, Next, Operation, Policy, RetryBudget, TryEnd, Unknown, UnknownReason,
};
use proptest::prelude::*;

fn operation(policy: &Policy, now: Instant) -> Operation {
    Operation::new(policy, IdempotencyKey::random(), "api.example", now)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn unknown(next: Next) -> Unknown {
    match next {
        Next::Unknown(unknown) => unknown,
        other => panic!("{other:?}"),
    }
}

fn busy(seconds: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(seconds))])
}

#[test]
fn a_try_takes_no_longer_than_the_deadline_leaves() {
    let policy = Policy::new().deadline(seconds(40)).try_timeout(seconds(30));
    let now = Instant::now();
    let mut operation = operation(&policy, now);
    assert_eq!(operation.begin_try(now), seconds(30));
    assert_eq!(operation.begin_try(now + seconds(35)), seconds(5));
    assert_eq!(operation.begin_try(now + seconds(50)), Duration::ZERO);
}

#[test]
fn what_the_server_asks_for_is_waited_for_in_full_or_not_at_all() {
    let policy = Policy::new().deadline(seconds(60));
    let now = Instant::now();
    let mut operation = operation(&policy, now);
    operation.begin_try(now);
    let next = operation.answered(StatusCode::SERVICE_UNAVAILABLE, &busy("20"), None, now);
    let Next::Wait(wait) = next else {
        panic!("{next:?}")
    };
    assert!(wait >= seconds(20), "{wait:?}");
    // Nobody waits for what comes after the deadline.
    operation.begin_try(now + seconds(30));
    let next = operation.answered(
        StatusCode::SERVICE_UNAVAILABLE,
        &busy("31"),
        None,
        now + seconds(30),
    );
    let unknown = unknown(next);
    assert_eq!(unknown.reason, UnknownReason::Deadline);
    assert_eq!(
        unknown.last,
        Some(TryEnd::Status(StatusCode::SERVICE_UNAVAILABLE))
    );
    assert_eq!((unknown.tries, unknown.elapsed), (2, seconds(30)));
}

#[test]
fn only_what_was_never_sent_counts_as_not_carried_out() {
    let policy = Policy::new()
        .max_tries(2)
        .backoff(Duration::ZERO, Duration::ZERO);
    let now = Instant::now();
    let ends = |ends: [TryEnd; 2], resumed: bool| {
        let mut operation = operation(&policy, now);
        if resumed {
            operation = operation.resumed();
        }
        operation.begin_try(now);
        assert!(matches!(operation.lost(ends[0], now), Next::Wait(_)));
        operation.begin_try(now);
        let unknown = unknown(operation.lost(ends[1], now));
        assert_eq!(unknown.reason, UnknownReason::TriesSpent);
        unknown.may_have_executed
    };
    assert!(!ends([TryEnd::NotSent, TryEnd::NotSent], false));
    assert!(ends([TryEnd::NotSent, TryEnd::NotSent], true));
    assert!(ends([TryEnd::Broken, TryEnd::NotSent], false));
    assert!(ends([TryEnd::NotSent, TryEnd::TimedOut], false));
}

#[test]
fn a_transport_that_fails_for_good_says_nothing_of_an_operation_that_was_sent() {
    let policy = Policy::new();
    let now = Instant::now();
    let mut operation = operation(&policy, now);
    operation.begin_try(now);
    assert!(operation.failed(now).is_none());
    let _ = operation.lost(TryEnd::Broken, now);
    let unknown = operation.failed(now).unwrap();
    assert_eq!(unknown.reason, UnknownReason::TransportFailed);
}

#[test]
fn a_budget_that_is_spent_makes_an_operation_wait_and_then_ends_it() {
    let budget = RetryBudget::new(0.0).per_second(0.5).reserve(1);
    let policy = Policy::new()
        .budget(budget)
        .deadline(seconds(5))
        .backoff(Duration::ZERO, Duration::ZERO);
    let now = Instant::now();
    let wait = || {
        let mut operation = operation(&policy, now);
        operation.begin_try(now);
        match operation.lost(TryEnd::Broken, now) {
            Next::Wait(wait) => Ok(wait),
            next => Err(unknown(next).reason),
        }
    };
    assert_eq!(wait(), Ok(Duration::ZERO));
    assert_eq!(wait(), Ok(seconds(2)));
    assert_eq!(wait(), Ok(seconds(4)));
    assert_eq!(wait(), Err(UnknownReason::BudgetSpent));
}

#[test]
fn no_text_of_an_unknown_outcome_has_the_key() {
    let policy = Policy::new().max_tries(1);
    let now = Instant::now();
    let mut operation = operation(&policy, now);
    operation.begin_try(now);
    let unknown = unknown(operation.lost(TryEnd::TimedOut, now));
    let shown = format!("{unknown} {unknown:?} {operation:?}");
    assert!(!shown.contains(unknown.key.as_str()), "{shown}");
    assert_eq!(
        unknown.to_string(),
        "no outcome after 1 try in 0.0ns: the policy allows no more (last try: no answer in time); \
         the operation may have been carried out: ask again with the same key"
    );
}

proptest! {
    /// Whatever a server answers and whenever, an operation ends within its tries and its deadline.
    #[test]
    fn every_operation_ends(
        max_tries in 0_u32..20,
        deadline in 0_u64..600,
        answers in prop::collection::vec((any::<prop::sample::Index>(), 0_u64..60), 40),
    ) {
        let policy = Policy::new().max_tries(max_tries).deadline(seconds(deadline));
        let begun = Instant::now();
        let mut now = begun;
        let mut operation = operation(&policy, now);
        let mut tries = 0;
        for (which, took) in answers {
            let limit = operation.begin_try(now);
            tries += 1;
            prop_assert!(limit <= seconds(30));
            now += limit.min(seconds(took));
            let next = match which.index(4) {
                0 => operation.lost(TryEnd::Broken, now),
                1 => operation.answered(StatusCode::TOO_MANY_REQUESTS, &busy("7"), None, now),
                2 => operation.lost(TryEnd::NotSent, now),
                _ => operation.answered(StatusCode::BAD_GATEWAY, &HeaderMap::new(), None, now),
            };
            match next {
                Next::Wait(wait) => now += wait,
                _ => break,
            }
            prop_assert!(now - begun < seconds(deadline).max(Duration::from_millis(1)));
        }
        prop_assert!(tries <= max_tries.max(1));
    }
}
