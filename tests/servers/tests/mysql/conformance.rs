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

/// How long a call may take where that is not tested. It bounds a hang, and says nothing of speed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A store whose calls take as long as they need.
pub(crate) async fn patient_at(url: &str) -> MySqlStore {
    let builder = MySqlStore::builder(url).unwrap();
    builder.timeout(PATIENCE).connect().await.unwrap()
}

/// The same over a pool of the application.
pub(crate) fn patient_in(pool: MySqlPool) -> MySqlStore {
    MySqlStore::pool_builder(pool).timeout(PATIENCE).build()
}

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

#[tokio::test]
async fn a_replay_always_says_how_long_it_is_kept() {
    let server = MariaDb::start();
    let store = patient_at(&server.url()).await;
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
    let server = MariaDb::start();
    let store = patient_at(&server.url()).await;
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
    let kept = "SELECT TIMESTAMPDIFF(MICROSECOND, lease_until, expires_at) FROM idem_records \
        WHERE lease_until < UTC_TIMESTAMP(6) + INTERVAL 1 YEAR";
    assert_eq!(server.sql(kept), "1000");
}

#[tokio::test]
async fn what_cannot_be_read_is_an_error_and_stays() {
    let server = MariaDb::start();
    let store = patient_at(&server.url()).await;
    finish(&store, &claim(1), b"done").await;
    server.sql("UPDATE idem_records SET fingerprint = x'01', outcome = NULL");
    let answer = store.inspect(&claim(1).id).await;
    assert!(
        matches!(answer, Err(StoreError::Unreadable { .. })),
        "{answer:?}"
    );
    assert_eq!(server.sql("SELECT COUNT(*) FROM idem_records"), "1");
}

/// The session's clock is the server's: whatever its time zone, and whatever the process's clock says.
#[tokio::test]
async fn times_are_utc_whatever_the_time_zone_of_a_session_is() {
    let server = MariaDb::builder()
        .setting("default-time-zone", "-07:00")
        .start();
    let own = patient_at(&server.url()).await;
    let pool = MySqlPoolOptions::new()
        .after_connect(|connection, _| {
            Box::pin(async move {
                let set =
                    "SET SESSION time_zone = '+05:30', sql_mode = 'ANSI,NO_BACKSLASH_ESCAPES'";
                connection.execute(set).await.map(drop)
            })
        })
        .connect(&server.url())
        .await
        .unwrap();
    let pooled = patient_in(pool);
    for (number, [one, other]) in [[&own, &pooled], [&pooled, &own]].into_iter().enumerate() {
        let claim = claim(number.try_into().unwrap());
        finish(one, &claim, b"\0'\"\\ done").await;
        let answer = other.claim(&claim.by_another()).await.unwrap();
        let Claimed::Finished {
            outcome,
            claimed_at: Some(at),
            ..
        } = answer
        else {
            panic!("{answer:?}");
        };
        assert_eq!(&outcome[..], b"\0'\"\\ done");
        assert!(at.elapsed().unwrap_or_default() < Duration::from_secs(600));
    }
}
