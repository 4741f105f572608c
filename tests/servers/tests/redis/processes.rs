//! Many processes over one server: one execution, whatever happens to the processes.

use std::time::Duration;

use idem::stores::redis::RedisStore;
use idem::{Inspection, Key, Phase, RecordId, Store};
use idem_tests::{Redis, RedisCluster, Reply, wait_until};

use crate::worker::{Effects, Worker};

const PATIENCE: Duration = Duration::from_secs(60);

fn id(key: &str) -> RecordId {
    RecordId::derive("", "tests.worker", None, &Key::of(key).unwrap())
}

fn channel(key: &str) -> Vec<u8> {
    [b"idem:", id(key).as_bytes().as_slice()].concat()
}

/// Waits until so many processes are subscribed to the record.
fn watched_by(servers: &[Redis], key: &str, processes: i64) {
    wait_until("processes that watch the record", PATIENCE, || {
        let words: [&[u8]; 3] = [b"PUBSUB", b"SHARDNUMSUB", &channel(key)];
        let subscribed = |server: &Redis| match server.console().call(&words).items() {
            [_, Reply::Integer(count)] => *count,
            other => panic!("{other:?}"),
        };
        let seen: i64 = servers.iter().map(subscribed).sum();
        if seen == processes {
            Ok(())
        } else {
            Err(format!("{seen} of {processes}"))
        }
    });
}

async fn inspect(url: &str, key: &str) -> Option<Inspection> {
    let store = RedisStore::connect(url).await.unwrap();
    store.inspect(&id(key)).await.unwrap()
}

async fn lease_is_over(url: &str, key: &str) {
    let store = RedisStore::connect(url).await.unwrap();
    loop {
        match store.inspect(&id(key)).await.unwrap() {
            Some(Inspection {
                phase: Phase::Running { lease_left: None },
                ..
            }) => return,
            Some(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            None => panic!("the record is gone"),
        }
    }
}

/// Which of the workers runs the body.
fn runner(workers: &[Worker]) -> usize {
    wait_until("a body that runs", PATIENCE, || {
        let started = workers.iter().position(|worker| {
            let event = worker.look();
            assert!(
                event
                    .as_ref()
                    .is_none_or(|event| event["event"] == "started")
            );
            event.is_some()
        });
        started.ok_or_else(|| "none has started".to_owned())
    })
}

fn four_times_256(servers: &[Redis], url: &str) {
    let effects = Effects::new();
    let mut workers: Vec<_> = (0..4)
        .map(|_| Worker::start(url, &effects, &["--wait-ms", "60000"]))
        .collect();
    for worker in &mut workers {
        worker.tell("call k 256");
    }
    let first = runner(&workers);
    // Everybody else is waiting, by notification.
    watched_by(servers, "k", 3);
    workers[first].tell("end k");
    let ended = workers[first].expect("ended");
    let at = |event: &serde_json::Value| event["at"].as_str().unwrap().parse::<u64>().unwrap();
    let mut last = 0;
    for worker in &workers {
        let event = worker.expect("answers");
        last = last.max(at(&event));
        let answers = event["answers"].as_object().unwrap();
        let expected = format!("1 of {}", workers[first].pid());
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert_eq!(answers[&expected], 256);
    }
    assert_eq!(effects.of("k"), [1]);
    let late = Duration::from_micros(last - at(&ended));
    println!(
        "1,024 waiters in 4 processes: the last had its answer {late:?} after the first's end"
    );
}

#[test]
fn of_1024_equal_requests_in_four_processes_one_runs_and_all_get_its_answer() {
    let redis = [Redis::start()];
    four_times_256(&redis, &redis[0].url());
}

#[test]
fn so_it_is_in_a_cluster() {
    let cluster = RedisCluster::start();
    four_times_256(cluster.nodes(), &cluster.url());
}

#[test]
fn duplicates_in_other_processes_are_refused_while_the_first_runs() {
    let (redis, effects) = (Redis::start(), Effects::new());
    let mut first = Worker::start(&redis.url(), &effects, &[]);
    let mut second = Worker::start(&redis.url(), &effects, &[]);
    first.tell("call k 1");
    first.expect("started");
    second.tell("call k 64");
    let answers = second.answers();
    assert_eq!(answers.values().sum::<u64>(), 64);
    for answer in answers.keys() {
        assert!(answer.contains("is being processed"), "{answer}");
    }
    first.tell("end k");
    first.expect("ended");
    let answer = first.answers();
    second.tell("call k 1");
    assert_eq!(second.answers(), answer);
    assert_eq!(effects.of("k"), [1]);
}

#[test]
fn after_kill_9_the_next_attempt_runs_when_the_lease_is_over() {
    let (redis, effects) = (Redis::start(), Effects::new());
    let options = ["--lease-ms", "1500", "--wait-ms", "60000"];
    let mut killed = Worker::start(&redis.url(), &effects, &options);
    killed.tell("call k 1");
    killed.expect("started");
    killed.kill();
    // Waits for the lease, and then is the next attempt.
    let mut next = Worker::start(&redis.url(), &effects, &options);
    next.tell("call k 1");
    assert_eq!(next.expect("started")["attempt"], 2);
    next.tell("end k");
    next.expect("ended");
    let expected = format!("2 of {}", next.pid());
    assert_eq!(next.answers()[&expected], 1);
    assert_eq!(effects.of("k"), [1, 2]);
}

#[tokio::test]
async fn after_kill_9_nothing_runs_where_a_crash_refuses() {
    let (redis, effects) = (Redis::start(), Effects::new());
    let options = ["--lease-ms", "1500", "--on-crash", "refuse"];
    let mut killed = Worker::start(&redis.url(), &effects, &options);
    killed.tell("call k 1");
    killed.expect("started");
    killed.kill();
    let mut next = Worker::start(&redis.url(), &effects, &options);
    lease_is_over(&redis.url(), "k").await;
    next.tell("call k 1");
    let answers = next.answers();
    let (answer, count) = answers.first_key_value().unwrap();
    assert!(
        answer.contains("attempt 1") && answer.contains("resolved by hand"),
        "{answer}"
    );
    assert_eq!((*count, effects.of("k")), (1, vec![1]));
    let Some(Inspection {
        attempt: 1,
        phase: Phase::Running { lease_left: None },
        ..
    }) = inspect(&redis.url(), "k").await
    else {
        panic!("the record stays as it is");
    };
}

/// A process that was paused for longer than its lease, and overtaken. `ends` is how it tries to
/// end the record that is not its own any more.
async fn paused(ends: &str) {
    let (redis, effects) = (Redis::start(), Effects::new());
    let url = redis.url();
    let mut paused = Worker::start(&url, &effects, &["--lease-ms", "1500"]);
    paused.tell("call k 1");
    paused.expect("started");
    paused.pause();
    lease_is_over(&url, "k").await;
    let mut next = Worker::start(&url, &effects, &["--lease-ms", "60000"]);
    next.tell("call k 1");
    assert_eq!(next.expect("started")["attempt"], 2);

    // It wakes while the other runs, and learns from the store that it has lost.
    paused.resume();
    paused.tell("fence k");
    paused.expect("lost");
    paused.tell(ends);
    assert_eq!(paused.expect("ended")["lost"], true);
    // Its own caller is told what its body made: that did happen.
    assert_eq!(paused.answers()[&format!("1 of {}", paused.pid())], 1);
    // The record is as the other attempt left it.
    let seen = inspect(&url, "k").await.unwrap();
    assert_eq!(seen.attempt, 2);
    let Phase::Running {
        lease_left: Some(left),
    } = seen.phase
    else {
        panic!("attempt 2 holds its lease: {seen:?}");
    };
    assert!(left > Duration::from_secs(20), "{left:?}");

    next.tell("end k");
    next.expect("ended");
    let stored = next.answers();
    assert_eq!(stored[&format!("2 of {}", next.pid())], 1);
    // Whoever asks gets the one that was stored, the paused process, too.
    for worker in [&mut paused, &mut next] {
        worker.tell("call k 1");
        assert_eq!(worker.answers(), stored);
    }
    assert_eq!(effects.of("k"), [1, 2]);
}

#[tokio::test]
async fn a_process_that_was_overtaken_in_its_sleep_cannot_complete() {
    paused("end k").await;
}

#[tokio::test]
async fn a_process_that_was_overtaken_in_its_sleep_cannot_release() {
    paused("release k").await;
}
