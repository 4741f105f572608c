//! One process, one key, and databases of several tenants: what meets in the process, and what is
//! kept there, is of one database.

use std::time::Duration;

use idem::stores::memory::MemoryStore;
use idem::{Engine, EngineBuilder, Error, Fingerprint, InFlight};
use sqlx::{PgPool, SqlitePool};
use std::sync::Arc;

use crate::databases::{postgres, sqlite};

async fn book(engine: &Engine, pool: &SqlitePool, amount: i64) -> Result<i64, Error> {
    let operation = engine.operation("tests.places");
    operation
        .in_flight(InFlight::Wait(Duration::from_secs(30)))
        .transaction(pool)
        .run(
            "k",
            Fingerprint::of("the request").unwrap(),
            |mut tx| async move {
                sqlx::query("INSERT INTO entries VALUES ('k', $1)")
                    .bind(amount)
                    .execute(&mut *tx)
                    .await
                    .unwrap();
                // So that the other call comes meanwhile.
                tokio::time::sleep(Duration::from_millis(100)).await;
                (tx, Ok(amount))
            },
        )
        .await
}

async fn booked(pool: &SqlitePool) -> Vec<i64> {
    let booked = sqlx::query_scalar("SELECT amount FROM entries");
    booked.fetch_all(pool).await.unwrap()
}

#[tokio::test]
async fn calls_that_meet_are_answered_by_their_own_database() {
    let ((_one, one), (_other, other)) = (sqlite(2).await, sqlite(2).await);
    let engine = Engine::new(MemoryStore::new());
    let answers = tokio::join!(book(&engine, &one, 1), book(&engine, &other, 2));
    assert_eq!((answers.0.unwrap(), answers.1.unwrap()), (1, 2));
    assert_eq!(
        (booked(&one).await, booked(&other).await),
        (vec![1], vec![2])
    );
}

#[tokio::test]
async fn what_is_cached_is_of_its_own_database() {
    let ((_one, one), (_other, other)) = (sqlite(2).await, sqlite(2).await);
    let engine = EngineBuilder::new(Arc::new(MemoryStore::new()));
    let engine = engine.cache(1024 * 1024).build();
    assert_eq!(book(&engine, &one, 1).await.unwrap(), 1);
    assert_eq!(book(&engine, &other, 2).await.unwrap(), 2);
    // And from the cache, which knows a pool's clones.
    one.close().await;
    assert_eq!(book(&engine, &one.clone(), 3).await.unwrap(), 1);
    assert_eq!(booked(&other).await, [2]);
}

#[tokio::test]
async fn schemas_of_one_database_are_not_in_each_others_way() {
    let (server, public) = postgres(2).await;
    let tenant = "CREATE SCHEMA tenant; CREATE TABLE tenant.entries (LIKE entries); \
        CREATE TABLE tenant.idem_records (LIKE idem_records INCLUDING ALL)";
    sqlx::raw_sql(tenant).execute(&public).await.unwrap();
    let separator = if server.url().contains('?') { '&' } else { '?' };
    let url = format!("{}{separator}options[search_path]=tenant", server.url());
    let tenant = PgPool::connect(&url).await.unwrap();
    let engine = Engine::new(MemoryStore::new());
    let book = async |pool: &PgPool, amount: i64| -> Result<i64, Error> {
        engine
            .operation("tests.places")
            .transaction(pool)
            .run(
                "k",
                Fingerprint::of("the request").unwrap(),
                |mut tx| async move {
                    sqlx::query("INSERT INTO entries VALUES ('k', $1)")
                        .bind(amount)
                        .execute(&mut *tx)
                        .await
                        .unwrap();
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    (tx, Ok(amount))
                },
            )
            .await
    };
    let answers = tokio::join!(book(&public, 1), book(&tenant, 2));
    assert_eq!((answers.0.unwrap(), answers.1.unwrap()), (1, 2));
    for (pool, amount) in [(&public, 1), (&tenant, 2)] {
        let booked = sqlx::query_scalar("SELECT amount FROM entries");
        let booked: Vec<i64> = booked.fetch_all(pool).await.unwrap();
        assert_eq!(booked, [amount]);
    }
}
