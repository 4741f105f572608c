//! What an observer is told: each decision, start, step and end, with operation and record.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use idem::conformance::faults::{Fault, FaultyStore, Method};
use idem::{Decision, Engine, Error, Event, EventKind, Observer, Operation, RecordId};

use crate::bench::{
    LEASE, attempt_number, faulty, must_not_run, operation_of, other_request, request,
};

/// Of which record, and in words.
type Words = (Option<RecordId>, String);

/// What was told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Words>>>);

impl Observer for Told {
    fn observe(&self, event: &Event<'_>) {
        assert_eq!(event.operation, "tests.engine");
        let word = match event.kind {
            EventKind::Decided {
                decision,
                first_claimed_at,
            } => match first_claimed_at {
                None => decision.as_str().to_owned(),
                Some(at) => {
                    assert!(at > SystemTime::now() - Duration::from_secs(3600));
                    format!("{} with its time", decision.as_str())
                }
            },
            kind => format!("{kind:?}"),
        };
        self.0.lock().unwrap().push((event.record, word));
    }
}

impl Told {
    /// Since it was asked last; all are of this record.
    fn of(&self, record: Option<RecordId>) -> Vec<String> {
        let told = std::mem::take(&mut *self.0.lock().unwrap());
        let words = told.into_iter().map(|(of, word)| {
            assert_eq!(of, record);
            word
        });
        words.collect()
    }
}

fn observed() -> (FaultyStore, Told, Operation) {
    let (store, told) = (faulty(), Told::default());
    let engine = Engine::builder(store.clone())
        .observer(told.clone())
        .build();
    (store, told, operation_of(&engine))
}

#[tokio::test(start_paused = true)]
async fn an_observer_is_told_from_the_decision_to_the_end() {
    let (_, told, operation) = observed();
    let id = Some(operation.record_id("k").unwrap());
    attempt_number(&operation, "k").await.unwrap();
    assert_eq!(
        told.of(id),
        [
            "Started { attempt: 1 }",
            "executed",
            "Finished { attempt: 1 }"
        ]
    );
    must_not_run(&operation, "k", request()).await.unwrap();
    assert_eq!(told.of(id), ["replayed with its time"]);
    let refused = must_not_run(&operation, "k", other_request()).await;
    refused.unwrap_err();
    assert_eq!(told.of(id), ["mismatch"]);
    let missing: Result<u32, Error> = operation.run("", request(), async { panic!() }).await;
    missing.unwrap_err();
    assert_eq!(told.of(None), ["key_invalid"]);
    let _ = operation.unprotected();
    assert_eq!(told.of(None), ["unprotected"]);
}

#[tokio::test(start_paused = true)]
async fn an_observer_is_told_of_steps_suspensions_and_releases() {
    let (_, told, operation) = observed();
    let id = Some(operation.record_id("k").unwrap());
    let hold = || idem::step("hold", async { Ok::<_, Error>(1) });
    let body = async {
        hold().await?;
        Err::<u32, _>(Error::NoEngine)
    };
    operation.run("k", request(), body).await.unwrap_err();
    let step = |attempt, given_back| {
        format!("Step {{ attempt: {attempt}, name: \"hold\", given_back: {given_back} }}")
    };
    assert_eq!(
        told.of(id),
        [
            "Started { attempt: 1 }",
            "executed",
            &step(1, false),
            "Suspended { attempt: 1 }"
        ]
    );
    operation.run("k", request(), hold()).await.unwrap();
    assert_eq!(
        told.of(id),
        [
            "Started { attempt: 2 }",
            "executed",
            &step(2, true),
            "Finished { attempt: 2 }"
        ]
    );
    let id = Some(operation.record_id("freed").unwrap());
    let body = async { Err::<u32, _>(Error::NoEngine) };
    operation.run("freed", request(), body).await.unwrap_err();
    assert_eq!(
        told.of(id),
        [
            "Started { attempt: 1 }",
            "executed",
            "Released { attempt: 1 }"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn an_observer_is_told_of_crashes_lost_leases_and_stores_that_are_away() {
    let (store, told, operation) = observed();
    let id = Some(operation.record_id("k").unwrap());
    let run = operation.run::<_, _, Result<u32, Error>>("k", request(), async { panic!("oh") });
    std::panic::AssertUnwindSafe(run)
        .catch_unwind()
        .await
        .unwrap_err();
    let crashed = "Crashed { attempt: 1, how: \"panic\" }";
    assert_eq!(told.of(id), ["Started { attempt: 1 }", "executed", crashed]);

    store.fail(Method::Complete, 1, Fault::Unavailable);
    attempt_number(&operation, "k").await.unwrap();
    let retried = "ChangeRetried { change: \"complete\" }";
    assert_eq!(
        told.of(id),
        [
            "Started { attempt: 2 }",
            "executed",
            retried,
            "Finished { attempt: 2 }"
        ]
    );

    let id = Some(operation.record_id("lost").unwrap());
    store.fail_always(Method::Renew, Fault::Hang);
    let body = async {
        tokio::time::sleep(2 * LEASE).await;
        assert_eq!(attempt_number(&operation, "lost").await.ok(), None);
        Ok::<_, Error>(1)
    };
    let elsewhere = operation_of(&Engine::new(store.clone()));
    let (here, there) = tokio::join!(operation.run("lost", request(), body), async {
        tokio::time::sleep(LEASE + Duration::from_secs(1)).await;
        attempt_number(&elsewhere, "lost").await
    });
    assert_eq!((here.unwrap(), there.unwrap()), (1, 2));
    let told = told.of(id);
    assert!(
        told.contains(&"LeaseLost { attempt: 1 }".to_owned()),
        "{told:?}"
    );
    assert!(
        !told.iter().any(|word| word.starts_with("Finished")),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_harms_nobody() {
    struct Panics;
    impl Observer for Panics {
        fn observe(&self, _: &Event<'_>) {
            panic!("on every event");
        }
    }
    let told = Told::default();
    let engine = Engine::builder(faulty())
        .observer(Panics)
        .observer(told.clone());
    let operation = operation_of(&engine.build());
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 1);
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 1);
    assert_eq!(told.of(Some(operation.record_id("k").unwrap())).len(), 4);
    assert_eq!(Decision::Executed.as_str(), "executed");
}
