//! The local cache: replays that ask nobody, for as long as the store keeps the record and no
//! longer.

use std::sync::Arc;
use std::time::Duration;

use idem::conformance::faults::{Fault, FaultyStore, Method};
use idem::stores::memory::MemoryStore;
use idem::{Engine, EngineBuilder, Error, Operation};

use crate::bench::{attempt_number, faulty, must_not_run, operation_of, other_request, request};

const TTL: Duration = Duration::from_secs(3600);
const A_SECOND: Duration = Duration::from_secs(1);

fn cached(store: &FaultyStore) -> Operation {
    bounded(store, 1_000_000)
}

fn bounded(store: &FaultyStore, max_bytes: u64) -> Operation {
    let builder = EngineBuilder::new(Arc::new(store.clone()));
    operation_of(&builder.cache(max_bytes).build()).ttl(TTL)
}

#[tokio::test]
async fn a_replay_where_the_first_ran_costs_no_store_call() {
    let store = faulty();
    let operation = cached(&store);
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 1);
    for _ in 0..10 {
        let replay = must_not_run(&operation, "k", request()).await;
        assert_eq!(replay.unwrap(), 1);
    }
    assert_eq!(store.all_calls(), 2);
    // Not even when there is no store.
    store.fail_everything(&Fault::Unavailable);
    assert_eq!(must_not_run(&operation, "k", request()).await.unwrap(), 1);
}

#[tokio::test]
async fn a_replay_of_another_process_costs_one_store_call_in_all() {
    let store = faulty();
    let elsewhere = operation_of(&Engine::new(store.clone())).ttl(TTL);
    assert_eq!(attempt_number(&elsewhere, "k").await.unwrap(), 1);
    let operation = cached(&store);
    for _ in 0..10 {
        assert_eq!(must_not_run(&operation, "k", request()).await.unwrap(), 1);
    }
    assert_eq!(store.all_calls(), 3);
}

#[tokio::test]
async fn another_request_under_a_cached_key_is_refused_and_changes_nothing() {
    let store = faulty();
    let operation = cached(&store);
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 1);
    let refused = must_not_run(&operation, "k", other_request()).await;
    assert!(matches!(refused, Err(Error::Mismatch)));
    assert_eq!(must_not_run(&operation, "k", request()).await.unwrap(), 1);
    assert_eq!(store.all_calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_cached_ends_with_its_retention() {
    let store = faulty();
    let operation = cached(&store);
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 1);
    tokio::time::advance(TTL - A_SECOND).await;
    assert_eq!(must_not_run(&operation, "k", request()).await.unwrap(), 1);
    assert_eq!(store.all_calls(), 2);
    tokio::time::advance(A_SECOND).await;
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 1);
    assert_eq!(store.calls(Method::Complete), 2);
}

#[tokio::test(start_paused = true)]
async fn a_replay_of_another_process_is_cached_for_what_is_left_of_its_retention() {
    let store = faulty();
    let elsewhere = operation_of(&Engine::new(store.clone())).ttl(TTL);
    assert_eq!(attempt_number(&elsewhere, "k").await.unwrap(), 1);
    tokio::time::advance(TTL / 2).await;
    // Its own ttl would be longer.
    let operation = cached(&store).ttl(2 * TTL);
    assert_eq!(must_not_run(&operation, "k", request()).await.unwrap(), 1);
    tokio::time::advance(TTL / 2 - A_SECOND).await;
    assert_eq!(must_not_run(&operation, "k", request()).await.unwrap(), 1);
    assert_eq!(store.all_calls(), 3);
    tokio::time::advance(A_SECOND).await;
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 1);
    assert_eq!(store.calls(Method::Complete), 2);
}

#[tokio::test(start_paused = true)]
async fn a_completion_that_was_sent_twice_is_cached_from_its_first_sending() {
    let store = faulty();
    let operation = cached(&store);
    store.fail(Method::Complete, 1, Fault::LoseAnswer);
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 1);
    // The first sending had its effect; the second is acknowledged in the background.
    store.called(Method::Complete, 2).await;
    tokio::time::advance(TTL).await;
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 1);
    assert_eq!(store.calls(Method::Complete), 3);
}

#[tokio::test]
async fn what_is_released_or_crashed_is_not_cached() {
    let store = faulty();
    let operation = cached(&store);
    let body = async { Err::<u32, _>(Error::Mismatch) };
    assert!(operation.run("k", request(), body).await.is_err());
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 1);
}

#[tokio::test]
async fn the_cache_is_bounded_by_bytes_and_what_falls_out_is_asked_for() {
    let store = faulty();
    let operation = bounded(&store, 100_000);
    let large = || async { Ok::<_, Error>("x".repeat(10_000)) };
    for key in 0..100 {
        operation.run(&key, request(), large()).await.unwrap();
    }
    for key in 0..100 {
        let replay = operation.run(&key, request(), async { Err::<String, _>(Error::Mismatch) });
        assert_eq!(replay.await.unwrap().len(), 10_000);
    }
    // A tenth fits at most; every other replay asked the store.
    assert!(
        store.calls(Method::Claim) >= 190,
        "{}",
        store.calls(Method::Claim)
    );
}

/// How many of sixty outcomes of so many bytes a cache of ten thousand gives back.
async fn kept_of_sixty(bytes: usize) -> u64 {
    let store = faulty();
    let operation = bounded(&store, 10_000);
    for key in 0..60 {
        let body = async { Ok::<_, Error>("x".repeat(bytes)) };
        operation.run(&key, request(), body).await.unwrap();
    }
    let first_calls = store.calls(Method::Claim);
    for key in 0..60 {
        let replay = operation.run(&key, request(), async { Err::<String, _>(Error::Mismatch) });
        assert_eq!(replay.await.unwrap().len(), bytes);
    }
    // The others asked the store.
    60 - (store.calls(Method::Claim) - first_calls)
}

#[tokio::test]
async fn the_cache_keeps_its_bound_however_fast_large_outcomes_come() {
    // What is larger than the whole is not kept for an instant.
    assert_eq!(kept_of_sixty(20_000).await, 0);
    // Of what fills it, one.
    let kept = kept_of_sixty(9_000).await;
    assert!(kept <= 1, "{kept}");
}

#[tokio::test]
async fn without_a_bound_nothing_is_cached() {
    let store = FaultyStore::new(Arc::new(MemoryStore::new()));
    let operation = operation_of(&Engine::new(store.clone()));
    assert_eq!(attempt_number(&operation, "k").await.unwrap(), 1);
    assert_eq!(must_not_run(&operation, "k", request()).await.unwrap(), 1);
    assert_eq!(store.all_calls(), 3);
}
