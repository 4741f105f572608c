//! Records that were damaged: nothing is taken over that may be another's, and nothing is given
//! back that was not stored.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use idem::store::{Change, Claim, Claimed, Lease, Store};
use idem::{RecordId, StoreError};
use idem_tests::{Redis, Reply};
use rand::RngExt;

use crate::conformance::{claim_of, key};
use crate::links::connect;

const DAMAGES: usize = 10_000;

/// What a disk, a cable or a hand may do to a record: never nothing, and never only more of it,
/// which a later version might have written.
fn damaged(record: &[u8]) -> Vec<u8> {
    let mut rng = rand::rng();
    let mut damaged = record.to_vec();
    while damaged.starts_with(record) {
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..damaged.len().max(1));
            match rng.random_range(0..6) {
                _ if damaged.is_empty() => damaged.push(0),
                0 => damaged[at] ^= 1 << rng.random_range(0..8),
                1 => damaged[at] = rng.random(),
                2 => damaged[at] = b"0123456789raf-w"[rng.random_range(0..15)],
                3 => damaged.truncate(at),
                4 => damaged.insert(at, rng.random()),
                _ => {
                    let other = rng.random_range(0..damaged.len());
                    damaged.swap(at, other);
                }
            }
        }
    }
    damaged
}

fn bytes_of(redis: &Redis, claim: &Claim) -> Vec<u8> {
    let words: [&[u8]; 2] = [b"GET", &key(claim)];
    match redis.console().call(&words) {
        Reply::Bulk(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

fn random_claim() -> Claim {
    claim_of(RecordId::from_bytes(rand::random()))
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_damaged_records_are_neither_taken_over_nor_given_back() {
    let redis = Redis::start();
    let store = &connect(&redis.url(), Duration::from_secs(30)).await;
    let outcome = Bytes::from_static(b"an outcome");
    let seed = random_claim();
    store.claim(&seed).await.unwrap();
    let running = bytes_of(&redis, &seed);
    let done = store.complete(&Lease::of(&seed, 1), outcome.clone()).await;
    assert_eq!(done.unwrap(), Change::Applied);
    let finished = bytes_of(&redis, &seed);

    let mut console = redis.console();
    // With so much left to live a running record's lease is over: a claim would take it over.
    let left = seed.retention.as_millis().to_string();
    let mut put = |record: &[u8]| {
        let other = Claim::new(
            RecordId::from_bytes(rand::random()),
            seed.fingerprint,
            seed.lease,
            seed.retention,
        );
        let words: [&[u8]; 5] = [b"SET", &key(&other), record, b"PX", left.as_bytes()];
        console.call(&words);
        other
    };
    // Undamaged, it would be.
    let whole = put(&running);
    let taken_over = store.claim(&whole).await.unwrap();
    assert_eq!(taken_over, Claimed::acquired(2));

    let records = (0..DAMAGES).flat_map(|_| [damaged(&running), damaged(&finished)]);
    let claims: Vec<_> = records.map(|record| (put(&record), record)).collect();
    let (unreadable, replayed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    stream::iter(&claims)
        .for_each_concurrent(64, async |(claim, record)| {
            match store.claim(claim).await {
                Err(StoreError::Unreadable { .. }) => {
                    unreadable.fetch_add(1, Ordering::Relaxed);
                }
                // When it was claimed decides nothing, and has no checksum.
                Ok(Claimed::Finished { outcome: kept, .. }) => {
                    assert_eq!(kept, outcome, "{record:?}");
                    assert_eq!((record[0], &record[6..]), (b'f', &finished[6..]));
                    replayed.fetch_add(1, Ordering::Relaxed);
                }
                other => panic!("{other:?}: {record:?}"),
            }
            // Nor does a stranger renew it.
            let change = store.renew(&Lease::of(claim, 1)).await;
            assert!(!matches!(change, Ok(Change::Applied)), "{record:?}");
        })
        .await;
    let (unreadable, replayed) = (unreadable.into_inner(), replayed.into_inner());
    assert_eq!(unreadable + replayed, 2 * DAMAGES);
    println!("{unreadable} unreadable, {replayed} given back as they were stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_in_place_stays_whole() {
    let redis = Redis::start();
    let store = connect(&redis.url(), Duration::from_secs(30)).await;
    let (holder, other) = (random_claim(), random_claim());
    store.claim(&holder).await.unwrap();
    let watch = store.watch(&holder.id).await.unwrap();
    let in_flight = store.claim(&holder.by_another()).await.unwrap();
    assert!(matches!(in_flight, Claimed::InFlight { .. }));
    let mut longer = Lease::of(&holder, 1);
    (longer.duration, longer.retention) = (longer.duration * 2, longer.retention * 2);
    assert_eq!(store.renew(&longer).await.unwrap(), Change::Applied);
    let in_flight = store.claim(&holder.by_another()).await.unwrap();
    assert!(matches!(in_flight, Claimed::InFlight { lease_left } if lease_left > holder.lease));
    let change = store.abandon(&holder.id, &holder.token).await;
    assert_eq!(change.unwrap(), Change::Applied);
    watch.await;
    let next = holder.by_another();
    let taken_over = store.claim(&next).await.unwrap();
    assert_eq!(taken_over, Claimed::acquired(2));
    let inspected = store.inspect(&holder.id).await.unwrap().unwrap();
    assert_eq!(
        (inspected.attempt, inspected.fingerprint),
        (2, holder.fingerprint)
    );

    // A token is compared as a whole.
    let change = store.release(&holder.id, &other.token).await;
    assert_eq!(change.unwrap(), Change::LeaseLost);
    let change = store.release(&next.id, &next.token).await;
    assert_eq!(change.unwrap(), Change::Applied);
}
