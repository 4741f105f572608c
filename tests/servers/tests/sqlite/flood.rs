//! Load must never cost a lease.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use idem::store::Store;
use idem::{EngineBuilder, Error, Fingerprint, Operation, StoreError};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::file::File;
use crate::holder::Holder;

const HELD: u32 = 50;
const CALLERS: usize = 20_000;

fn request() -> Fingerprint {
    Fingerprint::of("request").unwrap()
}

/// First calls of keys that nobody knows: how many completed, and how many were refused.
async fn flood(operation: &Operation, callers: usize, wave: usize) -> (u32, u32) {
    let mut calls = JoinSet::new();
    for number in 0..callers {
        let operation = operation.clone();
        calls.spawn(async move {
            let key = format!("{wave}-{number}");
            let body = async { Ok::<_, Error>(1) };
            operation.run(&key, request(), body).await
        });
    }
    let (mut completed, mut refused) = (0, 0);
    while let Some(answer) = calls.join_next().await {
        match answer.unwrap() {
            Ok(1) => completed += 1,
            Err(Error::Store(
                StoreError::Overloaded { .. }
                | StoreError::NotSent { .. }
                | StoreError::Busy { .. }
                // The engine gave it up, before the store did.
                | StoreError::TimedOut { .. },
            )) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    (completed, refused)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_50_leases_none_is_lost_under_20000_callers_and_another_process_that_writes() {
    // Long enough for a machine that is busy with other things, and much shorter than the flood.
    let lease = Duration::from_secs(6);
    let file = File::new();
    let store: Arc<dyn Store> = Arc::new(file.store().await);
    let operation = EngineBuilder::new(store).build().operation("tests.flood");
    let writes_beside = Holder::who_writes(&file);

    let runs = Arc::new(AtomicU32::new(0));
    let lost = Arc::new(AtomicBool::new(false));
    let begun = Arc::new(Semaphore::new(0));
    let (end, ended) = watch::channel(false);
    let mut held = JoinSet::new();
    for number in 0..HELD {
        let operation = operation.clone().lease(lease);
        let (runs, lost, begun) = (runs.clone(), lost.clone(), begun.clone());
        let mut ended = ended.clone();
        held.spawn(async move {
            let body = async {
                runs.fetch_add(1, Ordering::SeqCst);
                begun.add_permits(1);
                ended.wait_for(|ended| *ended).await.unwrap();
                if idem::attempt().lease_lost() {
                    lost.store(true, Ordering::SeqCst);
                }
                Ok::<_, Error>(number)
            };
            operation
                .run(&format!("held-{number}"), request(), body)
                .await
        });
    }
    begun.acquire_many(HELD).await.unwrap().forget();

    let started = Instant::now();
    let (mut wave, mut all) = (0, (0, 0));
    while started.elapsed() < lease * 2 {
        let (completed, refused) = flood(&operation, CALLERS, wave).await;
        all = (all.0 + completed, all.1 + refused);
        wave += 1;
        // A duplicate, elsewhere, while it runs: in another process, as it were.
        let other = EngineBuilder::new(Arc::new(file.store().await)).build();
        let other = other.operation("tests.flood").lease(lease);
        let body = async { panic!("it runs already") };
        let duplicate: Result<u32, Error> = other.run("held-0", request(), body).await;
        assert!(duplicate.is_err(), "{duplicate:?}");
    }
    println!(
        "{wave} waves of {CALLERS} callers in {:.1?}: {} completed, {} refused",
        started.elapsed(),
        all.0,
        all.1
    );
    end.send_replace(true);
    let mut answers: Vec<_> = held
        .join_all()
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    answers.sort_unstable();
    assert!(answers.into_iter().eq(0..HELD));
    assert_eq!(runs.load(Ordering::SeqCst), HELD);
    assert!(!lost.load(Ordering::SeqCst));
    writes_beside.unlock();
    // Every outcome is stored, and is what was answered.
    let fresh = EngineBuilder::new(Arc::new(file.store().await)).build();
    for number in 0..HELD {
        let body = async { panic!("it ran already") };
        let again: Result<u32, Error> = fresh
            .operation("tests.flood")
            .run(&format!("held-{number}"), request(), body)
            .await;
        assert_eq!(again.unwrap(), number);
    }
    assert!(all.0 > 0);
}
