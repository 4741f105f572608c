//! What it costs: commands, counted by the server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use idem::stores::redis::RedisStore;
use idem::{EngineBuilder, Error, Fingerprint, InFlight, Operation};
use idem_tests::{Console, Redis, Reply};
use tokio::sync::Notify;

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

/// A first call: `SET` and `EVALSHA` come from the client, the others from the script.
fn first_call() -> Stats {
    expected(&[("set", 1 + 1), ("evalsha", 1), ("getrange", 1)])
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
    let store = RedisStore::connect(&redis.url()).await.unwrap();
    EngineBuilder::new(Arc::new(store))
}

#[tokio::test]
async fn a_first_call_is_two_commands_and_a_replay_one() {
    let redis = Redis::start();
    let operation = engine(&redis).await.build().operation("op");
    let mut console = redis.console();
    stats(&mut console);

    assert_eq!(run(&operation, "k").await.unwrap(), 1);
    assert_eq!(stats(&mut console), first_call());
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
    assert_eq!(stats(&mut console), first_call());
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
        assert_eq!(stats(&mut console), first_call(), "{policy:?}");
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
    assert_eq!(stats(&mut console), first_call());
}
