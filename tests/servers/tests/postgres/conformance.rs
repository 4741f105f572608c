//! The suite that every store passes, in every set-up, and what only Postgres can get wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use idem::conformance::{Harness, assert_conforms};
use idem::stores::postgres::PostgresStore;
use idem::{
    Change, Claim, Claimed, Fingerprint, OnCrash, Phase, RecordId, Store, StoreError, Token,
};
use idem_tests::Postgres;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Executor, PgPool};

/// Stores with connections of their own.
struct Url(String);

#[async_trait]
impl Harness for Url {
    async fn store(&self) -> Arc<dyn Store> {
        Arc::new(PostgresStore::connect(&self.0).await.unwrap())
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
async fn conforms_with_connections_of_its_own() {
    let postgres = Postgres::start();
    assert_conforms(&Url(postgres.url())).await;
}

/// Stores over pools of the application, where its transactions are of this kind.
struct Pools {
    url: String,
    isolation: &'static str,
}

impl Pools {
    async fn pool(&self) -> PgPool {
        let isolation = self.isolation;
        PgPoolOptions::new()
            .max_connections(5)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    let set = "SELECT set_config('default_transaction_isolation', $1, false)";
                    connection
                        .execute(sqlx::query(set).bind(isolation))
                        .await
                        .map(drop)
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
        let store = PostgresStore::from_pool(self.pool().await);
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
        true
    }
}

async fn conforms_over_pools(isolation: &'static str) {
    let postgres = Postgres::start();
    let url = postgres.url();
    let pools = Pools { url, isolation };
    let shown = sqlx::query_scalar("SHOW transaction_isolation");
    let shown: String = shown.fetch_one(&pools.pool().await).await.unwrap();
    assert_eq!(shown, isolation);
    assert_conforms(&pools).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_over_pools_of_the_application() {
    conforms_over_pools("read committed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_where_transactions_are_repeatable_read() {
    conforms_over_pools("repeatable read").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_where_transactions_are_serializable() {
    conforms_over_pools("serializable").await;
}
