//! What a server refuses, and what it cannot do now: each condition made on a real server, what the
//! store says of it, and that no body runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use idem::store::Store;
use idem::stores::redis::RedisStore;
use idem::{Engine, Error, Fingerprint, OnCrash, StoreError};
use idem_tests::{Console, Redis, RedisCluster};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::conformance::claim;
use crate::links::{PATIENCE, connect, eventually, is};
use crate::proxy::Proxy;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    NotSent,
    Unavailable,
    NotReady,
    Busy,
    Full,
    Rejected,
    Unreadable,
}

fn said(error: &StoreError) -> Said {
    match error {
        StoreError::NotSent { .. } => Said::NotSent,
        StoreError::Unavailable { .. } => Said::Unavailable,
        StoreError::NotReady { .. } => Said::NotReady,
        StoreError::Busy { .. } => Said::Busy,
        StoreError::Full { .. } => Said::Full,
        StoreError::Rejected { .. } => Said::Rejected,
        StoreError::Unreadable { .. } => Said::Unreadable,
        other => panic!("{other:?}"),
    }
}

/// What a claim is told while the condition holds, and that it runs no body; where it is no outage,
/// not even if the engine fails open. What was answered has left nothing to be undone.
async fn refuses(store: &RedisStore, expected: Said) {
    let error = store.claim(&claim(1)).await.unwrap_err();
    assert_eq!(said(&error), expected, "{error:?}");
    let ran = Arc::new(AtomicUsize::new(0));
    for fail_open in [false, true] {
        if fail_open && error.is_outage() {
            continue;
        }
        let engine = Engine::builder(store.clone()).fail_open(fail_open);
        let engine = engine.store_timeout(PATIENCE).build();
        let operation = engine.operation("op").on_crash(OnCrash::Refuse);
        let body = {
            let ran = Arc::clone(&ran);
            async move { Ok::<_, Error>(ran.fetch_add(1, Ordering::SeqCst)) }
        };
        let request = Fingerprint::of("request").unwrap();
        let refused = operation.run("k", request, body).await.unwrap_err();
        match &refused {
            Error::Store(error) => assert_eq!(said(error), expected, "{error:?}"),
            other => panic!("{other:?}"),
        }
        if !error.may_have_effect() {
            let idle = timeout(PATIENCE, engine.idle()).await;
            idle.expect("nothing is undone that was never done");
        }
    }
    assert_eq!(ran.load(Ordering::SeqCst), 0, "{expected:?}");
}

/// The same, and the server would do it again once the condition is over.
async fn refuses_until(store: &RedisStore, expected: Said, mend: impl FnOnce()) {
    refuses(store, expected).await;
    mend();
    eventually("a claim", async || store.claim(&claim(1)).await).await;
}

fn tell(server: &Redis, words: &[&str]) {
    server.console().call(words);
}

fn config(server: &Redis, setting: &str, value: &str) {
    tell(server, &["CONFIG", "SET", setting, value]);
}

async fn store(server: &Redis) -> RedisStore {
    connect(&server.url(), PATIENCE).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_no_writes_is_not_ready() {
    let redis = Redis::start();
    let store = store(&redis).await;
    let other = Redis::start();
    let port = other.port().to_string();

    tell(&redis, &["REPLICAOF", "127.0.0.1", &port]);
    refuses(&store, Said::NotReady).await;
    // Its primary is away, and what it has is no answer.
    other.kill();
    config(&redis, "replica-serve-stale-data", "no");
    let down = || match redis.console().info("replication", "master_link_status") {
        Some(status) if status == "down" => Ok(()),
        other => Err(other),
    };
    eventually("a primary that is missed", async || down()).await;
    refuses(&store, Said::NotReady).await;
    tell(&redis, &["REPLICAOF", "NO", "ONE"]);

    config(&redis, "min-replicas-to-write", "1");
    refuses_until(&store, Said::NotReady, || {
        config(&redis, "min-replicas-to-write", "0");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_disk_fails_is_not_ready() {
    let redis = Redis::with(&["--enable-protected-configs", "yes"]);
    let store = store(&redis).await;
    let directory = idem_tests::TempDir::new("disk");
    config(&redis, "dir", directory.path().to_str().unwrap());
    config(&redis, "save", "3600 1");
    std::fs::remove_dir_all(directory.path()).unwrap();
    tell(&redis, &["BGSAVE"]);
    eventually("a failed save", async || {
        let status = redis
            .console()
            .info("persistence", "rdb_last_bgsave_status");
        is(status.as_deref() == Some("err"))
    })
    .await;
    refuses_until(&store, Said::NotReady, || config(&redis, "save", "")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_loads_is_not_ready() {
    let slow = [
        "--appendonly",
        "yes",
        "--key-load-delay",
        "200",
        "--loading-process-events-interval-bytes",
        "1024",
    ];
    let redis = Redis::with(&slow);
    let store = store(&redis).await;
    let fill = "for i = 1, 60000 do redis.call('SET', 'k' .. i, string.rep('v', 100)) end";
    tell(&redis, &["EVAL", fill, "0"]);
    redis.kill();
    redis.process().restart();
    eventually("a server that loads", async || {
        let reply = redis
            .try_console()
            .and_then(|mut it| it.try_call(&["PING"]));
        is(matches!(reply, Ok(idem_tests::Reply::Error(error)) if error.starts_with("LOADING")))
    })
    .await;
    eventually("an answer", async || {
        let error = store.claim(&claim(1)).await.unwrap_err();
        // The connection that was there is gone.
        is(said(&error) == Said::NotReady)
    })
    .await;
    refuses(&store, Said::NotReady).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_down_is_not_ready() {
    let cluster = RedisCluster::start();
    let store = connect(&cluster.url(), PATIENCE).await;
    let nodes = cluster.nodes();
    nodes[2].kill();
    eventually("a cluster that is down", async || {
        let info = nodes[0].console().call(&["CLUSTER", "INFO"]);
        is(info.field("cluster_state").as_deref() == Some("fail"))
    })
    .await;
    let error = store.claim(&crate::links::claim_on(&cluster, 0)).await;
    assert_eq!(said(&error.unwrap_err()), Said::NotReady);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_at_its_bound_of_memory_is_full() {
    let redis = Redis::start();
    let store = store(&redis).await;
    config(&redis, "maxmemory", "1");
    refuses_until(&store, Said::Full, || config(&redis, "maxmemory", "0")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_runs_another_script_is_busy() {
    let redis = Redis::with(&["--busy-reply-threshold", "10"]);
    let store = store(&redis).await;
    let endless = std::thread::spawn({
        let mut console = redis.console();
        move || {
            let _ = console.try_call(&["EVAL", "while true do end", "0"]);
        }
    });
    eventually("a server that is busy", async || {
        let reply = redis.console().try_call(&["PING"]).unwrap();
        is(matches!(reply, idem_tests::Reply::Error(error) if error.starts_with("BUSY")))
    })
    .await;
    refuses_until(&store, Said::Busy, || tell(&redis, &["SCRIPT", "KILL"])).await;
    endless.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_let_this_login_refuses() {
    let redis = Redis::start();
    let admin: &mut Console = &mut redis.console();
    admin.call(&[
        "ACL", "SETUSER", "app", "on", ">pw", "~idem:*", "&idem:*", "+@all",
    ]);
    let url = redis.url().replace("://", "://app:pw@");
    let store = connect(&url, PATIENCE).await;
    for (taken, given) in [
        ("-set", "+set"),
        ("resetkeys", "~idem:*"),
        ("resetpass", ">pw"),
        ("off", "on"),
    ] {
        admin.call(&["ACL", "SETUSER", "app", taken]);
        let killed = ["CLIENT", "KILL", "USER", "app"];
        let _ = admin.try_call(&killed).unwrap();
        // The connection that was there is gone.
        eventually("an answer", async || {
            let error = store.claim(&claim(1)).await.unwrap_err();
            is(said(&error) == Said::Rejected)
        })
        .await;
        refuses_until(&store, Said::Rejected, || {
            admin.call(&["ACL", "SETUSER", "app", given]);
        })
        .await;
        admin.call(&["FLUSHALL"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_was_renamed_is_refused_whatever_the_error_repeats() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis).await;
    for command in ["SET", "EVALSHA", "EVAL"] {
        let store = connect(&proxy.url(), PATIENCE).await;
        let other = Redis::with(&["--rename-command", command, ""]);
        proxy.lead_to(&other);
        // Once the connections that were there are gone, those of claims and those of lease holders.
        let stranger = claim(1);
        let lease = idem::store::Lease::of(&stranger, 1);
        eventually("answers of the other server", async || {
            let errors = match command {
                "SET" => vec![store.claim(&stranger).await.err()],
                _ => vec![
                    store.inspect(&stranger.id).await.err(),
                    store.release(&stranger.id, &stranger.token).await.err(),
                    store.renew(&lease).await.err(),
                ],
            };
            let is_rejected =
                |error: &Option<StoreError>| matches!(error, Some(StoreError::Rejected { .. }));
            match errors.iter().all(is_rejected) {
                true => Ok(()),
                false => Err(errors),
            }
        })
        .await;
        if command == "SET" {
            refuses(&store, Said::Rejected).await;
            proxy.lead_to(&redis);
            continue;
        }
        // What only a script can do. The error repeats what was sent, which is random.
        for number in 1..=20 {
            let claim = claim(number);
            let error = store.release(&claim.id, &claim.token).await.unwrap_err();
            assert_eq!(said(&error), Said::Rejected, "{error:?}");
            let lease = idem::store::Lease::of(&claim, 1);
            let error = store.renew(&lease).await.unwrap_err();
            assert_eq!(said(&error), Said::Rejected, "{error:?}");
            let outcome = bytes::Bytes::from_static(b"\xff\xfe\r\n");
            let error = store.complete(&lease, outcome).await.unwrap_err();
            assert_eq!(said(&error), Said::Rejected, "{error:?}");
            let error = store.inspect(&claim.id).await.unwrap_err();
            assert_eq!(said(&error), Said::Rejected, "{error:?}");
        }
        proxy.lead_to(&redis);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_a_cluster_that_took_the_place_of_a_server_refuses() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis).await;
    let store = connect(&proxy.url(), PATIENCE).await;
    let cluster = RedisCluster::start();
    let elsewhere = crate::links::claim_on(&cluster, 1);
    proxy.lead_to(&cluster.nodes()[0]);
    // Once the connection that was there is gone.
    eventually("the node's answer", async || {
        match store.claim(&elsewhere).await {
            Err(StoreError::Rejected { .. }) => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_room_for_a_connection_is_an_outage_and_was_sent_nothing() {
    let redis = Redis::with(&["--maxclients", "1"]);
    // Takes the one place.
    let mut console = redis.console();
    let url = redis.url();
    let error = RedisStore::connect(&url).await.unwrap_err();
    let idem::ConnectError::Store(error) = error else {
        panic!("{error:?}");
    };
    assert!(error.is_outage(), "{error:?}");
    console.call(&["CONFIG", "SET", "maxclients", "100"]);
    eventually("a connection", || RedisStore::connect(&url)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_was_sent_nothing() {
    let redis = Redis::start();
    let store = store(&redis).await;
    redis.kill();
    eventually("a connection that is missed", async || {
        let error = store.claim(&claim(1)).await.unwrap_err();
        is(said(&error) == Said::NotSent)
    })
    .await;
    refuses_until(&store, Said::NotSent, || redis.restart()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_nothing_may_have_done_it() {
    let redis = Redis::start();
    let store = connect(&redis.url(), Duration::from_millis(300)).await;
    redis.pause();
    let error = store.claim(&claim(1)).await.unwrap_err();
    assert_eq!(said(&error), Said::Unavailable, "{error:?}");
    redis.resume();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_answer_may_have_been_preceded_by_an_effect() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut heard = [0; 4096];
                // Two settings of the client's, which nobody has to take, and then no answer.
                while client.read(&mut heard).await.is_ok_and(|read| read > 0) {
                    let text = String::from_utf8_lossy(&heard).to_uppercase();
                    let answer: &[u8] = match text.contains("SETINFO") {
                        true => b"+OK\r\n+OK\r\n",
                        false => b"HTTP/1.1 400 Bad Request\r\n\r\n",
                    };
                    heard = [0; 4096];
                    if client.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let error = RedisStore::connect(&format!("redis://127.0.0.1:{port}")).await;
    let Err(idem::ConnectError::Store(error)) = error else {
        panic!("{error:?}");
    };
    assert_eq!(said(&error), Said::Unavailable, "{error:?}");
}
