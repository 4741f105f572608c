//! How an attempt ends: a value, an error, a panic, a drop, and what is left behind.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use idem::conformance::faults::{Fault, FaultyStore, Method};
use idem::stores::memory::MemoryStore;
use idem::{
    Begun, Engine, Error, Key, NotReplayable, OnCrash, Operation, Outcome, Phase, RecordId,
    ReleaseErrors, Replayable, Resolution, Verdict,
};

use crate::bench::{LEASE, attempt_number, faulty, must_not_run, operation, operation_of, request};
use crate::works::Works;

#[tokio::test(start_paused = true)]
async fn an_error_frees_the_key_or_is_stored_as_the_operation_says() {
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    enum Declined {
        Card(u32),
        Refused,
    }
    impl From<Error> for Declined {
        fn from(_: Error) -> Self {
            Self::Refused
        }
    }
    let operation = operation(&faulty());
    let works = Works::default();
    let body = || async { Err::<u32, _>(Declined::Card(works.execute())) };
    for number in 1..=2 {
        let error = operation.run("released", request(), body()).await;
        assert_eq!(error, Err(Declined::Card(number)));
    }
    for _ in 0..2 {
        let error = operation
            .run_storing_errors("stored", request(), body())
            .await;
        assert_eq!(error, Err(Declined::Card(3)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_resumed_after_the_record_was_abandoned() {
    let store = faulty();
    let operation = operation(&store);
    let body = async { panic!("half-way") };
    let run = operation.run::<_, _, Result<u32, Error>>("k", request(), body);
    let panic = std::panic::AssertUnwindSafe(run)
        .catch_unwind()
        .await
        .unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"half-way"));
    assert_eq!(store.calls(Method::Abandon), 1);
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_body_is_a_crash_at_once() {
    let store = faulty();
    let operation = operation(&store);
    let works = Works::default();
    let call = tokio::spawn({
        let (operation, works) = (operation.clone(), works.clone());
        let body = async move {
            works.stop_here().await;
            Ok::<_, Error>(0)
        };
        async move { operation.run("k", request(), body).await }
    });
    works.started().await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    store.called(Method::Abandon, 1).await;
    let refused = must_not_run(&operation.clone().on_crash(OnCrash::Refuse), "k", request()).await;
    assert!(
        matches!(refused, Err(Error::OutcomeUnknown { attempt: 1 })),
        "{refused:?}"
    );
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 2);
}

/// A client that hangs up before the body is looked at, in its middle, or not at all.
#[tokio::test(start_paused = true)]
async fn a_detached_body_is_one_attempt_on_its_callers_task_and_on_one_of_its_own() {
    #[derive(Clone, Copy, PartialEq)]
    enum Caller {
        GoesBefore,
        GoesWithin,
        Stays,
    }
    for caller in [Caller::GoesBefore, Caller::GoesWithin, Caller::Stays] {
        let store = faulty();
        let operation = operation(&store);
        let works = Works::default();
        let keyed = operation.keyed(Key::of("k")).unwrap();
        let Ok(Begun::Execute(execution)) = keyed.begin(request()).await else {
            panic!("the first call executes");
        };
        let here = tokio::task::try_id();
        let body = {
            let works = works.clone();
            async move {
                works.stop_here().await;
                let attempt = idem::attempt();
                assert!(attempt.is_protected());
                assert_eq!(tokio::task::try_id() == here, caller == Caller::Stays);
                let value = Ok::<u32, Error>(works.execute() + attempt.number());
                (Replayable::<ReleaseErrors>::verdict(&value), ())
            }
        };
        let mut driven = Box::pin(execution.drive_detached(body));
        if caller != Caller::GoesBefore {
            // Past the keeper, which begins with it.
            while works.started().now_or_never().is_none() {
                assert!(driven.as_mut().now_or_never().is_none());
                tokio::task::yield_now().await;
            }
        }
        if caller == Caller::Stays {
            works.let_go();
            driven.await.unwrap();
        } else {
            drop(driven);
            if caller == Caller::GoesBefore {
                works.started().await;
            }
            works.let_go();
            works.reached(1).await;
            store.called(Method::Complete, 1).await;
        }
        let retry = must_not_run(&operation, "k", request()).await;
        assert_eq!(retry.unwrap(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_not_driven_frees_its_key() {
    let store = faulty();
    let operation = operation(&store).on_crash(OnCrash::Refuse);
    let keyed = operation.keyed(Key::of("k")).unwrap();
    let Ok(Begun::Execute(execution)) = keyed.begin(request()).await else {
        panic!("the first call executes");
    };
    drop(execution);
    store.called(Method::Release, 1).await;
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_says_nothing_happened_frees_the_key_even_with_a_value() {
    let operation = operation(&faulty());
    let works = Works::default();
    for number in 1..=2 {
        let body = async {
            idem::attempt().release();
            Ok::<_, Error>(works.execute())
        };
        assert_eq!(operation.run("k", request(), body).await.unwrap(), number);
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_too_large_to_keep_is_given_once_and_never_made_again() {
    let engine = Engine::builder(faulty()).max_outcome_bytes(100).build();
    let operation = operation_of(&engine);
    let works = Works::default();
    let body = async {
        works.execute();
        Ok::<_, Error>("x".repeat(200))
    };
    assert_eq!(
        operation.run("k", request(), body).await.unwrap().len(),
        200
    );
    for _ in 0..2 {
        let retry = must_not_run(&operation, "k", request()).await;
        let Err(Error::NotReplayable(reason)) = retry else {
            panic!("a tombstone: {retry:?}");
        };
        assert_eq!(reason, NotReplayable::TooLarge);
    }
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_cannot_be_read_is_an_error_and_never_a_rerun() {
    let operation = operation(&faulty());
    let text = async { Ok::<_, Error>("text".to_owned()) };
    operation.run("k", request(), text).await.unwrap();
    // As after a deploy that changed the value's type.
    for _ in 0..2 {
        let retry = must_not_run(&operation, "k", request()).await;
        assert!(matches!(retry, Err(Error::Undecodable(_))), "{retry:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_finished_record_is_absent_after_its_retention_and_not_before() {
    let ttl = Duration::from_secs(3600);
    let operation = operation(&faulty()).ttl(ttl);
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 1);
    tokio::time::sleep(ttl - Duration::from_millis(1)).await;
    assert_eq!(must_not_run(&operation, "k", request()).await.unwrap(), 1);
    tokio::time::sleep(Duration::from_millis(2)).await;
    let works = Works::default();
    let again = async { Ok::<_, Error>(works.execute()) };
    assert_eq!(operation.run("k", request(), again).await.unwrap(), 1);
    assert_eq!(works.executed(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_operator_inspects_and_resolves_what_a_crash_left() {
    let store = faulty();
    let refusing = operation(&store).on_crash(OnCrash::Refuse);
    crash(&refusing, "charged").await;
    crash(&refusing, "not charged").await;
    let found = refusing.inspect("charged").await.unwrap().unwrap();
    assert_eq!(
        (found.attempt, found.phase),
        (1, Phase::Running { lease_left: None })
    );

    // Whoever has looked may still not know: it stays as it is, under the next number.
    assert_eq!(
        refusing.resolve("charged", Verdict::Crashed).await.unwrap(),
        Resolution::Resolved
    );
    let found = refusing.inspect("charged").await.unwrap().unwrap();
    assert_eq!(
        (found.attempt, found.phase),
        (2, Phase::Running { lease_left: None })
    );
    let refused = must_not_run(&refusing, "charged", request()).await;
    assert!(matches!(refused, Err(Error::OutcomeUnknown { attempt: 2 })));

    let charged = Verdict::Final(Outcome::Value(Bytes::from_static(b"42")));
    assert_eq!(
        refusing.resolve("charged", charged.clone()).await.unwrap(),
        Resolution::Resolved
    );
    assert_eq!(
        must_not_run(&refusing, "charged", request()).await.unwrap(),
        42
    );
    let found = refusing.inspect("charged").await.unwrap().unwrap();
    assert_eq!(found.operation.as_str(), "tests.engine");
    let resolved = refusing.resolve("not charged", Verdict::Released).await;
    assert_eq!(resolved.unwrap(), Resolution::Resolved);
    assert_eq!(attempt_number(&refusing, "not charged").await.unwrap(), 1);
    // Nothing to resolve, and why.
    for (key, why) in [
        ("charged", Resolution::Finished),
        ("never seen", Resolution::NoRecord),
    ] {
        let resolved = refusing.resolve(key, charged.clone()).await.unwrap();
        assert_eq!(resolved, why);
    }
}

#[tokio::test(start_paused = true)]
async fn a_resolved_record_still_says_its_operation() {
    let store = faulty();
    let refusing = operation(&store).on_crash(OnCrash::Refuse);
    crash(&refusing, "k").await;
    let before = refusing.inspect("k").await.unwrap().unwrap().operation;
    assert!(!before.as_str().is_empty());
    let id = refusing.record_id("k").unwrap();
    // By an operator's tool, which knows the record and may call the operation anything.
    let tool = Engine::new(store.clone()).operation("");
    for verdict in [
        Verdict::Crashed,
        Verdict::Final(Outcome::Value(Bytes::from_static(b"42"))),
    ] {
        let resolved = tool.resolve_record(&id, verdict).await.unwrap();
        assert_eq!(resolved, Resolution::Resolved);
        let found = refusing.inspect("k").await.unwrap().unwrap();
        assert_eq!(found.operation, before);
    }
}

#[tokio::test(start_paused = true)]
async fn an_operator_who_has_seen_another_attempt_changes_nothing() {
    let store = faulty();
    let refusing = operation(&store).on_crash(OnCrash::Refuse);
    crash(&refusing, "k").await;
    let id = refusing.record_id("k").unwrap();
    for attempt in [0, 2] {
        let resolved = refusing.resolve_attempt(&id, attempt, Verdict::Released);
        assert_eq!(resolved.await.unwrap(), Resolution::ChangedMeanwhile);
    }
    let found = refusing.inspect("k").await.unwrap().unwrap();
    assert_eq!(found.attempt, 1);
    let resolved = refusing.resolve_attempt(&id, 1, Verdict::Released);
    assert_eq!(resolved.await.unwrap(), Resolution::Resolved);
    assert_eq!(refusing.inspect("k").await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn an_operator_cannot_resolve_what_is_alive() {
    let store = faulty();
    let operation = operation(&store);
    let works = Works::default();
    let running = tokio::spawn({
        let (operation, works) = (operation.clone(), works.clone());
        let body = async move {
            works.stop_here().await;
            Ok::<_, Error>(1)
        };
        async move { operation.run("k", request(), body).await }
    });
    works.started().await;
    let refused = operation.resolve("k", Verdict::Released).await.unwrap();
    assert!(matches!(refused, Resolution::StillRunning { lease_left } if lease_left <= LEASE));
    works.let_go();
    assert_eq!(running.await.unwrap().unwrap(), 1);
}

#[test]
fn without_a_runtime_a_call_is_refused_and_does_not_panic() {
    let operation = operation(&faulty());
    let refused = must_not_run(&operation, "k", request())
        .now_or_never()
        .unwrap();
    assert!(matches!(refused, Err(Error::NoRuntime)));
}

#[tokio::test(start_paused = true)]
async fn an_engine_is_idle_when_the_last_end_is_stored() {
    let store = faulty();
    let engine = Engine::new(store.clone());
    engine.idle().await;
    let works = Works::default();
    let running = tokio::spawn({
        let (operation, works) = (operation_of(&engine), works.clone());
        let body = async move {
            works.stop_here().await;
            Ok::<_, Error>(1)
        };
        async move { operation.run("k", request(), body).await }
    });
    works.started().await;
    assert!(engine.idle().now_or_never().is_none());
    // The caller has its answer before the store has taken the outcome.
    store.fail(Method::Complete, 4, Fault::Unavailable);
    works.let_go();
    assert_eq!(running.await.unwrap().unwrap(), 1);
    assert!(engine.idle().now_or_never().is_none());
    engine.idle().await;
    assert_eq!(store.calls(Method::Complete), 5);
}

#[tokio::test(start_paused = true)]
async fn durations_beyond_all_clocks_do_not_panic() {
    let operation = operation(&faulty())
        .ttl(Duration::MAX)
        .lease(Duration::MAX)
        .in_flight(idem::InFlight::Wait(Duration::MAX));
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 1);
    assert_eq!(must_not_run(&operation, "k", request()).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_operator_does_not_finish_what_was_freed_while_he_looked() {
    let records = MemoryStore::new();
    let store = FaultyStore::new(Arc::new(records.clone()));
    let operation = operation(&store).on_crash(OnCrash::Refuse);
    crash(&operation, "k").await;
    let gate = store.hold(Method::Claim);
    let resolving = tokio::spawn({
        let operation = operation.clone();
        let verdict = Verdict::Final(Outcome::Value(Bytes::from_static(b"42")));
        async move { operation.resolve("k", verdict).await }
    });
    // He has inspected it, crashed; another frees it before he claims.
    gate.arrived(1).await;
    let elsewhere = operation_of(&Engine::new(records));
    let freed = elsewhere.resolve("k", Verdict::Released).await;
    assert_eq!(freed.unwrap(), Resolution::Resolved);
    gate.open();
    let resolved = resolving.await.unwrap().unwrap();
    assert_eq!(resolved, Resolution::ChangedMeanwhile);
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_operator_names_a_record_by_its_id() {
    let operation = operation(&faulty()).on_crash(OnCrash::Refuse);
    crash(&operation, "k").await;
    // As a log line has it.
    let id = operation.record_id("k").unwrap().to_string();
    let id: RecordId = id.parse().unwrap();
    let found = operation.inspect_record(&id).await.unwrap().unwrap();
    assert_eq!(format!("{:?}", found.phase), "Crashed");
    let resolved = operation.resolve_record(&id, Verdict::Released).await;
    assert_eq!(resolved.unwrap(), Resolution::Resolved);
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 1);
}

async fn crash(operation: &Operation, key: &str) {
    let body = async { panic!("half-way") };
    let run = operation.run::<_, _, Result<u32, Error>>(key, request(), body);
    let crashed = std::panic::AssertUnwindSafe(run).catch_unwind().await;
    crashed.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn floats_come_back_as_they_were() {
    let operation = operation(&faulty());
    let values: Vec<f64> = (0..1000)
        .map(|n| f64::from_bits(0x3fb9_9999_9999_0000 + n * 0x1_0001))
        .chain([0.1 + 0.2, f64::MIN_POSITIVE, f64::MAX, -0.0])
        .collect();
    for _ in 0..2 {
        let body = async { Ok::<_, Error>(values.clone()) };
        let answer = operation.run("k", request(), body).await.unwrap();
        assert!(
            answer
                .iter()
                .map(|f| f.to_bits())
                .eq(values.iter().map(|f| f.to_bits()))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_scope_with_a_missing_part_is_refused_and_an_absent_one_is_none() {
    let operation = operation(&faulty());
    let none: Option<&str> = None;
    for scope in [("tenant a", none), ("tenant b", none)] {
        let scoped = operation.clone().scope(&scope);
        let refused = must_not_run(&scoped, "k", request()).await;
        assert!(matches!(refused, Err(Error::Scope(_))), "{refused:?}");
    }
    assert!(!operation.clone().scope(&none).has_scope());
}
