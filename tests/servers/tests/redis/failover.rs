//! A server that has forgotten what it acknowledged, under owners that live: who reaches it before a
//! retry does creates its record again, and nothing runs twice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use idem::store::{Change, Lease, Store};
use idem::stores::redis::RedisStore;
use idem::{Engine, Error, Fingerprint, InFlight, Key, Operation, Phase, RecordId, StoreError};
use idem_tests::{Redis, RedisSentinel, wait_until};
use tokio::sync::{Barrier, Semaphore};
use tokio::task::{JoinSet, block_in_place};

use crate::conformance::claim;
use crate::links::{PATIENCE, connect, eventually, is};
use crate::proxy::Proxy;

const OWNERS: usize = 50;
const OPERATION: &str = "tests.failover";

/// Renewals come at a third of it, and all of it passes on no machine, however busy. Sentinels take
/// their time.
const LEASE: Duration = Duration::from_secs(15);
const LONG_LEASE: Duration = Duration::from_secs(60);

/// The owners of fifty attempts, which end when they are told to.
struct Owners {
    operation: Operation,
    tasks: JoinSet<Result<usize, Error>>,
    ends: Vec<Arc<Semaphore>>,
    runs: Arc<Mutex<HashMap<usize, usize>>>,
}

fn id(key: usize) -> RecordId {
    RecordId::derive("", OPERATION, None, &Key::of(&key).unwrap())
}

impl Owners {
    async fn begin(store: RedisStore, lease: Duration) -> Self {
        let engine = Engine::builder(store).store_timeout(PATIENCE).build();
        let mut owners = Self {
            operation: engine.operation(OPERATION).lease(lease),
            tasks: JoinSet::new(),
            ends: Vec::new(),
            runs: Arc::default(),
        };
        let all_hold = Arc::new(Barrier::new(OWNERS + 1));
        for key in 0..OWNERS {
            let end = Arc::new(Semaphore::new(0));
            owners.ends.push(Arc::clone(&end));
            let all_hold = Arc::clone(&all_hold);
            let call = owners.call(&owners.operation, key, async move {
                all_hold.wait().await;
                let _ = end.acquire().await.unwrap();
            });
            owners.tasks.spawn(call);
        }
        all_hold.wait().await;
        owners
    }

    /// The value is the number of the execution.
    fn call(
        &self,
        operation: &Operation,
        key: usize,
        body: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = Result<usize, Error>> + Send + 'static {
        let (operation, runs) = (operation.clone(), Arc::clone(&self.runs));
        async move {
            let body = async move {
                let run = {
                    let mut runs = runs.lock().unwrap();
                    let run = runs.entry(key).or_default();
                    *run += 1;
                    *run
                };
                body.await;
                Ok(run)
            };
            let request = Fingerprint::of(&key).unwrap();
            operation.run(&key, request, body).await
        }
    }

    fn end(&self, keys: impl IntoIterator<Item = usize>) {
        for key in keys {
            self.ends[key].add_permits(1);
        }
    }

    /// A retry in another process.
    async fn retry(&self, there: &Operation, key: usize) -> Result<usize, Error> {
        self.call(there, key, async {}).await
    }

    fn executions(&self) -> usize {
        self.runs.lock().unwrap().values().sum()
    }
}

async fn has_all_records(there: &RedisStore) {
    eventually("every record again", async || {
        let mut missing = 0;
        for key in 0..OWNERS {
            let seen = there.inspect(&id(key)).await;
            missing += usize::from(!matches!(seen, Ok(Some(_))));
        }
        match missing {
            0 => Ok(()),
            missing => Err(missing),
        }
    })
    .await;
}

/// Fifty bodies hold their leases when `forget` makes the server forget them. Half of them end, the
/// others go on: both reach the server before a retry does.
async fn owners_restore(url: &str, there: &str, lease: Duration, forget: impl FnOnce()) {
    let store = connect(url, Duration::from_secs(2)).await;
    let owners = Owners::begin(store, lease).await;
    block_in_place(forget);
    owners.end(0..OWNERS / 2);
    let there = connect(there, PATIENCE).await;
    has_all_records(&there).await;

    let retries = Engine::new(there.clone()).operation(OPERATION);
    for key in 0..OWNERS {
        let answer = owners.retry(&retries, key).await;
        match key < OWNERS / 2 {
            true => assert_eq!(answer.unwrap(), 1),
            false => assert!(matches!(answer, Err(Error::InFlight { .. })), "{answer:?}"),
        }
    }
    owners.end(OWNERS / 2..OWNERS);
    let waits = retries.in_flight(InFlight::Wait(PATIENCE));
    for key in 0..OWNERS {
        assert_eq!(owners.retry(&waits, key).await.unwrap(), 1);
    }
    let executions = owners.executions();
    assert_eq!(executions, OWNERS);
    let answers = owners.tasks.join_all().await;
    assert!(answers.into_iter().all(|answer| answer.unwrap() == 1));
    println!("{} of {OWNERS} executed again", executions - OWNERS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_were_deleted() {
    let redis = Redis::start();
    let forget = || {
        redis.console().call(&["FLUSHALL"]);
    };
    owners_restore(&redis.url(), &redis.url(), LEASE, forget).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_came_back_empty() {
    let redis = Redis::start();
    let forget = || {
        redis.kill();
        redis.restart();
    };
    owners_restore(&redis.url(), &redis.url(), LEASE, forget).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_came_back_with_an_older_file() {
    let redis = Redis::start();
    redis.console().call(&["SET", "it is", "older"]);
    redis.console().call(&["SAVE"]);
    let forget = || {
        redis.kill();
        redis.restart();
        let kept = redis.console().call(&["GET", "it is"]);
        assert_eq!(kept.text().as_deref(), Some("older"));
    };
    owners_restore(&redis.url(), &redis.url(), LEASE, forget).await;
}

/// A primary and a replica that has all of its keys so far.
pub(crate) fn replicated() -> (Redis, Redis) {
    let diskless = ["--repl-diskless-sync-delay", "0"];
    let primary = Redis::with(&diskless);
    let port = primary.port().to_string();
    let replica = Redis::with(&["--replicaof", "127.0.0.1", &port]);
    primary.console().call(&["SET", "before", "it"]);
    wait_until("replication", PATIENCE, || {
        match replica.console().call(&["GET", "before"]).text() {
            Some(_) => Ok(()),
            None => Err("not yet".to_owned()),
        }
    });
    (primary, replica)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_promoted_while_its_primary_was_cut_off() {
    let (primary, replica) = replicated();
    let proxy = Proxy::to(&primary).await;
    let store = connect(&proxy.url(), Duration::from_secs(2)).await;
    // From here on nothing reaches it.
    replica.console().call(&["REPLICAOF", "NO", "ONE"]);
    drop(store);
    let forget = || proxy.lead_to(&replica);
    owners_restore(&proxy.url(), &replica.url(), LEASE, forget).await;
    // The claims were on the other one.
    let other = connect(&primary.url(), Duration::from_secs(2)).await;
    assert!(other.inspect(&id(0)).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_sentinels_have_promoted() {
    let group = RedisSentinel::start();
    connect(&group.url(), Duration::from_secs(2)).await;
    let (old, new) = (group.primary(), group.replica());
    // The replica hears nothing more, and what is on its way is lost.
    let cut_off = || {
        new.pause();
        old.console().call(&["CLIENT", "KILL", "TYPE", "replica"]);
    };
    block_in_place(cut_off);
    let forget = || {
        old.kill();
        new.resume();
        wait_until("another primary", Duration::from_secs(60), || {
            let console = new.try_console();
            let info = console.and_then(|mut it| it.try_call(&["INFO", "replication"]));
            match info.map(|info| info.field("role")) {
                Ok(Some(role)) if role == "master" => Ok(()),
                role => Err(format!("{role:?}")),
            }
        });
    };
    owners_restore(&group.url(), &new.url(), LONG_LEASE, forget).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_goes_where_its_claim_went_though_the_old_primary_is_back() {
    let group = RedisSentinel::start();
    let store = connect(&group.url(), Duration::from_secs(1)).await;
    let (old, new) = (group.primary(), group.replica());
    block_in_place(|| {
        old.pause();
        wait_until("another primary", Duration::from_secs(60), || {
            match group.primary().port() == new.port() {
                true => Ok(()),
                false => Err("it is the same".to_owned()),
            }
        });
    });
    let held = claim(1);
    eventually("a claim", || store.claim(&held)).await;
    // Nothing was ended meanwhile: the connection for that was idle, and leads to the old one. For a
    // moment that takes itself for the primary.
    old.resume();
    let outcome = Bytes::from_static(b"outcome");
    let lease = Lease::of(&held, 1);
    let change = eventually("an answer", || store.complete(&lease, outcome.clone())).await;
    assert_eq!(change, Change::Applied);
    let there = connect(&new.url(), Duration::from_secs(2)).await;
    let seen = there.inspect(&held.id).await.unwrap().unwrap();
    assert_eq!(seen.phase, Phase::Finished { outcome });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_created_again_where_claims_do_not_go_counts_for_nothing() {
    let (right, wrong) = (Redis::start(), Redis::start());
    let proxy = Proxy::to(&right).await;
    let store = connect(&proxy.url(), Duration::from_secs(2)).await;
    let (renews, completes) = (claim(1), claim(2));
    for held in [&renews, &completes] {
        store.claim(held).await.unwrap();
    }
    let outcome = Bytes::from_static(b"outcome");
    for is_renewal in [true, false] {
        // Whoever holds leases comes to a server that knows nothing of them, and claims do not.
        right.console().call(&["CLIENT", "KILL", "TYPE", "normal"]);
        proxy.lead_next_to(&wrong);
        let mut answers = Vec::new();
        let held = if is_renewal { &renews } else { &completes };
        let lease = Lease::of(held, 1);
        let applied = async || match is_renewal {
            true => store.renew(&lease).await,
            false => store.complete(&lease, outcome.clone()).await,
        };
        loop {
            match applied().await {
                Ok(change) => break assert_eq!(change, Change::Applied),
                Err(error) => answers.push(error),
            }
        }
        // It was told apart, and asked again.
        let elsewhere = |error: &StoreError| matches!(error, StoreError::NotReady { .. });
        assert!(answers.iter().any(elsewhere), "{answers:?}");
        let there = connect(&right.url(), Duration::from_secs(2)).await;
        let seen = there.inspect(&held.id).await.unwrap().unwrap();
        match is_renewal {
            true => assert!(matches!(seen.phase, Phase::Running { .. })),
            false => assert!(matches!(seen.phase, Phase::Finished { .. })),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_before_the_owner_runs_again() {
    let redis = Redis::start();
    let store = connect(&redis.url(), Duration::from_secs(2)).await;
    // No owner renews before it is told to end.
    let owners = Owners::begin(store, Duration::from_secs(600)).await;
    redis.console().call(&["FLUSHALL"]);
    let there = connect(&redis.url(), PATIENCE).await;
    let retries = Engine::new(there).operation(OPERATION);
    for key in 0..OWNERS {
        assert_eq!(owners.retry(&retries, key).await.unwrap(), 2);
    }
    owners.end(0..OWNERS);
    let executions = owners.executions();
    let mut tasks = owners.tasks;
    while let Some(answer) = tasks.join_next().await {
        // What it made did happen.
        assert_eq!(answer.unwrap().unwrap(), 1);
    }
    println!("{} of {OWNERS} executed again", executions - OWNERS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_replicas_have_is_not_forgotten_though_no_owner_lives() {
    let (primary, replica) = replicated();
    let url = format!("{}?wait_replicas=1", primary.url());
    let store = connect(&url, Duration::from_secs(12)).await;
    let owners = Owners::begin(store, Duration::from_secs(600)).await;
    owners.end(0..OWNERS / 2);
    eventually("half of the ends", async || {
        let mut finished = 0;
        let there = connect(&primary.url(), PATIENCE).await;
        for key in 0..OWNERS / 2 {
            let seen = there.inspect(&id(key)).await.unwrap().unwrap();
            finished += usize::from(matches!(seen.phase, Phase::Finished { .. }));
        }
        is(finished == OWNERS / 2)
    })
    .await;
    primary.kill();
    replica.console().call(&["REPLICAOF", "NO", "ONE"]);
    let there = connect(&replica.url(), PATIENCE).await;
    let retries = Engine::new(there).operation(OPERATION);
    for key in 0..OWNERS {
        let answer = owners.retry(&retries, key).await;
        match answer {
            Ok(run) => assert!(run == 1 && key < OWNERS / 2),
            Err(Error::InFlight { .. }) => assert!(key >= OWNERS / 2),
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(owners.executions(), OWNERS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_is_cut_off_runs_nothing_where_replicas_are_waited_for() {
    let (primary, replica) = replicated();
    let url = format!("{}?wait_replicas=1", primary.url());
    // A replica is waited for for a quarter of it, on a busy machine as well.
    let store = connect(&url, Duration::from_secs(8)).await;
    block_in_place(|| replica.pause());
    let there = connect(&primary.url(), PATIENCE).await;
    let engine = Engine::builder(store).store_timeout(PATIENCE).build();
    let operation = engine.operation(OPERATION);
    let calls = (0..5_usize).map(|key| {
        let operation = &operation;
        async move {
            let body = async { panic!("this body must not run") };
            let request = Fingerprint::of(&key).unwrap();
            let refused: Result<usize, Error> = operation.run(&key, request, body).await;
            refused
        }
    });
    for (key, refused) in join_all(calls).await.into_iter().enumerate() {
        assert!(
            matches!(refused, Err(Error::Store(StoreError::NotReady { .. }))),
            "{refused:?}"
        );
        // The claim was undone.
        assert_eq!(there.inspect(&id(key)).await.unwrap(), None);
    }
    replica.resume();
    let request = Fingerprint::of(&0).unwrap();
    eventually("a replica that has it", async || {
        let body = async { Ok::<_, Error>(idem::attempt().number()) };
        let answer = operation.run(&0, request, body).await;
        is(matches!(answer, Ok(1)))
    })
    .await;
}
