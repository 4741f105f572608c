//! A server that is stopped, killed, paused and cut off, under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use idem::store::Store;
use idem::stores::postgres::PostgresStore;
use idem_tests::{Postgres, wait_until};
use sqlx::PgPool;
use tokio::task::JoinSet;

use crate::conformance::claim;
use crate::limits::impatient;
use crate::load::{CALL_TIMEOUT, Load, opened, withstands};

async fn load(url: &str) -> Load {
    let store = async || {
        let builder = PostgresStore::builder(url).unwrap().timeout(CALL_TIMEOUT);
        builder.connect().await
    };
    Load::over([opened(store).await, opened(store).await])
}

fn pass(time: Duration) {
    std::thread::sleep(time);
}

async fn is_withstood(postgres: &Postgres, load: Load, time: Duration) {
    let a_while = Duration::from_millis(2500);
    let backends = "pg_stat_activity WHERE application_name = 'idem'";
    let terminate = format!("SELECT pg_terminate_backend(pid) FROM {backends}");
    withstands(
        load,
        time,
        false,
        &[
            ("pg_terminate_backend", &|| drop(postgres.psql(&terminate))),
            ("SIGSTOP", &|| {
                postgres.pause();
                pass(a_while);
                postgres.resume();
            }),
            ("SIGKILL", &|| {
                postgres.kill();
                pass(a_while);
                postgres.restart();
            }),
            ("a fast shutdown", &|| postgres.restart()),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_in_trouble_for_forty_seconds_runs_nothing_twice() {
    let postgres = Postgres::start();
    let load = load(&postgres.url()).await;
    is_withstood(&postgres, load, Duration::from_secs(40)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn so_it_is_with_pools_of_the_application() {
    let postgres = Postgres::start();
    let url = format!("{}?application_name=idem", postgres.url());
    let store = async || {
        let store = PostgresStore::from_pool(PgPool::connect(&url).await.unwrap());
        store.migrate().await.unwrap();
        Arc::new(store) as Arc<dyn Store>
    };
    let load = Load::over([store().await, store().await]);
    is_withstood(&postgres, load, Duration::from_secs(15)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crowd_that_waits_for_connections_does_not_keep_them_from_being_opened() {
    let postgres = Postgres::start();
    // Hardly more than the store pauses between attempts to connect.
    let url = format!("{}?max_connections=2&timeout=400ms", postgres.url());
    let store = impatient(&url).await;
    let (served, closed) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let mut crowd = JoinSet::new();
    for number in 0..200 {
        let (store, served, closed) = (store.clone(), Arc::clone(&served), Arc::clone(&closed));
        crowd.spawn(async move {
            while !closed.load(Ordering::Relaxed) {
                if store.inspect(&claim(number).id).await.is_ok() {
                    served.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        });
    }
    tokio::task::block_in_place(|| {
        for _ in 0..3 {
            postgres.kill();
            pass(Duration::from_millis(1500));
            postgres.restart();
            let before = served.load(Ordering::Relaxed);
            wait_until(
                "a crowd that is served",
                Duration::from_secs(60),
                || match served.load(Ordering::Relaxed) - before {
                    1000.. => Ok(()),
                    some => Err(format!("{some} calls were answered")),
                },
            );
        }
    });
    closed.store(true, Ordering::Relaxed);
    while let Some(ended) = crowd.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said_at_once_and_runs_nothing() {
    let postgres = Postgres::start();
    let load = load(&postgres.url()).await;
    postgres.kill();
    println!("refused after {:?}", load.refused("k").await);
    postgres.restart();
    assert_eq!(load.ask(0, "k").await, "execution 1 of k");
}

#[tokio::test]
async fn a_store_that_cannot_be_reached_is_an_error_of_connecting() {
    let postgres = Postgres::start();
    postgres.kill();
    let error = PostgresStore::connect(&postgres.url()).await.unwrap_err();
    assert!(error.to_string().contains("no connection to it"), "{error}");
}
