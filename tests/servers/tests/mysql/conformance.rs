//! The suite that every store passes, in every set-up, and what only this store can get wrong.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use idem::conformance::{Harness, assert_conforms};
use idem::store::{Change, Claim, Claimed, Lease, Store};
use idem::stores::mysql::MySqlStore;
use idem::{Fingerprint, RecordId, StoreError};
use idem_tests::MariaDb;
use sqlx::mysql::MySqlPoolOptions;
use sqlx::{AssertSqlSafe, Executor, MySqlPool};

/// Stores with connections of their own.
struct Url(String);

#[async_trait]
impl Harness for Url {
    async fn store(&self) -> Arc<dyn Store> {
        Arc::new(MySqlStore::connect(&self.0).await.unwrap())
    }

    async fn advance(&self, by: Duration) {
        tokio::time::sleep(by).await;
    }

    fn lease(&self) -> Duration {
        Duration::from_millis(500)
    }

    fn notifies(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_with_connections_of_its_own() {
    let server = MariaDb::start();
    assert_conforms(&Url(server.url())).await;
}

/// Stores over pools of the application, where its transactions are of this kind.
struct Pools {
    url: String,
    isolation: &'static str,
}

impl Pools {
    async fn pool(&self) -> MySqlPool {
        let isolation = self.isolation;
        MySqlPoolOptions::new()
            .max_connections(5)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    let set = format!("SET SESSION TRANSACTION ISOLATION LEVEL {isolation}");
                    connection.execute(AssertSqlSafe(set)).await.map(drop)
                })
            })
            .connect(&self.url)
            .await
            .unwrap()
    }
}

#[async_trait]
impl Harness for Pools {
    async fn store(&self) -> Arc<dyn Store> {
        let store = MySqlStore::from_pool(self.pool().await);
        store.migrate().await.unwrap();
        Arc::new(store)
    }

    async fn advance(&self, by: Duration) {
        tokio::time::sleep(by).await;
    }

    fn lease(&self) -> Duration {
        Duration::from_millis(500)
    }

    fn notifies(&self) -> bool {
        false
    }
}

async fn conforms_over_pools(isolation: &'static str) {
    let server = MariaDb::start();
    let url = server.url();
    let pools = Pools { url, isolation };
    let shown = sqlx::query_scalar("SELECT @@tx_isolation");
    let shown: String = shown.fetch_one(&pools.pool().await).await.unwrap();
    assert_eq!(shown.replace('-', " "), isolation);
    assert_conforms(&pools).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_where_transactions_are_read_committed() {
    conforms_over_pools("READ COMMITTED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_where_transactions_are_repeatable_read() {
    conforms_over_pools("REPEATABLE READ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_where_transactions_are_serializable() {
    conforms_over_pools("SERIALIZABLE").await;
}

pub(crate) fn claim(number: u8) -> Claim {
    Claim::new(
        RecordId::from_bytes([number; 32]),
        Fingerprint::of("request").unwrap(),
        Duration::from_secs(30),
        Duration::from_secs(3600),
    )
}

pub(crate) async fn finish(store: &MySqlStore, claim: &Claim, outcome: &[u8]) {
    let acquired = store.claim(claim).await.unwrap();
    assert_eq!(acquired, Claimed::acquired(1));
    let outcome = bytes::Bytes::copy_from_slice(outcome);
    let change = store.complete(&Lease::of(claim, 1), outcome).await;
    assert_eq!(change.unwrap(), Change::Applied);
}
