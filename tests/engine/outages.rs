//! A store that cannot answer: before the body nothing runs, after it nothing is lost.

use std::time::Duration;

use idem::conformance::faults::{Fault, Method};
use idem::{Engine, Error, InFlight, StoreError};
use tokio::time::Instant;

use crate::bench::{
    LEASE, STORE_TIMEOUT, attempt_number, faulty, must_not_run, operation, operation_of, request,
};
use crate::works::Works;

#[tokio::test(start_paused = true)]
async fn no_body_runs_before_its_claim_is_acknowledged() {
    for fault in [
        Fault::Unavailable,
        Fault::LoseAnswer,
        Fault::Hang,
        Fault::HangAfterEffect,
    ] {
        let store = faulty();
        let operation = operation(&store);
        store.fail_always(Method::Claim, fault);
        let started = Instant::now();
        let refused = must_not_run(&operation, "k", request()).await;
        assert!(matches!(refused, Err(Error::Store(_))), "{refused:?}");
        assert!(started.elapsed() <= STORE_TIMEOUT);
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_answer_was_lost_recognises_itself() {
    let store = faulty();
    let operation = operation(&store);
    store.fail(Method::Claim, 1, Fault::LoseAnswer);
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 1);
    assert_eq!(store.calls(Method::Claim), 2);
    assert_eq!(must_not_run(&operation, "k", request()).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_nobody_will_use_is_freed_when_the_store_is_back() {
    let store = faulty();
    let operation = operation(&store);
    store.fail(Method::Claim, 1, Fault::HangAfterEffect);
    store.fail(Method::Release, 3, Fault::Unavailable);
    let refused = must_not_run(&operation, "k", request()).await;
    assert!(matches!(
        refused,
        Err(Error::Store(StoreError::TimedOut { .. }))
    ));
    let started = Instant::now();
    store.called(Method::Release, 4).await;
    // Long before the lease would have ended, and as the first attempt.
    assert!(started.elapsed() < LEASE / 3);
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_with_many_claims_a_lost_one_is_still_freed() {
    let store = faulty();
    let operation = operation(&store);
    store.fail_everything(&Fault::Unavailable);
    for key in 0..1000 {
        let refused = must_not_run(&operation, &format!("away {key}"), request()).await;
        assert!(matches!(refused, Err(Error::Store(_))));
    }
    store.heal_everything();
    // Less than the lease: what was never there is not looked for that long.
    tokio::time::sleep(LEASE / 3).await;
    let released = store.calls(Method::Release);
    store.fail(Method::Claim, 1, Fault::HangAfterEffect);
    let refused = must_not_run(&operation, "lost", request()).await;
    assert!(matches!(refused, Err(Error::Store(_))));
    store.called(Method::Release, released + 1).await;
    assert_eq!(attempt_number(&operation, "lost").await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_while_it_claims_frees_what_it_may_have_claimed() {
    let store = faulty();
    let operation = operation(&store);
    store.fail(Method::Claim, 1, Fault::HangAfterEffect);
    let call = tokio::spawn({
        let operation = operation.clone();
        async move { attempt_number(&operation, "k").await }
    });
    store.called(Method::Claim, 1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    store.called(Method::Release, 1).await;
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_after_the_body_costs_the_caller_nothing() {
    for fault in [Fault::Unavailable, Fault::LoseAnswer] {
        let store = faulty();
        let operation = operation(&store);
        store.fail(Method::Complete, 5, fault);
        let gate = store.hold(Method::Renew);
        let works = Works::default();
        let body = async { Ok::<_, Error>(works.execute()) };
        // The real answer, though nothing is stored yet.
        assert_eq!(operation.run("k", request(), body).await.unwrap(), 1);
        assert_eq!(store.calls(Method::Complete), 2);
        let duplicate = must_not_run(&operation, "k", request()).await;
        assert!(
            matches!(duplicate, Err(Error::InFlight { .. })),
            "{duplicate:?}"
        );
        store.called(Method::Complete, 6).await;
        gate.open();
        // Replayed from the store, by an engine that has seen nothing.
        let other = operation_of(&Engine::new(store.clone()));
        while store.calls(Method::Complete) < 6 {
            tokio::task::yield_now().await;
        }
        assert_eq!(must_not_run(&other, "k", request()).await.unwrap(), 1);
        assert_eq!(works.executed(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_longer_than_the_lease_costs_no_second_execution() {
    let store = faulty();
    let operation = operation(&store);
    let works = Works::default();
    let body = async {
        // The store goes away while the body runs, and stays away.
        store.fail_everything(&Fault::Unavailable);
        Ok::<_, Error>(works.execute())
    };
    assert_eq!(operation.run("k", request(), body).await.unwrap(), 1);
    tokio::time::sleep(LEASE * 10).await;
    // This process still holds the outcome, and keeps its duplicates out.
    let duplicate = must_not_run(&operation, "k", request()).await;
    assert!(
        matches!(duplicate, Err(Error::InFlight { .. })),
        "{duplicate:?}"
    );
    store.heal_everything();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(must_not_run(&operation, "k", request()).await.unwrap(), 1);
    assert_eq!(works.executed(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_nobody_would_keep_any_more_is_given_up() {
    let store = faulty();
    let ttl = Duration::from_secs(60);
    let operation = operation(&store).ttl(ttl);
    store.fail_always(Method::Complete, Fault::Unavailable);
    store.fail_always(Method::Renew, Fault::Unavailable);
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 1);
    tokio::time::sleep(ttl + Duration::from_secs(5)).await;
    let given_up = store.calls(Method::Complete);
    tokio::time::sleep(ttl * 2).await;
    assert_eq!(store.calls(Method::Complete), given_up);
    store.heal_everything();
    let again = attempt_number(&operation, "k").await.unwrap();
    assert_eq!(
        again, 1,
        "lease and retention are over: the record is absent"
    );
}

#[tokio::test(start_paused = true)]
async fn a_completion_slower_than_the_lease_keeps_the_lease() {
    let store = faulty();
    let engine = Engine::builder(store.clone())
        .store_timeout(LEASE * 10)
        .build();
    let gate = store.hold(Method::Complete);
    let call = tokio::spawn({
        let operation = operation_of(&engine);
        async move { attempt_number(&operation, "k").await }
    });
    gate.arrived(1).await;
    tokio::time::sleep(LEASE * 3).await;
    let elsewhere = operation(&store);
    let duplicate = must_not_run(&elsewhere, "k", request()).await;
    assert!(
        matches!(duplicate, Err(Error::InFlight { .. })),
        "{duplicate:?}"
    );
    gate.open();
    assert_eq!(call.await.unwrap().unwrap(), 1);
    assert_eq!(must_not_run(&elsewhere, "k", request()).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_while_the_outcome_is_stored_loses_nothing() {
    let store = faulty();
    let operation = operation(&store);
    store.fail(Method::Complete, 1, Fault::Hang);
    let call = tokio::spawn({
        let operation = operation.clone();
        async move { attempt_number(&operation, "k").await }
    });
    store.called(Method::Complete, 1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    store.called(Method::Complete, 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(must_not_run(&operation, "k", request()).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_store_refuses_and_is_not_asked_again() {
    let store = faulty();
    let operation = operation(&store);
    let full = StoreError::Full {
        store: "memory",
        max_bytes: Some(1),
    };
    store.fail(Method::Claim, 1, Fault::Error(full));
    let refused = must_not_run(&operation, "k", request()).await;
    assert!(matches!(
        refused,
        Err(Error::Store(StoreError::Full { .. }))
    ));
    assert_eq!(
        (store.calls(Method::Claim), store.calls(Method::Release)),
        (1, 0)
    );
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn failing_open_is_a_choice_and_says_so_inside_the_body() {
    let store = faulty();
    store.fail_always(Method::Claim, Fault::Unavailable);
    let engine = Engine::builder(store.clone()).fail_open(true).build();
    let body = async { Ok::<_, Error>(idem::attempt().is_protected()) };
    let ran = operation_of(&engine).run("k", request(), body).await;
    assert!(!ran.unwrap());
    assert_eq!(store.calls(Method::Complete), 0);
}

#[tokio::test(start_paused = true)]
async fn failing_open_still_keeps_duplicates_of_this_process_out() {
    let store = faulty();
    store.fail_always(Method::Claim, Fault::Unavailable);
    let engine = Engine::builder(store.clone()).fail_open(true).build();
    let operation = operation_of(&engine);
    let works = Works::default();
    let first = tokio::spawn({
        let (operation, works) = (operation.clone(), works.clone());
        let body = async move {
            works.stop_here().await;
            Ok::<_, Error>(works.execute())
        };
        async move { operation.run("k", request(), body).await }
    });
    works.started().await;
    let duplicate = must_not_run(&operation, "k", request()).await;
    assert!(matches!(duplicate, Err(Error::InFlight { .. })));
    works.let_go();
    assert_eq!(first.await.unwrap().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn failing_open_does_not_run_what_was_seen_to_run() {
    let store = faulty();
    let works = Works::default();
    let first = tokio::spawn({
        let (operation, works) = (operation(&store), works.clone());
        let body = async move {
            works.stop_here().await;
            Ok::<_, Error>(works.execute())
        };
        async move { operation.run("k", request(), body).await }
    });
    works.started().await;
    let engine = Engine::builder(store.clone()).fail_open(true).build();
    let patient = operation_of(&engine).in_flight(InFlight::Wait(LEASE));
    let waiter = tokio::spawn(async move { must_not_run(&patient, "k", request()).await });
    store.called(Method::Watch, 1).await;
    store.fail_always(Method::Claim, Fault::Unavailable);
    let refused = waiter.await.unwrap();
    assert!(matches!(refused, Err(Error::Store(_))), "{refused:?}");
    works.let_go();
    assert_eq!(first.await.unwrap().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn failing_open_is_no_reason_to_run_what_may_be_finished() {
    let store = faulty();
    let unreadable = StoreError::Unreadable { store: "memory" };
    store.fail_always(Method::Claim, Fault::Error(unreadable));
    let engine = Engine::builder(store.clone()).fail_open(true).build();
    let refused = must_not_run(&operation_of(&engine), "k", request()).await;
    assert!(matches!(
        refused,
        Err(Error::Store(StoreError::Unreadable { .. }))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_hundred_callers_of_a_dead_store_all_get_an_answer_in_time() {
    let store = faulty();
    store.fail_everything(&Fault::Hang);
    let operation = operation(&store);
    let started = Instant::now();
    let calls = (0..100).map(|key| {
        let (operation, key) = (operation.clone(), key.to_string());
        tokio::spawn(async move { must_not_run(&operation, &key, request()).await })
    });
    for call in calls.collect::<Vec<_>>() {
        assert!(matches!(call.await.unwrap(), Err(Error::Store(_))));
    }
    assert!(started.elapsed() <= STORE_TIMEOUT + Duration::from_millis(1));
}
