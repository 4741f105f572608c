//! A database of each kind, with the records' tables and one of a test's own.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use idem::stores::mysql::MySqlStore;
use idem::stores::postgres::PostgresStore;
use idem::stores::sqlite::SqliteStore;
use idem_tests::{MariaDb, Postgres};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Executor, MySqlPool, PgPool, SqlitePool};

const TABLE: &str = "CREATE TABLE entries (reference TEXT NOT NULL, amount BIGINT NOT NULL)";

/// Long enough for a busy machine.
const ACQUIRE: Duration = Duration::from_secs(20);

/// A file that is deleted with its test.
pub(crate) struct File(PathBuf);

impl File {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("idem-transactions-{}-{number}.db", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    pub(crate) fn url(&self) -> String {
        format!("sqlite://{}", self.0.display())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", self.0.display()));
        }
    }
}

pub(crate) async fn sqlite(connections: u32) -> (File, SqlitePool) {
    let file = File::new();
    let options = SqliteConnectOptions::new()
        .filename(&file.0)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let pool = SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE)
        .connect_with(options)
        .await
        .unwrap();
    sqlite_store(&pool).await.migrate().await.unwrap();
    sqlx::raw_sql(TABLE).execute(&pool).await.unwrap();
    (file, pool)
}

pub(crate) async fn postgres(connections: u32) -> (Postgres, PgPool) {
    let server = tokio::task::spawn_blocking(Postgres::start).await.unwrap();
    let pool = PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE)
        .connect(&server.url())
        .await
        .unwrap();
    postgres_store(&pool).await.migrate().await.unwrap();
    sqlx::raw_sql(TABLE).execute(&pool).await.unwrap();
    (server, pool)
}

/// At `REPEATABLE READ`, the servers' default.
pub(crate) async fn mysql(connections: u32) -> (MariaDb, MySqlPool) {
    mysql_at("REPEATABLE READ", connections).await
}

pub(crate) async fn mysql_at_read_committed(connections: u32) -> (MariaDb, MySqlPool) {
    mysql_at("READ COMMITTED", connections).await
}

async fn mysql_at(isolation: &'static str, connections: u32) -> (MariaDb, MySqlPool) {
    let server = tokio::task::spawn_blocking(MariaDb::start).await.unwrap();
    let pool = MySqlPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE)
        .after_connect(move |connection, _| {
            let set = format!("SET SESSION TRANSACTION ISOLATION LEVEL {isolation}");
            Box::pin(async move { connection.execute(AssertSqlSafe(set)).await.map(drop) })
        })
        .connect(&server.url())
        .await
        .unwrap();
    mysql_store(&pool).await.migrate().await.unwrap();
    sqlx::raw_sql(TABLE).execute(&pool).await.unwrap();
    (server, pool)
}

pub(crate) async fn mysql_store(pool: &MySqlPool) -> MySqlStore {
    MySqlStore::from_pool(pool.clone())
}

pub(crate) async fn sqlite_store(pool: &SqlitePool) -> SqliteStore {
    SqliteStore::from_pool(pool).await.unwrap()
}

pub(crate) async fn postgres_store(pool: &PgPool) -> PostgresStore {
    PostgresStore::from_pool(pool.clone())
}
