//! Duplicates that wait in one process for one running attempt: from the end of the leader's
//! body until the last waiter has its answer.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use idem::stores::memory::MemoryStore;
use idem::{Engine, Error, Fingerprint, InFlight};
use idem_benches::Target::{AtMost, Baseline, None};
use idem_benches::{Contender, interleave, print, runtime, scaled, thread_cpu};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::yield_now;

const ANSWER: u64 = 7;
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let runtime = runtime();
    for (waiters, rounds) in [(64, scaled(501, 51)), (10_000, scaled(41, 7))] {
        let runtime = &runtime;
        let contenders = vec![
            Contender::new("`Notify` + `OnceLock`", Baseline, move || {
                [naked(runtime, waiters, false)]
            }),
            Contender::new("the same, each within a `timeout`", None, move || {
                [naked(runtime, waiters, true)]
            }),
            Contender::new("**idem, `in_flight = wait`**", AtMost(1.5), move || {
                [protected(runtime, waiters)]
            }),
        ];
        let [figures] = interleave(rounds, contenders);
        let title = format!("{waiters} waiters, until the last has its answer");
        print(&title, "µs", 1000.0, &figures);
    }
}

/// What the tasks of one round share.
#[derive(Default)]
struct Round {
    open: Notify,
    entered: AtomicUsize,
    answered: AtomicUsize,
    ended: OnceLock<Duration>,
    last: OnceLock<Duration>,
}

impl Round {
    /// The leader's body.
    async fn body(self: Arc<Self>) -> u64 {
        self.open.notified().await;
        self.ended.set(thread_cpu()).expect("one leader");
        ANSWER
    }

    async fn wait(self: Arc<Self>, waiters: usize, answer: impl Future<Output = u64>) {
        self.entered.fetch_add(1, Ordering::Relaxed);
        assert_eq!(answer.await, ANSWER);
        if self.answered.fetch_add(1, Ordering::Relaxed) + 1 == waiters {
            self.last.set(thread_cpu()).expect("one last waiter");
        }
    }

    /// Runs the leader, lets all waiters wait, ends the leader.
    async fn run<W>(
        self: Arc<Self>,
        waiters: usize,
        leader: impl Future<Output = u64> + Send + 'static,
        waiter: impl Fn() -> W,
    ) -> f64
    where
        W: Future<Output = u64> + Send + 'static,
    {
        let leader = tokio::spawn(leader);
        yield_now().await;
        let tasks: Vec<_> = (0..waiters)
            .map(|_| tokio::spawn(Arc::clone(&self).wait(waiters, waiter())))
            .collect();
        // A waiter that has entered waits when its task is left.
        while self.entered.load(Ordering::Relaxed) < waiters {
            yield_now().await;
        }
        self.open.notify_one();
        assert_eq!(leader.await.expect("the leader ends"), ANSWER);
        for task in tasks {
            task.await.expect("the waiter ends");
        }
        let (last, ended) = (self.last.get(), self.ended.get());
        let took = last.zip(ended).map(|(last, ended)| *last - *ended);
        took.unwrap_or_default().as_secs_f64() * 1e9
    }
}

#[derive(Default)]
struct Flight {
    answer: OnceLock<u64>,
    changed: Notify,
}

impl Flight {
    async fn answer(self: Arc<Self>) -> u64 {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(answer) = self.answer.get() {
                return *answer;
            }
            changed.await;
        }
    }
}

fn naked(runtime: &Runtime, waiters: usize, timed: bool) -> f64 {
    let (round, flight) = (Arc::new(Round::default()), Arc::new(Flight::default()));
    let body = Arc::clone(&round).body();
    let leading = Arc::clone(&flight);
    let leader = async move {
        let answer = body.await;
        leading.answer.set(answer).expect("one leader");
        leading.changed.notify_waiters();
        answer
    };
    let waiter = || {
        let answer = Arc::clone(&flight).answer();
        async move {
            if timed {
                let answer = tokio::time::timeout(PATIENCE, answer).await;
                answer.expect("the leader is faster")
            } else {
                answer.await
            }
        }
    };
    runtime.block_on(round.run(waiters, leader, waiter))
}

fn protected(runtime: &Runtime, waiters: usize) -> f64 {
    let round = Arc::new(Round::default());
    let operation = Engine::new(MemoryStore::new())
        .operation("waiters")
        .in_flight(InFlight::Wait(PATIENCE));
    let fingerprint = Fingerprint::of("request").expect("a string has a fingerprint");
    let leading = operation.clone();
    let body = Arc::clone(&round).body();
    let leader = async move {
        let body = async move { Ok::<_, Error>(body.await) };
        let answer = leading.run("key", fingerprint, body).await;
        answer.expect("the leader runs")
    };
    let waiter = || {
        let operation = operation.clone();
        async move {
            let body = async { Ok::<_, Error>(0) };
            let answer = operation.run("key", fingerprint, body).await;
            answer.expect("the leader's answer")
        }
    };
    runtime.block_on(round.run(waiters, leader, waiter))
}
