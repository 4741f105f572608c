//! Files that another process has locked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use idem::store::Store;
use idem::stores::sqlite::SqliteStore;
use idem::{ConnectError, EngineBuilder, Error, Fingerprint, InFlight, Operation, StoreError};
use tokio::sync::Notify;

use crate::file::{File, acquire, claim, finish, replays, whole};
use crate::holder::Holder;

const BUSY: Duration = Duration::from_secs(1);

/// Longer than any test.
const PATIENT: Duration = Duration::from_secs(600);

async fn patient(file: &File) -> SqliteStore {
    let builder = SqliteStore::builder(&file.url()).unwrap();
    builder.busy_timeout(PATIENT).connect().await.unwrap()
}

async fn impatient(file: &File) -> SqliteStore {
    let builder = SqliteStore::builder(&file.url()).unwrap();
    builder.busy_timeout(BUSY).connect().await.unwrap()
}

fn operation(store: &SqliteStore) -> Operation {
    let engine = EngineBuilder::new(Arc::new(store.clone())).store_timeout(Duration::from_secs(10));
    engine.build().operation("op")
}

async fn run(operation: &Operation, key: &str) -> Result<u32, Error> {
    let body = async { Ok(idem::attempt().number()) };
    operation
        .run(key, Fingerprint::of(&key).unwrap(), body)
        .await
}

fn is_locked(error: &StoreError) -> bool {
    matches!(error, StoreError::Busy { .. }) && whole(error).contains("locked")
}

#[tokio::test(flavor = "multi_thread")]
async fn while_another_process_writes_first_calls_fail_and_replays_do_not() {
    let file = File::new();
    let patient = operation(&patient(&file).await);
    let impatient = operation(&impatient(&file).await);
    assert_eq!(run(&patient, "known").await.unwrap(), 1);
    let holder = Holder::of_the_write_lock(&file);

    let started = Instant::now();
    let body = async { panic!("it has no claim") };
    let refused: Result<u32, _> = impatient
        .run("new", Fingerprint::of("new").unwrap(), body)
        .await;
    let took = started.elapsed();
    let Err(Error::Store(error)) = refused else {
        panic!("{refused:?}");
    };
    assert!(is_locked(&error), "{error:?}");
    assert!(took >= BUSY, "{took:?}");
    // If it waited for the lock, it would for longer than its engine does.
    assert_eq!(run(&patient, "known").await.unwrap(), 1);

    holder.unlock();
    // Nothing is left of the failed ones.
    assert_eq!(run(&patient, "new").await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_wait_for_a_lock_together_and_not_one_after_the_other() {
    let file = File::new();
    let store = impatient(&file).await;
    let holder = Holder::of_the_write_lock(&file);
    let claims: Vec<_> = (0..300).map(|_| claim()).collect();
    let started = Instant::now();
    for answer in join_all(claims.iter().map(|claim| store.claim(claim))).await {
        assert!(is_locked(&answer.unwrap_err()));
    }
    // One after the other, they would take twice as long at least.
    let took = started.elapsed();
    assert!(took < BUSY * 150, "{took:?}");
    holder.unlock();
    let store = patient(&file).await;
    join_all(claims.iter().map(|claim| acquire(&store, claim))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_held_for_less_than_the_timeout_is_waited_for() {
    let file = File::new();
    let store = patient(&file).await;
    let holder = Holder::of_the_write_lock(&file);
    let claim = claim();
    let (acquired, ()) = tokio::join!(acquire(&store, &claim), async {
        tokio::time::sleep(BUSY).await;
        tokio::task::spawn_blocking(|| holder.unlock())
            .await
            .unwrap();
    });
    acquired
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_waits_for_the_lock_and_its_caller_does_not() {
    let file = File::new();
    let store = impatient(&file).await;
    let operation = operation(&store);
    let (started, end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let call = tokio::spawn({
        let (operation, started, end) = (operation.clone(), started.clone(), end.clone());
        async move {
            let body = async {
                started.notify_one();
                end.notified().await;
                Ok::<_, Error>(7)
            };
            operation
                .run("k", Fingerprint::of("k").unwrap(), body)
                .await
        }
    });
    started.notified().await;
    let holder = Holder::of_the_write_lock(&file);
    end.notify_one();
    assert_eq!(call.await.unwrap().unwrap(), 7);
    holder.unlock();
    // The outcome is still offered to the store. Another process waits for it.
    let waiting = self::operation(&patient(&file).await);
    let waiting = waiting.in_flight(InFlight::Wait(Duration::from_secs(60)));
    let body = async { panic!("it ran already") };
    let answer: Result<u32, Error> = waiting.run("k", Fingerprint::of("k").unwrap(), body).await;
    assert_eq!(answer.unwrap(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_process_alone_is_not_opened_and_later_it_is() {
    let file = File::new();
    let known = claim();
    let store = file.store().await;
    finish(&store, &known, b"outcome").await;
    drop(store);
    file.is_closed().await;
    let holder = Holder::of_the_file(&file);
    let builder = SqliteStore::builder(&file.url()).unwrap();
    let refused = builder.busy_timeout(BUSY).connect().await;
    let Err(ConnectError::Store(error)) = refused else {
        panic!("{refused:?}");
    };
    assert!(is_locked(&error), "{error:?}");
    holder.unlock();
    replays(&file.store().await, &known, b"outcome").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_all_write_all_get_their_turn() {
    // As many processes to SQLite as there are handles.
    let file = File::new();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = file.store().await;
        for _ in 0..8 {
            let store = store.clone();
            calls.spawn(async move {
                let mut longest = Duration::ZERO;
                for _ in 0..25 {
                    let started = Instant::now();
                    finish(&store, &claim(), b"outcome").await;
                    longest = longest.max(started.elapsed());
                }
                longest
            });
        }
    }
    let longest = calls.join_all().await.into_iter().max();
    println!("800 first calls from 4 writers; the longest took {longest:?}");
}
