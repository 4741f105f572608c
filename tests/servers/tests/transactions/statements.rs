//! What a transaction costs beside the body's own statements, counted by the server.

use std::collections::BTreeMap;

use idem::stores::memory::MemoryStore;
use idem::stores::postgres::PgTransactions;
use idem::{Engine, Error, Fingerprint, Operation};
use sqlx::PgPool;

use crate::databases::postgres;

async fn book(operation: &Operation, pool: &PgPool, key: &str) -> Result<i64, Error> {
    operation
        .clone()
        .transaction(&PgTransactions::new(pool.clone()).sweep_every(None))
        .run(
            key,
            Fingerprint::of("the request").unwrap(),
            |mut tx| async move {
                let insert = "INSERT INTO entries (reference, amount) VALUES ('k', 1)";
                sqlx::query(insert).execute(&mut *tx).await.unwrap();
                (tx, Ok(1))
            },
        )
        .await
}

/// Statements by their first two words, since the last look.
async fn counted(pool: &PgPool) -> BTreeMap<String, i64> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT query, calls FROM pg_stat_statements WHERE query !~ 'pg_stat_statements'",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    sqlx::query("SELECT pg_stat_statements_reset()")
        .execute(pool)
        .await
        .unwrap();
    let mut counted = BTreeMap::new();
    for (query, calls) in rows {
        // The server may have put parameters in the place of constants.
        let told = [("AS locked", "look"), ("finished AS", "finish")];
        if let Some((_, name)) = told.iter().find(|(by, _)| query.contains(by)) {
            *counted.entry((*name).to_owned()).or_default() += calls;
            continue;
        }
        let statement = query.lines().filter(|line| !line.starts_with("--"));
        let statement: Vec<_> = statement.flat_map(str::split_whitespace).take(3).collect();
        *counted.entry(statement.join(" ")).or_default() += calls;
    }
    counted
}

#[tokio::test]
async fn a_call_adds_a_look_and_an_insert_to_the_bodys_transaction_and_no_second_commit() {
    let (_server, pool) = postgres(1).await;
    sqlx::raw_sql("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        .execute(&pool)
        .await
        .unwrap();
    let operation = Engine::new(MemoryStore::new()).operation("tests.transactions");
    // Prepared, once per connection.
    book(&operation, &pool, "warm").await.unwrap();
    counted(&pool).await;

    book(&operation, &pool, "k").await.unwrap();
    let expected = [
        // One message: the lock and the savepoint ride with the BEGIN that the body needs anyway.
        "BEGIN",
        "SELECT set_config($1, CASE",
        "SAVEPOINT idem_rs_before_body",
        // The look: a round trip.
        "look",
        // The body's own.
        "INSERT INTO entries",
        // The outcome: a round trip.
        "finish",
        // And the one commit.
        "COMMIT",
    ];
    let expected = expected.map(|statement| (statement.to_owned(), 1));
    assert_eq!(counted(&pool).await, BTreeMap::from(expected));
}
