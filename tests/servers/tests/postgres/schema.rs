//! The tables: made once by many at once, by hand, and never misunderstood.

use std::sync::Arc;

use idem::store::Store;
use idem::stores::postgres::PostgresStore;
use idem_tests::Postgres;
use sqlx::PgPool;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::conformance::claim;
use crate::limits::patient_at;
use crate::logins::exercise;

async fn refused(url: &str) -> String {
    let Err(error) = idem::connect(url).await else {
        panic!("there are no tables to work with");
    };
    error.to_string()
}

/// Each version that the tables have had, and the oldest that may use them.
fn versions(postgres: &Postgres) -> String {
    postgres.psql("SELECT version, min_version FROM idem_schema ORDER BY version")
}

#[tokio::test(flavor = "multi_thread")]
async fn of_eight_that_migrate_at_once_one_does() {
    let postgres = Postgres::start();
    // What the application's own migrations keep is neither used nor disturbed.
    postgres.psql(
        "CREATE TABLE _sqlx_migrations (mine text); INSERT INTO _sqlx_migrations VALUES ('kept')",
    );
    for _ in 0..5 {
        let barrier = Arc::new(Barrier::new(8));
        let mut starting = JoinSet::new();
        for _ in 0..8 {
            let (url, barrier) = (postgres.url(), Arc::clone(&barrier));
            starting.spawn(async move {
                let pool = PgPool::connect(&url).await.unwrap();
                let store = PostgresStore::from_pool(pool);
                barrier.wait().await;
                store.migrate().await.unwrap();
                store.inspect(&claim(1).id).await.unwrap()
            });
        }
        while let Some(started) = starting.join_next().await {
            assert_eq!(started.unwrap(), None);
        }
        assert_eq!(versions(&postgres), "1|1\n2|1\n3|1");
        postgres.psql("DROP TABLE idem_records, idem_schema");
    }
    assert_eq!(postgres.psql("SELECT mine FROM _sqlx_migrations"), "kept");
}

#[tokio::test]
async fn where_the_store_may_not_migrate_missing_tables_are_an_error() {
    let postgres = Postgres::start();
    let url = format!("{}?migrate=off", postgres.url());
    let message = refused(&url).await;
    assert!(message.contains("no table idem_records"), "{message}");
    assert_eq!(
        postgres.psql("SELECT to_regclass('idem_records') IS NULL"),
        "t"
    );
    // With the statements that are shipped it is enough.
    for migration in PostgresStore::MIGRATIONS {
        postgres.psql(migration);
    }
    exercise(&PostgresStore::connect(&url).await.unwrap(), 0).await;
}

#[tokio::test]
async fn tables_of_a_newer_version_are_used_where_they_allow_it_and_refused_where_not() {
    let postgres = Postgres::start();
    let store = patient_at(&postgres.url()).await;
    // As a later version of this crate would leave them, before one of these processes goes back.
    postgres.psql(
        "ALTER TABLE idem_schema ADD COLUMN later text; \
         ALTER TABLE idem_records ADD COLUMN later bytea; \
         INSERT INTO idem_schema (version, min_version) VALUES (4, 1), (7, 3)",
    );
    let urls = [postgres.url(), format!("{}?migrate=off", postgres.url())];
    exercise(&store, 0).await;
    for (number, url) in (1..).zip(&urls) {
        exercise(&PostgresStore::connect(url).await.unwrap(), number * 2).await;
    }
    let pool = PgPool::connect(&postgres.url()).await.unwrap();
    PostgresStore::from_pool(pool).migrate().await.unwrap();
    let allowed = "1|1\n2|1\n3|1\n4|1\n7|3";
    assert_eq!(versions(&postgres), allowed);

    postgres.psql("UPDATE idem_schema SET min_version = 4 WHERE version = 7");
    for url in &urls {
        let message = refused(url).await;
        for part in ["of version 7", "know version 4", "knows 3"] {
            assert!(message.contains(part), "{message}");
        }
    }
    assert_eq!(versions(&postgres), allowed.replace("7|3", "7|4"));
}

#[tokio::test]
async fn tables_that_do_not_say_their_version_are_refused_and_stay() {
    let postgres = Postgres::start();
    patient_at(&postgres.url()).await;
    for theirs in [
        "DELETE FROM idem_schema",
        "INSERT INTO idem_schema VALUES (0)",
        "ALTER TABLE idem_schema ALTER version TYPE text",
    ] {
        postgres.psql(theirs);
        let message = refused(&postgres.url()).await;
        assert!(message.contains("idem_schema is of another's"), "{message}");
    }
    assert_eq!(versions(&postgres), "0|1");
}

#[tokio::test]
async fn a_table_of_another_is_refused_and_stays() {
    let postgres = Postgres::start();
    postgres.psql("CREATE TABLE idem_records (theirs text)");
    let message = refused(&postgres.url()).await;
    assert!(message.contains("only idem_records"), "{message}");
    postgres.psql("SELECT theirs FROM idem_records");
}

/// A user of a database where it may make nothing.
fn with_user(postgres: &Postgres) -> String {
    postgres.psql("REVOKE CREATE ON SCHEMA public FROM PUBLIC; CREATE ROLE app LOGIN");
    postgres.url().replace("//postgres@", "//app@")
}

#[tokio::test]
async fn a_user_who_may_not_make_tables_is_told_so() {
    let postgres = Postgres::start();
    let url = with_user(&postgres);
    let message = refused(&url).await;
    assert!(
        message.contains("permission denied for schema public"),
        "{message}"
    );
    // Tables that are there, and may not be read.
    patient_at(&postgres.url()).await;
    let message = refused(&url).await;
    assert!(message.contains("permission denied for table"), "{message}");
}

#[tokio::test]
async fn a_user_with_the_documented_rights_is_enough() {
    let postgres = Postgres::start();
    let url = with_user(&postgres);
    // As the file says to whoever runs it by hand.
    let files = PostgresStore::MIGRATIONS;
    let grants: String = files[0]
        .lines()
        .filter_map(|line| line.strip_prefix("--   GRANT "))
        .map(|grant| format!("GRANT {};", grant.replace("application;", "app")))
        .collect();
    for file in files {
        postgres.psql(&format!("BEGIN; {file}; COMMIT"));
    }
    postgres.psql(&grants);
    // It has nothing to migrate, and so needs no right to.
    let store = PostgresStore::connect(&url).await.unwrap();
    exercise(&store, 0).await;
    store.sweep(10).await.unwrap();
}
