//! The tables: made by the store or by hand, and who may use them.

use futures_util::future::join_all;
use idem::ConnectError;
use idem::stores::mysql::MySqlStore;
use idem_tests::MariaDb;

use crate::conformance::{claim, finish, patient_at};

const VERSIONS: &str = "SELECT version, min_version FROM idem_schema ORDER BY version";

async fn by_hand(server: &MariaDb) -> Result<MySqlStore, ConnectError> {
    MySqlStore::connect(&format!("{}?migrate=off", server.url())).await
}

#[tokio::test]
async fn tables_made_by_hand_are_those_of_the_store() {
    let server = MariaDb::start();
    let error = by_hand(&server).await.unwrap_err();
    assert!(
        error.to_string().contains("run its migrations by hand"),
        "{error}"
    );
    for migration in MySqlStore::MIGRATIONS {
        server.sql(migration);
        // One that has stopped halfway is run again.
        server.sql(migration);
    }
    let made = server.sql("SHOW CREATE TABLE idem_records");
    let store = by_hand(&server).await.unwrap();
    finish(&store, &claim(1), b"done").await;
    let other = MariaDb::start();
    patient_at(&other.url()).await;
    assert_eq!(other.sql("SHOW CREATE TABLE idem_records"), made);
    assert_eq!(server.sql(VERSIONS), "1\t1");
}

#[tokio::test]
async fn a_migration_that_stopped_halfway_is_finished() {
    let server = MariaDb::start();
    let first = MySqlStore::MIGRATIONS[0];
    let (records, _) = first
        .split_once("CREATE TABLE IF NOT EXISTS idem_schema")
        .unwrap();
    server.sql(records);
    let error = by_hand(&server).await.unwrap_err();
    assert!(error.to_string().contains("idem_schema"), "{error}");
    let store = patient_at(&server.url()).await;
    finish(&store, &claim(1), b"done").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_processes_that_start_together_one_makes_the_tables() {
    let server = MariaDb::start();
    let url = server.url();
    let stores = join_all((0..8).map(|_| MySqlStore::connect(&url))).await;
    for store in stores {
        store.unwrap();
    }
    assert_eq!(server.sql(VERSIONS), "1\t1");
}

#[tokio::test]
async fn newer_tables_are_used_if_they_allow_it_and_refused_if_not() {
    let server = MariaDb::start();
    patient_at(&server.url()).await;
    server.sql("INSERT INTO idem_schema VALUES (7, 1, UTC_TIMESTAMP(6))");
    let store = patient_at(&server.url()).await;
    finish(&store, &claim(1), b"done").await;
    server.sql("INSERT INTO idem_schema VALUES (8, 8, UTC_TIMESTAMP(6))");
    for url in [server.url(), format!("{}?migrate=off", server.url())] {
        let error = MySqlStore::connect(&url).await.unwrap_err();
        assert!(error.to_string().contains("version 8"), "{error}");
    }
}

#[tokio::test]
async fn anothers_table_is_refused_and_left_as_it_is() {
    let server = MariaDb::start();
    server.sql("CREATE TABLE idem_records (number int)");
    let error = MySqlStore::connect(&server.url()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unfit { .. }), "{error:?}");
    assert_eq!(server.sql("SHOW TABLES"), "idem_records");
}
