//! The tables, whoever else is in the database, and files that are not for the store.

use std::sync::Arc;
use std::time::Duration;

use idem::store::Store;
use idem::stores::sqlite::SqliteStore;
use idem::{ConnectError, StoreError};
use idem_tests::wait_until;
use sqlx::SqlitePool;
use sqlx::sqlite::SqlitePoolOptions;
use tokio::sync::Barrier;

use crate::file::{File, acquire, again, claim, finish, replays, whole};
use crate::worker::{Effects, Worker};

/// The tables' version, and the oldest one that may use them.
async fn versions(file: &File) -> (i64, i64) {
    let version = file.number("SELECT version FROM idem_schema").await;
    let oldest = file.number("SELECT min_version FROM idem_schema").await;
    (version, oldest)
}

fn pool(file: &File) -> SqlitePool {
    let options = file.options().create_if_missing(true);
    SqlitePoolOptions::new()
        .max_connections(1)
        .connect_lazy_with(options)
}

/// What there is in the database, by name.
async fn objects(file: &File) -> Vec<String> {
    let mut connection = file.connection().await;
    let names = "SELECT name FROM sqlite_schema ORDER BY name";
    let names = sqlx::query_scalar(names).fetch_all(&mut connection).await;
    names.unwrap()
}

const OURS: [&str; 4] = [
    "idem_records",
    "idem_records_gone_at",
    "idem_schema",
    "sqlite_autoindex_idem_records_1",
];

#[test]
fn many_processes_may_create_and_migrate_one_file_at_once() {
    for _ in 0..3 {
        let (file, effects) = (File::new(), Effects::new());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut worker = Worker::start(&file.url(), &effects, &["--wait-ms", "60000"]);
                    worker.tell("end k");
                    worker.tell("call k 1");
                    wait_until("an answer", Duration::from_secs(60), || {
                        loop {
                            match worker.look() {
                                Some(event) if event["event"] == "answers" => return Ok(event),
                                Some(_) => {}
                                None => return Err("none yet".to_owned()),
                            }
                        }
                    });
                });
            }
        });
        assert_eq!(effects.of("k"), [1]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_may_migrate_an_applications_database_at_once() {
    let file = File::new();
    let barrier = Arc::new(Barrier::new(16));
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let store = SqliteStore::from_pool(&pool(&file)).await.unwrap();
        let barrier = Arc::clone(&barrier);
        all.spawn(async move {
            barrier.wait().await;
            for _ in 0..3 {
                store.migrate().await.unwrap();
            }
            acquire(&store, &claim()).await;
        });
    }
    all.join_all().await;
    assert_eq!(objects(&file).await, OURS);
    assert_eq!(versions(&file).await, (3, 1));
    assert_eq!(file.number("SELECT count(*) FROM idem_records").await, 16);
}

#[tokio::test]
async fn tables_made_by_hand_are_taken_as_they_are_and_others_are_left_alone() {
    let file = File::new();
    let pool = pool(&file);
    let own = "
        CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL);
        INSERT INTO _sqlx_migrations VALUES (1, 'orders');
        CREATE TABLE orders (id INTEGER PRIMARY KEY, idem_key TEXT);
        INSERT INTO orders VALUES (1, 'k');
        PRAGMA user_version = 7;
    ";
    sqlx::raw_sql(own).execute(&pool).await.unwrap();
    let store = SqliteStore::from_pool(&pool).await.unwrap();
    for by_hand in SqliteStore::MIGRATIONS {
        sqlx::raw_sql(*by_hand).execute(&pool).await.unwrap();
    }
    store.migrate().await.unwrap();
    finish(&store, &claim(), b"outcome").await;

    let mut expected = vec!["_sqlx_migrations"];
    expected.extend(&OURS[..3]);
    expected.extend(["orders", "sqlite_autoindex__sqlx_migrations_1", OURS[3]]);
    let mut seen = objects(&file).await;
    // The driver's own key is the row's, and has no index.
    seen.sort();
    expected.sort_unstable();
    expected
        .retain(|name| seen.iter().any(|seen| seen == name) || !name.contains("sqlx_migrations_1"));
    assert_eq!(seen, expected);
    assert_eq!(
        file.number("SELECT count(*) FROM _sqlx_migrations").await,
        1
    );
    assert_eq!(file.number("SELECT count(*) FROM orders").await, 1);
    assert_eq!(file.number("PRAGMA user_version").await, 7);
}

#[tokio::test]
async fn before_the_migration_nothing_runs_and_the_error_says_why() {
    let file = File::new();
    let store = SqliteStore::from_pool(&pool(&file)).await.unwrap();
    let claim = claim();
    let error = store.claim(&claim).await.unwrap_err();
    assert!(matches!(error, StoreError::Rejected { .. }), "{error:?}");
    assert!(whole(&error).contains("no such table"), "{error:?}");
    store.migrate().await.unwrap();
    acquire(&store, &claim).await;
}

async fn unfit(file: &File) -> String {
    let mut messages = Vec::new();
    for opened in [
        SqliteStore::connect(&file.url()).await,
        SqliteStore::from_pool(&pool(file)).await,
    ] {
        let error = opened.unwrap_err();
        assert!(matches!(error, ConnectError::Unfit { .. }), "{error:?}");
        messages.push(error.to_string());
    }
    assert_eq!(messages[0], messages[1]);
    messages.remove(0)
}

#[tokio::test]
async fn tables_of_a_newer_version_are_used_where_they_allow_it_and_refused_where_not() {
    let file = File::new();
    let known = claim();
    finish(&file.store().await, &known, b"outcome").await;

    // As a later version of this crate would leave them, before one of these processes goes back.
    file.run("UPDATE idem_schema SET version = 7, min_version = 3; ALTER TABLE idem_records ADD COLUMN later BLOB")
        .await;
    replays(&file.store().await, &known, b"outcome").await;
    let beside = SqliteStore::from_pool(&pool(&file)).await.unwrap();
    beside.migrate().await.unwrap();
    replays(&beside, &known, b"outcome").await;
    finish(&beside, &claim(), b"outcome").await;
    assert_eq!(versions(&file).await, (7, 3));

    file.run("UPDATE idem_schema SET min_version = 4").await;
    let message = unfit(&file).await;
    assert!(message.contains("version 7"), "{message}");
    assert!(message.contains("know version 4"), "{message}");
    assert!(message.contains("knows 3"), "{message}");
    assert_eq!(versions(&file).await, (7, 4));
    file.run("UPDATE idem_schema SET min_version = 3").await;
    replays(&file.store().await, &known, b"outcome").await;
}

#[tokio::test]
async fn tables_of_anothers_making_are_refused_and_stay() {
    let others = [
        "CREATE TABLE idem_records (theirs TEXT); INSERT INTO idem_records VALUES ('x')",
        "CREATE TABLE idem_schema (theirs TEXT); INSERT INTO idem_schema VALUES ('x')",
        "CREATE TABLE idem_schema (version TEXT); CREATE TABLE idem_records (id TEXT);
         INSERT INTO idem_schema VALUES ('x')",
    ];
    for theirs in others {
        let file = File::new();
        sqlx::raw_sql(theirs).execute(&pool(&file)).await.unwrap();
        let before = objects(&file).await;
        let message = unfit(&file).await;
        assert!(message.contains("another's making"), "{message}");
        assert!(message.contains(&before[0]), "{message}");
        assert_eq!(objects(&file).await, before);
    }
}

#[tokio::test]
async fn a_file_of_another_kind_is_refused_and_stays() {
    let file = File::new();
    let theirs = "a letter to somebody, ".repeat(1000);
    std::fs::write(file.path(), &theirs).unwrap();
    let message = unfit(&file).await;
    assert!(message.contains("of another kind"), "{message}");
    assert_eq!(std::fs::read_to_string(file.path()).unwrap(), theirs);
}

/// A database of a hundred records, in one file and no log.
async fn a_hundred() -> (File, Vec<idem::store::Claim>) {
    let file = File::new();
    let store = file.store().await;
    let mut claims = Vec::new();
    for _ in 0..100 {
        claims.push(claim());
        finish(&store, claims.last().unwrap(), &[7; 2000]).await;
    }
    drop(store);
    file.is_closed().await;
    (file, claims)
}

#[tokio::test]
async fn a_damaged_file_is_an_error_and_stays_as_it_is() {
    let (file, _) = a_hundred().await;
    let mut bytes = std::fs::read(file.path()).unwrap();
    // All but the header and the tables' definitions.
    bytes[4096..].fill(0x5a);
    std::fs::write(file.path(), &bytes).unwrap();
    let message = unfit(&file).await;
    assert!(message.contains("damaged"), "{message}");
    assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
}

#[tokio::test]
async fn where_a_part_is_damaged_nothing_runs_that_may_have_run() {
    let (file, claims) = a_hundred().await;
    let mut bytes = std::fs::read(file.path()).unwrap();
    let end = bytes.len();
    // The newest pages: outcomes, and some of the records.
    bytes[end / 2 / 4096 * 4096..].fill(0x5a);
    std::fs::write(file.path(), &bytes).unwrap();
    let store = file.store().await;
    let (mut replayed, mut failed) = (0, 0);
    for claim in &claims {
        match store.claim(&again(claim)).await {
            Ok(idem::store::Claimed::Finished { outcome, .. }) => {
                assert_eq!(outcome, [7; 2000].as_slice());
                replayed += 1;
            }
            Ok(other) => panic!("{other:?}"),
            Err(StoreError::Rejected { .. }) => failed += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    println!("{replayed} replayed, {failed} failed");
    assert!(replayed > 0 && failed > 0);
}
