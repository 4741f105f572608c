//! Servers that end the session of a transaction whose body is silent: the attempt is told, and
//! what it has written is gone.

use std::time::Duration;

use futures_util::future::join_all;
use idem::stores::memory::MemoryStore;
use idem::{Attempt, Engine, Error, Fingerprint, Operation};
use idem_tests::{Postgres, wait_until};
use sqlx::postgres::{PgPool, PgPoolOptions};

use crate::databases::postgres;

const LIMIT: Duration = Duration::from_secs(60);

fn operation() -> Operation {
    Engine::new(MemoryStore::new()).operation("tests.sessions")
}

/// A pool whose server ends sessions that are silent in a transaction.
async fn impatient(connections: u32) -> (Postgres, PgPool) {
    let (server, _) = postgres(1).await;
    // No busy machine is silent for so long by itself.
    server.psql("ALTER ROLE postgres SET idle_in_transaction_session_timeout = '3s'");
    let pool = PgPoolOptions::new().max_connections(connections);
    let pool = pool.connect(&server.url()).await.unwrap();
    (server, pool)
}

fn entries(server: &Postgres) -> String {
    server.psql("SELECT count(*) FROM entries")
}

/// Books, and goes on when `silence` is over.
async fn book<F: Future<Output = ()>>(
    operation: &Operation,
    pool: &PgPool,
    silence: impl FnOnce(Attempt) -> F,
) -> Result<u32, Error> {
    let request = Fingerprint::of("the request").unwrap();
    let operation = operation.clone().transaction(pool);
    operation
        .run("k", request, |mut tx| async move {
            let insert = "INSERT INTO entries (reference, amount) VALUES ('k', 1)";
            sqlx::query(insert).execute(&mut *tx).await.unwrap();
            silence(idem::attempt()).await;
            (tx, Ok(idem::attempt().number()))
        })
        .await
}

/// Until the attempt is told that it is none any more.
async fn is_told(attempt: Attempt) {
    assert!(attempt.is_protected() && !attempt.lease_lost());
    let told = async {
        while !attempt.lease_lost() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, told).await.unwrap();
}

async fn none(_: Attempt) {}

/// What it wrote is gone, and another attempt runs.
async fn books_anew(server: &Postgres, operation: &Operation, pool: &PgPool) {
    assert_eq!(entries(server), "0");
    assert_eq!(book(operation, pool, none).await.unwrap(), 1);
    assert_eq!(entries(server), "1");
    let replayed = book(operation, pool, |_| async { panic!("it has run") });
    assert_eq!(replayed.await.unwrap(), 1);
}

#[tokio::test]
async fn a_silent_body_whose_session_is_ended_is_told_so_and_commits_nothing() {
    let (server, pool) = impatient(3).await;
    let operation = operation();
    let silent = book(&operation, &pool, is_told).await;
    println!("{silent:?}");
    assert!(matches!(silent, Err(Error::Store(_))), "{silent:?}");
    books_anew(&server, &operation, &pool).await;
}

#[tokio::test]
async fn many_silent_bodies_are_told_over_one_connection() {
    let (server, pool) = impatient(9).await;
    let operation = operation();
    let silent = (0..8).map(|number| {
        let operation = operation.clone().transaction(&pool);
        async move {
            let request = Fingerprint::of("the request").unwrap();
            operation
                .run(&number, request, |mut tx| async move {
                    sqlx::query("SELECT 1").execute(&mut *tx).await.unwrap();
                    is_told(idem::attempt()).await;
                    (tx, Ok::<_, Error>(number))
                })
                .await
        }
    });
    for silent in join_all(silent).await {
        assert!(matches!(silent, Err(Error::Store(_))), "{silent:?}");
    }
    assert_eq!(server.psql("SELECT count(*) FROM idem_records"), "0");
}

#[tokio::test]
async fn a_session_that_is_ended_by_an_operator_is_noticed_where_the_server_has_limits() {
    let (server, pool) = impatient(3).await;
    let operation = operation();
    // Longer than the test takes: it is not what ends the session.
    server.psql("ALTER ROLE postgres SET idle_in_transaction_session_timeout = '1h'");
    let url = pool.connect_options();
    let pool = PgPoolOptions::new()
        .max_connections(3)
        .connect_with((*url).clone());
    let pool = pool.await.unwrap();
    let silent = book(&operation, &pool, async |attempt| {
        server.psql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE state = 'idle in transaction'",
        );
        is_told(attempt).await;
    });
    let silent = silent.await;
    assert!(matches!(silent, Err(Error::Store(_))), "{silent:?}");
    books_anew(&server, &operation, &pool).await;
}

#[tokio::test]
async fn where_the_pool_has_no_other_connection_the_end_finds_out() {
    let (server, pool) = impatient(1).await;
    let operation = operation();
    let silent = book(&operation, &pool, async |attempt| {
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'";
        wait_until("an end", LIMIT, || match &*server.psql(sessions) {
            "0" => Ok(()),
            other => Err(other.to_owned()),
        });
        assert!(!attempt.lease_lost());
    });
    let silent = silent.await;
    assert!(matches!(silent, Err(Error::Store(_))), "{silent:?}");
    books_anew(&server, &operation, &pool).await;
}
