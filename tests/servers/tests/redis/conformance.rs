//! The suite that every store passes, on every kind of set-up, and what only Redis can get
//! wrong.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use idem::conformance::{Harness, assert_conforms};
use idem::store::{Change, Claim, Claimed, Lease, Store};
use idem::{Fingerprint, Phase, RecordId, StoreError};
use idem_tests::{Flavor, Redis, RedisCluster, RedisSentinel, Reply};

use crate::patience::{PATIENCE, connect};

struct Url(String);

#[async_trait]
impl Harness for Url {
    async fn store(&self) -> Arc<dyn Store> {
        Arc::new(connect(&self.0, PATIENCE).await)
    }

    async fn advance(&self, by: Duration) {
        tokio::time::sleep(by).await;
    }

    fn lease(&self) -> Duration {
        Duration::from_millis(500)
    }

    fn notifies(&self) -> bool {
        true
    }

    fn lists_each_once(&self) -> bool {
        // `SCAN` shows a key again where the server's table grows or shrinks meanwhile.
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_on_a_single_server() {
    for flavor in Flavor::installed() {
        let redis = Redis::builder().flavor(flavor).start();
        assert_conforms(&Url(redis.url())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_on_a_cluster() {
    for flavor in Flavor::installed() {
        let cluster = RedisCluster::start_on(flavor);
        assert_conforms(&Url(cluster.url())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_on_a_primary_that_sentinels_name() {
    for flavor in Flavor::installed() {
        let sentinel = RedisSentinel::start_on(flavor);
        assert_conforms(&Url(sentinel.url())).await;
    }
}

pub(crate) fn claim(number: u8) -> Claim {
    claim_of(RecordId::from_bytes([number; 32]))
}

pub(crate) fn claim_of(id: RecordId) -> Claim {
    Claim::new(
        id,
        Fingerprint::of("request").unwrap(),
        Duration::from_secs(30),
        Duration::from_secs(3600),
    )
}

pub(crate) fn key(claim: &Claim) -> Vec<u8> {
    key_of(&claim.id)
}

pub(crate) fn key_of(id: &RecordId) -> Vec<u8> {
    format!("idem:{}", BASE64_URL_SAFE_NO_PAD.encode(id.as_bytes())).into_bytes()
}

#[tokio::test]
async fn a_record_is_one_key_with_at_most_100_bytes_beside_the_outcome() {
    let redis = Redis::start();
    let store = connect(&redis.url(), PATIENCE).await;
    let claim = claim(1);
    store.claim(&claim).await.unwrap();
    let outcome = vec![7; 350];
    let change = store.complete(&Lease::of(&claim, 1), outcome.into()).await;
    assert_eq!(change.unwrap(), Change::Applied);
    let mut console = redis.console();
    let key = key(&claim);
    // Beside it there is what a store has written down when it started.
    let mut keys = console.call(&["KEYS", "*"]).items().to_vec();
    keys.retain(|found| *found != Reply::Bulk(b"idem:format".to_vec()));
    assert_eq!(keys, [Reply::Bulk(key.clone())]);
    let Reply::Bulk(value) = console.call(&[b"GET".as_slice(), &key]) else {
        panic!("a record is a string");
    };
    assert!(key.len() + value.len() - 350 <= 100);
    // Its end is the server's affair.
    let Reply::Integer(left) = console.call(&[b"PTTL".as_slice(), &key]) else {
        panic!("PTTL is a number");
    };
    assert!((3_500_000..=3_600_000).contains(&left), "{left}");
}

#[tokio::test]
async fn what_cannot_be_read_is_an_error_and_stays() {
    let redis = Redis::start();
    let store = connect(&redis.url(), PATIENCE).await;
    let mut console = redis.console();
    let until = [b"PX".as_slice(), b"100000"];
    let strange = [
        ("another version", b"SET".as_slice(), b"3F".as_slice()),
        ("nothing", b"SET", b""),
        ("a running record cut short", b"SET", b"r-AAAA"),
        ("a finished record cut short", b"SET", b"f\0\0\0\0\0"),
        ("another type", b"RPUSH", b"a list"),
    ];
    for (number, (what, command, value)) in (1..).zip(strange) {
        let claim = claim(number);
        let key = key(&claim);
        let words = [command, &key, value];
        console.call(&[&words[..], &until].concat());
        let answer = store.claim(&claim).await;
        assert!(
            matches!(answer, Err(StoreError::Unreadable { .. })),
            "{what}: {answer:?}"
        );
        let answer = store.inspect(&claim.id).await;
        assert!(
            matches!(answer, Err(StoreError::Unreadable { .. })),
            "{what}: {answer:?}"
        );
        let outcome = bytes::Bytes::from_static(b"outcome");
        let answer = store.complete(&Lease::of(&claim, 1), outcome).await;
        assert!(!matches!(answer, Ok(Change::Applied)), "{what}: {answer:?}");
        assert_eq!(
            console.call(&[b"EXISTS".as_slice(), &key]),
            Reply::Integer(1),
            "{what}"
        );
    }
}

#[tokio::test]
async fn a_running_record_that_lost_its_end_is_not_taken_over() {
    let redis = Redis::start();
    let store = connect(&redis.url(), PATIENCE).await;
    let holder = claim(1);
    store.claim(&holder).await.unwrap();
    let words = [b"PERSIST".as_slice(), &key(&holder)];
    assert_eq!(redis.console().call(&words), Reply::Integer(1));
    // How much of the lease is left cannot be told; that its holder is alive can be.
    let answer = store.claim(&claim(1)).await;
    assert!(
        matches!(answer, Err(StoreError::Unreadable { .. })),
        "{answer:?}"
    );
    let renewed = store.renew(&Lease::of(&holder, 1)).await;
    assert_eq!(renewed.unwrap(), Change::Applied);
    let answer = store.claim(&claim(1)).await.unwrap();
    assert!(matches!(answer, Claimed::InFlight { .. }), "{answer:?}");
}

#[tokio::test]
async fn a_server_without_room_refuses_new_claims_and_keeps_its_promises_to_the_old() {
    let redis = Redis::with(&["--maxmemory", "10mb", "--maxmemory-policy", "noeviction"]);
    let store = connect(&redis.url(), PATIENCE).await;
    let (finished, running, crashed) = (claim(1), claim(2), claim(3));
    for claim in [&finished, &running, &crashed] {
        store.claim(claim).await.unwrap();
    }
    let outcome = bytes::Bytes::from_static(b"outcome");
    let complete = |claim: Claim| {
        let (store, outcome) = (store.clone(), outcome.clone());
        async move { store.complete(&Lease::of(&claim, 1), outcome).await }
    };
    assert_eq!(complete(finished).await.unwrap(), Change::Applied);
    let change = store.abandon(&crashed.id, &crashed.token).await.unwrap();
    assert_eq!(change, Change::Applied);
    let mut console = redis.console();
    console.call(&["CONFIG", "SET", "maxmemory", "1"]);

    let refused = store.claim(&claim(4)).await;
    assert!(
        matches!(refused, Err(StoreError::Full { .. })),
        "{refused:?}"
    );
    let replay = store.claim(&claim(1)).await.unwrap();
    assert!(matches!(replay, Claimed::Finished { .. }), "{replay:?}");
    let duplicate = store.claim(&claim(2)).await.unwrap();
    assert!(
        matches!(duplicate, Claimed::InFlight { .. }),
        "{duplicate:?}"
    );
    let takeover = claim(3);
    assert_eq!(store.claim(&takeover).await.unwrap(), Claimed::acquired(2));
    assert!(store.watch(&running.id).await.is_ok());
    let renewed = store.renew(&Lease::of(&running, 1)).await;
    assert_eq!(renewed.unwrap(), Change::Applied);
    assert_eq!(complete(running).await.unwrap(), Change::Applied);
    assert_eq!(
        store.release(&takeover.id, &takeover.token).await.unwrap(),
        Change::Applied
    );
    let refused = store.claim(&claim(3)).await;
    assert!(
        matches!(refused, Err(StoreError::Full { .. })),
        "{refused:?}"
    );

    console.call(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(store.claim(&claim(4)).await.unwrap(), Claimed::acquired(1));
}

#[tokio::test]
async fn prefixes_and_databases_keep_records_apart() {
    let redis = Redis::start();
    let urls = [
        redis.url(),
        format!("{}/3", redis.url()),
        format!("{}?prefix=shop%3A", redis.url()),
    ];
    for url in &urls {
        let store = connect(url, PATIENCE).await;
        let acquired = store.claim(&claim(1)).await.unwrap();
        assert_eq!(acquired, Claimed::acquired(1), "{url}");
        let seen = store.inspect(&claim(1).id).await.unwrap().unwrap();
        assert!(matches!(
            seen.phase,
            Phase::Running {
                lease_left: Some(_)
            }
        ));
    }
    let Reply::Array(keys) = redis.console().call(&["KEYS", "shop:*"]) else {
        panic!("KEYS is a list");
    };
    let keys: Vec<_> = keys.iter().filter_map(Reply::text).collect();
    let [record] = keys
        .iter()
        .filter(|key| **key != "shop:format")
        .collect::<Vec<_>>()[..]
    else {
        panic!("{keys:?}");
    };
    assert_eq!(record.len(), "shop:".len() + 43);
}

#[tokio::test]
async fn a_process_whose_clock_is_wrong_cannot_steal_a_lease() {
    // No time of day decides: what the store compares are durations, by the server's own clock. It asks
    // for that clock when it connects, to write down when a claim was made.
    let redis = Redis::start();
    let store = connect(&redis.url(), PATIENCE).await;
    let holder = claim(1);
    store.claim(&holder).await.unwrap();
    let mut console = redis.console();
    let before = console.info("commandstats", "cmdstat_time");
    let Claimed::InFlight { lease_left } = store.claim(&claim(1)).await.unwrap() else {
        panic!("the lease is alive");
    };
    assert!(lease_left <= holder.lease && lease_left > holder.lease / 2);
    // The server's clock alone decides: with the record's time nearly over, so is its lease.
    let key = key(&holder);
    let retention = holder.retention.as_millis().to_string();
    console.call(&[b"PEXPIRE".as_slice(), &key, retention.as_bytes()]);
    assert_eq!(store.claim(&claim(1)).await.unwrap(), Claimed::acquired(2));
    let late = bytes::Bytes::from_static(b"late");
    let lost = store.complete(&Lease::of(&holder, 1), late).await;
    assert_eq!(lost.unwrap(), Change::LeaseLost);
    assert_eq!(console.info("commandstats", "cmdstat_time"), before);
}
