//! Steps in a record: what a checkpoint costs, what it leaves as it is, and what is never handed on.

use std::collections::BTreeMap;

use bytes::Bytes;
use idem::StoreError;
use idem::store::{Change, Claim, Claimed, Lease, OperationName, Store};
use idem::stores::redis::RedisStore;
use idem_tests::{Console, Redis, Reply};

use crate::commands::stats;
use crate::conformance::{claim, key};
use crate::patience::{PATIENCE, connect};

async fn with_steps(store: &RedisStore, claim: &Claim) -> Bytes {
    let acquired = store.claim(claim).await.unwrap();
    assert_eq!(acquired, Claimed::acquired(1));
    let lease = Lease::of(claim, 1);
    let (first, second) = (b"first;", b"second\0\xff");
    for (at, steps) in [(0, &first[..]), (first.len(), &second[..])] {
        let change = store
            .checkpoint(&lease, at, Bytes::from_static(steps))
            .await;
        assert_eq!(change.unwrap(), Change::Applied);
    }
    Bytes::from([&first[..], second].concat())
}

fn millis_left(console: &mut Console, claim: &Claim) -> i64 {
    match console.call(&[b"PTTL".as_slice(), &key(claim)]) {
        Reply::Integer(left) => left,
        other => panic!("{other:?}"),
    }
}

fn bytes_of(console: &mut Console, claim: &Claim) -> Vec<u8> {
    match console.call(&[b"GET".as_slice(), &key(claim)]) {
        Reply::Bulk(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_checkpoint_is_one_command_and_leaves_the_time_as_it_is() {
    let redis = Redis::start();
    let store = connect(&redis.url(), PATIENCE).await;
    let mut console = redis.console();
    // The server learns its scripts.
    with_steps(&store, &claim(1)).await;
    let held = claim(2).operation(OperationName::new("charges.create"));
    with_steps(&store, &held).await;
    console.call(&[b"PEXPIRE".as_slice(), &key(&held), b"3610000"]);
    stats(&mut console);
    let change = store
        .checkpoint(&Lease::of(&held, 1), 14, Bytes::from_static(b"third"))
        .await;
    assert_eq!(change.unwrap(), Change::Applied);
    let asked = stats(&mut console);
    let expected = [("evalsha", 1), ("getrange", 2), ("setrange", 2)];
    let expected = expected.map(|(name, calls)| (name.to_owned(), calls));
    assert_eq!(asked, BTreeMap::from(expected));
    let left = millis_left(&mut console, &held);
    assert!((3_590_000..=3_610_000).contains(&left), "{left}");
}

#[tokio::test]
async fn a_damaged_step_is_never_handed_on() {
    let redis = Redis::start();
    let store = connect(&redis.url(), PATIENCE).await;
    let mut console = redis.console();
    let held = claim(1).operation(OperationName::new("charges.create"));
    let steps = with_steps(&store, &held).await;
    let change = store.abandon(&held.id, &held.token).await;
    assert_eq!(change.unwrap(), Change::Applied);
    let whole = bytes_of(&mut console, &held);
    let mut put = |record: &[u8]| {
        let key = key(&held);
        console.call(&[b"SET".as_slice(), &key, record, b"PX", b"3600000"]);
    };
    for at in 125..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        put(&damaged);
        let answer = store.claim(&held.by_another()).await;
        assert!(
            matches!(answer, Err(StoreError::Unreadable { .. })),
            "{at}: {answer:?}"
        );
        let seen = store.inspect(&held.id).await;
        assert!(
            matches!(seen, Err(StoreError::Unreadable { .. })),
            "{at}: {seen:?}"
        );
    }
    put(&whole);
    let handed_on = Claimed::Acquired { attempt: 2, steps };
    assert_eq!(store.claim(&held.by_another()).await.unwrap(), handed_on);
}

#[tokio::test]
async fn what_a_later_version_has_appended_is_kept_and_not_taken_over() {
    let redis = Redis::start();
    let store = connect(&redis.url(), PATIENCE).await;
    let mut console = redis.console();
    for end in [b'a', b's'] {
        let held = claim(end);
        let steps = with_steps(&store, &held).await;
        let change = match end {
            b'a' => store.abandon(&held.id, &held.token).await,
            _ => store.suspend(&held.id, &held.token).await,
        };
        assert_eq!(change.unwrap(), Change::Applied);
        let mut later = bytes_of(&mut console, &held);
        assert_eq!(later[0], end);
        let whole = later.len();
        later.extend_from_slice(b"x0000000003abcdefgh");
        let key = key(&held);
        console.call(&[b"SET".as_slice(), &key, &later, b"PX", b"3600000"]);
        let answer = store.claim(&held.by_another()).await;
        assert!(
            matches!(answer, Err(StoreError::Unreadable { .. })),
            "{answer:?}"
        );
        assert_eq!(bytes_of(&mut console, &held), later);
        let restored = &later[..whole];
        console.call(&[b"SET".as_slice(), &key, restored, b"PX", b"3600000"]);
        let handed_on = Claimed::Acquired { attempt: 2, steps };
        assert_eq!(store.claim(&held.by_another()).await.unwrap(), handed_on);
    }
}

/// The script with which the version before takes over, as it was.
const CLAIM_BEFORE: &str = include_str!("previous/claim.lua");

#[tokio::test]
async fn the_version_before_takes_over_no_record_that_it_cannot_read_whole() {
    let redis = Redis::start();
    let store = connect(&redis.url(), PATIENCE).await;
    let mut console = redis.console();
    let named = OperationName::new("charges.create");
    let plain = (claim(1), true);
    let with_name = (claim(2).operation(named), false);
    for (held, is_taken_over) in [plain, with_name] {
        store.claim(&held).await.unwrap();
        let next = claim(10);
        store.claim(&next).await.unwrap();
        let change = store.abandon(&held.id, &held.token).await;
        assert_eq!(change.unwrap(), Change::Applied);
        let before = bytes_of(&mut console, &held);
        let fresh = &bytes_of(&mut console, &next)[..125];
        let words: [&[u8]; 7] = [
            b"EVAL",
            CLAIM_BEFORE.as_bytes(),
            b"1",
            &key(&held),
            fresh,
            b"3630000",
            b"1",
        ];
        let answer = console.call(&words);
        let _ = store.forget(&next.id).await.unwrap();
        console.call(&[b"DEL".as_slice(), &key(&next)]);
        match is_taken_over {
            true => assert_eq!(answer, Reply::Integer(2)),
            false => {
                assert_eq!(answer.items()[0], Reply::Bulk(before.clone()));
                assert_eq!(bytes_of(&mut console, &held), before);
                let taken_over = store.claim(&held.by_another()).await.unwrap();
                assert_eq!(taken_over, Claimed::acquired(2));
            }
        }
    }
    // To it, what is suspended is of a version that it does not know.
    let held = claim(3);
    store.claim(&held).await.unwrap();
    let change = store.suspend(&held.id, &held.token).await;
    assert_eq!(change.unwrap(), Change::Applied);
    assert_eq!(bytes_of(&mut console, &held)[0], b's');
}
