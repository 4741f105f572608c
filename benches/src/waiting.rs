//! Duplicates that wait in one process for one running attempt.

use std::future::Future;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Json, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::routing::post;
use bytes::Bytes;
use http_body_util::BodyExt;
use idem::axum::idempotent;
use idem::stores::memory::MemoryStore;
use idem::{Engine, Error, Fingerprint, InFlight};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tower::ServiceExt;

use crate::http::{Order, install_engine};
use crate::thread_cpu;

const ANSWER: u64 = 7;
const PATIENCE: Duration = Duration::from_secs(60);

/// What was seen of duplicates that waited.
#[derive(Clone, Copy, Debug)]
pub struct Waited {
    /// CPU time from the end of the leader's body until the last duplicate had its answer.
    pub nanoseconds: f64,
    /// What each of them held while it waited, its task and its request among it.
    pub bytes: f64,
}

/// So many duplicates of one attempt.
pub struct Duplicates<'a> {
    runtime: &'a Runtime,
    count: usize,
    memory: fn() -> usize,
}

impl<'a> Duplicates<'a> {
    /// `memory` says how many bytes are allocated.
    pub const fn new(runtime: &'a Runtime, count: usize, memory: fn() -> usize) -> Self {
        Self {
            runtime,
            count,
            memory,
        }
    }

    /// `Notify` and a `OnceLock`, and within a `timeout` if it is `timed`.
    ///
    /// # Panics
    /// As all of these: when somebody gets no answer, or another one.
    pub fn of_notify(&self, timed: bool) -> Waited {
        let (round, flight) = (Arc::new(Round::default()), Arc::new(Flight::default()));
        let leader = Arc::clone(&flight).lead(Arc::clone(&round));
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
        self.run(round, leader, waiter)
    }

    /// Handlers of axum that buffer and hash their request's body, and wait for `Notify` and a
    /// `OnceLock`.
    ///
    /// # Panics
    /// When somebody gets no answer, or another one.
    pub fn of_a_handler(&self) -> Waited {
        let (round, flight) = (Arc::new(Round::default()), Arc::new(Flight::default()));
        let leader = Arc::clone(&flight).lead(Arc::clone(&round));
        let app = Router::new().route("/", post(joined)).with_state(flight);
        let requests = Requests::new(app);
        self.run(round, leader, || requests.clone().send())
    }

    /// `Operation::run`.
    ///
    /// # Panics
    /// When somebody gets no answer, or another one.
    pub fn of_run(&self) -> Waited {
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
        self.run(round, leader, waiter)
    }

    /// The attribute over handlers of axum.
    ///
    /// # Panics
    /// When somebody gets no answer, or another one.
    pub fn of_the_attribute(&self) -> Waited {
        install_engine();
        let round = Arc::new(Round::default());
        let app = Router::new().route("/", post(protected));
        let requests = Requests::new(app.with_state(Arc::clone(&round)));
        let leader = requests.clone().send();
        self.run(round, leader, || requests.clone().send())
    }

    fn run<W>(
        &self,
        round: Arc<Round>,
        leader: impl Future<Output = u64> + Send + 'static,
        waiter: impl Fn() -> W,
    ) -> Waited
    where
        W: Future<Output = u64> + Send + 'static,
    {
        self.runtime.block_on(async {
            let leader = tokio::spawn(leader);
            while !round.is_led.load(Ordering::Relaxed) {
                yield_now().await;
            }
            let before = (self.memory)();
            let tasks: Vec<_> = (0..self.count)
                .map(|_| tokio::spawn(Arc::clone(&round).wait(self.count, waiter())))
                .collect();
            // A waiter that has entered waits when its task is left.
            while round.entered.load(Ordering::Relaxed) < self.count {
                yield_now().await;
            }
            let held = (self.memory)().saturating_sub(before);
            round.open.notify_one();
            assert_eq!(leader.await.expect("the leader ends"), ANSWER);
            for task in tasks {
                task.await.expect("the waiter ends");
            }
            let (last, ended) = (round.last.get(), round.ended.get());
            let took = last.zip(ended).map(|(last, ended)| *last - *ended);
            #[allow(clippy::cast_precision_loss)]
            Waited {
                nanoseconds: took.unwrap_or_default().as_secs_f64() * 1e9,
                bytes: held as f64 / self.count as f64,
            }
        })
    }
}

/// What the tasks of one round share.
#[derive(Default)]
struct Round {
    is_led: AtomicBool,
    open: Notify,
    entered: AtomicUsize,
    answered: AtomicUsize,
    ended: OnceLock<Duration>,
    last: OnceLock<Duration>,
}

impl Round {
    /// The leader's body.
    async fn body(self: Arc<Self>) -> u64 {
        self.is_led.store(true, Ordering::Relaxed);
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
}

#[derive(Default)]
struct Flight {
    answer: OnceLock<u64>,
    changed: Notify,
}

impl Flight {
    async fn lead(self: Arc<Self>, round: Arc<Round>) -> u64 {
        let answer = round.body().await;
        self.answer.set(answer).expect("one leader");
        self.changed.notify_waiters();
        answer
    }

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

async fn joined(State(flight): State<Arc<Flight>>, body: Bytes) -> String {
    black_box(Sha256::digest(&body));
    drop(body);
    flight.answer().await.to_string()
}

#[idempotent(
    name = "waiters.http",
    key = header("Idempotency-Key"),
    ttl = "24h",
    in_flight = "wait 60s"
)]
async fn protected(State(round): State<Arc<Round>>, Json(order): Json<Order>) -> String {
    black_box(order);
    round.body().await.to_string()
}

/// Requests under one key, each with a body of its own.
#[derive(Clone)]
struct Requests {
    app: Router,
    body: Arc<[u8]>,
    key: Arc<str>,
}

impl Requests {
    fn new(app: Router) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let body = serde_json::to_vec(&Order::sample()).expect("an order is JSON");
        Self {
            app,
            body: body.into(),
            key: format!("8e03978e-40d5-43e8-0002-{number:012}").into(),
        }
    }

    async fn send(self) -> u64 {
        let request = Request::post("/")
            .header("host", "shop.example")
            .header(CONTENT_TYPE, "application/json")
            .header("idempotency-key", &*self.key)
            .body(Body::from(Bytes::copy_from_slice(&self.body)));
        let answer = self.app.oneshot(request.expect("a request")).await;
        let answer = answer.unwrap_or_else(|never| match never {});
        assert!(answer.status().is_success());
        let answer = answer.into_body().collect().await.expect("an answer");
        let answer = answer.to_bytes();
        let text = std::str::from_utf8(&answer).expect("a text");
        text.parse().expect("a number")
    }
}
