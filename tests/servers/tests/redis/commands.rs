//! What it costs: commands, counted by the server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use idem::store::{Change, Claimed, Lease, OperationName, Store};
use idem::{EngineBuilder, Error, Fingerprint, InFlight, Operation};
use idem_tests::{Console, Redis, Reply};
use tokio::sync::Notify;

use crate::conformance::{claim, key};
use crate::patience::{PATIENCE, connect};

pub(crate) type Stats = BTreeMap<String, u64>;

/// Calls by command since the last look, those made by scripts included.
pub(crate) fn stats(console: &mut Console) -> Stats {
    let Reply::Bulk(info) = console.call(&["INFO", "commandstats"]) else {
        panic!("INFO is text");
    };
    let info = String::from_utf8(info).unwrap();
    console.call(&["CONFIG", "RESETSTAT"]);
    info.lines()
        .filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="))
        .map(|(name, rest)| {
            let calls = rest.split(',').next().unwrap().parse().unwrap();
            (name.to_owned(), calls)
        })
        .filter(|(name, _)| name != "config|resetstat")
        .collect()
}

fn expected(calls: &[(&str, u64)]) -> Stats {
    let calls = calls
        .iter()
        .map(|(name, count)| ((*name).to_owned(), *count));
    calls.collect()
}

/// A first call: two commands. Where the server has no `SET … IFEQ`, the second one is `EVALSHA`, and what
/// else is counted comes from the script.
fn first_call(console: &mut Console) -> Stats {
    match compares(console) {
        true => expected(&[("set", 2)]),
        false => expected(&[("set", 1 + 1), ("evalsha", 1), ("getrange", 1)]),
    }
}

/// Whether the server has `SET … IFEQ`.
fn compares(console: &mut Console) -> bool {
    let answer = console
        .try_call(&["SET", "nothing", "new", "IFEQ", "old"])
        .unwrap();
    console.call(&["CONFIG", "RESETSTAT"]);
    match answer {
        Reply::Nil => true,
        Reply::Error(_) => false,
        other => panic!("{other:?}"),
    }
}

/// A replay: one command.
fn replay() -> Stats {
    expected(&[("set", 1)])
}

async fn run(operation: &Operation, key: &str) -> Result<u32, Error> {
    let fingerprint = Fingerprint::of(&key).unwrap();
    operation
        .run(key, fingerprint, async { Ok(idem::attempt().number()) })
        .await
}

async fn engine(redis: &Redis) -> EngineBuilder {
    // The server learns its scripts.
    for builder in [over(redis).await, over(redis).await.cache(1)] {
        run(&builder.build().operation("warm"), "warm")
            .await
            .unwrap();
    }
    over(redis).await
}

async fn over(redis: &Redis) -> EngineBuilder {
    let store = connect(&redis.url(), PATIENCE).await;
    EngineBuilder::new(Arc::new(store))
}

#[tokio::test]
async fn a_first_call_is_two_commands_and_a_replay_one() {
    let redis = Redis::start();
    let operation = engine(&redis).await.build().operation("op");
    let mut console = redis.console();
    stats(&mut console);

    assert_eq!(run(&operation, "k").await.unwrap(), 1);
    assert_eq!(stats(&mut console), first_call(&mut console));
    assert_eq!(run(&operation, "k").await.unwrap(), 1);
    assert_eq!(stats(&mut console), replay());
}

#[tokio::test]
async fn a_cached_replay_is_no_command() {
    let redis = Redis::start();
    let here = engine(&redis)
        .await
        .cache(1_000_000)
        .build()
        .operation("op");
    let there = engine(&redis)
        .await
        .cache(1_000_000)
        .build()
        .operation("op");
    let mut console = redis.console();
    stats(&mut console);

    assert_eq!(run(&here, "k").await.unwrap(), 1);
    assert_eq!(stats(&mut console), first_call(&mut console));
    for _ in 0..100 {
        assert_eq!(run(&here, "k").await.unwrap(), 1);
    }
    assert_eq!(stats(&mut console), Stats::new());

    // Another process asks once, and once more how long it may keep the answer.
    assert_eq!(run(&there, "k").await.unwrap(), 1);
    let asked = [("set", 1), ("evalsha", 1), ("get", 1), ("pttl", 1)];
    assert_eq!(stats(&mut console), expected(&asked));
    for _ in 0..100 {
        assert_eq!(run(&there, "k").await.unwrap(), 1);
    }
    assert_eq!(stats(&mut console), Stats::new());
}

#[tokio::test]
async fn a_thousand_duplicates_in_one_process_are_two_commands_in_all() {
    for policy in [InFlight::Reject, InFlight::Wait(Duration::from_secs(60))] {
        let redis = Redis::start();
        let operation = engine(&redis)
            .await
            .build()
            .operation("op")
            .in_flight(policy);
        let mut console = redis.console();
        stats(&mut console);

        let (started, end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let first = tokio::spawn({
            let (operation, started, end) = (operation.clone(), started.clone(), end.clone());
            async move {
                let body = async {
                    started.notify_one();
                    end.notified().await;
                    Ok::<_, Error>(7)
                };
                operation
                    .run("k", Fingerprint::of("k").unwrap(), body)
                    .await
            }
        });
        started.notified().await;
        let duplicates = join_all((0..1000).map(|_| run(&operation, "k")));
        let ends = async {
            // One thread: when this goes on, every duplicate has gone as far as it can.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            end.notify_one();
        };
        let (answers, ()) = tokio::join!(duplicates, ends);
        for answer in answers {
            match policy {
                InFlight::Reject => assert!(matches!(answer, Err(Error::InFlight { .. }))),
                _ => assert_eq!(answer.unwrap(), 7),
            }
        }
        assert_eq!(first.await.unwrap().unwrap(), 7);
        assert_eq!(stats(&mut console), first_call(&mut console), "{policy:?}");
    }
}

#[tokio::test]
async fn nothing_is_published_where_nobody_waits() {
    let redis = Redis::start();
    let operation = engine(&redis).await.build().operation("op");
    let mut console = redis.console();
    stats(&mut console);
    for key in 0..100 {
        run(&operation, &key.to_string()).await.unwrap();
    }
    assert_eq!(stats(&mut console).get("spublish"), None);
}

#[tokio::test]
async fn scripts_that_were_flushed_are_sent_again() {
    let redis = Redis::start();
    let operation = engine(&redis).await.build().operation("op");
    let mut console = redis.console();
    console.call(&["SCRIPT", "FLUSH"]);
    assert_eq!(run(&operation, "k").await.unwrap(), 1);
    assert_eq!(run(&operation, "k").await.unwrap(), 1);
    stats(&mut console);
    assert_eq!(run(&operation, "l").await.unwrap(), 1);
    assert_eq!(stats(&mut console), first_call(&mut console));
}

/// The record's bytes, and how long it is kept, in milliseconds.
fn kept(console: &mut Console, key: &[u8]) -> (Vec<u8>, i64) {
    match [
        console.call(&[b"GET".as_slice(), key]),
        console.call(&[b"PTTL".as_slice(), key]),
    ] {
        [Reply::Bulk(bytes), Reply::Integer(left)] => (bytes, left),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_completion_writes_the_same_record_with_and_without_a_script() {
    let redis = Redis::start();
    let [here, elsewhere] = [
        connect(&redis.url(), PATIENCE).await,
        connect(&redis.url(), PATIENCE).await,
    ];
    let mut console = redis.console();
    let compares = compares(&mut console);
    for name in ["", "charges.create"] {
        let held = claim(1).operation(OperationName::new(name));
        let (lease, key) = (Lease::of(&held, 1), key(&held));
        let answer = here.claim(&held).await.unwrap();
        assert_eq!(answer, Claimed::acquired(1));
        let (running, _) = kept(&mut console, &key);
        stats(&mut console);
        let mut written = Vec::new();
        // Who has not claimed it does not know it byte for byte.
        for store in [&here, &elsewhere] {
            console.call(&[b"SET".as_slice(), &key, &running, b"PX", b"60000"]);
            console.call(&["CONFIG", "RESETSTAT"]);
            let done = store.complete(&lease, Bytes::from_static(b"done")).await;
            assert_eq!(done.unwrap(), Change::Applied);
            let scripts = stats(&mut console).get("evalsha").copied();
            let plain = compares && std::ptr::eq(store, &here);
            assert_eq!(scripts, (!plain).then_some(1));
            let (record, left) = kept(&mut console, &key);
            let retention = i64::try_from(held.retention.as_millis()).unwrap();
            assert!((retention - 60_000..=retention).contains(&left), "{left}");
            written.push(record);
        }
        assert_eq!(written[0], written[1]);
        // A retry whose answer was lost is recognised.
        let again = here.complete(&lease, Bytes::from_static(b"done")).await;
        assert_eq!(again.unwrap(), Change::Applied);
        console.call(&["FLUSHALL"]);
    }
}

#[tokio::test]
async fn a_record_that_is_not_as_its_claim_wrote_it_is_judged_by_the_script() {
    let redis = Redis::start();
    let store = connect(&redis.url(), PATIENCE).await;
    let mut console = redis.console();

    let (watched, stepped, lost, gone) = (claim(1), claim(2), claim(3), claim(4));
    for held in [&watched, &stepped, &lost, &gone] {
        assert_eq!(store.claim(held).await.unwrap(), Claimed::acquired(1));
    }
    let waiter = store.watch(&watched.id).await.unwrap();
    let step = Bytes::from_static(b"step");
    let kept = store.checkpoint(&Lease::of(&stepped, 1), 0, step).await;
    assert_eq!(kept.unwrap(), Change::Applied);
    let other = claim(5);
    let [key_of_lost, key_of_other] = [key(&lost), key(&other)];
    assert_eq!(store.claim(&other).await.unwrap(), Claimed::acquired(1));
    console.call(&[b"RENAME".as_slice(), &key_of_other, &key_of_lost]);
    console.call(&[b"DEL".as_slice(), &key(&gone)]);

    let complete = async |held| {
        let lease = Lease::of(held, 1);
        let outcome = Bytes::from_static(b"done");
        store.complete(&lease, outcome).await.unwrap()
    };
    assert_eq!(complete(&watched).await, Change::Applied);
    waiter.await;
    assert_eq!(complete(&stepped).await, Change::Applied);
    // Another attempt holds it.
    assert_eq!(complete(&lost).await, Change::LeaseLost);
    // It was forgotten, and is created again.
    assert_eq!(complete(&gone).await, Change::Applied);
    let seen = store.inspect(&gone.id).await.unwrap();
    assert!(seen.is_some());
}
