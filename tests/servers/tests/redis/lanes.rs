//! Who holds a lease goes first, and claims wait in a bounded line.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, poll};
use idem::store::{Change, Claim, Claimed, Lease, Store};
use idem::stores::redis::RedisStore;
use idem::{Engine, Error, Fingerprint, RecordId, StoreError};
use idem_tests::{Console, Redis, Reply};
use tokio::time::timeout;

use crate::conformance::{claim, claim_of};
use crate::flood::{self, HELD, LEASE, Runtime};
use crate::links::{PATIENCE, connect, eventually};

async fn bounded(redis: &Redis, claims: usize, waiting: usize, timeout: Duration) -> RedisStore {
    let url = format!("{}?max_claims={claims}", redis.url());
    // However slow the machine is.
    eventually("a connection", async || {
        let builder = RedisStore::builder(&url).unwrap();
        let builder = builder.max_waiting(waiting).command_timeout(timeout);
        builder.connect().await
    })
    .await
}

fn sets(console: &mut Console) -> usize {
    let stats = console.info("commandstats", "cmdstat_set");
    stats.map_or(0, |stats| {
        let calls = stats.strip_prefix("calls=").unwrap();
        calls.split(',').next().unwrap().parse().unwrap()
    })
}

type Call<'a> = Pin<Box<dyn Future<Output = Result<Claimed, StoreError>> + Send + 'a>>;

/// Claims that have come as far as they can, in their order.
async fn begun<'a>(store: &'a RedisStore, claims: &'a [Claim]) -> Vec<Call<'a>> {
    let mut calls: Vec<Call<'a>> = claims.iter().map(|claim| store.claim(claim)).collect();
    for call in &mut calls {
        assert!(poll!(call).is_pending());
    }
    calls
}

fn claims(count: u8) -> Vec<Claim> {
    (1..=count).map(claim).collect()
}

#[tokio::test]
async fn claims_beyond_the_bounds_are_refused_at_once_and_unsent() {
    let redis = Redis::start();
    let store = bounded(&redis, 2, 3, PATIENCE).await;
    let mut console = redis.console();
    console.call(&["CONFIG", "RESETSTAT"]);
    let claims = claims(5);
    let calls = begun(&store, &claims).await;
    for number in 6..=20 {
        let refused = store.claim(&claim(number)).now_or_never();
        assert!(
            matches!(refused, Some(Err(StoreError::Overloaded { .. }))),
            "{refused:?}"
        );
        let refused = store.inspect(&claim(number).id).now_or_never();
        assert!(
            matches!(refused, Some(Err(StoreError::Overloaded { .. }))),
            "{refused:?}"
        );
    }
    for call in calls {
        assert_eq!(call.await.unwrap(), Claimed::acquired(1));
    }
    assert_eq!(sets(&mut console), 5);
    // There is room again.
    let acquired = store.claim(&claim(6)).await.unwrap();
    assert_eq!(acquired, Claimed::acquired(1));
}

#[tokio::test]
async fn who_leaves_the_line_leaves_room() {
    let redis = Redis::start();
    let store = bounded(&redis, 1, 2, PATIENCE).await;
    let claims = claims(3);
    let mut calls = begun(&store, &claims).await;
    assert!(store.claim(&claim(4)).now_or_never().is_some());
    drop(calls.pop());
    let mut fourth = pin!(store.claim(&claims[2]));
    assert!(poll!(&mut fourth).is_pending());
    for call in calls {
        call.await.unwrap();
    }
    fourth.await.unwrap();
}

#[tokio::test]
async fn a_claim_that_waited_until_its_time_was_over_was_not_sent() {
    let redis = Redis::start();
    let store = bounded(&redis, 1, 10, Duration::from_millis(600)).await;
    let mut console = redis.console();
    console.call(&["CONFIG", "RESETSTAT"]);
    redis.pause();
    let claims = claims(4);
    let calls = begun(&store, &claims).await;
    let mut answers = futures_util::future::join_all(calls).await;
    redis.resume();
    // The one that was sent may have been done.
    let sent = answers.remove(0);
    assert!(
        matches!(sent, Err(StoreError::Unavailable { .. })),
        "{sent:?}"
    );
    for answer in answers {
        assert!(
            matches!(answer, Err(StoreError::NotSent { .. })),
            "{answer:?}"
        );
    }
    let engine = Engine::new(store);
    timeout(PATIENCE, engine.idle()).await.unwrap();
    assert_eq!(sets(&mut console), 1);
}

#[tokio::test]
async fn holders_do_not_wait_for_claims() {
    let redis = Redis::start();
    let store = bounded(&redis, 1, 1, PATIENCE).await;
    let held: Vec<_> = (1..=4).map(claim).collect();
    for claim in &held {
        store.claim(claim).await.unwrap();
    }
    // These are never looked at again: their places stay taken.
    let stuck = [claim(10), claim(11)];
    let _stuck = begun(&store, &stuck).await;
    let refused = store.claim(&claim(12)).await;
    assert!(matches!(refused, Err(StoreError::Overloaded { .. })));

    let ends = async {
        for claim in &held {
            let renewed = store.renew(&Lease::of(claim, 1)).await;
            assert_eq!(renewed.unwrap(), Change::Applied);
        }
        let outcome = Bytes::from_static(b"outcome");
        let change = store.complete(&Lease::of(&held[0], 1), outcome).await;
        assert_eq!(change.unwrap(), Change::Applied);
        let change = store.release(&held[1].id, &held[1].token).await;
        assert_eq!(change.unwrap(), Change::Applied);
        let change = store.abandon(&held[2].id, &held[2].token).await;
        assert_eq!(change.unwrap(), Change::Applied);
    };
    timeout(PATIENCE, ends).await.unwrap();
}

#[tokio::test]
async fn renewals_do_not_wait_for_completions() {
    let redis = Redis::start();
    let store = bounded(&redis, 256, 256, PATIENCE).await;
    let held = claims(3);
    for claim in &held {
        store.claim(claim).await.unwrap();
    }
    let leases: Vec<_> = held.iter().map(|claim| Lease::of(claim, 1)).collect();
    let large = Bytes::from(vec![7; 4 << 20]);
    // As much as may be under way, and never looked at again.
    let mut stuck = pin!(store.complete(&leases[0], large));
    assert!(poll!(&mut stuck).is_pending());
    let mut waits = pin!(store.complete(&leases[1], Bytes::from_static(b"small")));
    for _ in 0..100 {
        assert!(matches!(poll!(&mut waits), Poll::Pending));
        let renewed = timeout(PATIENCE, store.renew(&leases[2])).await.unwrap();
        assert_eq!(renewed.unwrap(), Change::Applied);
    }
    assert_eq!(stuck.await.unwrap(), Change::Applied);
    assert_eq!(waits.await.unwrap(), Change::Applied);
}

/// A store whose connections are driven by this runtime, wherever it is called: apart from its callers.
async fn driven_by(runtime: &Runtime, redis: &Redis) -> RedisStore {
    let url = redis.url();
    let connected = runtime
        .handle
        .spawn(async move { connect(&url, PATIENCE).await });
    connected.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_leases_outlive_twenty_thousand_callers() {
    let redis = Redis::start();
    let runtimes = [Runtime::start(), Runtime::start()];
    let here = driven_by(&runtimes[0], &redis).await;
    let elsewhere = driven_by(&runtimes[1], &redis).await;
    let fared = flood::costs_no_lease(here, elsewhere, 20_000, LEASE).await;
    assert!(fared.unsent > 0, "{fared:?}");
    // Who was served, and nobody else, has left a record. Beside them there is what a store has written
    // down when it started.
    let keys = i64::try_from(fared.served + HELD + 1).unwrap();
    let found = redis.console().call(&["DBSIZE"]);
    assert_eq!(found, Reply::Integer(keys), "{fared:?}");
}

#[tokio::test]
async fn a_record_of_a_claim_that_was_shed_is_free() {
    let redis = Redis::start();
    let store = bounded(&redis, 1, 0, PATIENCE).await;
    let other = [claim_of(RecordId::from_bytes([9; 32]))];
    let stuck = begun(&store, &other).await;
    let engine = Engine::builder(store.clone()).fail_open(true).build();
    let operation = engine.operation("op");
    let body = async { panic!("this body must not run, whether the engine fails open or not") };
    let request = Fingerprint::of("request").unwrap();
    let refused: Result<u32, _> = operation.run("k", request, body).await;
    assert!(matches!(
        refused,
        Err(Error::Store(StoreError::Overloaded { .. }))
    ));
    drop(stuck);
    let body = async { Ok::<_, Error>(idem::attempt().number()) };
    let ran = timeout(PATIENCE, operation.run("k", request, body)).await;
    assert_eq!(ran.unwrap().unwrap(), 1);
}
