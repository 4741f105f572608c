//! The suite that every store passes, and what only SQLite can get wrong.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use idem::StoreError;
use idem::conformance::{Harness, assert_conforms};
use idem::store::{Change, Claimed, Store};
use idem::stores::sqlite::SqliteStore;
use sqlx::sqlite::{SqliteJournalMode, SqlitePoolOptions};

use crate::file::{ACQUIRED, File, TTL, acquire, again, claim, complete, finish, replays};

struct RealTime(File);

#[async_trait]
impl Harness for RealTime {
    async fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.0.store().await)
    }

    async fn advance(&self, by: Duration) {
        tokio::time::sleep(by).await;
    }

    fn lease(&self) -> Duration {
        Duration::from_millis(500)
    }

    fn notifies(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_in_real_time() {
    assert_conforms(&RealTime(File::new())).await;
}

/// In the application's own database, whose clock is moved as the documentation says.
struct MovedClock(File, SqliteJournalMode);

async fn beside_the_application(file: &File, mode: SqliteJournalMode) -> SqliteStore {
    let options = file.options().create_if_missing(true).journal_mode(mode);
    let pool = SqlitePoolOptions::new().connect_lazy_with(options);
    let store = SqliteStore::from_pool(&pool).await.unwrap();
    store.migrate().await.unwrap();
    store
}

async fn move_clock(file: &File, by: Duration) {
    let by = by.as_millis();
    let moved = format!("UPDATE idem_schema SET clock_offset_ms = clock_offset_ms + {by}");
    file.run(&moved).await;
}

#[async_trait]
impl Harness for MovedClock {
    async fn store(&self) -> Arc<dyn Store> {
        Arc::new(beside_the_application(&self.0, self.1).await)
    }

    async fn advance(&self, by: Duration) {
        move_clock(&self.0, by).await;
    }

    fn lease(&self) -> Duration {
        Duration::from_secs(24 * 60 * 60)
    }

    fn notifies(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_in_an_applications_database_on_a_moved_clock() {
    assert_conforms(&MovedClock(File::new(), SqliteJournalMode::Wal)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_without_a_write_ahead_log() {
    assert_conforms(&MovedClock(File::new(), SqliteJournalMode::Delete)).await;
}

#[tokio::test]
async fn what_cannot_be_read_is_an_error_and_stays() {
    let file = File::new();
    let store = file.store().await;
    let strange = [
        "fingerprint = x'00'",
        "token = x'0102'",
        "attempt = 4294967296",
        "attempt = -1",
    ];
    for strange in strange {
        let claim = claim();
        finish(&store, &claim, b"outcome").await;
        let id = claim.id;
        file.run(&format!(
            "UPDATE idem_records SET {strange} WHERE id = x'{id}'"
        ))
        .await;
        for _ in 0..2 {
            let answer = store.claim(&again(&claim)).await;
            assert!(
                matches!(answer, Err(StoreError::Unreadable { .. })),
                "{strange}: {answer:?}"
            );
        }
    }
    assert_eq!(
        file.number("SELECT count(*) FROM idem_records").await,
        strange.len() as i64
    );
}

#[tokio::test]
async fn records_whose_time_is_over_are_swept_a_batch_at_a_time() {
    let file = File::new();
    let store = beside_the_application(&file, SqliteJournalMode::Wal).await;
    let stays = claim();
    for _ in 0..25 {
        finish(&store, &claim(), b"outcome").await;
    }
    move_clock(&file, TTL).await;
    finish(&store, &stays, b"stays").await;
    // Nobody asked for it yet, so that it is all there.
    assert_eq!(
        file.number("SELECT count(*) FROM idem_records").await,
        25 + 1
    );
    for swept in [10, 10, 5, 0] {
        assert_eq!(store.sweep(10).await.unwrap(), swept);
    }
    replays(&store, &stays, b"stays").await;
}

#[tokio::test]
async fn a_store_with_a_file_of_its_own_sweeps_by_itself() {
    let file = File::new();
    let builder = SqliteStore::builder(&file.url()).unwrap();
    let store = builder
        .sweep_every(Some(Duration::from_millis(20)))
        .connect()
        .await
        .unwrap();
    // More than fit into one transaction.
    for _ in 0..600 {
        acquire(&store, &claim()).await;
    }
    move_clock(&file, TTL * 2).await;
    while file.number("SELECT count(*) FROM idem_records").await > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_last_clone_closes_the_file() {
    let file = File::new();
    let store = file.store().await;
    let clone = store.clone();
    finish(&store, &claim(), b"outcome").await;
    drop(store);
    finish(&clone, &claim(), b"outcome").await;
    assert!(file.directory().join("idem.db-wal").exists());
    drop(clone);
    file.is_closed().await;
}

#[test]
fn a_store_outlives_the_runtime_that_opened_it() {
    let file = File::new();
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let (kept, claim) = (runtime(), claim());
    let store = kept.block_on(async {
        let store = file.store().await;
        acquire(&store, &claim).await;
        let watch = store.watch(&claim.id).await.unwrap();
        drop(watch);
        store
    });
    // One that still is there, and drives nothing.
    runtime().block_on(async {
        let watch = store.watch(&claim.id).await.unwrap();
        complete(&store, &claim, b"outcome").await;
        watch.await;
    });
    drop(kept);
    // And none of those before.
    runtime().block_on(async {
        replays(&store, &claim, b"outcome").await;
        finish(&store, &crate::file::claim(), b"outcome").await;
    });
}

#[tokio::test]
async fn a_lease_of_no_time_is_over_at_once() {
    let file = File::new();
    let store = file.store().await;
    let mut at_once = claim();
    at_once.lease = Duration::ZERO;
    assert_eq!(store.claim(&at_once).await.unwrap(), ACQUIRED);
    let next = store.claim(&again(&at_once)).await.unwrap();
    assert_eq!(next, Claimed::acquired(2));
    let late = store.release(&at_once.id, &at_once.token).await.unwrap();
    assert_eq!(late, Change::LeaseLost);
}

#[tokio::test]
async fn nothing_shows_where_the_file_is() {
    let file = File::new();
    let builder = SqliteStore::builder(&file.url()).unwrap();
    let mut shown = format!("{builder:?}");
    shown += &format!("{:?}", builder.connect().await.unwrap());
    assert!(!shown.contains("idem.db"), "{shown}");
}
