//! Records that their file has lost while their owners live: what an owner says in time is there
//! again, and nobody runs it a second time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use idem::{Engine, EngineBuilder, Error, Fingerprint, Operation};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::file::File;
use crate::owner::Owner;

const OWNERS: u32 = 50;

fn request() -> Fingerprint {
    Fingerprint::of("request").unwrap()
}

struct Owners {
    engine: Engine,
    runs: Arc<AtomicU32>,
    end: watch::Sender<bool>,
    calls: JoinSet<Result<u32, Error>>,
}

fn operation(engine: &Engine) -> Operation {
    // Renewed every five seconds, and never so late that it is over.
    let operation = engine.operation("tests.forgotten");
    operation.lease(Duration::from_secs(15))
}

impl Owners {
    /// Whose bodies have begun.
    async fn begin(file: &File) -> Self {
        let engine = EngineBuilder::new(Arc::new(file.store().await)).build();
        let runs = Arc::new(AtomicU32::new(0));
        let begun = Arc::new(Semaphore::new(0));
        let (end, ended) = watch::channel(false);
        let mut calls = JoinSet::new();
        for number in 0..OWNERS {
            let operation = operation(&engine);
            let (runs, begun, mut ended) = (runs.clone(), begun.clone(), ended.clone());
            calls.spawn(async move {
                let body = async {
                    runs.fetch_add(1, Ordering::SeqCst);
                    begun.add_permits(1);
                    ended.wait_for(|ended| *ended).await.unwrap();
                    assert!(!idem::attempt().lease_lost());
                    Ok::<_, Error>(number)
                };
                operation.run(&number, request(), body).await
            });
        }
        begun.acquire_many(OWNERS).await.unwrap().forget();
        Self {
            engine,
            runs,
            end,
            calls,
        }
    }

    /// What retries in another process get, whose bodies count.
    async fn retry(&self, file: &File) -> Vec<Result<u32, Error>> {
        let engine = EngineBuilder::new(Arc::new(file.store().await)).build();
        let mut answers = Vec::new();
        for number in 0..OWNERS {
            let runs = Arc::clone(&self.runs);
            let body = async move {
                runs.fetch_add(1, Ordering::SeqCst);
                Ok::<_, Error>(number)
            };
            answers.push(operation(&engine).run(&number, request(), body).await);
        }
        answers
    }

    async fn end(&mut self) {
        self.end.send_replace(true);
        let calls = std::mem::take(&mut self.calls);
        let mut answers: Vec<_> = calls
            .join_all()
            .await
            .into_iter()
            .map(Result::unwrap)
            .collect();
        answers.sort_unstable();
        assert!(answers.into_iter().eq(0..OWNERS));
        self.engine.idle().await;
    }
}

async fn records(file: &File) -> i64 {
    file.number("SELECT count(*) FROM idem_records").await
}

/// As whoever restores a copy does.
fn restore(file: &File, copy: &std::path::Path) {
    for end in ["idem.db", "idem.db-wal", "idem.db-shm"] {
        let _ = std::fs::remove_file(file.directory().join(end));
    }
    std::fs::copy(copy, file.path()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_older_copy_was_restored_no_living_owners_body_runs_again() {
    let file = File::new();
    drop(file.store().await);
    file.is_closed().await;
    let copy = file.directory().join("copy.db");
    std::fs::copy(file.path(), &copy).unwrap();
    let mut owners = Owners::begin(&file).await;
    restore(&file, &copy);
    // Their renewals find the new file.
    while records(&file).await < i64::from(OWNERS) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for answer in owners.retry(&file).await {
        assert!(matches!(answer, Err(Error::InFlight { .. })), "{answer:?}");
    }
    owners.end().await;
    let answers = owners.retry(&file).await;
    assert!(answers.into_iter().map(Result::unwrap).eq(0..OWNERS));
    assert_eq!(owners.runs.load(Ordering::SeqCst), OWNERS);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_its_records_were_deleted_an_owner_completes_all_the_same() {
    let file = File::new();
    let mut owners = Owners::begin(&file).await;
    file.run("DELETE FROM idem_records").await;
    owners.end().await;
    let answers = owners.retry(&file).await;
    assert!(answers.into_iter().map(Result::unwrap).eq(0..OWNERS));
    assert_eq!(owners.runs.load(Ordering::SeqCst), OWNERS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_comes_before_its_owner_runs_and_the_owner_is_told() {
    let file = File::new();
    let engine = EngineBuilder::new(Arc::new(file.store().await)).build();
    let owner = Owner::begin(operation(&engine).lease(Duration::from_secs(3))).await;
    file.run("DELETE FROM idem_records").await;
    // That is what no store can help: the guide to stores says so.
    let other = EngineBuilder::new(Arc::new(file.store().await)).build();
    let answers = operation(&other)
        .run("k", request(), async {
            let first = owner.goes_on_until_its_lease_is_lost().await;
            Ok::<_, Error>((first?, 2))
        })
        .await;
    assert_eq!(answers.unwrap(), (1, 2));
}
