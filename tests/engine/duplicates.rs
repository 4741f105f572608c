//! Duplicates in one process and in several: who runs, who waits, who asks the store.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use idem::conformance::faults::{Fault, FaultyStore, Method};
use idem::store::{Change, Claim, Claimed, Forgotten, Lease, Listing, Page, Store, Token, Watch};
use idem::{Engine, Error, InFlight, Inspection, Operation, RecordId, StoreError};
use tokio::task::JoinHandle;

use crate::bench::{
    Answer, LEASE, attempt_number, faulty, must_not_run, operation, operation_of, other_request,
    request,
};
use crate::works::Works;

const PATIENT: InFlight = InFlight::Wait(Duration::from_secs(60));

/// Starts a body that stops until it is let go, and waits until it runs.
async fn start(operation: &Operation, works: &Works) -> JoinHandle<Answer> {
    let (operation, inside) = (operation.clone(), works.clone());
    let body = async move {
        inside.stop_here().await;
        Ok(inside.execute())
    };
    let running = tokio::spawn(async move { operation.run("k", request(), body).await });
    works.started().await;
    running
}

fn duplicates(operation: &Operation, count: usize) -> Vec<JoinHandle<Answer>> {
    let one = |_| {
        let operation = operation.clone();
        tokio::spawn(async move { must_not_run(&operation, "k", request()).await })
    };
    (0..count).map(one).collect()
}

/// Lets every other task of a current-thread runtime go as far as it can.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_thousand_duplicates_in_one_process_cost_two_store_calls_in_all() {
    let store = faulty();
    let operation = operation(&store).in_flight(PATIENT);
    let works = Works::default();
    let first = start(&operation, &works).await;
    let waiting = duplicates(&operation, 1000);
    settle().await;
    works.let_go();
    for answer in join_all(waiting).await {
        assert_eq!(answer.unwrap().unwrap(), 1);
    }
    assert_eq!(first.await.unwrap().unwrap(), 1);
    assert_eq!((works.executed(), store.all_calls()), (1, 2));
}

#[tokio::test]
async fn refused_duplicates_cost_no_store_call() {
    let store = faulty();
    let operation = operation(&store);
    let works = Works::default();
    let first = start(&operation, &works).await;
    for answer in join_all(duplicates(&operation, 100)).await {
        assert!(matches!(answer.unwrap(), Err(Error::InFlight { .. })));
    }
    assert_eq!(store.all_calls(), 1);
    works.let_go();
    assert_eq!(first.await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn duplicates_that_arrive_before_the_claim_is_answered_share_its_answer() {
    // Acquired, finished before, and failed: none sends a claim of its own.
    for finished_before in [false, true] {
        let store = faulty();
        let patient = operation(&store).in_flight(PATIENT);
        if finished_before {
            assert_eq!(attempt_number(&patient, "k").await.unwrap(), 1);
        }
        let claims = store.calls(Method::Claim);
        let gate = store.hold(Method::Claim);
        let calls: Vec<_> = (0..10)
            .map(|_| {
                let operation = patient.clone();
                tokio::spawn(async move { attempt_number(&operation, "k").await })
            })
            .collect();
        gate.arrived(1).await;
        settle().await;
        gate.open();
        for call in join_all(calls).await {
            assert_eq!(call.unwrap().unwrap(), 1);
        }
        assert_eq!(store.calls(Method::Claim), claims + 1);
    }
    let store = faulty();
    let operation = operation(&store);
    let gate = store.hold(Method::Claim);
    let calls = duplicates(&operation, 10);
    gate.arrived(1).await;
    settle().await;
    store.fail(Method::Claim, 2, Fault::Unavailable);
    gate.open();
    for call in join_all(calls).await {
        assert!(matches!(call.unwrap(), Err(Error::Store(_))));
    }
}

#[tokio::test]
async fn another_request_is_a_mismatch_at_every_moment_of_the_first() {
    let store = faulty();
    let operation = operation(&store).in_flight(PATIENT);
    let works = Works::default();
    // While the claim is on its way.
    let gate = store.hold(Method::Claim);
    let inside = works.clone();
    let first = tokio::spawn({
        let operation = operation.clone();
        let body = async move {
            inside.stop_here().await;
            Ok::<_, Error>(inside.execute())
        };
        async move { operation.run("k", request(), body).await }
    });
    gate.arrived(1).await;
    let early = tokio::spawn({
        let operation = operation.clone();
        async move { must_not_run(&operation, "k", other_request()).await }
    });
    settle().await;
    gate.open();
    works.started().await;
    assert!(matches!(early.await.unwrap(), Err(Error::Mismatch)));
    // While the body runs, here and seen from another process.
    let elsewhere = operation_of(&Engine::new(store.clone()));
    for operation in [&operation, &elsewhere] {
        let refused = must_not_run(operation, "k", other_request()).await;
        assert!(matches!(refused, Err(Error::Mismatch)));
    }
    works.let_go();
    assert_eq!(first.await.unwrap().unwrap(), 1);
    // When it is finished.
    for operation in [&operation, &elsewhere] {
        let refused = must_not_run(operation, "k", other_request()).await;
        assert!(matches!(refused, Err(Error::Mismatch)));
        assert_eq!(must_not_run(operation, "k", request()).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_right_request_is_not_refused_because_a_wrong_one_claims_at_the_same_time() {
    let store = faulty();
    let operation = operation(&store);
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 1);
    let gate = store.hold(Method::Claim);
    let wrong = tokio::spawn({
        let operation = operation.clone();
        async move { must_not_run(&operation, "k", other_request()).await }
    });
    gate.arrived(1).await;
    let right = duplicates(&operation, 1).remove(0);
    settle().await;
    gate.open();
    assert!(matches!(wrong.await.unwrap(), Err(Error::Mismatch)));
    assert_eq!(right.await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn when_the_first_is_released_its_waiters_run_one_after_another() {
    let store = faulty();
    let operation = operation(&store).in_flight(PATIENT);
    let works = Works::default();
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let (operation, works) = (operation.clone(), works.clone());
            let body = async move {
                works.stop_here().await;
                match works.execute() {
                    1 => Err(Error::Mismatch),
                    number => Ok(number),
                }
            };
            tokio::spawn(async move { operation.run("k", request(), body).await })
        })
        .collect();
    for _ in 0..2 {
        works.started().await;
        settle().await;
        works.let_go();
    }
    let mut answers: Vec<_> = join_all(calls)
        .await
        .into_iter()
        .map(|call| call.unwrap().ok())
        .collect();
    answers.sort_unstable();
    assert_eq!(answers, [None, Some(2), Some(2)]);
    assert_eq!(works.executed(), 2);
}

#[tokio::test]
async fn when_a_leader_goes_away_before_its_claim_is_answered_another_leads() {
    let store = faulty();
    let operation = operation(&store);
    let gate = store.hold(Method::Claim);
    let leader = duplicates(&operation, 1).remove(0);
    gate.arrived(1).await;
    let follower = tokio::spawn({
        let operation = operation.clone();
        async move { attempt_number(&operation, "k").await }
    });
    settle().await;
    leader.abort();
    store.called(Method::Claim, 2).await;
    gate.open();
    assert_eq!(follower.await.unwrap().unwrap(), 1);
}

/// Two engines over one store, as two processes.
fn two(store: &FaultyStore) -> (Operation, Operation) {
    (
        operation(store).in_flight(PATIENT),
        operation(store).in_flight(PATIENT),
    )
}

#[tokio::test(start_paused = true)]
async fn a_waiter_in_another_process_is_woken_by_the_store() {
    let store = faulty();
    let (here, there) = two(&store);
    let works = Works::default();
    let first = start(&here, &works).await;
    let waiting = duplicates(&there, 100);
    store.called(Method::Watch, 1).await;
    settle().await;
    let before = tokio::time::Instant::now();
    works.let_go();
    for answer in join_all(waiting).await {
        assert_eq!(answer.unwrap().unwrap(), 1);
    }
    // Woken, not polled: the paused clock has not moved.
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert_eq!(first.await.unwrap().unwrap(), 1);
    // The first's claim and completion; the waiters' claim, watch, claim, and last claim.
    assert_eq!(works.executed(), 1);
    assert!(
        store.calls(Method::Claim) <= 4,
        "{}",
        store.calls(Method::Claim)
    );
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_is_not_told_to_wait_longer_than_the_lease_of_another_process() {
    let store = faulty();
    let works = Works::default();
    let first = start(&operation(&store), &works).await;
    for (setting, told) in [
        (Duration::from_secs(1), Duration::from_secs(1)),
        (LEASE * 10, LEASE),
    ] {
        let there = Engine::builder(store.clone()).retry_after(setting).build();
        let refused = must_not_run(&operation_of(&there), "k", request()).await;
        let Err(Error::InFlight { retry_after }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(retry_after, told);
    }
    works.let_go();
    assert_eq!(first.await.unwrap().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_whose_notification_is_lost_finds_the_outcome_by_itself() {
    let store = faulty();
    store.fail_always(Method::Watch, Fault::Unavailable);
    let (here, there) = two(&store);
    let works = Works::default();
    let first = start(&here, &works).await;
    let waiting = duplicates(&there, 10);
    settle().await;
    works.let_go();
    let before = tokio::time::Instant::now();
    for answer in join_all(waiting).await {
        assert_eq!(answer.unwrap().unwrap(), 1);
    }
    assert!(before.elapsed() <= Duration::from_secs(1));
    assert_eq!(first.await.unwrap().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_change_between_the_claim_and_the_watch_is_not_missed() {
    let store = faulty();
    let (here, there) = two(&store);
    let works = Works::default();
    let first = start(&here, &works).await;
    let gate = store.hold(Method::Watch);
    let waiting = duplicates(&there, 1).remove(0);
    gate.arrived(1).await;
    // The record is finished while the waiter is between its claim and its watch.
    works.let_go();
    assert_eq!(first.await.unwrap().unwrap(), 1);
    let before = tokio::time::Instant::now();
    gate.open();
    assert_eq!(waiting.await.unwrap().unwrap(), 1);
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_does_not_hang_behind_a_leader_that_nobody_polls() {
    let store = faulty();
    let operation = operation(&store);
    store.fail(Method::Claim, 1, Fault::Hang);
    let mut leader = Box::pin(must_not_run(&operation, "k", request()));
    assert!(leader.as_mut().now_or_never().is_none());
    let before = tokio::time::Instant::now();
    let refused = must_not_run(&operation, "k", request()).await;
    assert!(matches!(refused, Err(Error::InFlight { .. })));
    assert!(before.elapsed() <= crate::bench::STORE_TIMEOUT);
    let hurried = operation
        .clone()
        .in_flight(InFlight::Wait(Duration::from_millis(100)));
    let before = tokio::time::Instant::now();
    assert!(must_not_run(&hurried, "k", request()).await.is_err());
    assert!(before.elapsed() <= Duration::from_millis(101));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_calls_itself_under_its_own_key_is_refused() {
    let operation = operation(&faulty()).in_flight(InFlight::Wait(Duration::MAX));
    let inner = operation.clone();
    let body = async move {
        let own = must_not_run(&inner, "k", request()).await;
        assert!(matches!(own, Err(Error::InFlight { .. })));
        attempt_number(&inner, "another key").await
    };
    assert_eq!(operation.run("k", request(), body).await.unwrap(), 1);
}

/// A store whose watches are always ready, which is allowed.
#[derive(Clone)]
struct Nervous(FaultyStore);

#[async_trait::async_trait]
impl Store for Nervous {
    fn name(&self) -> &'static str {
        "nervous"
    }
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        self.0.claim(claim).await
    }
    async fn renew(&self, lease: &Lease) -> Result<Change, StoreError> {
        self.0.renew(lease).await
    }
    async fn complete(&self, lease: &Lease, outcome: bytes::Bytes) -> Result<Change, StoreError> {
        self.0.complete(lease, outcome).await
    }
    async fn release(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.0.release(id, token).await
    }
    async fn abandon(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.0.abandon(id, token).await
    }
    async fn inspect(&self, id: &RecordId) -> Result<Option<Inspection>, StoreError> {
        self.0.inspect(id).await
    }
    async fn watch(&self, _: &RecordId) -> Result<Watch, StoreError> {
        Ok(Watch::new(std::future::ready(())))
    }
    async fn checkpoint(
        &self,
        lease: &Lease,
        at: usize,
        steps: bytes::Bytes,
    ) -> Result<Change, StoreError> {
        self.0.checkpoint(lease, at, steps).await
    }
    async fn suspend(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.0.suspend(id, token).await
    }
    async fn list(&self, listing: &Listing) -> Result<Page, StoreError> {
        self.0.list(listing).await
    }
    async fn forget(&self, id: &RecordId) -> Result<Forgotten, StoreError> {
        self.0.forget(id).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_wakes_without_news_is_not_stormed_and_patience_ends_in_time() {
    let store = faulty();
    let works = Works::default();
    let first = start(&operation(&store), &works).await;
    let patience = Duration::from_secs(5);
    let waiter =
        operation_of(&Engine::new(Nervous(store.clone()))).in_flight(InFlight::Wait(patience));
    let before = tokio::time::Instant::now();
    let refused = must_not_run(&waiter, "k", request()).await;
    assert!(matches!(refused, Err(Error::InFlight { .. })));
    assert!(before.elapsed() <= patience + Duration::from_millis(1));
    assert!(
        store.calls(Method::Claim) < 50,
        "{}",
        store.calls(Method::Claim)
    );
    works.let_go();
    assert_eq!(first.await.unwrap().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_back_to_its_own_key_through_others_does_not_wait_for_itself() {
    let engine = Engine::new(faulty());
    let of = |name: &'static str| {
        engine
            .operation(name)
            .in_flight(InFlight::Wait(Duration::MAX))
    };
    let (outer, middle) = (of("outer"), of("middle"));
    let body = async {
        let within = async {
            let refused = must_not_run(&outer, "k", request()).await;
            assert!(
                matches!(refused, Err(Error::InFlight { .. })),
                "{refused:?}"
            );
            // Another key is another operation.
            attempt_number(&outer, "another").await
        };
        middle.run("k", request(), within).await
    };
    assert_eq!(outer.run("k", request(), body).await.unwrap(), 1);
}

/// Counts how often a future is polled.
struct Polls<F>(Pin<Box<F>>, Arc<AtomicUsize>);

impl<F: Future> Future for Polls<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.as_mut().poll(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn when_bodies_fail_one_waiter_wakes_and_not_all() {
    const WAITERS: usize = 1000;
    let store = faulty();
    let operation = operation(&store).in_flight(InFlight::Wait(Duration::MAX));
    let works = Works::default();
    let polls = Arc::<AtomicUsize>::default();
    let first = tokio::spawn({
        let (operation, works) = (operation.clone(), works.clone());
        async move {
            let body = async {
                works.stop_here().await;
                Err::<u32, _>(Error::Mismatch)
            };
            operation.run("k", request(), body).await
        }
    });
    works.started().await;
    let waiters: Vec<_> = (0..WAITERS)
        .map(|_| {
            let (operation, works) = (operation.clone(), works.clone());
            let call = async move {
                let body = async {
                    works.execute();
                    Err::<u32, _>(Error::Mismatch)
                };
                operation.run("k", request(), body).await
            };
            tokio::spawn(Polls(Box::pin(call), Arc::clone(&polls)))
        })
        .collect();
    // All wait.
    while polls.load(Ordering::Relaxed) < WAITERS {
        tokio::task::yield_now().await;
    }
    works.let_go();
    assert!(first.await.unwrap().is_err());
    for waiter in waiters {
        let answer = waiter.await.unwrap();
        assert!(matches!(answer, Err(Error::Mismatch)), "{answer:?}");
    }
    // Every one has run, after the other, and none was woken for the others.
    assert_eq!(works.executed() as usize, WAITERS);
    let polls = polls.load(Ordering::Relaxed);
    assert!(polls < WAITERS * 10, "{polls}");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_was_to_follow_and_goes_away_leaves_it_to_the_next() {
    let store = faulty();
    let operation = operation(&store).in_flight(InFlight::Wait(Duration::MAX));
    let works = Works::default();
    let first = start(&operation, &works).await;
    let waiter = || {
        let operation = operation.clone();
        tokio::spawn(async move { attempt_number(&operation, "k").await })
    };
    let (goes, stays) = (waiter(), waiter());
    tokio::task::yield_now().await;
    // The leader is dropped half-way: the key is free for the next, who is gone when he is told.
    store.fail(Method::Abandon, 1, Fault::LoseAnswer);
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    goes.abort();
    assert_eq!(stays.await.unwrap().unwrap(), 2);
}
