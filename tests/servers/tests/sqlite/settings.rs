//! What the store says of a database's settings, and leaves as it is.

use idem::stores::memory::MemoryStore;
use idem::stores::sqlite::SqliteStore;
use idem::{ConnectError, Engine, Error, Fingerprint, StoreError};
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use crate::file::{File, claim, finish, replays, whole};
use crate::log::listen;

fn pool(file: &File, mode: SqliteJournalMode, synchronous: SqliteSynchronous) -> SqlitePool {
    let options = file.options().create_if_missing(true);
    SqlitePoolOptions::new()
        .max_connections(1)
        .connect_lazy_with(options.journal_mode(mode).synchronous(synchronous))
}

#[tokio::test]
async fn a_file_of_the_stores_own_has_a_write_ahead_log_and_no_warnings() {
    let (log, _guard) = listen();
    let file = File::new();
    let store = file.store().await;
    assert_eq!(log.take(), "");
    let mut connection = file.connection().await;
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(mode, "wal");
    drop(store);
}

#[tokio::test]
async fn an_applications_settings_stay_and_the_weak_ones_are_warned_of() {
    let (log, _guard) = listen();
    let cases = [
        (
            SqliteJournalMode::Wal,
            SqliteSynchronous::Full,
            [false, false],
        ),
        (
            SqliteJournalMode::Wal,
            SqliteSynchronous::Extra,
            [false, false],
        ),
        (
            SqliteJournalMode::Wal,
            SqliteSynchronous::Normal,
            [false, true],
        ),
        (
            SqliteJournalMode::Delete,
            SqliteSynchronous::Off,
            [true, true],
        ),
        (
            SqliteJournalMode::Truncate,
            SqliteSynchronous::Full,
            [true, false],
        ),
        (
            SqliteJournalMode::Delete,
            SqliteSynchronous::Extra,
            [true, false],
        ),
    ];
    for (mode, synchronous, warned) in cases {
        let file = File::new();
        let pool = pool(&file, mode, synchronous);
        let store = SqliteStore::from_pool(&pool).await.unwrap();
        let warnings = log.take();
        let hints = ["journal_mode to WAL", "synchronous to FULL"];
        assert_eq!(
            hints.map(|hint| warnings.contains(hint)),
            warned,
            "{warnings}"
        );
        assert!(
            warnings.lines().all(|line| line.contains(" idem: ")),
            "{warnings}"
        );
        assert!(!warnings.contains("idem.db"), "{warnings}");

        // It works, and leaves them as they are.
        store.migrate().await.unwrap();
        let claim = claim();
        finish(&store, &claim, b"outcome").await;
        replays(&store, &claim, b"outcome").await;
        let (mode, level): (String, i64) = sqlx::query_as(
            "SELECT journal_mode, synchronous FROM pragma_journal_mode, pragma_synchronous",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        assert_eq!(mode == "wal", !warned[0]);
        assert_eq!(level < 2, warned[1]);
    }
}

/// A database that an operation may use.
async fn made() -> File {
    let file = File::new();
    drop(file.store().await);
    file.is_closed().await;
    file
}

/// A call in the application's transaction.
async fn book(pool: &SqlitePool) -> Result<i64, Error> {
    let key = format!("{:032x}", rand::random::<u128>());
    Engine::new(MemoryStore::new())
        .operation("tests.settings")
        .transaction(pool)
        .run(&key, Fingerprint::of("request").unwrap(), |tx| async move {
            (tx, Ok(1))
        })
        .await
}

#[tokio::test]
async fn a_deleted_journal_that_is_not_on_the_disk_is_warned_of() {
    let (log, _guard) = listen();
    let hint = "a loss of power can undo";
    for (synchronous, warned) in [(SqliteSynchronous::Full, 1), (SqliteSynchronous::Extra, 0)] {
        let file = made().await;
        let pool = pool(&file, SqliteJournalMode::Delete, synchronous);
        let store = SqliteStore::from_pool(&pool).await.unwrap();
        assert_eq!(log.take().matches(hint).count(), warned);
        // Whoever only has transactions is told as well, and once.
        for _ in 0..3 {
            book(&pool).await.unwrap();
        }
        assert_eq!(log.take().matches(hint).count(), warned);
        drop(store);
    }
}

#[tokio::test]
async fn a_database_without_a_journal_on_the_disk_is_refused() {
    for (mode, name) in [
        (SqliteJournalMode::Memory, "MEMORY"),
        (SqliteJournalMode::Off, "OFF"),
    ] {
        let file = made().await;
        file.run("PRAGMA journal_mode = DELETE").await;
        let pool = pool(&file, mode, SqliteSynchronous::Full);
        let error = SqliteStore::from_pool(&pool).await.unwrap_err();
        assert!(matches!(error, ConnectError::Unfit { .. }), "{error:?}");
        assert!(error.to_string().contains(name), "{error}");
        // Nor does an operation run in its transaction: not in the first, and in no other.
        for _ in 0..2 {
            let Err(Error::Store(error)) = book(&pool).await else {
                panic!("it ran");
            };
            assert!(matches!(error, StoreError::Rejected { .. }), "{error:?}");
            assert!(whole(&error).contains(name), "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_database_in_memory_serves_an_applications_own_tests() {
    let (log, _guard) = listen();
    let pool = SqlitePoolOptions::new().max_connections(1);
    let pool = pool.connect("sqlite::memory:").await.unwrap();
    for migration in SqliteStore::MIGRATIONS {
        sqlx::raw_sql(*migration).execute(&pool).await.unwrap();
    }
    for _ in 0..3 {
        assert_eq!(book(&pool).await.unwrap(), 1);
    }
    assert_eq!(log.take(), "");
}

#[tokio::test]
async fn a_pool_that_turns_its_journal_off_by_itself_is_refused() {
    let file = made().await;
    file.run("PRAGMA journal_mode = DELETE").await;
    let options = file.options();
    let pool = SqlitePoolOptions::new().after_connect(|connection, _| {
        Box::pin(async move {
            let off = sqlx::query("PRAGMA journal_mode = OFF");
            off.execute(connection).await.map(drop)
        })
    });
    let pool = pool.connect_lazy_with(options);
    let error = SqliteStore::from_pool(&pool).await.unwrap_err();
    assert!(error.to_string().contains("OFF"), "{error}");
    assert!(matches!(book(&pool).await, Err(Error::Store(_))));
}

#[tokio::test]
async fn a_store_takes_no_connection_from_a_pool_of_one() {
    let file = File::new();
    let pool = pool(&file, SqliteJournalMode::Wal, SqliteSynchronous::Full);
    let store = SqliteStore::from_pool(&pool).await.unwrap();
    let busy = pool.acquire().await.unwrap();
    store.migrate().await.unwrap();
    let claim = claim();
    finish(&store, &claim, b"outcome").await;
    drop(busy);
    // And outlives it.
    pool.close().await;
    replays(&store, &claim, b"outcome").await;
}

#[tokio::test]
async fn databases_in_memory_are_refused_with_a_hint() {
    for url in [
        "sqlite::memory:",
        "sqlite://:memory:",
        "sqlite://?mode=memory",
    ] {
        let error = SqliteStore::connect(url).await.unwrap_err();
        assert!(error.to_string().contains("memory://"), "{error}");
        let Err(error) = idem::stores::connect(url).await else {
            panic!("{url} is no store");
        };
        assert!(error.to_string().contains("memory://"), "{error}");
    }
    for url in ["sqlite::memory:", "sqlite://"] {
        let pool = SqlitePool::connect_lazy(url).unwrap();
        let error = SqliteStore::from_pool(&pool).await.unwrap_err();
        assert!(matches!(error, ConnectError::Unfit { .. }), "{error:?}");
        assert!(error.to_string().contains("memory://"), "{error}");
    }
}

#[tokio::test]
async fn urls_say_what_the_store_is_or_what_is_wrong() {
    let file = File::new();
    for options in ["", "?", "?timeout=500ms", "?max_waiting=10&sweep=off"] {
        let url = format!("{}{options}", file.url());
        assert_eq!(idem::stores::connect(&url).await.unwrap().name(), "sqlite");
    }
    for (url, hint) in [
        ("sqlite:secret.db", "sqlite://path"),
        ("sqlite://secret.db?mode=ro", "timeout"),
    ] {
        let Err(error) = idem::stores::connect(url).await else {
            panic!("{url} is no store");
        };
        let message = format!("{error} {error:?}");
        assert!(message.contains(hint), "{message}");
        assert!(!message.contains("secret"), "{message}");
    }
}
