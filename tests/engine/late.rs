//! Calls that arrive late, after calls that were made after them, and ends that the store does not
//! take: nothing stays held that nobody uses, and what waits is bounded.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use idem::conformance::faults::{Fault, FaultyStore, Method};
use idem::store::{Change, Claim, Claimed, Forgotten, Lease, Listing, Page, Store, Token, Watch};
use idem::stores::memory::MemoryStore;
use idem::{Engine, Error, Inspection, OnCrash, Operation, RecordId, StoreError};
use tokio::time::{Instant, sleep, timeout};

use crate::bench::{LEASE, attempt_number, faulty, must_not_run, operation, operation_of, request};
use crate::works::Works;

const POLICIES: [OnCrash; 2] = [OnCrash::Rerun, OnCrash::Refuse];

/// What a call may be late by.
const WINDOW: Duration = Duration::from_secs(5);

/// A body that says that nothing happened.
async fn fails(operation: &Operation, key: &str) {
    let body = async { Err::<u32, _>(Error::Mismatch) };
    let answer = operation.run(key, request(), body).await;
    assert!(matches!(answer, Err(Error::Mismatch)), "{answer:?}");
}

/// Nobody holds the key: a process that has seen nothing may run it, as the first attempt.
async fn is_free(store: &FaultyStore, key: &str) {
    let elsewhere = operation(store).on_crash(OnCrash::Refuse);
    assert_eq!(attempt_number(&elsewhere, key).await.unwrap(), 1);
}

fn rejected() -> Fault {
    Fault::Error(StoreError::rejected("memory", std::fmt::Error))
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_arrives_after_its_release_is_undone() {
    for on_crash in POLICIES {
        let store = faulty();
        let engine = Engine::new(store.clone());
        let operation = operation_of(&engine).on_crash(on_crash);
        store.fail(Method::Claim, 2, Fault::Late);
        let refused = must_not_run(&operation, "k", request()).await;
        assert!(matches!(refused, Err(Error::Store(_))), "{refused:?}");
        let undone = timeout(WINDOW, store.called(Method::Release, 2));
        undone.await.unwrap();
        assert_eq!(store.deliver_late().await, 2);
        engine.idle().await;
        is_free(&store, "k").await;
    }
}

/// As behind a proxy that holds one connection up while others pass.
#[tokio::test(start_paused = true)]
async fn where_a_crash_refuses_a_claim_that_arrives_within_a_lease_is_undone() {
    for late_by in [WINDOW * 2, LEASE * 3 / 4] {
        let store = faulty();
        let engine = Engine::new(store.clone());
        let operation = operation_of(&engine).lease(LEASE);
        let operation = operation.on_crash(OnCrash::Refuse);
        store.fail(Method::Claim, 2, Fault::Late);
        let refused = must_not_run(&operation, "k", request()).await;
        assert!(matches!(refused, Err(Error::Store(_))), "{refused:?}");
        sleep(late_by).await;
        assert_eq!(store.deliver_late().await, 2);
        engine.idle().await;
        is_free(&store, "k").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_try_that_arrives_after_the_second_has_released_is_undone() {
    for on_crash in POLICIES {
        let store = faulty();
        let engine = Engine::new(store.clone());
        store.fail(Method::Claim, 1, Fault::Late);
        fails(&operation_of(&engine).on_crash(on_crash), "k").await;
        assert_eq!(store.deliver_late().await, 1);
        engine.idle().await;
        is_free(&store, "k").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_try_that_arrives_after_the_attempt_crashed_ends_at_once() {
    let store = faulty();
    let engine = Engine::new(store.clone());
    let operation = operation_of(&engine);
    store.fail(Method::Claim, 1, Fault::Late);
    let call = tokio::spawn({
        let operation = operation.clone();
        async move { must_not_run(&operation, "k", request()).await }
    });
    assert!(call.await.unwrap_err().is_panic());
    // It takes the crashed record over, for nobody.
    assert_eq!(store.deliver_late().await, 1);
    let before = Instant::now();
    engine.idle().await;
    assert!(before.elapsed() < LEASE);
    // The crash is not forgotten.
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_first_try_that_arrives_after_the_second_has_finished_changes_nothing() {
    for on_crash in POLICIES {
        let store = faulty();
        let operation = operation(&store).on_crash(on_crash);
        store.fail(Method::Claim, 1, Fault::Late);
        assert_eq!(attempt_number(&operation, "k").await.unwrap(), 1);
        assert_eq!(store.deliver_late().await, 1);
        assert_eq!(must_not_run(&operation, "k", request()).await.unwrap(), 1);
        assert_eq!(store.calls(Method::Release), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_try_that_arrives_after_the_second_was_refused_is_undone() {
    for on_crash in POLICIES {
        let store = faulty();
        let works = Works::default();
        let holder = tokio::spawn({
            let (operation, works) = (operation(&store), works.clone());
            async move {
                let body = async {
                    works.stop_here().await;
                    Err::<u32, _>(Error::Mismatch)
                };
                operation.run("k", request(), body).await
            }
        });
        works.started().await;
        let engine = Engine::new(store.clone());
        store.fail(Method::Claim, 1, Fault::Late);
        let operation = operation_of(&engine).on_crash(on_crash);
        let refused = must_not_run(&operation, "k", request()).await;
        assert!(
            matches!(refused, Err(Error::InFlight { .. })),
            "{refused:?}"
        );
        works.let_go();
        assert!(holder.await.unwrap().is_err());
        assert_eq!(store.deliver_late().await, 1);
        engine.idle().await;
        is_free(&store, "k").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_arrives_after_its_attempt_has_released_is_undone() {
    for on_crash in POLICIES {
        let store = faulty();
        let engine = Engine::new(store.clone());
        let operation = operation_of(&engine).on_crash(on_crash);
        store.fail(Method::Renew, 1, Fault::Late);
        let body = async {
            store.called(Method::Renew, 2).await;
            Err::<u32, _>(Error::Mismatch)
        };
        assert!(operation.run("k", request(), body).await.is_err());
        assert_eq!(store.deliver_late().await, 1);
        engine.idle().await;
        is_free(&store, "k").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_on_its_way_when_its_attempt_releases_is_undone() {
    let store = faulty();
    let engine = Engine::new(store.clone());
    let operation = operation_of(&engine).on_crash(OnCrash::Refuse);
    let gate = store.hold(Method::Renew);
    store.fail(Method::Renew, 1, Fault::Late);
    let body = async {
        gate.arrived(1).await;
        Err::<u32, _>(Error::Mismatch)
    };
    assert!(operation.run("k", request(), body).await.is_err());
    // It was dropped at the gate; what was sent is not known to whoever drops it.
    let undone = timeout(WINDOW, store.called(Method::Release, 2));
    undone.await.unwrap();
    engine.idle().await;
    is_free(&store, "k").await;
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_longer_than_the_lease_no_key_is_stuck() {
    for on_crash in POLICIES {
        let store = faulty();
        let engine = Engine::new(store.clone());
        let operation = operation_of(&engine).on_crash(on_crash);
        store.fail_everything(&Fault::Late);
        let keys: Vec<_> = (0..400).map(|key| key.to_string()).collect();
        let refused = keys
            .iter()
            .map(|key| must_not_run(&operation, key, request()));
        for refused in join_all(refused).await {
            assert!(matches!(refused, Err(Error::Store(_))), "{refused:?}");
        }
        sleep(LEASE * 3).await;
        store.heal_everything();
        // What lay in the buffers of the stopped server.
        store.deliver_late().await;
        engine.idle().await;
        // Under `rerun` a lease that nobody has undone is over some day.
        sleep(LEASE).await;
        for key in &keys {
            let attempt = attempt_number(&operation, key).await;
            assert!(attempt.is_ok(), "{key}: {attempt:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_600_answers_lost_at_once_no_key_is_stuck() {
    for on_crash in POLICIES {
        let store = faulty();
        let engine = Engine::new(store.clone());
        let operation = operation_of(&engine).on_crash(on_crash);
        store.fail_always(Method::Claim, Fault::LoseAnswer);
        let keys: Vec<_> = (0..600).map(|key| key.to_string()).collect();
        let refused = keys
            .iter()
            .map(|key| must_not_run(&operation, key, request()));
        for refused in join_all(refused).await {
            assert!(matches!(refused, Err(Error::Store(_))), "{refused:?}");
        }
        store.heal_everything();
        engine.idle().await;
        for key in &keys {
            assert_eq!(attempt_number(&operation, key).await.unwrap(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_store_has_answered_is_not_undone() {
    let source = std::fmt::Error;
    for error in [
        StoreError::not_sent("memory", source),
        StoreError::not_ready("memory", source),
        StoreError::busy("memory", source),
        StoreError::rejected("memory", source),
        StoreError::Overloaded { store: "memory" },
    ] {
        let store = faulty();
        let engine = Engine::new(store.clone());
        store.fail_always(Method::Claim, Fault::Error(error.clone()));
        let refused = must_not_run(&operation_of(&engine), "k", request()).await;
        assert!(matches!(refused, Err(Error::Store(_))), "{refused:?}");
        engine.idle().await;
        sleep(WINDOW * 2).await;
        assert_eq!(store.calls(Method::Release), 0, "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_is_not_tried_again() {
    for (error, tries) in [
        (StoreError::not_sent("memory", std::fmt::Error), 1),
        (StoreError::Overloaded { store: "memory" }, 1),
        (StoreError::busy("memory", std::fmt::Error), 1),
        // Perhaps another server does.
        (StoreError::not_ready("memory", std::fmt::Error), 2),
    ] {
        let store = faulty();
        store.fail_always(Method::Claim, Fault::Error(error.clone()));
        let refused = must_not_run(&operation(&store), "k", request()).await;
        assert!(matches!(refused, Err(Error::Store(_))), "{refused:?}");
        assert_eq!(store.calls(Method::Claim), tries, "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_overloaded_is_no_reason_to_run_unprotected() {
    let store = faulty();
    let engine = Engine::builder(store.clone()).fail_open(true).build();
    for error in [
        StoreError::Overloaded { store: "memory" },
        StoreError::busy("memory", std::fmt::Error),
        StoreError::rejected("memory", std::fmt::Error),
    ] {
        store.fail(Method::Claim, 1, Fault::Error(error));
        let refused = must_not_run(&operation_of(&engine), "k", request()).await;
        assert!(matches!(refused, Err(Error::Store(_))), "{refused:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn idle_waits_for_what_is_undone() {
    let store = faulty();
    let engine = Engine::new(store.clone());
    store.fail(Method::Claim, 2, Fault::Late);
    let refused = must_not_run(&operation_of(&engine), "k", request()).await;
    assert!(matches!(refused, Err(Error::Store(_))), "{refused:?}");
    let before = Instant::now();
    engine.idle().await;
    assert!(before.elapsed() >= WINDOW);
}

#[tokio::test(start_paused = true)]
async fn idle_waits_for_a_body_without_a_key() {
    let engine = Engine::new(MemoryStore::new());
    let works = Works::default();
    let body = tokio::spawn({
        let (unprotected, works) = (operation_of(&engine).unprotected(), works.clone());
        async move { unprotected.drive(works.stop_here()).await }
    });
    works.started().await;
    let idle = tokio::spawn({
        let engine = engine.clone();
        async move { engine.idle().await }
    });
    sleep(Duration::from_secs(60)).await;
    assert!(!idle.is_finished());
    works.let_go();
    body.await.unwrap();
    idle.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn at_the_bound_of_what_is_unsettled_new_claims_are_refused_unsent() {
    let store = FaultyStore::new(Arc::new(MemoryStore::new()));
    let engine = Engine::builder(store.clone())
        .max_unsettled(10, usize::MAX)
        .build();
    let operation = operation_of(&engine);
    store.fail_always(Method::Complete, rejected());
    for key in 0..10 {
        let answer = attempt_number(&operation, &key.to_string()).await;
        assert_eq!(answer.unwrap(), 1);
    }
    let claims = store.calls(Method::Claim);
    let refused = must_not_run(&operation, "one more", request()).await;
    let Err(Error::Store(error @ StoreError::NotSent { .. })) = refused else {
        panic!("{refused:?}");
    };
    let source = std::error::Error::source(&error).unwrap();
    assert!(
        source.to_string().contains("not taken the ends"),
        "{source}"
    );
    assert_eq!(store.calls(Method::Claim), claims);
    // Somebody sets it right: all is stored, and new claims are taken.
    store.heal_everything();
    engine.idle().await;
    assert_eq!(attempt_number(&operation, "one more").await.unwrap(), 1);
    for key in 0..10 {
        let replayed = must_not_run(&operation, &key.to_string(), request()).await;
        assert_eq!(replayed.unwrap(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn the_bound_counts_the_bytes_of_outcomes() {
    let store = faulty();
    let engine = Engine::builder(store.clone())
        .max_unsettled(usize::MAX, 100)
        .build();
    let operation = operation_of(&engine);
    store.fail_always(Method::Complete, rejected());
    let body = async { Ok::<_, Error>("x".repeat(100)) };
    assert!(operation.run("large", request(), body).await.is_ok());
    let refused = must_not_run(&operation, "next", request()).await;
    assert!(
        matches!(refused, Err(Error::Store(StoreError::NotSent { .. }))),
        "{refused:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_end_that_the_store_refuses_is_offered_ever_more_seldom() {
    let store = faulty();
    store.fail_always(Method::Complete, rejected());
    assert_eq!(attempt_number(&operation(&store), "k").await.unwrap(), 1);
    sleep(Duration::from_secs(600)).await;
    let calls = store.calls(Method::Complete);
    assert!((15..60).contains(&calls), "{calls}");
}

#[tokio::test(start_paused = true)]
async fn a_completion_is_sent_again_before_the_caller_has_its_answer() {
    for fault in [
        Fault::Unavailable,
        Fault::LoseAnswer,
        Fault::Error(StoreError::not_sent("memory", std::fmt::Error)),
        Fault::Error(StoreError::not_ready("memory", std::fmt::Error)),
    ] {
        let store = faulty();
        store.fail(Method::Complete, 1, fault);
        assert_eq!(attempt_number(&operation(&store), "k").await.unwrap(), 1);
        // No time for a background task: it is there already.
        let elsewhere = operation(&store);
        assert_eq!(must_not_run(&elsewhere, "k", request()).await.unwrap(), 1);
        assert_eq!(store.calls(Method::Complete), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_whose_store_has_forgotten_it_goes_on() {
    for when in ["it renews", "it completes"] {
        let store = Forgetful::default();
        let here = operation_of(&Engine::new(store.clone()));
        let elsewhere = operation_of(&Engine::new(store.clone()));
        let body = async {
            store.forget_all();
            assert_eq!(here.inspect("k").await.unwrap(), None);
            if when == "it renews" {
                sleep(LEASE).await;
                let refused = must_not_run(&elsewhere, "k", request()).await;
                assert!(
                    matches!(refused, Err(Error::InFlight { .. })),
                    "{refused:?}"
                );
            }
            assert!(!idem::attempt().lease_lost());
            Ok::<_, Error>(7)
        };
        assert_eq!(here.run("k", request(), body).await.unwrap(), 7);
        assert_eq!(must_not_run(&elsewhere, "k", request()).await.unwrap(), 7);
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_whose_lease_was_broken_creates_nothing_again() {
    let store = Forgetful::default();
    let faulty = FaultyStore::new(Arc::new(store.clone()));
    let here = operation(&faulty);
    let body = async {
        // Its renewals do not come through for longer than the lease.
        faulty.fail_always(Method::Renew, Fault::Unavailable);
        sleep(LEASE * 2).await;
        assert!(idem::attempt().lease_lost());
        store.forget_all();
        Ok::<_, Error>(7)
    };
    // What it made is its caller's.
    assert_eq!(here.run("k", request(), body).await.unwrap(), 7);
    assert_eq!(here.inspect("k").await.unwrap(), None);
}

/// A store that forgets everything, as a failover does.
#[derive(Clone, Default)]
pub(crate) struct Forgetful(Arc<Mutex<MemoryStore>>);

impl Forgetful {
    pub(crate) fn forget_all(&self) {
        *self.0.lock().unwrap() = MemoryStore::new();
    }

    fn now(&self) -> MemoryStore {
        self.0.lock().unwrap().clone()
    }
}

#[async_trait::async_trait]
impl Store for Forgetful {
    fn name(&self) -> &'static str {
        "forgetful"
    }
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        self.now().claim(claim).await
    }
    async fn renew(&self, lease: &Lease) -> Result<Change, StoreError> {
        self.now().renew(lease).await
    }
    async fn complete(&self, lease: &Lease, outcome: Bytes) -> Result<Change, StoreError> {
        self.now().complete(lease, outcome).await
    }
    async fn release(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.now().release(id, token).await
    }
    async fn abandon(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.now().abandon(id, token).await
    }
    async fn inspect(&self, id: &RecordId) -> Result<Option<Inspection>, StoreError> {
        self.now().inspect(id).await
    }
    async fn watch(&self, id: &RecordId) -> Result<Watch, StoreError> {
        self.now().watch(id).await
    }
    async fn checkpoint(
        &self,
        lease: &Lease,
        at: usize,
        steps: Bytes,
    ) -> Result<Change, StoreError> {
        self.now().checkpoint(lease, at, steps).await
    }
    async fn suspend(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.now().suspend(id, token).await
    }
    async fn list(&self, listing: &Listing) -> Result<Page, StoreError> {
        self.now().list(listing).await
    }
    async fn forget(&self, id: &RecordId) -> Result<Forgotten, StoreError> {
        self.now().forget(id).await
    }
}
