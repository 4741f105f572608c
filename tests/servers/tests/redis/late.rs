//! Calls that arrive late: a server that was stopped takes, when it goes on, what was sent to it
//! meanwhile, and nobody waits for any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use idem::{Engine, Error, Fingerprint, OnCrash, Operation};
use idem_tests::Redis;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::patience::{self, connect};

/// How long everything may take. It bounds a hang, and says nothing of speed.
const PATIENCE: Duration = Duration::from_secs(180);

/// How long a call of the store may take.
const COMMAND: Duration = Duration::from_secs(2);

type Runs = Arc<Mutex<HashMap<usize, usize>>>;

async fn run(operation: Operation, key: usize, runs: Runs) -> Result<usize, Error> {
    let body = async move {
        let mut runs = runs.lock().unwrap();
        let run = runs.entry(key).or_default();
        *run += 1;
        Ok(*run)
    };
    let request = Fingerprint::of(&key).unwrap();
    operation.run(&key, request, body).await
}

/// Callers before the stop and during it, each with a key of its own, under `on_crash = "refuse"`.
/// When the server is back and nothing is under way any more, every key is finished or free.
async fn nothing_stays_stuck(callers: usize, stopped_for: Duration, lease: Duration) {
    let redis = Redis::start();
    let store = connect(&redis.url(), COMMAND).await;
    let engine = Engine::new(store);
    let operation = engine
        .operation("op")
        .lease(lease)
        .on_crash(OnCrash::Refuse);
    let runs = Runs::default();
    let mut calls = JoinSet::new();
    for key in 0..callers {
        calls.spawn(run(operation.clone(), key, Arc::clone(&runs)));
        if key == callers / 2 {
            // Some have been answered, some are on their way, some come while it stands.
            tokio::task::yield_now().await;
            redis.pause();
        }
    }
    sleep(stopped_for).await;
    redis.resume();
    let (mut answered, mut refused) = (0, 0);
    while let Some(call) = calls.join_next().await {
        match call.unwrap() {
            Ok(_) => answered += 1,
            Err(Error::Store(_)) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    timeout(PATIENCE, engine.idle()).await.expect("it ends");
    let patient = connect(&redis.url(), patience::PATIENCE).await;
    let patient = Engine::builder(patient).store_timeout(patience::PATIENCE);
    let patient = patient.build().operation("op").on_crash(OnCrash::Refuse);
    for key in 0..callers {
        let answer = run(patient.clone(), key, Arc::clone(&runs)).await;
        assert!(matches!(answer, Ok(1)), "{key}: {answer:?}");
    }
    let runs = runs.lock().unwrap();
    assert!(runs.values().all(|runs| *runs == 1), "{runs:?}");
    println!("{callers} callers, {stopped_for:?}: {answered} answered, {refused} refused, 0 stuck");
}

const LONG_LEASE: Duration = Duration::from_secs(30);
const SHORT_LEASE: Duration = Duration::from_secs(3);
const FIVE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_callers_no_key_is_stuck_after_five_seconds() {
    nothing_stays_stuck(100, FIVE, LONG_LEASE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_thousand_callers_no_key_is_stuck_after_five_seconds() {
    nothing_stays_stuck(2_000, FIVE, LONG_LEASE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_callers_no_key_is_stuck_after_more_than_a_lease() {
    nothing_stays_stuck(100, FIVE, SHORT_LEASE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_thousand_callers_no_key_is_stuck_after_more_than_a_lease() {
    nothing_stays_stuck(2_000, FIVE, SHORT_LEASE).await;
}
