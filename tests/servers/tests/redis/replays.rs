//! Replays of a server that takes no writes: a finished record is given back by a plain read.

use std::time::Duration;

use bytes::Bytes;
use idem::StoreError;
use idem::store::{Change, Claimed, Lease, Store};
use idem::stores::redis::RedisStore;
use idem_tests::{Redis, Reply, TempDir, wait_until};

use crate::conformance::{claim, key};
use crate::failover::replicated;
use crate::links::{PATIENCE, connect};

/// One record that is finished, and one that runs.
async fn prepared(store: &RedisStore) {
    let finished = claim(1);
    store.claim(&finished).await.unwrap();
    let outcome = Bytes::from_static(b"outcome");
    let change = store.complete(&Lease::of(&finished, 1), outcome).await;
    assert_eq!(change.unwrap(), Change::Applied);
    store.claim(&claim(2)).await.unwrap();
}

async fn replays_and_runs_nothing(store: &RedisStore) {
    let replay = store.claim(&claim(1)).await.unwrap();
    let Claimed::Finished { outcome, .. } = replay else {
        panic!("{replay:?}");
    };
    assert_eq!(outcome, "outcome");
    let mut other = claim(1);
    other.fingerprint = idem::Fingerprint::of("another").unwrap();
    assert_eq!(store.claim(&other).await.unwrap(), Claimed::Mismatch);
    // What runs, and what does not, is for a server to say that takes writes.
    for number in [2, 3] {
        let refused = store.claim(&claim(number)).await;
        assert!(
            matches!(refused, Err(StoreError::NotReady { .. })),
            "{refused:?}"
        );
    }
}

async fn store(redis: &Redis) -> RedisStore {
    connect(&redis.url(), Duration::from_secs(2)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn where_too_few_replicas_are_there() {
    let redis = Redis::start();
    let store = store(&redis).await;
    prepared(&store).await;
    let words = ["CONFIG", "SET", "min-replicas-to-write", "1"];
    redis.console().call(&words);
    replays_and_runs_nothing(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_disk_fails() {
    let redis = Redis::with(&["--enable-protected-configs", "yes"]);
    let store = store(&redis).await;
    prepared(&store).await;
    let directory = TempDir::new("disk");
    let mut console = redis.console();
    let path = directory.path().to_str().unwrap();
    console.call(&["CONFIG", "SET", "dir", path]);
    console.call(&["CONFIG", "SET", "save", "3600 1"]);
    std::fs::remove_dir_all(directory.path()).unwrap();
    console.call(&["BGSAVE"]);
    wait_until("a failed save", Duration::from_secs(20), || {
        match console.info("persistence", "rdb_last_bgsave_status") {
            Some(status) if status == "err" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    replays_and_runs_nothing(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_replica() {
    let (primary, replica) = replicated();
    prepared(&store(&primary).await).await;
    // What was written last.
    let key = key(&claim(2));
    wait_until("replication", PATIENCE, || {
        match replica.console().call(&[b"EXISTS".as_slice(), &key]) {
            Reply::Integer(1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    replays_and_runs_nothing(&store(&replica).await).await;
}
