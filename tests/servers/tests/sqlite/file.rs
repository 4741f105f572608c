//! A database of a test's own, and what it looks like from outside of the store.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use idem::store::{Change, Claim, Claimed, Lease, Store};
use idem::stores::sqlite::SqliteStore;
use idem::{Fingerprint, RecordId};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

pub(crate) const LEASE: Duration = Duration::from_secs(30);
pub(crate) const TTL: Duration = Duration::from_secs(3600);

/// A directory for one database, which is removed on drop.
pub(crate) struct File(PathBuf);

impl File {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("idem-sqlite-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir(&directory).unwrap();
        Self(directory)
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.0
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.join("idem.db")
    }

    pub(crate) fn url(&self) -> String {
        format!("sqlite://{}", self.path().display())
    }

    pub(crate) async fn store(&self) -> SqliteStore {
        SqliteStore::connect(&self.url()).await.unwrap()
    }

    pub(crate) fn options(&self) -> SqliteConnectOptions {
        SqliteConnectOptions::new().filename(self.path())
    }

    /// A connection beside the store's.
    pub(crate) async fn connection(&self) -> SqliteConnection {
        self.options().connect().await.unwrap()
    }

    pub(crate) async fn run(&self, sql: &str) {
        let mut connection = self.connection().await;
        let sql = AssertSqlSafe(sql.to_owned());
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    }

    pub(crate) async fn number(&self, sql: &'static str) -> i64 {
        let mut connection = self.connection().await;
        let number = sqlx::query_scalar(sql).fetch_one(&mut connection).await;
        number.unwrap()
    }

    /// Waits until no connection is left: the last one takes the write-ahead log along.
    pub(crate) async fn is_closed(&self) {
        while self.0.join("idem.db-wal").exists() {
            // Of two that close at once each may take the other for the last: one more closes alone.
            let mut connection = self.connection().await;
            let look = sqlx::query("SELECT * FROM sqlite_master");
            look.execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// How many transactions the write-ahead log holds: as long as it has not begun anew, all
    /// that were ever committed.
    pub(crate) fn commits(&self) -> usize {
        const HEADER: usize = 32;
        const FRAME: usize = 24;
        let log = std::fs::read(self.0.join("idem.db-wal")).unwrap_or_default();
        let Some(header) = log.first_chunk::<HEADER>() else {
            return 0;
        };
        let page = u32::from_be_bytes(header[8..12].try_into().unwrap()) as usize;
        let frames = log[HEADER..].chunks_exact(FRAME + page);
        // A frame that ends a transaction says how large the database is then.
        frames
            .take_while(|frame| frame[8..16] == header[16..24])
            .filter(|frame| frame[4..8] != [0; 4])
            .count()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A claim of a record that nobody knows.
pub(crate) fn claim() -> Claim {
    Claim::new(
        RecordId::from_bytes(rand::random()),
        Fingerprint::of("request").unwrap(),
        LEASE,
        TTL,
    )
}

/// The same request, sent again.
pub(crate) fn again(claim: &Claim) -> Claim {
    claim.by_another()
}

/// The lease of an owner who cannot say that it has held without a break.
pub(crate) fn broken(claim: &Claim) -> Lease {
    let mut lease = Lease::of(claim, 1);
    lease.unbroken = false;
    lease
}

pub(crate) const ACQUIRED: Claimed = Claimed::acquired(1);

pub(crate) async fn acquire(store: &dyn Store, claim: &Claim) {
    assert_eq!(store.claim(claim).await.unwrap(), ACQUIRED);
}

pub(crate) async fn complete(store: &dyn Store, claim: &Claim, outcome: &'static [u8]) {
    let done = store.complete(&Lease::of(claim, 1), outcome.into()).await;
    assert_eq!(done.unwrap(), Change::Applied);
}

pub(crate) async fn finish(store: &dyn Store, claim: &Claim, outcome: &'static [u8]) {
    acquire(store, claim).await;
    complete(store, claim, outcome).await;
}

/// A duplicate is given this outcome.
pub(crate) async fn replays(store: &dyn Store, claim: &Claim, outcome: &'static [u8]) {
    let mut answer = store.claim(&again(claim)).await.unwrap();
    // Records of older versions do not say it.
    if let Claimed::Finished { claimed_at, .. } = &mut answer {
        *claimed_at = None;
    }
    let expected = Claimed::Finished {
        outcome: outcome.into(),
        retention_left: None,
        claimed_at: None,
    };
    assert_eq!(answer, expected);
}

/// An error with all its causes.
pub(crate) fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
