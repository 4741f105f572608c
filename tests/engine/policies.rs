//! Rules that promise nothing are refused, before the store is asked for anything.

use std::time::Duration;

use idem::conformance::faults::Method;
use idem::{Error, Operation, Outcome, Policy, PolicyError, Verdict};

use crate::bench::{attempt_number, faulty, must_not_run, operation, request};

const ALMOST: Duration = Duration::from_micros(999);

/// Every operation without a promise, with what is wrong.
fn promising_nothing(operation: &Operation) -> Vec<(Operation, PolicyError)> {
    let operation = || operation.clone();
    vec![
        (operation().ttl(Duration::ZERO), PolicyError::TtlTooShort),
        (operation().ttl(ALMOST), PolicyError::TtlTooShort),
        (
            operation().policy(Policy::new(Duration::ZERO)),
            PolicyError::TtlTooShort,
        ),
        (operation().lease(Duration::ZERO), PolicyError::LeaseIsZero),
    ]
}

#[tokio::test(start_paused = true)]
async fn without_a_ttl_or_a_lease_nothing_runs_and_nothing_is_claimed() {
    let store = faulty();
    for (operation, expected) in promising_nothing(&operation(&store)) {
        let refused = must_not_run(&operation, "k", request()).await.unwrap_err();
        assert!(matches!(refused, Error::Policy(error) if error == expected));
    }
    assert_eq!(store.calls(Method::Claim), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_resolved_that_would_be_forgotten_at_once() {
    let store = faulty();
    let operation = operation(&store);
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 1);
    for (operation, _) in promising_nothing(&operation) {
        let verdict = Verdict::Final(Outcome::Value("1".into()));
        let refused = operation.resolve("k", verdict).await.unwrap_err();
        assert!(matches!(refused, Error::Policy(_)), "{refused}");
    }
    assert_eq!(store.calls(Method::Claim), 1);
}

#[tokio::test(start_paused = true)]
async fn the_shortest_ttl_and_lease_are_taken() {
    let store = faulty();
    let shortest = operation(&store)
        .ttl(Policy::MIN_TTL)
        .lease(Duration::from_nanos(1));
    assert_eq!(attempt_number(&shortest, "k").await.unwrap(), 1);
}
