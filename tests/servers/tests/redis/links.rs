//! Connections that go silent, open slowly or are used from many runtimes, and nodes that hang:
//! what a process sees of its server without any fault of the server's own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join_all;
use idem::store::{Change, Claim, Claimed, Lease, Store, Watch};
use idem::stores::redis::RedisStore;
use idem::{
    Engine, Error, Fingerprint, InFlight, Key, OnCrash, Operation, Phase, RecordId, StoreError,
};
use idem_tests::{Redis, RedisCluster, RedisSentinel, Reply};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::conformance::{claim, claim_of, key};
pub(crate) use crate::patience::{PATIENCE, connect, eventually, is};
use crate::proxy::Proxy;

/// How long a command may take unless somebody says otherwise.
const DEFAULT: Duration = Duration::from_secs(2);

/// Claims, however slow the machine is.
async fn hold(store: &RedisStore, claim: &Claim) {
    eventually("a claim", || store.claim(claim)).await;
}

async fn run(operation: &Operation, key: &str) -> Result<u32, Error> {
    let request = Fingerprint::of("request").unwrap();
    let body = async { Ok(idem::attempt().number()) };
    operation.run(key, request, body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_connection_is_replaced_though_every_caller_gives_up_sooner() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis).await;
    let store = connect(&proxy.url(), DEFAULT).await;
    // Half of what a command may take.
    let engine = Engine::builder(store).store_timeout(Duration::from_secs(1));
    let operation = engine.build().operation("op");
    eventually("an answer", || run(&operation, "before")).await;
    let connections = proxy.accepted();
    proxy.lose();
    eventually("an answer", || run(&operation, "after")).await;
    assert!(proxy.accepted() > connections);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_outlives_the_connection_that_its_renewals_were_sent_over() {
    const LEASE: Duration = Duration::from_secs(12);
    let redis = Redis::start();
    let proxy = Proxy::to(&redis).await;
    // A renewal is given up after a third of the lease, which is sooner than a command.
    let here = Engine::new(connect(&proxy.url(), LEASE * 2 / 5).await);
    let there = connect(&redis.url(), PATIENCE).await;
    let (started, end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let first = tokio::spawn({
        let operation = here.operation("op").lease(LEASE);
        let (started, end) = (started.clone(), end.clone());
        async move {
            let body = async {
                started.notify_one();
                end.notified().await;
                Ok::<_, Error>(!idem::attempt().lease_lost())
            };
            let request = Fingerprint::of("request").unwrap();
            operation.run("k", request, body).await
        }
    });
    started.notified().await;
    proxy.lose();

    let id = RecordId::derive("", "op", None, &Key::of("k").unwrap());
    let mut least = LEASE;
    eventually("a renewal", async || {
        let seen = there.inspect(&id).await.unwrap().unwrap();
        let Phase::Running {
            lease_left: Some(left),
        } = seen.phase
        else {
            panic!("the lease is over: {seen:?}");
        };
        least = least.min(left);
        is(left > least + LEASE / 10)
    })
    .await;
    // Who asks elsewhere waits for the one execution.
    let operation = Engine::new(there).operation("op").lease(LEASE);
    let waiting = operation.in_flight(InFlight::Wait(PATIENCE));
    let body = async { panic!("this body must not run") };
    let request = Fingerprint::of("request").unwrap();
    end.notify_one();
    let answer: Result<bool, Error> = waiting.run("k", request, body).await;
    assert!(answer.unwrap(), "the body held its lease");
    assert!(first.await.unwrap().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sentinel_that_hangs_is_passed_over_though_it_takes_longer_than_a_command() {
    let sentinel = RedisSentinel::start();
    let command_timeout = Duration::from_millis(800);
    let running = connect(&sentinel.url(), command_timeout).await;
    hold(&running, &claim(1)).await;
    let primary = sentinel.primary();
    // The first that is asked.
    sentinel.sentinels()[0].pause();
    let starting = connect(&sentinel.url(), command_timeout).await;
    hold(&starting, &claim(2)).await;
    let killed = ["CLIENT", "KILL", "TYPE", "normal"];
    primary.console().call(&killed);
    hold(&running, &claim(3)).await;
    sentinel.sentinels()[0].resume();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_may_take_longer_to_open_than_a_command_may_take() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis).await;
    let command_timeout = Duration::from_millis(500);
    let store = connect(&proxy.url(), command_timeout).await;
    hold(&store, &claim(1)).await;
    // Below the second that a server has to accept a connection.
    proxy.delay_openings(Duration::from_millis(700));
    let killed = ["CLIENT", "KILL", "TYPE", "normal"];
    redis.console().call(&killed);
    hold(&store, &claim(2)).await;
}

#[tokio::test]
async fn an_opening_that_failed_while_nobody_waited_is_no_later_calls_answer() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis).await;
    // A database has to be selected: who was accepted and hung up on has not connected.
    let url = format!("{}/1", proxy.url());
    let store = connect(&url, PATIENCE).await;
    proxy.refuse(true);
    let killed = ["CLIENT", "KILL", "TYPE", "normal"];
    redis.console().call(&killed);
    let connections = proxy.accepted();
    eventually("a connection that is refused", async || {
        assert!(store.claim(&claim(1)).await.is_err());
        is(proxy.accepted() > connections)
    })
    .await;
    let before = proxy.accepted();
    // Begins an opening, and goes away.
    assert!(store.claim(&claim(2)).now_or_never().is_none());
    eventually("another one, and nobody who has not noticed", async || {
        is(proxy.accepted() > before && proxy.refused() == proxy.accepted() - connections)
    })
    .await;
    // One thread: when this goes on, its failure has gone as far as it can.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    proxy.refuse(false);
    let answer = store.claim(&claim(3)).await;
    assert_eq!(answer.unwrap(), Claimed::acquired(1));
}

#[test]
fn a_runtime_that_blocks_does_not_keep_the_others_from_the_server() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let redis = Redis::start();
    let url = redis.url();
    let (sender, stores) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    let blocked = thread::spawn(move || {
        runtime().block_on(async {
            let store = connect(&url, Duration::from_millis(300)).await;
            sender.send(store).unwrap();
            // As a body does that blocks its thread. The connection is driven by this runtime.
            let _ = ended.recv();
        });
    });
    let store = stores.recv().unwrap();
    runtime().block_on(hold(&store, &claim(1)));
    drop(end);
    blocked.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_command_timeout_is_one() {
    let cluster = RedisCluster::start();
    let redis = Redis::start();
    for (url, node) in [(redis.url(), &redis), (cluster.url(), &cluster.nodes()[0])] {
        let in_the_url = format!("{url}?timeout=1000000y");
        for store in [
            connect(&url, Duration::MAX).await,
            eventually("a connection", || RedisStore::connect(&in_the_url)).await,
        ] {
            let record = claim_on(&cluster, 0);
            hold(&store, &record).await;
            // An answer that is an error, as well.
            let mut console = node.console();
            console.call(&["FLUSHALL"]);
            console.call(&[b"RPUSH".as_slice(), &key(&record), b"a list"]);
            let answer = store.claim(&record).await;
            assert!(
                matches!(answer, Err(StoreError::Unreadable { .. })),
                "{answer:?}"
            );
            console.call(&["FLUSHALL"]);
        }
    }
}

/// A claim whose record is that node's.
pub(crate) fn claim_on(cluster: &RedisCluster, node: usize) -> Claim {
    let mut console = cluster.nodes()[0].console();
    let mut slot = |claim: &Claim| {
        let words = [b"CLUSTER".as_slice(), b"KEYSLOT", &key(claim)];
        match console.call(&words) {
            Reply::Integer(slot) => usize::try_from(slot).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    // Each node has a third of the slots.
    let mut claims = (1..=255).map(claim);
    claims
        .find(|claim| slot(claim) * cluster.nodes().len() / 16384 == node)
        .unwrap()
}

/// Servers of a cluster go on answering when it is not complete.
fn cluster_without_full_coverage() -> RedisCluster {
    let cluster = RedisCluster::start();
    for node in cluster.nodes() {
        let words = ["CONFIG", "SET", "cluster-require-full-coverage", "no"];
        node.console().call(&words);
    }
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_node_that_hangs_costs_the_other_nodes_no_call() {
    let cluster = cluster_without_full_coverage();
    let claims = [0, 1, 2].map(|node| claim_on(&cluster, node));
    let connected = async |command_timeout| {
        let store = connect(&cluster.url(), command_timeout).await;
        for claim in &claims {
            hold(&store, claim).await;
        }
        store
    };
    // A long one, and a short one.
    let stores = (connected(DEFAULT * 2).await, connected(DEFAULT).await);
    cluster.nodes()[1].pause();
    let calls = async |store: &RedisStore, rounds| {
        for round in 0..rounds {
            // For two timeouts nobody is answered.
            for _ in 0..2 {
                let hung = store.claim(&claims[1]).await;
                assert!(hung.is_err(), "{hung:?}");
            }
            for node in [0, 2] {
                let answer = store.claim(&claims[node]).await;
                assert!(answer.is_ok(), "round {round}, node {node}: {answer:?}");
            }
        }
    };
    tokio::join!(calls(&stores.0, 1), calls(&stores.1, 2));
    cluster.nodes()[1].resume();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_starts_while_a_cluster_node_hangs() {
    let cluster = cluster_without_full_coverage();
    // The first process of all looks through every node for what an older version has left.
    connect(&cluster.url(), DEFAULT).await;
    cluster.nodes()[1].pause();
    let store = connect(&cluster.url(), DEFAULT).await;
    for node in [0, 2] {
        hold(&store, &claim_on(&cluster, node)).await;
    }
    cluster.nodes()[1].resume();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_arrives_long_after_it_was_given_up_is_freed_where_a_crash_refuses() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis).await;
    let engine = Engine::new(connect(&proxy.url(), Duration::from_millis(300)).await);
    let operation = engine.operation("op").on_crash(OnCrash::Refuse);
    eventually("an answer", || run(&operation, "before")).await;
    // A claim is a `SET`; what frees it is a script without one.
    let claims = || redis.console().info("commandstats", "cmdstat_set");

    // Longer than a lost claim is looked for where a crash runs again.
    proxy.hold_up(Duration::from_secs(7));
    proxy.refuse(true);
    let before = claims();
    let refused = run(&operation, "k").await;
    assert!(matches!(refused, Err(Error::Store(_))), "{refused:?}");
    proxy.refuse(false);
    eventually("the late claim", async || is(claims() != before)).await;
    eventually("a key that is free", async || {
        match operation.inspect("k").await {
            Ok(None) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    eventually("an answer", || run(&operation, "k")).await;
}

/// Two watches each of a thousand records, which run.
async fn watched_twice(store: &RedisStore) -> Vec<(Claim, Watch, Watch)> {
    let watched = async |number: u32| {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        let claim = claim_of(RecordId::from_bytes(id));
        store.claim(&claim).await.unwrap();
        let watches = tokio::join!(store.watch(&claim.id), store.watch(&claim.id));
        (claim, watches.0.unwrap(), watches.1.unwrap())
    };
    let mut all = Vec::new();
    for hundred in 0..10 {
        all.extend(join_all((0..100).map(|number| watched(100 * hundred + number))).await);
    }
    all
}

/// Ends both watches of a record at the same instant, on two threads; record by record.
fn end_at_once(watches: (Vec<Watch>, Vec<Watch>), end: impl Fn(Watch) + Sync) {
    // One meeting may find a thread that is not running; a row of them ends with two that are.
    const MEETINGS: usize = 16;
    let arrivals = AtomicUsize::new(0);
    thread::scope(|scope| {
        for watches in [watches.0, watches.1] {
            let (arrivals, end) = (&arrivals, &end);
            scope.spawn(move || {
                let mut expected = 0;
                for watch in watches {
                    for _ in 0..MEETINGS {
                        expected += 2;
                        arrivals.fetch_add(1, Ordering::SeqCst);
                        let mut looks = 0_u32;
                        while arrivals.load(Ordering::SeqCst) < expected {
                            looks += 1;
                            if looks.is_multiple_of(10_000) {
                                thread::yield_now();
                            }
                        }
                    }
                    end(watch);
                }
            });
        }
    });
}

async fn no_channel_stays_subscribed(redis: &Redis) {
    eventually("the end of all subscriptions", async || {
        let channels = redis.console().call(&["PUBSUB", "SHARDCHANNELS"]);
        match channels.items().len() {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_watches_that_are_dropped_at_once_leave_no_subscription() {
    let redis = Redis::start();
    let store = connect(&redis.url(), PATIENCE).await;
    let watches = watched_twice(&store).await;
    let watches = watches.into_iter().map(|(_, one, other)| (one, other));
    end_at_once(watches.unzip(), drop);
    no_channel_stays_subscribed(&redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_watches_that_one_publication_wakes_leave_no_subscription() {
    let redis = Redis::start();
    let store = connect(&redis.url(), PATIENCE).await;
    let (mut ones, mut others) = (Vec::new(), Vec::new());
    for (claim, one, other) in watched_twice(&store).await {
        let heard = store.watch(&claim.id).await.unwrap();
        let change = store.release(&claim.id, &claim.token).await;
        assert_eq!(change.unwrap(), Change::Applied);
        // So have the two.
        timeout(PATIENCE, heard).await.expect("it wakes");
        ones.push(one);
        others.push(other);
    }
    let asleep = AtomicUsize::new(0);
    end_at_once((ones, others), |watch| {
        if watch.now_or_never().is_none() {
            asleep.fetch_add(1, Ordering::SeqCst);
        }
    });
    assert_eq!(asleep.into_inner(), 0);
    no_channel_stays_subscribed(&redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_whose_connection_was_lost_before_it_began_wakes() {
    let redis = Redis::start();
    let store = connect(&redis.url(), PATIENCE).await;
    let (record, other) = (claim(1), claim(2));
    for claim in [&record, &other] {
        store.claim(claim).await.unwrap();
    }
    // The subscriptions' connection is there.
    drop(store.watch(&other.id).await.unwrap());
    let mut console = redis.console();
    // The record cannot be marked: a watch gets no further than its subscription.
    console.call(&["CLIENT", "PAUSE", "60000", "WRITE"]);
    let watching = tokio::spawn({
        let store = store.clone();
        async move { store.watch(&record.id).await }
    });
    eventually("a subscription", async || {
        let words = [b"PUBSUB".as_slice(), b"SHARDNUMSUB", &key(&record)];
        match console.call(&words).items() {
            [_, Reply::Integer(1)] => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let killed = console.call(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert_eq!(killed, Reply::Integer(1));
    console.call(&["CLIENT", "UNPAUSE"]);

    let watch = watching.await.unwrap().unwrap();
    let outcome = Bytes::from_static(b"outcome");
    let change = store.complete(&Lease::of(&record, 1), outcome).await;
    assert_eq!(change.unwrap(), Change::Applied);
    timeout(PATIENCE, watch).await.expect("the watch wakes");
}
