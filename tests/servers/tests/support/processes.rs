//! Many processes over one server: one execution, whatever happens to the processes.

use std::sync::Arc;
use std::time::Duration;

use idem::store::Store;
use idem::{Inspection, Key, Phase, RecordId};
use idem_tests::wait_until;

use crate::worker::{Effects, Worker};

pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// What the processes share.
pub(crate) trait Server {
    fn url(&self) -> String;

    /// How many processes wait for the record's end by notification.
    fn watching(&self, record: &RecordId) -> usize;

    /// A store of this process's own.
    fn store(&self) -> impl Future<Output = Arc<dyn Store>> {
        async { idem::stores::connect(&self.url()).await.unwrap() }
    }
}

fn id(key: &str) -> RecordId {
    RecordId::derive("", "tests.worker", None, &Key::of(key).unwrap())
}

fn watched_by(server: &impl Server, key: &str, processes: usize) {
    wait_until(
        "processes that watch the record",
        PATIENCE,
        || match server.watching(&id(key)) {
            seen if seen == processes => Ok(()),
            seen => Err(format!("{seen} of {processes}")),
        },
    );
}

async fn inspect(server: &impl Server, key: &str) -> Option<Inspection> {
    server.store().await.inspect(&id(key)).await.unwrap()
}

async fn lease_is_over(server: &impl Server, key: &str) {
    let store = server.store().await;
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

pub(crate) fn of_1024_equal_requests_one_runs(server: &impl Server) {
    let effects = Effects::new();
    let mut workers: Vec<_> = (0..4)
        .map(|_| Worker::start(&server.url(), &effects, &["--wait-ms", "600000"]))
        .collect();
    for worker in &mut workers {
        worker.tell("call k 256");
    }
    let first = runner(&workers);
    // Everybody else is waiting, by notification.
    watched_by(server, "k", 3);
    workers[first].tell("end k");
    let ended = workers[first].expect("ended");
    let at = |event: &serde_json::Value| event["at"].as_str().unwrap().parse::<u64>().unwrap();
    let mut last = 0;
    for worker in &workers {
        let event = worker.expect("answers");
        last = last.max(at(&event));
        let answers = event["answers"].as_object().unwrap();
        let expected = format!("1 of {}", workers[first].pid());
        assert!(
            answers.len() == 1 && answers.contains_key(&expected),
            "{answers:?}"
        );
        assert_eq!(answers[&expected], 256);
    }
    assert_eq!(effects.of("k"), [1]);
    let late = Duration::from_micros(last - at(&ended));
    println!(
        "1,024 waiters in 4 processes: the last had its answer {late:?} after the first's end"
    );
}

pub(crate) fn duplicates_elsewhere_are_refused(server: &impl Server) {
    let (url, effects) = (server.url(), Effects::new());
    let mut first = Worker::start(&url, &effects, &[]);
    let mut second = Worker::start(&url, &effects, &[]);
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

pub(crate) fn after_kill_9_the_next_attempt_runs(server: &impl Server) {
    let (url, effects) = (server.url(), Effects::new());
    let options = ["--lease-ms", "1500", "--wait-ms", "600000"];
    let mut killed = Worker::start(&url, &effects, &options);
    killed.tell("call k 1");
    killed.expect("started");
    killed.kill();
    // Waits for the lease, and then is the next attempt.
    let mut next = Worker::start(&url, &effects, &options);
    next.tell("call k 1");
    assert_eq!(next.expect("started")["attempt"], 2);
    next.tell("end k");
    next.expect("ended");
    let expected = format!("2 of {}", next.pid());
    assert_eq!(next.answers()[&expected], 1);
    assert_eq!(effects.of("k"), [1, 2]);
}

pub(crate) async fn after_kill_9_nothing_runs(server: &impl Server) {
    let (url, effects) = (server.url(), Effects::new());
    let options = ["--lease-ms", "1500", "--on-crash", "refuse"];
    let mut killed = Worker::start(&url, &effects, &options);
    killed.tell("call k 1");
    killed.expect("started");
    killed.kill();
    let mut next = Worker::start(&url, &effects, &options);
    lease_is_over(server, "k").await;
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
    }) = inspect(server, "k").await
    else {
        panic!("the record stays as it is");
    };
}

/// A process that was paused for longer than its lease, and overtaken. `ends` is how it tries to
/// end the record that is not its own any more.
pub(crate) async fn paused(server: &impl Server, ends: &str) {
    let (url, effects) = (server.url(), Effects::new());
    let mut paused = Worker::start(&url, &effects, &["--lease-ms", "1500"]);
    paused.tell("call k 1");
    paused.expect("started");
    paused.pause();
    lease_is_over(server, "k").await;
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
    let seen = inspect(server, "k").await.unwrap();
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
