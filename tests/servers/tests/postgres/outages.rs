//! A server that is stopped, killed, paused and cut off, under load.

use std::sync::Arc;
use std::time::Duration;

use idem::Store;
use idem::stores::postgres::PostgresStore;
use idem_tests::Postgres;

use crate::load::{CALL_TIMEOUT, Load, withstands};

async fn load(url: &str) -> Load {
    let store = async || {
        let builder = PostgresStore::builder(url).unwrap().timeout(CALL_TIMEOUT);
        Arc::new(builder.connect().await.unwrap()) as Arc<dyn Store>
    };
    Load::over([store().await, store().await])
}

fn pass(time: Duration) {
    std::thread::sleep(time);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_in_trouble_for_forty_seconds_runs_nothing_twice() {
    let postgres = Postgres::start();
    let a_while = Duration::from_millis(2500);
    let terminate =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'idem'";
    withstands(
        load(&postgres.url()).await,
        Duration::from_secs(40),
        false,
        &[
            ("pg_terminate_backend", &|| drop(postgres.psql(terminate))),
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
    assert!(error.to_string().contains("cannot be reached"), "{error}");
}
