//! The suite that every store passes, and what only SQLite can get wrong.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use idem::Store;
use idem::conformance::{Harness, assert_conforms};
use idem::stores::sqlite::SqliteStore;
use sqlx::sqlite::SqlitePoolOptions;

use crate::file::File;

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
struct MovedClock(File);

#[async_trait]
impl Harness for MovedClock {
    async fn store(&self) -> Arc<dyn Store> {
        let options = self.0.options().create_if_missing(true);
        let pool = SqlitePoolOptions::new().connect_lazy_with(options);
        let store = SqliteStore::from_pool(&pool).await.unwrap();
        store.migrate().await.unwrap();
        Arc::new(store)
    }

    async fn advance(&self, by: Duration) {
        let by = by.as_millis();
        let moved = format!("UPDATE idem_schema SET clock_offset_ms = clock_offset_ms + {by}");
        self.0.run(&moved).await;
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
    assert_conforms(&MovedClock(File::new())).await;
}
