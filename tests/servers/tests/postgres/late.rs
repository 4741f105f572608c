//! Calls that arrive late, and records that their server has forgotten while their owners live:
//! nothing is stuck, and nothing runs twice that its owner could keep.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use idem::stores::postgres::PostgresStore;
use idem::{Engine, EngineBuilder, Error, Fingerprint, OnCrash, Operation};
use idem_tests::Postgres;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::limits::{patient, patient_at};

/// It bounds a hang, and says nothing of speed.
const LIMIT: Duration = Duration::from_secs(180);

fn request() -> Fingerprint {
    Fingerprint::of("the request").unwrap()
}

fn engine(store: PostgresStore) -> Engine {
    EngineBuilder::new(Arc::new(store)).build()
}

/// A server that stands still for so long, while so many callers come. They refuse to run again
/// after a crash: what arrives late, and is nobody's, would be one.
async fn nothing_is_stuck(
    postgres: &Postgres,
    engine: &Engine,
    callers: usize,
    lease: Duration,
    pause: Duration,
) {
    let patient = EngineBuilder::new(Arc::new(patient(postgres).await)).store_timeout(LIMIT);
    let [operation, patient] = [engine, &patient.build()].map(|engine| {
        let operation = engine.operation("tests.late");
        operation.on_crash(OnCrash::Refuse).lease(lease)
    });
    // Connections are open, and some handlers run.
    let executions = Arc::new(AtomicUsize::new(0));
    let call = |operation: &Operation, number: usize| {
        let (operation, executions) = (operation.clone(), Arc::clone(&executions));
        async move {
            let body = async {
                executions.fetch_add(1, Ordering::SeqCst);
                Ok(number)
            };
            let answer: Result<usize, Error> = operation.run(&number, request(), body).await;
            answer
        }
    };
    let all = |numbers: std::ops::Range<usize>| {
        let calls: JoinSet<_> = numbers.map(|number| call(&operation, number)).collect();
        calls.join_all()
    };
    for answer in all(0..20).await {
        answer.unwrap();
    }
    let ran = executions.load(Ordering::SeqCst);
    postgres.pause();
    let calls = tokio::spawn(all(20..20 + callers));
    tokio::time::sleep(pause).await;
    postgres.resume();
    let answers = calls.await.unwrap();
    let served = answers.iter().filter(|answer| answer.is_ok()).count();
    tokio::time::timeout(LIMIT, engine.idle())
        .await
        .expect("the engine comes to rest");
    let executed = executions.load(Ordering::SeqCst) - ran;
    println!("{callers} callers, {pause:?}: {served} were served, {executed} ran");
    assert_eq!(executed, served);
    for (number, before) in (20..20 + callers).zip(answers) {
        let again = call(&patient, number).await;
        assert_eq!(again.unwrap(), number, "it was answered {before:?} before");
    }
    assert_eq!(executions.load(Ordering::SeqCst) - ran, callers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_stands_still_for_five_seconds_leaves_no_key_of_2000_stuck() {
    let postgres = Postgres::start();
    let engine = engine(PostgresStore::connect(&postgres.url()).await.unwrap());
    let (lease, pause) = (Duration::from_secs(30), Duration::from_secs(5));
    nothing_is_stuck(&postgres, &engine, 2000, lease, pause).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_stands_still_for_longer_than_a_lease_leaves_no_key_stuck() {
    let postgres = Postgres::start();
    let engine = engine(PostgresStore::connect(&postgres.url()).await.unwrap());
    let (lease, pause) = (Duration::from_secs(2), Duration::from_secs(7));
    nothing_is_stuck(&postgres, &engine, 400, lease, pause).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn so_it_is_with_a_pool_of_the_application() {
    let postgres = Postgres::start();
    let store = PostgresStore::from_pool(PgPool::connect(&postgres.url()).await.unwrap());
    store.migrate().await.unwrap();
    let engine = engine(store);
    for (callers, lease) in [
        (100, Duration::from_secs(30)),
        (101, Duration::from_secs(2)),
    ] {
        let pause = Duration::from_secs(5);
        postgres.psql("TRUNCATE idem_records");
        nothing_is_stuck(&postgres, &engine, callers, lease, pause).await;
    }
}

/// Handlers that hold their records until they are told to end.
struct Owners {
    executions: Arc<AtomicUsize>,
    end: watch::Sender<bool>,
    running: JoinSet<Result<usize, Error>>,
}

const OWNERS: usize = 50;

impl Owners {
    async fn start(operation: &Operation) -> Self {
        let mut owners = Self {
            executions: Arc::default(),
            end: watch::Sender::new(false),
            running: JoinSet::new(),
        };
        for number in 0..OWNERS {
            let call = owners.call(operation, number);
            owners.running.spawn(call);
        }
        while owners.executions.load(Ordering::SeqCst) < OWNERS {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        owners
    }

    fn call(
        &self,
        operation: &Operation,
        number: usize,
    ) -> impl Future<Output = Result<usize, Error>> + Send + 'static {
        let (operation, mut end) = (operation.clone(), self.end.subscribe());
        let executions = Arc::clone(&self.executions);
        async move {
            let body = async {
                executions.fetch_add(1, Ordering::SeqCst);
                let _ = end.wait_for(|end| *end).await;
                Ok(number)
            };
            operation.run(&number, request(), body).await
        }
    }

    async fn end(&mut self) {
        self.end.send_replace(true);
        while let Some(ended) = self.running.join_next().await {
            ended.unwrap().unwrap();
        }
    }
}

/// A server whose records were restored as they were before any was claimed: what an asynchronous
/// standby is when it is promoted.
async fn goes_back(postgres: &Postgres, backup: &idem_tests::Backup) {
    tokio::task::block_in_place(|| postgres.restore(backup));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn owners_that_live_create_what_was_forgotten_again_when_they_renew() {
    let postgres = Postgres::start();
    patient_at(&postgres.url()).await;
    let backup = tokio::task::block_in_place(|| postgres.backup());
    let here = engine(patient_at(&postgres.url()).await);
    // Longer than a busy machine takes to restore the server.
    let lease = Duration::from_secs(30);
    let mut owners = Owners::start(&here.operation("tests.late").lease(lease)).await;
    goes_back(&postgres, &backup).await;
    assert_eq!(postgres.psql("SELECT count(*) FROM idem_records"), "0");
    // A third of the lease, and the time to connect.
    let started = std::time::Instant::now();
    while postgres.psql("SELECT count(*) FROM idem_records") != OWNERS.to_string() {
        assert!(started.elapsed() < lease, "their owners have not renewed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let elsewhere = engine(patient_at(&postgres.url()).await);
    let elsewhere = elsewhere.operation("tests.late").lease(lease);
    for number in 0..OWNERS {
        let refused = owners.call(&elsewhere, number).await;
        assert!(
            matches!(refused, Err(Error::InFlight { .. })),
            "{refused:?}"
        );
    }
    owners.end().await;
    for number in 0..OWNERS {
        assert_eq!(owners.call(&elsewhere, number).await.unwrap(), number);
    }
    assert_eq!(owners.executions.load(Ordering::SeqCst), OWNERS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn owners_that_live_create_what_was_forgotten_again_when_they_complete() {
    let postgres = Postgres::start();
    patient_at(&postgres.url()).await;
    let backup = tokio::task::block_in_place(|| postgres.backup());
    let here = engine(patient_at(&postgres.url()).await);
    let lease = Duration::from_secs(60);
    let mut owners = Owners::start(&here.operation("tests.late").lease(lease)).await;
    goes_back(&postgres, &backup).await;
    owners.end().await;
    tokio::time::timeout(LIMIT, here.idle())
        .await
        .expect("the outcomes are stored");
    let elsewhere = engine(patient_at(&postgres.url()).await);
    let elsewhere = elsewhere.operation("tests.late").lease(lease);
    for number in 0..OWNERS {
        assert_eq!(owners.call(&elsewhere, number).await.unwrap(), number);
    }
    assert_eq!(owners.executions.load(Ordering::SeqCst), OWNERS);
}

/// What cannot be kept: a retry that is faster than the owner. Then its owner is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_retry_that_is_faster_than_the_owner_runs_and_the_owners_outcome_is_not_stored() {
    let postgres = Postgres::start();
    patient_at(&postgres.url()).await;
    let backup = tokio::task::block_in_place(|| postgres.backup());
    let here = engine(patient_at(&postgres.url()).await);
    let lease = Duration::from_secs(60);
    let owners = Owners::start(&here.operation("tests.late").lease(lease)).await;
    goes_back(&postgres, &backup).await;
    let elsewhere = engine(patient_at(&postgres.url()).await);
    let elsewhere = elsewhere.operation("tests.late").lease(lease);
    for number in 0..OWNERS {
        let body = async { Ok::<_, Error>(1000 + number) };
        let again = elsewhere.run(&number, request(), body).await;
        assert_eq!(again.unwrap(), 1000 + number);
    }
    let mut owners = owners;
    owners.end().await;
    for number in 0..OWNERS {
        assert_eq!(
            owners.call(&elsewhere, number).await.unwrap(),
            1000 + number
        );
    }
}
