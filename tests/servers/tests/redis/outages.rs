//! Servers that are stopped, killed, paused, cut off and failed over, under load.
//!
//! Clients send each of their requests to two engines at once, as to two processes, and again
//! until it is answered. What is checked, whatever happens to the server:
//!
//! - no body runs without a claim that the server has acknowledged,
//! - no body runs twice, unless the server has forgotten what it had acknowledged,
//! - every call is answered within the engine's timeouts,
//! - once the server is back, calls succeed again, by themselves.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use idem::stores::redis::RedisStore;
use idem::{
    Change, Claim, Claimed, EngineBuilder, Error, Fingerprint, InFlight, Inspection, Key,
    Operation, RecordId, Store, StoreError, Token, Watch,
};
use idem_tests::{Redis, RedisCluster, RedisSentinel, wait_until};
use tokio::task::JoinSet;

const COMMAND_TIMEOUT: Duration = Duration::from_secs(1);
const STORE_TIMEOUT: Duration = Duration::from_secs(3);
const WAIT: Duration = Duration::from_secs(10);
const OPERATION: &str = "tests.outages";
const CLIENTS: usize = 16;

/// A call may claim, wait, and store, and a busy machine may be slow; what hangs is longer.
const ANSWER: Duration = Duration::from_secs(3 + 10 + 3 + 15);

/// Every attempt that was acknowledged, with its token.
type Acquired = Arc<Mutex<HashMap<RecordId, Vec<(Token, u32)>>>>;

/// A store that remembers which claims its server has acknowledged.
#[derive(Clone)]
struct Witnessed {
    store: RedisStore,
    acquired: Acquired,
}

#[async_trait]
impl Store for Witnessed {
    fn name(&self) -> &'static str {
        self.store.name()
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let answer = self.store.claim(claim).await;
        if let Ok(Claimed::Acquired { attempt }) = answer {
            let mut acquired = self.acquired.lock().unwrap();
            let acquired = acquired.entry(claim.id).or_default();
            // The same claim again is no other.
            if !acquired.contains(&(claim.token, attempt)) {
                acquired.push((claim.token, attempt));
            }
        }
        answer
    }

    async fn renew(
        &self,
        id: &RecordId,
        token: &Token,
        lease: Duration,
        retention: Duration,
    ) -> Result<Change, StoreError> {
        self.store.renew(id, token, lease, retention).await
    }

    async fn complete(
        &self,
        id: &RecordId,
        token: &Token,
        outcome: Bytes,
        retention: Duration,
    ) -> Result<Change, StoreError> {
        self.store.complete(id, token, outcome, retention).await
    }

    async fn release(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.store.release(id, token).await
    }

    async fn abandon(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.store.abandon(id, token).await
    }

    async fn inspect(&self, id: &RecordId) -> Result<Option<Inspection>, StoreError> {
        self.store.inspect(id).await
    }

    async fn watch(&self, id: &RecordId) -> Result<Watch, StoreError> {
        self.store.watch(id).await
    }
}

/// What was executed, what was answered, and how the clients fared.
#[derive(Default)]
struct Shop {
    executions: Mutex<HashMap<String, usize>>,
    calls: AtomicU64,
    answered: AtomicU64,
    refused: AtomicU64,
    longest_ms: AtomicU64,
    closed: AtomicBool,
}

#[derive(Clone)]
struct Load {
    shop: Arc<Shop>,
    engines: [Operation; 2],
    acquired: Acquired,
}

impl Load {
    async fn over(url: &str) -> Self {
        let acquired = Acquired::default();
        let engine = async || {
            let builder = RedisStore::builder(url).unwrap();
            let store = Witnessed {
                store: builder
                    .command_timeout(COMMAND_TIMEOUT)
                    .connect()
                    .await
                    .unwrap(),
                acquired: Arc::clone(&acquired),
            };
            let engine = EngineBuilder::over(Arc::new(store)).store_timeout(STORE_TIMEOUT);
            let operation = engine.build().operation(OPERATION);
            operation
                .in_flight(InFlight::Wait(WAIT))
                .lease(Duration::from_secs(120))
        };
        Self {
            engines: [engine().await, engine().await],
            shop: Arc::default(),
            acquired,
        }
    }

    fn acquired(&self, key: &str) -> Vec<(Token, u32)> {
        let id = RecordId::derive("", OPERATION, None, &Key::of(key).unwrap());
        let acquired = self.acquired.lock().unwrap();
        acquired.get(&id).cloned().unwrap_or_default()
    }

    async fn body(&self, key: &str) -> String {
        let number = idem::attempt().number();
        let acknowledged = self.acquired(key);
        assert!(
            acknowledged.iter().any(|(_, attempt)| *attempt == number),
            "attempt {number} of {key} runs without a claim: {acknowledged:?}"
        );
        let execution = {
            let mut executions = self.shop.executions.lock().unwrap();
            let execution = executions.entry(key.to_owned()).or_default();
            *execution += 1;
            *execution
        };
        // Work.
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..30))).await;
        format!("execution {execution} of {key}")
    }

    /// Asks one engine until it answers with an outcome.
    async fn ask(&self, engine: usize, key: &str) -> String {
        loop {
            let started = Instant::now();
            let fingerprint = Fingerprint::of(key).unwrap();
            let body = async { Ok::<_, Error>(self.body(key).await) };
            let answer = self.engines[engine].run(key, fingerprint, body);
            let answer = tokio::time::timeout(ANSWER, answer).await;
            let answer = answer.unwrap_or_else(|_| panic!("no answer within {ANSWER:?}"));
            let took = u64::try_from(started.elapsed().as_millis()).unwrap();
            self.shop.longest_ms.fetch_max(took, Ordering::Relaxed);
            self.shop.calls.fetch_add(1, Ordering::Relaxed);
            match answer {
                Ok(outcome) => {
                    self.shop.answered.fetch_add(1, Ordering::Relaxed);
                    return outcome;
                }
                Err(Error::Store(_) | Error::InFlight { .. }) => {
                    self.shop.refused.fetch_add(1, Ordering::Relaxed);
                    // As `Retry-After` says to a client.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn client(self, number: usize, may_forget: bool) {
        for order in 0.. {
            if self.shop.closed.load(Ordering::Acquire) {
                return;
            }
            let key = format!("client {number}, order {order}");
            let (one, other) = tokio::join!(self.ask(0, &key), self.ask(1, &key));
            let again = self.ask(order % 2, &key).await;
            let executions = self.shop.executions.lock().unwrap()[&key];
            if executions == 1 {
                assert_eq!((&one, &other), (&again, &again));
                continue;
            }
            let acknowledged = self.acquired(&key);
            assert!(may_forget, "{key} ran {executions} times: {acknowledged:?}");
            // Each execution was acknowledged as a first: the server had forgotten the others.
            let firsts = acknowledged.iter().filter(|(_, attempt)| *attempt == 1);
            assert!(firsts.count() >= executions, "{key}: {acknowledged:?}");
        }
    }

    /// Waits until so many more calls have been answered.
    fn recovers(&self, what: &str) {
        let before = self.shop.answered.load(Ordering::Relaxed);
        let what = format!("recovery after {what}");
        wait_until(&what, Duration::from_secs(60), || {
            let answered = self.shop.answered.load(Ordering::Relaxed) - before;
            if answered > 200 {
                Ok(())
            } else {
                Err(format!("{answered} calls answered"))
            }
        });
    }
}

type Faults<'a> = &'a [(&'a str, &'a dyn Fn())];

/// Applies every fault in turn, over and over, for so long; then closes the shop and checks it.
async fn withstands(url: &str, time: Duration, may_forget: bool, faults: Faults<'_>) {
    let load = Load::over(url).await;
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(load.clone().client(number, may_forget));
    }
    let mut befell = 0;
    tokio::task::block_in_place(|| {
        load.recovers("the start");
        let started = Instant::now();
        // All of them once at least.
        for (what, fault) in faults.iter().cycle() {
            if befell >= faults.len() && started.elapsed() > time {
                break;
            }
            fault();
            load.recovers(what);
            befell += 1;
        }
    });
    load.shop.closed.store(true, Ordering::Release);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    let executions = load.shop.executions.lock().unwrap();
    let repeated = executions.values().filter(|count| **count > 1).count();
    println!(
        "{befell} faults, {} keys, {} calls, {} refused, {repeated} keys executed again after a \
         forgotten claim, longest call {} ms",
        executions.len(),
        load.shop.calls.load(Ordering::Relaxed),
        load.shop.refused.load(Ordering::Relaxed),
        load.shop.longest_ms.load(Ordering::Relaxed),
    );
}

fn pass(time: Duration) {
    std::thread::sleep(time);
}

fn tell(server: &Redis, words: &[&str]) {
    let _ = server.console().try_call(words).unwrap();
}

fn kill_clients(server: &Redis) {
    for kind in ["normal", "pubsub"] {
        tell(server, &["CLIENT", "KILL", "TYPE", kind]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_single_server_in_trouble_for_a_minute_runs_nothing_twice() {
    let redis = Redis::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let a_while = Duration::from_millis(2500);
    withstands(
        &redis.url(),
        Duration::from_secs(60),
        false,
        &[
            ("SCRIPT FLUSH", &|| tell(&redis, &["SCRIPT", "FLUSH"])),
            ("CLIENT KILL", &|| kill_clients(&redis)),
            ("CLIENT PAUSE", &|| {
                tell(&redis, &["CLIENT", "PAUSE", "1500", "ALL"]);
                pass(Duration::from_millis(1500));
            }),
            ("SIGSTOP", &|| {
                redis.pause();
                pass(a_while);
                redis.resume();
            }),
            ("SIGKILL", &|| {
                redis.kill();
                pass(a_while);
                redis.restart();
            }),
            ("SIGTERM", &|| redis.restart()),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_primary_that_is_failed_over_runs_twice_only_what_it_forgot() {
    let sentinel = RedisSentinel::start();
    withstands(
        &sentinel.url(),
        Duration::from_secs(30),
        true,
        &[
            ("SENTINEL FAILOVER", &|| sentinel.sentinel_failover()),
            ("a killed primary", &|| sentinel.fail_over()),
            ("its return as a replica", &|| sentinel.revive()),
            ("CLIENT KILL", &|| kill_clients(sentinel.primary())),
            ("a primary that was paused and overtaken", &|| {
                let overtaken = sentinel.primary();
                overtaken.pause();
                wait_until("another primary", Duration::from_secs(60), || {
                    if std::ptr::eq(sentinel.primary(), overtaken) {
                        Err("it is the same")
                    } else {
                        Ok(())
                    }
                    .map_err(str::to_owned)
                });
                overtaken.resume();
            }),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cluster_with_a_node_in_trouble_runs_nothing_twice() {
    let cluster = RedisCluster::start();
    let nodes = cluster.nodes();
    withstands(
        &cluster.url(),
        Duration::from_secs(20),
        false,
        &[
            ("SCRIPT FLUSH", &|| tell(&nodes[0], &["SCRIPT", "FLUSH"])),
            ("CLIENT KILL", &|| nodes.iter().for_each(kill_clients)),
            ("SIGSTOP", &|| {
                nodes[1].pause();
                pass(Duration::from_millis(1500));
                nodes[1].resume();
            }),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cluster_whose_node_was_killed_recovers_when_it_is_back() {
    // The node keeps nothing on disk: what it forgets may run again.
    let cluster = RedisCluster::start();
    withstands(
        &cluster.url(),
        Duration::ZERO,
        true,
        &[("SIGKILL", &|| {
            cluster.nodes()[2].kill();
            pass(Duration::from_millis(1500));
            cluster.nodes()[2].restart();
            cluster.wait_until_ok();
        })],
    )
    .await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said_at_once_and_runs_nothing() {
    let redis = Redis::start();
    let load = Load::over(&redis.url()).await;
    redis.kill();
    let started = Instant::now();
    let body = async { panic!("this body must not run") };
    let refused: Result<u32, Error> = load.engines[0]
        .run("k", Fingerprint::of("k").unwrap(), body)
        .await;
    assert!(matches!(refused, Err(Error::Store(_))), "{refused:?}");
    println!("refused after {:?}", started.elapsed());
    redis.restart();
    assert_eq!(load.ask(0, "k").await, "execution 1 of k");
}

#[tokio::test]
async fn a_store_that_cannot_be_reached_is_an_error_of_connecting() {
    let redis = Redis::start();
    redis.kill();
    for url in [redis.url(), redis.url().replace("redis", "redis-cluster")] {
        let error = RedisStore::connect(&url).await.unwrap_err();
        assert!(error.to_string().contains("cannot be reached"), "{error}");
    }
}
