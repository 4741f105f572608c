//! A body that takes too long is stopped, and nothing of it is left.

use std::time::Duration;

use futures_util::FutureExt;
use idem::conformance::faults::Method;
use idem::{Begun, Engine, Error, ExecutionError, OnCrash, PolicyError};

use crate::bench::{LEASE, attempt_number, faulty, must_not_run, operation, operation_of, request};

/// Longer than several leases.
const DEADLINE: Duration = LEASE.saturating_mul(5);

/// Says when it is gone.
struct Alive<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_hangs_ends_at_its_deadline_and_nothing_of_it_is_left() {
    for on_crash in [OnCrash::Rerun, OnCrash::Refuse] {
        let store = faulty();
        let engine = Engine::builder(store.clone()).build();
        let operation = operation_of(&engine).deadline(DEADLINE).on_crash(on_crash);
        let is_gone = std::sync::atomic::AtomicBool::new(false);
        let begun = tokio::time::Instant::now();
        let ended = operation
            .run("k", request(), async {
                let _alive = Alive(&is_gone);
                let left = idem::attempt().time_left().unwrap();
                assert!(left <= DEADLINE && left > DEADLINE / 2);
                std::future::pending::<Result<u32, Error>>().await
            })
            .await;
        assert!(
            matches!(
                ended,
                Err(Error::DeadlineExceeded {
                    after: DEADLINE,
                    rolled_back: false
                })
            ),
            "{ended:?}"
        );
        assert!(begun.elapsed() >= DEADLINE);
        assert!(is_gone.load(std::sync::atomic::Ordering::SeqCst));
        // It held its lease meanwhile, and gave it up.
        assert!(store.calls(Method::Renew) >= 5);
        assert_eq!(store.calls(Method::Abandon), 1);
        engine.idle().await;
        let renewals = store.calls(Method::Renew);
        match on_crash {
            OnCrash::Rerun => assert_eq!(attempt_number(&operation, "k").await.unwrap(), 2),
            _ => {
                let refused = must_not_run(&operation, "k", request()).await;
                assert!(matches!(refused, Err(Error::OutcomeUnknown { attempt: 1 })));
            }
        }
        tokio::time::advance(LEASE * 3).await;
        assert_eq!(store.calls(Method::Renew), renewals);
    }
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_waits_no_longer_than_the_deadline_and_runs_next() {
    let store = faulty();
    let operation = operation(&store).deadline(DEADLINE);
    let hangs = std::future::pending::<Result<u32, Error>>();
    let next = async { Ok::<_, Error>(idem::attempt().number()) };
    let waiting = operation
        .clone()
        .in_flight(idem::InFlight::Wait(DEADLINE * 2));
    let (first, next) = tokio::join!(
        operation.run("k", request(), hangs),
        waiting.run("k", request(), next)
    );
    assert!(matches!(first, Err(Error::DeadlineExceeded { .. })));
    assert_eq!(next.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn without_a_deadline_the_ttl_is_one() {
    let ttl = Duration::from_secs(60);
    let operation = operation(&faulty()).ttl(ttl);
    let body = async {
        assert_eq!(idem::attempt().time_left(), Some(ttl));
        std::future::pending::<Result<u32, Error>>().await
    };
    let ended = operation.run("k", request(), body).await;
    assert!(matches!(ended, Err(Error::DeadlineExceeded { after, .. }) if after == ttl));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_of_zero_is_refused() {
    let operation = operation(&faulty()).deadline(Duration::ZERO);
    let refused = must_not_run(&operation, "k", request()).await;
    assert!(matches!(
        refused,
        Err(Error::Policy(PolicyError::DeadlineIsZero))
    ));
}

/// Panics when it is dropped.
struct Fragile;

impl Drop for Fragile {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("it is not to be dropped half-way");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_panics_when_it_is_stopped_is_a_panic_of_the_body() {
    let store = faulty();
    let operation = operation(&store).deadline(DEADLINE);
    let keyed = operation.keyed(idem::Key::of("k")).unwrap();
    let Begun::Execute(execution) = keyed.begin(request()).await.unwrap() else {
        panic!("nobody has claimed it");
    };
    let ended = execution.drive(async {
        let _fragile = Fragile;
        std::future::pending::<(idem::Verdict, ())>().await
    });
    let ended = ended.await;
    assert!(
        matches!(ended, Err(ExecutionError::Panicked(_))),
        "{ended:?}"
    );
    assert_eq!(store.calls(Method::Abandon), 1);
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 2);
}

/// A caller that keeps a body's future, and neither looks at it nor drops it.
#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_looks_at_is_not_renewed_for_ever() {
    let store = faulty();
    let operation = operation(&store).deadline(DEADLINE);
    let keyed = operation.keyed(idem::Key::of("k")).unwrap();
    let Begun::Execute(execution) = keyed.begin(request()).await.unwrap() else {
        panic!("nobody has claimed it");
    };
    let elsewhere = operation_of(&Engine::new(store.clone()));
    let body = std::future::pending::<(idem::Verdict, ())>();
    let mut driven = Box::pin(execution.drive_detached(body));
    for _ in 0..3 {
        assert!(driven.as_mut().now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(DEADLINE - LEASE).await;
    let refused = must_not_run(&elsewhere, "k", request()).await;
    assert!(
        matches!(refused, Err(Error::InFlight { .. })),
        "{refused:?}"
    );
    tokio::time::sleep(LEASE * 4).await;
    assert_eq!(attempt_number(&elsewhere, "k").await.unwrap(), 2);
    let stopped = driven.await;
    assert!(
        matches!(stopped, Err(ExecutionError::Stopped(_))),
        "{stopped:?}"
    );
}

#[test]
fn outside_of_a_body_there_is_none() {
    assert_eq!(idem::attempt().time_left(), None);
}
