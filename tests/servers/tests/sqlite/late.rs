//! Locks that are held for longer than anybody waits, under an operation that refuses after a crash:
//! when they are gone, no key is stuck.

use std::sync::Arc;
use std::time::Duration;

use idem::stores::sqlite::SqliteStore;
use idem::{EngineBuilder, Error, Fingerprint, OnCrash, Operation};
use tokio::task::JoinSet;

use crate::file::File;
use crate::holder::Holder;

/// How long a call may take at last. It bounds a hang, and says nothing of speed.
const PATIENCE: Duration = Duration::from_secs(60);

fn request() -> Fingerprint {
    Fingerprint::of("request").unwrap()
}

async fn call(operation: &Operation, key: usize) -> Result<usize, Error> {
    let body = async { Ok(key) };
    operation.run(&key, request(), body).await
}

/// A process that holds the lock stands still, while so many call.
async fn nobody_is_stuck(callers: usize, lease: Duration, still_for: Duration) {
    let file = File::new();
    // The engine gives up before the store does, and the store's queue has room for everybody.
    let builder = SqliteStore::builder(&file.url()).unwrap();
    let builder = builder.busy_timeout(Duration::from_secs(2));
    let store = builder.max_waiting(callers).connect().await.unwrap();
    let engine = EngineBuilder::new(Arc::new(store))
        .store_timeout(Duration::from_secs(1))
        .build();
    let operation = engine.operation("tests.late").lease(lease);
    let operation = operation.on_crash(OnCrash::Refuse);

    let holder = Holder::of_the_write_lock(&file);
    holder.signal("-STOP");
    let mut calls = JoinSet::new();
    for key in 0..callers {
        let operation = operation.clone();
        calls.spawn(async move { call(&operation, key).await });
    }
    let stands = tokio::time::sleep(still_for);
    let (answers, ()) = tokio::join!(calls.join_all(), stands);
    for answer in answers {
        assert!(matches!(answer, Err(Error::Store(_))), "{answer:?}");
    }
    holder.signal("-CONT");
    holder.unlock();
    engine.idle().await;
    let patient = EngineBuilder::new(Arc::new(file.store().await))
        .store_timeout(PATIENCE)
        .build();
    let patient = patient.operation("tests.late").on_crash(OnCrash::Refuse);
    for key in 0..callers {
        assert_eq!(call(&patient, key).await.unwrap(), key);
    }
    println!("{callers} callers, and no key is stuck");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_5_seconds_no_key_of_400_is_stuck() {
    nobody_is_stuck(400, Duration::from_secs(30), Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_longer_than_the_lease_no_key_of_2000_is_stuck() {
    nobody_is_stuck(2000, Duration::from_secs(3), Duration::from_secs(5)).await;
}
