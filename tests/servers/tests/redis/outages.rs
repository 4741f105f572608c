//! Servers that are stopped, killed, paused, cut off and failed over, under load.

use std::time::Duration;

use idem::stores::redis::RedisStore;
use idem::{ConnectError, StoreError};
use idem_tests::{Redis, RedisCluster, RedisSentinel, wait_until};

use crate::load::{CALL_TIMEOUT, Load, opened, withstands};

async fn load(url: &str) -> Load {
    let store = async || {
        let builder = RedisStore::builder(url).unwrap();
        builder.command_timeout(CALL_TIMEOUT).connect().await
    };
    Load::over([opened(store).await, opened(store).await])
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
        load(&redis.url()).await,
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
        load(&sentinel.url()).await,
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
        load(&cluster.url()).await,
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
        load(&cluster.url()).await,
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
    let load = load(&redis.url()).await;
    redis.kill();
    println!("refused after {:?}", load.refused("k").await);
    redis.restart();
    assert_eq!(load.ask(0, "k").await, "execution 1 of k");
}

#[tokio::test]
async fn a_store_that_cannot_be_reached_is_an_error_of_connecting() {
    let redis = Redis::start();
    redis.kill();
    for url in [redis.url(), redis.url().replace("redis", "redis-cluster")] {
        let error = RedisStore::connect(&url).await.unwrap_err();
        assert!(
            matches!(error, ConnectError::Store(StoreError::NotSent { .. })),
            "{error:?}"
        );
    }
}
