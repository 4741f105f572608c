//! The suite that every store passes, in every set-up, and what only Postgres can get wrong.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use idem::conformance::{Harness, assert_conforms};
use idem::store::{Change, Claim, Claimed, Lease, Store};
use idem::stores::postgres::PostgresStore;
use idem::{Fingerprint, RecordId, StoreError};
use idem_tests::Postgres;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Executor, PgPool};

use crate::limits::{patient_at, patient_in};

/// Stores with connections of their own.
struct Url(String);

#[async_trait]
impl Harness for Url {
    async fn store(&self) -> Arc<dyn Store> {
        Arc::new(patient_at(&self.0).await)
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
        let store = patient_in(self.pool().await);
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

/// A server with a clock that the test moves: a function `now` that is found before the real one.
pub(crate) struct Moved(pub(crate) Postgres);

impl Moved {
    pub(crate) fn start() -> Self {
        let postgres = Postgres::start();
        postgres.psql(
            "CREATE SCHEMA clock;
             CREATE TABLE clock.shift (by interval NOT NULL);
             INSERT INTO clock.shift VALUES ('-25 years');
             CREATE FUNCTION clock.now() RETURNS timestamptz LANGUAGE sql STABLE
                AS 'SELECT pg_catalog.now() + by FROM clock.shift';
             ALTER ROLE postgres SET search_path = clock, pg_catalog, public",
        );
        Self(postgres)
    }

    pub(crate) fn set(&self, by: &str) {
        self.0
            .psql(&format!("UPDATE clock.shift SET by = by + interval '{by}'"));
    }
}

#[async_trait]
impl Harness for Moved {
    async fn store(&self) -> Arc<dyn Store> {
        Arc::new(patient_at(&self.0.url()).await)
    }

    async fn advance(&self, by: Duration) {
        self.set(&format!("{} microseconds", by.as_micros()));
    }

    fn lease(&self) -> Duration {
        Duration::from_secs(30)
    }

    fn notifies(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_servers_clock_is_asked() {
    let moved = Moved::start();
    assert_conforms(&moved).await;
    // Nothing that was written is of this process's time, which is a quarter of a century later.
    let records = "SELECT count(*), count(*) FILTER (WHERE \
            greatest(lease_until, expires_at, sweep_at, claimed_at) \
                > pg_catalog.now() - interval '20 years') \
        FROM idem_records";
    let counts = moved.0.psql(records);
    let (all, of_now) = counts.split_once('|').unwrap();
    assert!(all.parse::<u32>().unwrap() > 50, "{counts}");
    assert_eq!(of_now, "0");
    // The sweeper looks at no record before it has expired, and would not come back.
    let too_early = "SELECT count(*) FROM idem_records WHERE sweep_at < expires_at";
    assert_eq!(moved.0.psql(too_early), "0");
}

pub(crate) fn claim(number: u8) -> Claim {
    Claim::new(
        RecordId::from_bytes([number; 32]),
        Fingerprint::of("request").unwrap(),
        Duration::from_secs(30),
        Duration::from_secs(3600),
    )
}

pub(crate) async fn finish(store: &PostgresStore, claim: &Claim, outcome: &[u8]) {
    let acquired = store.claim(claim).await.unwrap();
    assert_eq!(acquired, Claimed::acquired(1));
    let outcome = bytes::Bytes::copy_from_slice(outcome);
    let change = store.complete(&Lease::of(claim, 1), outcome).await;
    assert_eq!(change.unwrap(), Change::Applied);
}

#[tokio::test]
async fn a_replay_always_says_how_long_it_is_kept() {
    let postgres = Postgres::start();
    let store = patient_at(&postgres.url()).await;
    let first = claim(1);
    finish(&store, &first, b"done").await;
    let answer = store.claim(&claim(1)).await.unwrap();
    let Claimed::Finished {
        outcome,
        retention_left: Some(left),
        claimed_at: Some(_),
    } = answer
    else {
        panic!("{answer:?}");
    };
    assert_eq!(outcome, "done");
    assert!(left <= first.retention && left > first.retention / 2);
}

#[tokio::test]
async fn times_without_end_are_two_hundred_years() {
    let postgres = Postgres::start();
    let store = patient_at(&postgres.url()).await;
    let for_ever = claim(1).lease(Duration::MAX).retention(Duration::MAX);
    store.claim(&for_ever).await.unwrap();
    let Claimed::InFlight { lease_left } = store.claim(&claim(1)).await.unwrap() else {
        panic!("the lease is alive");
    };
    let years = Duration::from_secs(365 * 24 * 60 * 60);
    assert!(lease_left > 199 * years && lease_left <= 200 * years);
    let renewed = store.renew(&Lease::of(&for_ever, 1)).await;
    assert_eq!(renewed.unwrap(), Change::Applied);
    // And none is shorter than a millisecond.
    let brief = claim(2).lease(Duration::ZERO).retention(Duration::ZERO);
    store.claim(&brief).await.unwrap();
    let kept = "SELECT expires_at - lease_until FROM idem_records WHERE lease_until < now() + interval '1 year'";
    assert_eq!(postgres.psql(kept), "00:00:00.001");
}

#[tokio::test]
async fn what_cannot_be_read_is_an_error_and_stays() {
    let postgres = Postgres::start();
    let store = patient_at(&postgres.url()).await;
    finish(&store, &claim(1), b"done").await;
    postgres.psql("UPDATE idem_records SET attempt = -1, fingerprint = '\\x01'");
    let answer = store.inspect(&claim(1).id).await;
    assert!(
        matches!(answer, Err(StoreError::Unreadable { .. })),
        "{answer:?}"
    );
    let answer = store.claim(&claim(1)).await;
    assert!(
        matches!(answer, Err(StoreError::Unreadable { .. })),
        "{answer:?}"
    );
    assert_eq!(postgres.psql("SELECT count(*) FROM idem_records"), "1");
}

#[tokio::test]
async fn schemas_keep_records_apart() {
    let postgres = Postgres::start();
    postgres.psql("CREATE SCHEMA shop; CREATE SCHEMA till");
    for schema in ["shop", "till", "public"] {
        let url = format!("{}?options[search_path]={schema}", postgres.url());
        let store = PostgresStore::connect(&url).await.unwrap();
        let acquired = store.claim(&claim(1)).await.unwrap();
        assert_eq!(acquired, Claimed::acquired(1), "{schema}");
    }
    let tables = "SELECT count(*) FROM pg_tables WHERE tablename = 'idem_records'";
    assert_eq!(postgres.psql(tables), "3");
}
