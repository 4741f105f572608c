//! Writes that wait for replicas: what is told when they do not have them in time, and what it
//! costs.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use idem::store::{Change, Claim, Claimed, Lease, Store};
use idem::stores::redis::RedisStore;
use idem::{Phase, RecordId, StoreError};
use idem_tests::{Flavor, Redis, RedisCluster, wait_until};
use tokio::task::block_in_place;
use tokio::time::timeout;

use crate::conformance::{claim, claim_of};
use crate::links::{PATIENCE, connect};

/// A primary, its one replica, a store that waits for it, and one that does not.
struct Waiting {
    primary: Redis,
    replica: Redis,
    store: RedisStore,
    plain: RedisStore,
}

impl Waiting {
    async fn start() -> Self {
        let primary = Redis::with(&["--repl-diskless-sync-delay", "0"]);
        let port = primary.port().to_string();
        let replica = Redis::with(&["--replicaof", "127.0.0.1", &port]);
        wait_until("a replica", PATIENCE, || {
            match primary.console().call(&["WAIT", "1", "100"]).text() {
                Some(replicas) if replicas == "1" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        let url = format!("{}?wait_replicas=1", primary.url());
        Self {
            // A replica is waited for for a quarter of it, on a busy machine as well.
            store: connect(&url, Duration::from_secs(12)).await,
            plain: connect(&primary.url(), PATIENCE).await,
            primary,
            replica,
        }
    }

    fn cut_off(&self) {
        block_in_place(|| self.replica.pause());
    }

    fn join(&self) {
        self.replica.resume();
        wait_until("a replica", PATIENCE, || {
            match self.primary.console().call(&["WAIT", "1", "100"]).text() {
                Some(replicas) if replicas == "1" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
}

#[track_caller]
fn is_not_ready<T: std::fmt::Debug>(answer: Result<T, StoreError>) {
    assert!(
        matches!(answer, Err(StoreError::NotReady { .. })),
        "{answer:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_replica_it_is_as_without() {
    let it = Waiting::start().await;
    let (first, crashed) = (claim(1), claim(2));
    for claim in [&first, &crashed] {
        let acquired = it.store.claim(claim).await.unwrap();
        assert_eq!(acquired, Claimed::acquired(1));
    }
    let in_flight = it.store.claim(&claim(1)).await.unwrap();
    assert!(matches!(in_flight, Claimed::InFlight { .. }));
    let outcome = Bytes::from_static(b"outcome");
    for _ in 0..2 {
        let lease = Lease::of(&first, 1);
        let change = it.store.complete(&lease, outcome.clone()).await;
        assert_eq!(change.unwrap(), Change::Applied);
    }
    let replay = it.store.claim(&claim(1)).await.unwrap();
    assert!(matches!(replay, Claimed::Finished { .. }));
    let change = it.store.abandon(&crashed.id, &crashed.token).await;
    assert_eq!(change.unwrap(), Change::Applied);
    let next = claim(2);
    for _ in 0..2 {
        let acquired = it.store.claim(&next).await.unwrap();
        assert_eq!(acquired, Claimed::acquired(2));
    }
    let lost = it.store.complete(&Lease::of(&crashed, 1), outcome).await;
    assert_eq!(lost.unwrap(), Change::LeaseLost);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_no_replica_has_is_undone() {
    let it = Waiting::start().await;
    let crashed = claim(2);
    it.plain.claim(&crashed).await.unwrap();
    let change = it.plain.abandon(&crashed.id, &crashed.token).await;
    assert_eq!(change.unwrap(), Change::Applied);
    let sent = claim(3);
    it.plain.claim(&sent).await.unwrap();
    let finished = claim(4);
    it.plain.claim(&finished).await.unwrap();
    let outcome = Bytes::from_static(b"outcome");
    let change = it.plain.complete(&Lease::of(&finished, 1), outcome).await;
    assert_eq!(change.unwrap(), Change::Applied);
    it.cut_off();

    is_not_ready(it.store.claim(&claim(1)).await);
    assert_eq!(it.plain.inspect(&claim(1).id).await.unwrap(), None);
    // What crashed before it is not forgotten.
    is_not_ready(it.store.claim(&claim(2)).await);
    let seen = it.plain.inspect(&crashed.id).await.unwrap().unwrap();
    assert_eq!(seen.attempt, 2);
    assert_eq!(seen.phase, Phase::Running { lease_left: None });
    // Sent before, and its answer lost.
    is_not_ready(it.store.claim(&sent).await);
    assert_eq!(it.plain.inspect(&sent.id).await.unwrap(), None);
    // What is finished needs nobody.
    let replay = it.store.claim(&claim(4)).await.unwrap();
    assert!(matches!(replay, Claimed::Finished { .. }));

    block_in_place(|| it.join());
    let acquired = it.store.claim(&claim(1)).await.unwrap();
    assert_eq!(acquired, Claimed::acquired(1));
    let acquired = it.store.claim(&claim(2)).await.unwrap();
    assert_eq!(acquired, Claimed::acquired(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_no_replica_has_is_offered_again() {
    let it = Waiting::start().await;
    let held = claim(1);
    it.store.claim(&held).await.unwrap();
    it.cut_off();
    let (lease, outcome) = (Lease::of(&held, 1), Bytes::from_static(b"outcome"));
    is_not_ready(it.store.complete(&lease, outcome.clone()).await);
    // Recognised, and written again: the replica has nothing yet.
    is_not_ready(it.store.complete(&lease, outcome.clone()).await);
    block_in_place(|| it.join());
    let change = it.store.complete(&lease, outcome.clone()).await;
    assert_eq!(change.unwrap(), Change::Applied);
    let seen = it.plain.inspect(&held.id).await.unwrap().unwrap();
    assert_eq!(seen.phase, Phase::Finished { outcome });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_waits_for_nobody() {
    let it = Waiting::start().await;
    let (held, ends) = (claim(1), claim(2));
    it.store.claim(&held).await.unwrap();
    it.store.claim(&ends).await.unwrap();
    it.cut_off();
    let ending = async {
        let outcome = Bytes::from_static(b"outcome");
        is_not_ready(it.store.complete(&Lease::of(&ends, 1), outcome).await);
    };
    let mut renewed = 0;
    let renewing = async {
        loop {
            let change = it.store.renew(&Lease::of(&held, 1)).await;
            assert_eq!(change.unwrap(), Change::Applied);
            renewed += 1;
        }
    };
    tokio::select! {
        () = ending => {}
        () = renewing => {}
    }
    assert!(renewed > 1, "{renewed}");
    it.replica.resume();
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_at_once_wait_together() {
    const CLAIMS: u64 = 200;
    let it = Waiting::start().await;
    let claims: Vec<Claim> = (0..CLAIMS)
        .map(|_| claim_of(RecordId::from_bytes(rand::random())))
        .collect();
    let mut console = it.primary.console();
    console.call(&["CONFIG", "RESETSTAT"]);
    let acquired = join_all(claims.iter().map(|claim| it.store.claim(claim))).await;
    for acquired in acquired {
        assert_eq!(acquired.unwrap(), Claimed::acquired(1));
    }
    let stats = console.info("commandstats", "cmdstat_wait").unwrap();
    let calls = stats.strip_prefix("calls=").unwrap();
    let waits: u64 = calls.split(',').next().unwrap().parse().unwrap();
    assert!(waits < CLAIMS / 2, "{waits} waits for {CLAIMS} claims");
    println!("{waits} waits for {CLAIMS} claims");

    // So do those that nobody confirms.
    it.cut_off();
    let claims: Vec<Claim> = claims
        .iter()
        .map(|_| claim_of(RecordId::from_bytes(rand::random())))
        .collect();
    let refused = join_all(claims.iter().map(|claim| it.store.claim(claim)));
    for refused in timeout(PATIENCE, refused).await.unwrap() {
        // Nobody runs; who has been answered too late is undone by its engine.
        assert!(refused.is_err());
    }
    it.replica.resume();
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster_the_nodes_replicas_are_waited_for() {
    // Its nodes have none.
    let cluster = RedisCluster::start();
    let plain = connect(&cluster.url(), PATIENCE).await;
    let url = format!("{}?wait_replicas=1", cluster.url());
    let store = connect(&url, Duration::from_secs(8)).await;
    let claims: Vec<_> = (1..=6).map(claim).collect();
    for refused in join_all(claims.iter().map(|claim| store.claim(claim))).await {
        is_not_ready(refused);
    }
    for claim in &claims {
        assert_eq!(plain.inspect(&claim.id).await.unwrap(), None);
    }
    let held = claim(7);
    plain.claim(&held).await.unwrap();
    let outcome = Bytes::from_static(b"outcome");
    is_not_ready(store.complete(&Lease::of(&held, 1), outcome).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_waited_for_where_the_server_knows_how() {
    for flavor in Flavor::installed() {
        let redis = Redis::builder()
            .flavor(flavor)
            .args(&["--appendonly", "yes"])
            .start();
        let url = format!("{}?wait_aof=0&timeout=8s", redis.url());
        let connected = RedisStore::connect(&url).await;
        let knows = redis
            .console()
            .try_call(&["WAITAOF", "0", "0", "1"])
            .unwrap();
        if let idem_tests::Reply::Error(_) = knows {
            // Found out when it starts.
            assert!(connected.is_err());
            continue;
        }
        let store = connected.unwrap();
        let held = claim(1);
        let acquired = store.claim(&held).await.unwrap();
        assert_eq!(acquired, Claimed::acquired(1));
        let outcome = Bytes::from_static(b"outcome");
        let change = store.complete(&Lease::of(&held, 1), outcome).await;
        assert_eq!(change.unwrap(), Change::Applied);
        redis.console().call(&["CONFIG", "SET", "appendonly", "no"]);
        let refused = store.claim(&claim(2)).await;
        assert!(refused.is_err(), "{refused:?}");
    }
}
