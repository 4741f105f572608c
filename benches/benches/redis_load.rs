//! The Redis store under more callers than it has room for: how many calls it completes, how many it
//! refuses unsent, and how long whoever holds a lease waits for a renewal meanwhile. Starts Redis
//! servers of its own, one of them with a replica that claims wait for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use idem::store::{Change, Claim, Claimed, Lease, Store};
use idem::stores::redis::RedisStore;
use idem::{Engine, Error, Fingerprint, Key, RecordId, StoreError};
use idem_benches::quick;
use idem_tests::{Redis, Reply};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// Leases that are held meanwhile, and how often each is renewed: a thousand times as often as one of
/// half a minute would be.
const HELD: usize = 50;
const RENEWAL: Duration = Duration::from_millis(10);

/// When a caller that was refused comes again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

const CALLERS: [usize; 7] = [1, 16, 64, 256, 1024, 4096, 20_000];

fn main() {
    let runtime = Runtime::new().expect("a runtime");
    let redis = Redis::start();
    runtime.block_on(table("Redis", &redis.url()));

    let port = redis.port().to_string();
    let _replica = Redis::with(&["--replicaof", "127.0.0.1", &port]);
    let mut console = redis.console();
    console.call(&["FLUSHALL"]);
    while console.call(&["WAIT", "1", "1000"]) != Reply::Integer(1) {}
    let waiting = format!("{}?wait_replicas=1", redis.url());
    runtime.block_on(table("Redis, `wait_replicas=1`", &waiting));
}

async fn table(title: &str, url: &str) {
    println!("\n### {title}: callers at once, first calls\n");
    println!(
        "| callers | completed per second | refused unsent | other errors | renewals, longest |"
    );
    println!("|---:|---:|---:|---:|---:|");
    let store = RedisStore::connect(url).await.expect("a store");
    let engine = Engine::new(store.clone());
    for callers in CALLERS {
        let time = Duration::from_secs(if quick() { 1 } else { 5 });
        let renewals = tokio::spawn(renewals(store.clone(), time));
        let load = offered(&engine, callers, time).await;
        let longest = renewals.await.expect("renewals");
        #[allow(clippy::cast_precision_loss)]
        let per_second = load.completed as f64 / load.took.as_secs_f64();
        println!(
            "| {callers} | {per_second:.0} | {} | {} | {longest:.1?} |",
            load.refused, load.failed
        );
    }
}

struct Load {
    completed: usize,
    refused: usize,
    failed: usize,
    took: Duration,
}

/// So many callers at once, again and again, each with a key of its own.
async fn offered(engine: &Engine, callers: usize, time: Duration) -> Load {
    let operation = engine.operation("load");
    let mut load = Load {
        completed: 0,
        refused: 0,
        failed: 0,
        took: Duration::ZERO,
    };
    let started = Instant::now();
    let mut next: u64 = rand::random();
    let mut calls = JoinSet::new();
    while started.elapsed() < time || !calls.is_empty() {
        while started.elapsed() < time && calls.len() < callers {
            next = next.wrapping_add(1);
            let (operation, key) = (operation.clone(), next);
            calls.spawn(async move {
                let body = async { Ok::<_, Error>(()) };
                let request = Fingerprint::of(&key).expect("an integer");
                let answer = operation.run(&key, request, body).await;
                if matches!(answer, Err(Error::Store(_))) {
                    // As `Retry-After` asks.
                    tokio::time::sleep(RETRY_AFTER).await;
                }
                answer
            });
        }
        match calls.join_next().await {
            None => {}
            Some(Ok(Ok(()))) => load.completed += 1,
            Some(Ok(Err(Error::Store(
                StoreError::Overloaded { .. } | StoreError::NotSent { .. },
            )))) => load.refused += 1,
            Some(_) => load.failed += 1,
        }
    }
    load.took = started.elapsed();
    load
}

/// Renews held leases all the time, and says how long the longest took.
async fn renewals(store: RedisStore, time: Duration) -> Duration {
    let store = Arc::new(store);
    let mut owners = JoinSet::new();
    for _ in 0..HELD {
        let store = Arc::clone(&store);
        owners.spawn(async move {
            let key = Key::of(&rand::random::<u64>()).expect("an integer is a key");
            let claim = Claim::new(
                RecordId::derive("", "held", None, &key),
                Fingerprint::of(&1).expect("an integer"),
                Duration::from_secs(30),
                Duration::from_secs(60),
            );
            // It may be refused while callers crowd in.
            while !matches!(store.claim(&claim).await, Ok(Claimed::Acquired { .. })) {
                tokio::task::yield_now().await;
            }
            let (started, mut longest) = (Instant::now(), Duration::ZERO);
            while started.elapsed() < time {
                let sent = Instant::now();
                let renewed = store.renew(&Lease::of(&claim, 1)).await;
                assert!(matches!(renewed, Ok(Change::Applied)), "{renewed:?}");
                longest = longest.max(sent.elapsed());
                tokio::time::sleep(RENEWAL).await;
            }
            longest
        });
    }
    owners
        .join_all()
        .await
        .into_iter()
        .max()
        .unwrap_or_default()
}
