//! Records page by page, on servers that have other things to do.

use std::collections::HashMap;
use std::pin::pin;

use bytes::Bytes;
use futures_util::poll;
use idem::store::{Claimed, Cursor, Lease, Listing, OperationName, RecordState, Store};
use idem::stores::redis::RedisStore;
use idem::{RecordId, StoreError};
use idem_tests::{Console, Redis, RedisSentinel};
use tokio::time::timeout;

use crate::conformance::{claim, claim_of, key_of};
use crate::links::{PATIENCE, connect, eventually};

fn id(number: u32) -> RecordId {
    let mut id = [7; 32];
    id[..4].copy_from_slice(&number.to_be_bytes());
    RecordId::from_bytes(id)
}

async fn claim_many(store: &RedisStore, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let claimed = store.claim(&claim_of(id(number))).await.unwrap();
        assert_eq!(claimed, Claimed::acquired(1));
    }
}

/// How often each record is on a page; `between` is called after each page.
async fn times_listed(
    store: &RedisStore,
    mut listing: Listing,
    mut between: impl FnMut(usize),
) -> HashMap<RecordId, usize> {
    let mut times = HashMap::new();
    for pages in 1.. {
        let page = store.list(&listing).await.unwrap();
        assert!(page.records.len() <= listing.limit());
        for listed in page.records {
            *times.entry(listed.id).or_default() += 1;
        }
        between(pages);
        match page.next {
            Some(next) => listing = listing.after(next),
            None => break,
        }
    }
    times
}

/// Keys of another application.
fn set_others(console: &mut Console, numbers: std::ops::Range<u32>) {
    let mut words = vec!["MSET".to_owned()];
    for number in numbers {
        words.extend([format!("other:{number}"), "value".to_owned()]);
    }
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    console.call(&words);
}

#[tokio::test]
async fn what_stands_is_listed_while_the_table_grows_and_shrinks() {
    let redis = Redis::start();
    let store = connect(&redis.url(), PATIENCE).await;
    claim_many(&store, 0..500).await;
    let mut console = redis.console();
    for limit in [3, 100] {
        let mut next = 0;
        let times = times_listed(&store, Listing::new(limit), |pages| match pages % 3 {
            0 if next < 60_000 => {
                set_others(&mut console, next..next + 2_000);
                next += 2_000;
            }
            1 if next > 30_000 => {
                let others: Vec<_> = (0..next).map(|number| format!("other:{number}")).collect();
                let mut words = vec!["DEL"];
                words.extend(others.iter().map(String::as_str));
                console.call(&words);
                next = 0;
            }
            _ => {}
        })
        .await;
        for number in 0..500 {
            assert!(times.contains_key(&id(number)), "{limit}: {number}");
        }
        assert_eq!(times.len(), 500);
    }
}

#[tokio::test]
async fn in_a_table_that_rests_each_is_listed_once_however_short_the_pages() {
    let redis = Redis::start();
    let store = connect(&redis.url(), PATIENCE).await;
    claim_many(&store, 0..150).await;
    let mut console = redis.console();
    set_others(&mut console, 0..1000);
    console.call(&[b"RPUSH".as_slice(), &key_of(&id(1_000_000)), b"a list"]);
    console.call(&[b"SET".as_slice(), &key_of(&id(1_000_001)), b"no record"]);
    for limit in [1, 2, 7, 150, 1000] {
        let times = times_listed(&store, Listing::new(limit), |_| {}).await;
        assert_eq!(times.len(), 150, "{limit}");
        assert!(times.values().all(|times| *times == 1), "{limit}");
    }
}

#[tokio::test]
async fn a_listing_tells_what_a_record_says() {
    let redis = Redis::start();
    let store = connect(&redis.url(), PATIENCE).await;
    let held = claim(1).operation(OperationName::new("charges.create"));
    store.claim(&held).await.unwrap();
    let steps = Bytes::from(vec![7; 300]);
    let change = store.checkpoint(&Lease::of(&held, 1), 0, steps).await;
    assert!(change.is_ok());
    let listed = store.list(&Listing::new(10)).await.unwrap().records;
    let [listed] = &listed[..] else {
        panic!("{listed:?}");
    };
    let inspected = store.inspect(&held.id).await.unwrap().unwrap();
    assert_eq!(listed.state, RecordState::Running);
    assert_eq!(listed.bytes, 300);
    assert_eq!(listed.operation, held.operation);
    assert_eq!(listed.claimed_at, inspected.claimed_at);
    assert!(listed.claimed_at.is_some());
    let (left, kept) = (listed.lease_left.unwrap(), listed.kept_for);
    assert!(left <= held.lease && left > held.lease / 2, "{left:?}");
    assert_eq!(kept, left + held.retention);

    let outcome = Bytes::from(vec![7; 100_000]);
    let change = store.complete(&Lease::of(&held, 1), outcome).await;
    assert!(change.is_ok());
    let listed = store.list(&Listing::new(10)).await.unwrap().records;
    let inspected = store.inspect(&held.id).await.unwrap().unwrap();
    assert_eq!(listed[0].state, RecordState::Finished);
    assert_eq!(listed[0].bytes, 100_000);
    assert_eq!(listed[0].operation, held.operation);
    assert_eq!(listed[0].claimed_at, inspected.claimed_at);
}

#[tokio::test]
async fn claims_do_not_wait_for_listings() {
    let redis = Redis::start();
    let url = format!("{}?max_claims=1", redis.url());
    let builder = RedisStore::builder(&url).unwrap();
    let store = builder.max_waiting(0).connect().await.unwrap();
    claim_many(&store, 0..10).await;
    let listing = Listing::new(1000);
    // As many as there may be, and never looked at again.
    let mut stuck = pin!(store.list(&listing));
    let mut another = pin!(store.list(&listing));
    assert!(poll!(&mut stuck).is_pending() && poll!(&mut another).is_pending());
    let claims = claim_many(&store, 10..100);
    timeout(PATIENCE, claims).await.unwrap();
    // One more waits, and not longer than a call may take.
    let refused = store.list(&listing).await;
    assert!(
        matches!(refused, Err(StoreError::NotSent { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_cursor_of_anything_else_is_refused() {
    let redis = Redis::start();
    let store = connect(&redis.url(), PATIENCE).await;
    for text in ["", "0", "1.00000000.*", "1.00000000.00000000.-1"] {
        let listing = Listing::new(10).after(Cursor::new(text));
        let refused = store.list(&listing).await;
        assert!(
            matches!(refused, Err(StoreError::Rejected { .. })),
            "{text}: {refused:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_a_listing_says_that_it_ends() {
    let redis = Redis::builder()
        .args(&["--appendonly", "yes", "--appendfsync", "always"])
        .start();
    let store = connect(&redis.url(), PATIENCE).await;
    claim_many(&store, 0..300).await;
    let first = store.list(&Listing::new(10)).await.unwrap();
    let listing = Listing::new(10).after(first.next.unwrap());
    redis.restart();
    eventually("a listing that ends", async || {
        match store.list(&listing).await {
            Err(StoreError::NotReady { .. }) => Ok(()),
            // The connection that was there is gone.
            Err(error) => Err(error),
            Ok(page) => panic!("{page:?}"),
        }
    })
    .await;
    let times = times_listed(&store, Listing::new(100), |_| {}).await;
    assert_eq!(times.len(), 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_a_listing_says_that_it_ends() {
    let sentinel = RedisSentinel::start();
    let store = connect(&sentinel.url(), PATIENCE).await;
    claim_many(&store, 0..300).await;
    let first = store.list(&Listing::new(10)).await.unwrap();
    let listing = Listing::new(10).after(first.next.unwrap());
    tokio::task::block_in_place(|| sentinel.fail_over());
    eventually("another primary", async || {
        match store.list(&listing).await {
            Err(StoreError::NotReady { source, .. }) if source.to_string().contains("listed") => {
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}
