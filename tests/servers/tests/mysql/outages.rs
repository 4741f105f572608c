//! A server that is stopped, killed, paused and cut off, under load.

use std::sync::Arc;
use std::time::Duration;

use idem::store::Store;
use idem::stores::mysql::MySqlStore;
use idem_tests::MariaDb;
use sqlx::MySqlPool;

use crate::load::{CALL_TIMEOUT, Load, opened, withstands};

async fn load(url: &str) -> Load {
    let store = async || {
        let builder = MySqlStore::builder(url).unwrap().timeout(CALL_TIMEOUT);
        builder.connect().await
    };
    Load::over([opened(store).await, opened(store).await])
}

fn pass(time: Duration) {
    std::thread::sleep(time);
}

async fn is_withstood(server: &MariaDb, load: Load, time: Duration) {
    let a_while = Duration::from_millis(2500);
    let kill_all = || {
        let others = server.sql(
            "SELECT ID FROM information_schema.PROCESSLIST \
             WHERE ID <> CONNECTION_ID() AND DB = 'shop'",
        );
        for session in others.lines() {
            // It may have ended meanwhile.
            let _ = server.try_sql(&format!("KILL {session}"));
        }
    };
    withstands(
        load,
        time,
        false,
        &[
            ("KILL", &kill_all),
            ("SIGSTOP", &|| {
                server.pause();
                pass(a_while);
                server.resume();
            }),
            ("SIGKILL", &|| {
                server.kill();
                pass(a_while);
                server.restart();
            }),
            ("a shutdown", &|| server.restart()),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_in_trouble_for_twenty_seconds_runs_nothing_twice() {
    let server = MariaDb::start();
    let load = load(&server.url()).await;
    is_withstood(&server, load, Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn so_it_is_with_pools_of_the_application() {
    let server = MariaDb::start();
    let store = async || {
        let store = MySqlStore::from_pool(MySqlPool::connect(&server.url()).await.unwrap());
        store.migrate().await.unwrap();
        Arc::new(store) as Arc<dyn Store>
    };
    let load = Load::over([store().await, store().await]);
    is_withstood(&server, load, Duration::from_secs(15)).await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said_at_once_and_runs_nothing() {
    let server = MariaDb::start();
    let load = load(&server.url()).await;
    server.kill();
    println!("refused after {:?}", load.refused("k").await);
    server.restart();
    assert_eq!(load.ask(0, "k").await, "execution 1 of k");
}

#[tokio::test]
async fn a_store_that_cannot_be_reached_is_an_error_of_connecting() {
    let server = MariaDb::start();
    server.kill();
    let error = MySqlStore::connect(&server.url()).await.unwrap_err();
    assert!(error.to_string().contains("no connection to it"), "{error}");
}
