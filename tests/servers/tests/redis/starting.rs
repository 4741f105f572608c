//! What is found out when a store starts, rather than when a body has run.

use idem::store::{Claimed, Store};
use idem::stores::redis::RedisStore;
use idem::{ConnectError, StoreError};
use idem_tests::{Redis, RedisCluster};

use crate::conformance::claim;
use crate::links::{PATIENCE, connect, eventually};

async fn refused(url: &str) -> ConnectError {
    RedisStore::connect(url).await.unwrap_err()
}

#[track_caller]
fn is_rejected(error: &ConnectError, what: &str) {
    assert!(
        matches!(error, ConnectError::Store(StoreError::Rejected { .. })),
        "{what}: {error:?}"
    );
}

#[tokio::test]
async fn a_server_without_scripts_is_refused_before_a_body_runs() {
    for command in ["EVAL", "EVALSHA"] {
        let redis = Redis::with(&["--rename-command", command, ""]);
        let error = refused(&redis.url()).await;
        // A server that knows a script is asked for it by name alone; one that does not is given
        // its text.
        is_rejected(&error, command);
    }
}

#[tokio::test]
async fn a_login_without_a_right_is_refused_before_a_body_runs() {
    let redis = Redis::start();
    let mut console = redis.console();
    let url = redis.url().replace("://", "://app:pw@");
    let needed = [
        "set", "get", "getrange", "setrange", "del", "pttl", "pexpire", "eval", "evalsha", "ping",
    ];
    for right in needed {
        console.call(&["SCRIPT", "FLUSH"]);
        let without = format!("-{right}");
        let user = [
            "reset", "on", ">pw", "~idem:*", "&idem:*", "+@all", &without,
        ];
        console.call(&[&["ACL", "SETUSER", "app"][..], &user].concat());
        is_rejected(&refused(&url).await, right);
    }
    let user = ["reset", "on", ">pw", "~other:*", "&other:*", "+@all"];
    console.call(&[&["ACL", "SETUSER", "app"][..], &user].concat());
    is_rejected(&refused(&url).await, "keys");
}

#[tokio::test]
async fn a_node_of_a_cluster_is_no_server_of_its_own() {
    let cluster = RedisCluster::start();
    for node in cluster.nodes() {
        let error = refused(&node.url()).await;
        let message = error.to_string();
        assert!(matches!(error, ConnectError::Unfit { .. }), "{error:?}");
        assert!(message.contains("redis-cluster://"), "{message}");
    }
    // Who may not ask for that finds out by what is redirected.
    let user = "app on >pw ~idem:* &idem:* +@all -info";
    for node in cluster.nodes() {
        let words = ["ACL", "SETUSER"].into_iter().chain(user.split(' '));
        node.console().call(&words.collect::<Vec<_>>());
    }
    let url = cluster.nodes()[0].url().replace("://", "://app:pw@");
    eventually("a redirection", async || {
        match RedisStore::connect(&url).await {
            Err(ConnectError::Store(StoreError::Rejected { .. })) => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_takes_no_writes_now_is_started_with_all_the_same() {
    let redis = Redis::start();
    let mut console = redis.console();
    for (setting, refuses, takes) in [("min-replicas-to-write", "1", "0"), ("maxmemory", "1", "0")]
    {
        console.call(&["CONFIG", "SET", setting, refuses]);
        let store = connect(&redis.url(), std::time::Duration::from_secs(2)).await;
        let error = store.claim(&claim(1)).await.unwrap_err();
        assert!(error.is_outage(), "{error:?}");
        console.call(&["CONFIG", "SET", setting, takes]);
        let acquired = store.claim(&claim(1)).await.unwrap();
        assert_eq!(acquired, Claimed::acquired(1));
        console.call(&["FLUSHALL"]);
    }
}

#[tokio::test]
async fn a_start_leaves_no_record_behind() {
    let redis = Redis::start();
    connect(&redis.url(), PATIENCE).await;
    // At once, and not when an expiry is over.
    let keys = redis.console().call(&["KEYS", "*"]);
    assert_eq!(
        keys.items(),
        [idem_tests::Reply::Bulk(b"idem:format".to_vec())]
    );
}
