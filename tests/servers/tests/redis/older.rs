//! Records of version 1, and processes that write them beside this one: what they say counts, and
//! nothing runs twice.

use std::time::Duration;

use bytes::Bytes;
use idem::store::{
    Change, Claim, Claimed, Forgotten, Lease, Maintenance, RecordState, Seen, Store,
};
use idem::{Engine, Error, Fingerprint, OnCrash, Phase, RecordId, Resolution, StoreError, Verdict};
use idem_tests::{Console, Redis, RedisCluster, Reply};

use crate::conformance::{key, key_of};
use crate::patience::{PATIENCE, connect};

/// As they were written by the commit 5602115: attempt 1, fingerprints that count from their number
/// on, tokens of one letter, a retention of an hour.
const RUNNING: &[u8] = b"1R\x00\x00\x00\x01\
    \x01\x02\x03\x04\x05\x06\x07\x08\t\n\x0b\x0c\r\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x20\x21\
    AAAAAAAAAAAAAAAA\x00\x00\x00\x00\x00\x006\xee\x80";
const WATCHED: &[u8] = b"1R\x00\x00\x00\x01\
    \x02\x03\x04\x05\x06\x07\x08\t\n\x0b\x0c\r\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x20\x21\x22\
    BBBBBBBBBBBBBBBB\x01\x00\x00\x00\x00\x006\xee\x80";
const ABANDONED: &[u8] = b"1A\x00\x00\x00\x01\
    \x03\x04\x05\x06\x07\x08\t\n\x0b\x0c\r\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x20\x21\x22\x23\
    CCCCCCCCCCCCCCCC\x00\x00\x00\x00\x00\x006\xee\x80";
const FINISHED: &[u8] = b"1F\x00\x00\x00\x01\
    \x04\x05\x06\x07\x08\t\n\x0b\x0c\r\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x20\x21\x22\x23\x24\
    DDDDDDDDDDDDDDDDan outcome";

const HOUR: Duration = Duration::from_secs(3600);

/// The claims of the records above.
fn claim(number: u8) -> Claim {
    Claim::new(
        RecordId::from_bytes([number; 32]),
        Fingerprint::from_bytes(std::array::from_fn(|place| place as u8 + number)),
        Duration::from_secs(30),
        HOUR,
    )
}

fn old_key(id: &RecordId) -> Vec<u8> {
    [b"idem:", id.as_bytes().as_slice()].concat()
}

fn put(console: &mut Console, claim: &Claim, record: &[u8], left: Duration) {
    let (key, left) = (old_key(&claim.id), left.as_millis().to_string());
    let words: [&[u8]; 5] = [b"SET", &key, record, b"PX", left.as_bytes()];
    console.call(&words);
}

/// The first command of a claim of version 1, and what is found.
fn claims_as_version_1(console: &mut Console, claim: &Claim) -> Reply {
    let key = old_key(&claim.id);
    let words: [&[u8]; 7] = [b"SET", &key, RUNNING, b"NX", b"GET", b"PX", b"3630000"];
    console.call(&words)
}

/// What version 1 cannot read: it claims, completes and renews nothing then.
fn is_kept_out(reply: &Reply) -> bool {
    matches!(reply, Reply::Bulk(found) if found.len() < 55 && !found.starts_with(b"1"))
}

/// A server where a process of version 1 has been.
fn with_older() -> Redis {
    let redis = Redis::start();
    let mut console = redis.console();
    put(
        &mut console,
        &claim(1),
        RUNNING,
        HOUR + Duration::from_secs(20),
    );
    put(
        &mut console,
        &claim(2),
        WATCHED,
        HOUR + Duration::from_secs(20),
    );
    put(&mut console, &claim(3), ABANDONED, HOUR);
    put(&mut console, &claim(4), FINISHED, HOUR);
    redis
}

#[tokio::test]
async fn what_version_1_has_finished_is_given_back() {
    let redis = with_older();
    let store = connect(&redis.url(), PATIENCE).await;
    let outcome = Bytes::from_static(b"an outcome");
    let mut asks = claim(4);
    for ask_retention in [false, true] {
        asks.ask_retention = ask_retention;
        match store.claim(&asks).await.unwrap() {
            Claimed::Finished {
                outcome: kept,
                retention_left,
                ..
            } => {
                assert_eq!(kept, outcome);
                assert_eq!(retention_left.is_some(), ask_retention);
                assert!(retention_left.is_none_or(|left| left <= HOUR && left > HOUR / 2));
            }
            other => panic!("{other:?}"),
        }
    }
    asks.fingerprint = claim(1).fingerprint;
    assert_eq!(store.claim(&asks).await.unwrap(), Claimed::Mismatch);
    let seen = store.inspect(&asks.id).await.unwrap().unwrap();
    assert_eq!(seen.phase, Phase::Finished { outcome });
}

#[tokio::test]
async fn what_version_1_runs_is_in_flight() {
    let redis = with_older();
    let store = connect(&redis.url(), PATIENCE).await;
    for number in [1, 2] {
        let answer = store.claim(&claim(number)).await.unwrap();
        let Claimed::InFlight { lease_left } = answer else {
            panic!("{answer:?}");
        };
        assert!(lease_left <= Duration::from_secs(20) && lease_left > Duration::from_secs(5));
        let seen = store.inspect(&claim(number).id).await.unwrap().unwrap();
        assert!(matches!(
            seen.phase,
            Phase::Running {
                lease_left: Some(_)
            }
        ));
    }
}

#[tokio::test]
async fn what_crashed_under_version_1_is_taken_over_or_refused_and_resolved() {
    let redis = with_older();
    let mut console = redis.console();
    // Its lease is over.
    put(&mut console, &claim(1), RUNNING, HOUR);
    let store = connect(&redis.url(), PATIENCE).await;
    for number in [1, 3] {
        let refuses = claim(number).on_crash(OnCrash::Refuse);
        let unknown = Claimed::OutcomeUnknown { attempt: 1 };
        assert_eq!(store.claim(&refuses).await.unwrap(), unknown);
        let next = claim(number);
        let taken_over = store.claim(&next).await.unwrap();
        assert_eq!(taken_over, Claimed::acquired(2));
        // Its owner wakes, and another process of version 1 claims it.
        assert!(is_kept_out(&claims_as_version_1(&mut console, &next)));
        let outcome = Bytes::from_static(b"the second's");
        let lease = Lease::of(&next, 2);
        let change = store.complete(&lease, outcome).await.unwrap();
        assert_eq!(change, Change::Applied);
        assert!(is_kept_out(&claims_as_version_1(&mut console, &next)));
    }

    let engine = Engine::new(store);
    let operation = engine.operation("op").on_crash(OnCrash::Refuse);
    let id = RecordId::derive("", "op", None, &idem::Key::of("k").unwrap());
    let crashed = Claim::new(id, claim(3).fingerprint, Duration::from_secs(30), HOUR);
    put(&mut console, &crashed, ABANDONED, HOUR);
    let resolved = operation.resolve("k", Verdict::Released).await;
    assert_eq!(resolved.unwrap(), Resolution::Resolved);
    let body = async { Ok::<_, Error>(idem::attempt().number()) };
    let ran = operation
        .run("k", Fingerprint::of("k").unwrap(), body)
        .await;
    assert_eq!(ran.unwrap(), 1);
}

#[tokio::test]
async fn what_version_1_has_left_is_forgotten_as_it_was_seen() {
    let redis = with_older();
    let store = connect(&redis.url(), PATIENCE).await;
    for (number, state) in [(3, RecordState::Crashed), (4, RecordState::Finished)] {
        let id = claim(number).id;
        let found = store.inspect(&id).await.unwrap().unwrap();
        assert_eq!(Seen::of(&found), Seen::new(1, state));
        for other in RecordState::ALL {
            for attempt in [0, 1, 2, 1 << 24] {
                let seen = Seen::new(attempt, other);
                if seen != Seen::of(&found) {
                    let kept = store.forget_seen(&id, seen).await.unwrap();
                    assert_eq!(kept, Forgotten::NotAsSeen);
                }
            }
        }
        let forgotten = store.forget_seen(&id, Seen::of(&found)).await.unwrap();
        assert_eq!(forgotten, Forgotten::Removed);
        assert_eq!(store.inspect(&id).await.unwrap(), None);
    }
    let running = Seen::new(1, RecordState::Crashed);
    let kept = store.forget_seen(&claim(1).id, running).await.unwrap();
    assert!(matches!(kept, Forgotten::Running { .. }), "{kept:?}");
}

#[tokio::test]
async fn processes_of_both_versions_run_nothing_twice() {
    let redis = with_older();
    let mut console = redis.console();
    let store = connect(&redis.url(), PATIENCE).await;
    for number in 10..60 {
        let here = claim(number);
        match number % 2 {
            // This version is first; whatever becomes of it.
            0 => {
                let acquired = store.claim(&here).await.unwrap();
                assert_eq!(acquired, Claimed::acquired(1));
                assert!(is_kept_out(&claims_as_version_1(&mut console, &here)));
                let lease = Lease::of(&here, 1);
                let change = match number % 3 {
                    0 => store.complete(&lease, "done".into()).await,
                    1 => store.abandon(&here.id, &here.token).await,
                    _ => store.renew(&lease).await,
                };
                assert_eq!(change.unwrap(), Change::Applied);
                assert!(is_kept_out(&claims_as_version_1(&mut console, &here)));
            }
            // Version 1 is first.
            _ => {
                assert_eq!(claims_as_version_1(&mut console, &here), Reply::Nil);
                let mut same = here;
                same.fingerprint = claim(1).fingerprint;
                let answer = store.claim(&same).await.unwrap();
                assert!(matches!(answer, Claimed::InFlight { .. }), "{answer:?}");
                // It finishes.
                let finished = [b"1F", &RUNNING[2..55], b"done"].concat();
                put(&mut console, &here, &finished, HOUR);
                let answer = store.claim(&same.by_another()).await.unwrap();
                assert!(matches!(answer, Claimed::Finished { .. }), "{answer:?}");
            }
        }
    }
    // What keeps version 1 out lasts longer than what it is kept out from.
    let left = |console: &mut Console, key: &[u8]| match console.call(&[b"PTTL", key]) {
        Reply::Integer(left) => left,
        other => panic!("{other:?}"),
    };
    let here = claim(12);
    let (fence, record) = (old_key(&here.id), key_of(&here.id));
    assert!(left(&mut console, &fence) > left(&mut console, &record));
}

#[tokio::test]
async fn it_is_so_in_a_cluster() {
    let cluster = RedisCluster::start();
    let older = claim(4);
    let node = cluster.nodes().iter().find(|node| {
        let (key, left) = (old_key(&older.id), b"3600000");
        let words: [&[u8]; 5] = [b"SET", &key, FINISHED, b"PX", left];
        !matches!(node.console().try_call(&words).unwrap(), Reply::Error(_))
    });
    assert!(node.is_some());
    let store = connect(&cluster.url(), PATIENCE).await;
    let answer = store.claim(&older).await.unwrap();
    assert!(matches!(answer, Claimed::Finished { .. }), "{answer:?}");
    for number in 10..30 {
        let acquired = store.claim(&claim(number)).await.unwrap();
        assert_eq!(acquired, Claimed::acquired(1));
    }
}

fn claims_look_for_older(redis: &Redis, claim: &Claim) -> bool {
    let words: [&[u8]; 2] = [b"EXISTS", &old_key(&claim.id)];
    redis.console().call(&words) == Reply::Integer(1)
}

#[tokio::test]
async fn where_version_1_has_never_been_nobody_looks_for_it() {
    let redis = Redis::start();
    let mut console = redis.console();
    // Others' keys, also of that length.
    for key in 0..3000 {
        console.call(&["SET", &format!("idem:{key:032}"), "1"]);
    }
    console.call(&["RPUSH", &format!("idem:{:032}", 3000), "a list"]);
    let store = connect(&redis.url(), PATIENCE).await;
    store.claim(&claim(9)).await.unwrap();
    assert!(!claims_look_for_older(&redis, &claim(9)));
    let marker = console.call(&["GET", "idem:format"]);
    assert_eq!(marker, Reply::Bulk(b"2".to_vec()));
    // The next start need not look.
    console.call(&["CONFIG", "RESETSTAT"]);
    let store = connect(&redis.url(), PATIENCE).await;
    assert_eq!(console.info("commandstats", "cmdstat_scan"), None);
    store.claim(&claim(8)).await.unwrap();
    assert!(!claims_look_for_older(&redis, &claim(8)));
}

#[tokio::test]
async fn what_version_1_left_is_looked_for_until_it_is_gone() {
    let redis = with_older();
    let mut console = redis.console();
    for key in 0..3000 {
        console.call(&["SET", &format!("other{key}"), "value"]);
    }
    let store = connect(&redis.url(), PATIENCE).await;
    store.claim(&claim(9)).await.unwrap();
    assert!(claims_look_for_older(&redis, &claim(9)));
    for number in 1..=4 {
        let words: [&[u8]; 2] = [b"DEL", &old_key(&claim(number).id)];
        console.call(&words);
    }
    // What keeps version 1 out is none of its records.
    let store = connect(&redis.url(), PATIENCE).await;
    store.claim(&claim(8)).await.unwrap();
    assert!(!claims_look_for_older(&redis, &claim(8)));
}

#[tokio::test]
async fn a_login_that_may_not_look_is_careful() {
    let redis = with_older();
    let mut console = redis.console();
    let user = "app on >pw ~idem:* &idem:* +@all -scan";
    let words = ["ACL", "SETUSER"].into_iter().chain(user.split(' '));
    console.call(&words.collect::<Vec<_>>());
    let url = redis.url().replace("://", "://app:pw@");
    let store = connect(&url, PATIENCE).await;
    let answer = store.claim(&claim(4)).await.unwrap();
    assert!(matches!(answer, Claimed::Finished { .. }), "{answer:?}");
    store.claim(&claim(9)).await.unwrap();
    assert!(claims_look_for_older(&redis, &claim(9)));
}

#[tokio::test]
async fn a_server_that_takes_no_writes_gives_back_what_version_1_has_finished() {
    let redis = with_older();
    let store = connect(&redis.url(), PATIENCE).await;
    let mut console = redis.console();
    console.call(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let answer = store.claim(&claim(4)).await.unwrap();
    assert!(matches!(answer, Claimed::Finished { .. }), "{answer:?}");
    for number in [1, 3, 9] {
        let refused = store.claim(&claim(number)).await;
        assert!(
            matches!(refused, Err(StoreError::NotReady { .. })),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn a_strange_value_under_a_key_of_version_1_is_unreadable() {
    let redis = with_older();
    let store = connect(&redis.url(), PATIENCE).await;
    let mut console = redis.console();
    for (number, value) in [(10, &RUNNING[..40]), (11, b"1X"), (12, b"")] {
        put(&mut console, &claim(number), value, HOUR);
        let refused = store.claim(&claim(number)).await;
        assert!(
            matches!(refused, Err(StoreError::Unreadable { .. })),
            "{refused:?}"
        );
        let words: [&[u8]; 2] = [b"EXISTS", &key(&claim(number))];
        assert_eq!(console.call(&words), Reply::Integer(0));
    }
}
