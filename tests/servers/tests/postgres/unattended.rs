//! Sweeping that nobody has asked for: over the application's pool, while it is used.

use std::time::Duration;

use idem::stores::memory::MemoryStore;
use idem::stores::postgres::{PgTransactions, PostgresStore};
use idem::transactional::TransactionSource;
use idem::{Engine, Error, Fingerprint};
use idem_tests::{Postgres, wait_until};
use sqlx::PgPool;

use crate::conformance::{claim, finish};
use crate::limits::Transaction;
use crate::log::listen;
use crate::sweeping::expired;

const LIMIT: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// A database with the tables in it, and nobody who sweeps.
async fn made() -> Postgres {
    let postgres = Postgres::start();
    let builder = PostgresStore::builder(&postgres.url()).unwrap();
    builder.sweep_every(None).connect().await.unwrap();
    postgres
}

async fn pool(postgres: &Postgres) -> PgPool {
    PgPool::connect(&postgres.url()).await.unwrap()
}

/// Books in a transaction, under a key of its own.
async fn book<Via, S: TransactionSource<Via>>(source: &S) {
    let key = format!("{:032x}", rand::random::<u128>());
    let booked: Result<i64, Error> = Engine::new(MemoryStore::new())
        .operation("tests.unattended")
        .transaction(source)
        .run(&key, Fingerprint::of("request").unwrap(), |tx| async move {
            (tx, Ok(1))
        })
        .await;
    assert_eq!(booked.unwrap(), 1);
}

/// How many records there are whose time is over.
fn left(postgres: &Postgres) -> u32 {
    let expired = "SELECT count(*) FROM idem_records WHERE expires_at <= now()";
    postgres.psql(expired).parse().unwrap()
}

async fn is_swept(postgres: &Postgres) {
    let swept = async {
        while left(postgres) > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let swept = tokio::time::timeout(LIMIT, swept).await;
    swept.unwrap_or_else(|_| panic!("{} are left", left(postgres)));
}

/// The same, while it is used.
async fn is_swept_meanwhile(postgres: &Postgres, transactions: &PgTransactions) {
    let swept = async {
        while left(postgres) > 0 {
            book(transactions).await;
        }
    };
    let swept = tokio::time::timeout(LIMIT, swept).await;
    swept.unwrap_or_else(|_| panic!("{} are left", left(postgres)));
}

#[tokio::test]
async fn an_application_that_only_has_transactions_is_swept_from_the_first_one_on() {
    let postgres = made().await;
    let pool = pool(&postgres).await;
    expired(&postgres, 2500);
    book(&pool).await;
    is_swept(&postgres).await;
    // And not with each.
    expired(&postgres, 10);
    book(&pool).await;
    book(&pool).await;
    is_at_rest(&pool).await;
    assert_eq!(left(&postgres), 10);
}

#[tokio::test]
async fn more_than_a_sweep_deletes_is_swept_without_a_pause() {
    let postgres = made().await;
    let seldom = PgTransactions::new(pool(&postgres).await).sweep_every(Some(HOUR));
    expired(&postgres, 25_000);
    is_swept_meanwhile(&postgres, &seldom).await;
}

#[tokio::test]
async fn an_application_that_only_has_transactions_may_say_how_often_or_never() {
    let postgres = made().await;
    let pool = pool(&postgres).await;
    expired(&postgres, 10);
    let never = PgTransactions::new(pool.clone()).sweep_every(None);
    for _ in 0..20 {
        book(&never).await;
    }
    // A task that was spawned would have been done by now.
    is_at_rest(&pool).await;
    assert_eq!(left(&postgres), 10);
    let often = PgTransactions::new(pool).sweep_every(Some(Duration::from_millis(1)));
    for _ in 0..3 {
        is_swept_meanwhile(&postgres, &often).await;
        expired(&postgres, 10);
    }
}

/// Whoever waits for all connections of a pool has waited for all that were asked for before.
async fn is_at_rest(pool: &PgPool) {
    let most = pool.options().get_max_connections();
    let mut all = Vec::new();
    for _ in 0..most {
        all.push(pool.acquire().await.unwrap());
    }
}

#[tokio::test]
async fn a_store_over_the_applications_pool_is_swept_unless_told_not_to() {
    let postgres = made().await;
    let pool = pool(&postgres).await;
    expired(&postgres, 2500);
    let never = PostgresStore::pool_builder(pool.clone()).sweep_every(None);
    let never = never.build();
    for number in 0..20 {
        finish(&never, &claim(number), b"done").await;
    }
    is_at_rest(&pool).await;
    assert_eq!(left(&postgres), 2500);
    let store = PostgresStore::from_pool(pool.clone());
    finish(&store, &claim(20), b"done").await;
    is_swept(&postgres).await;
    // Its transactions are swept by the same: not again at once.
    expired(&postgres, 10);
    book(&pool).await;
    finish(&store, &claim(21), b"done").await;
    is_at_rest(&pool).await;
    assert_eq!(left(&postgres), 10);
}

#[tokio::test]
async fn sweeping_keeps_no_pool_open() {
    let postgres = made().await;
    for close in [false, true] {
        let url = format!("{}?application_name=till", postgres.url());
        let pool = PgPool::connect(&url).await.unwrap();
        let often = PgTransactions::new(pool.clone());
        let often = often.sweep_every(Some(Duration::from_millis(1)));
        expired(&postgres, 10);
        book(&often).await;
        is_swept(&postgres).await;
        drop(often);
        match close {
            true => pool.close().await,
            false => drop(pool),
        }
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'till'";
        let closed = async {
            while postgres.psql(sessions) != "0" {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LIMIT, closed).await.unwrap();
    }
}

#[test]
fn a_pool_is_swept_on_the_next_runtime_where_the_one_before_has_ended() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().unwrap()
    };
    let (kept, first, second) = (runtime(), runtime(), runtime());
    let (postgres, often) = kept.block_on(async {
        let postgres = made().await;
        let often = PgTransactions::new(pool(&postgres).await);
        (postgres, often.sweep_every(Some(Duration::from_millis(1))))
    });
    // It ends with a sweep under way.
    postgres.psql(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
            PERFORM pg_advisory_xact_lock(7); RETURN OLD; END $$; \
         CREATE TRIGGER wait BEFORE DELETE ON idem_records \
            FOR EACH ROW EXECUTE FUNCTION wait()",
    );
    let locked = Transaction::begin(&postgres, "SELECT pg_advisory_xact_lock(7)");
    expired(&postgres, 10);
    first.block_on(book(&often));
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'";
    wait_until("a sweep", LIMIT, || match &*postgres.psql(waiting) {
        "1" => Ok(()),
        other => Err(other.to_owned()),
    });
    first.shutdown_background();
    drop(locked);
    second.block_on(is_swept_meanwhile(&postgres, &often));
}

#[tokio::test]
async fn where_it_cannot_be_swept_that_is_said_once() {
    let postgres = made().await;
    postgres.psql(
        "CREATE ROLE app LOGIN; GRANT SELECT, INSERT, UPDATE ON idem_records TO app; \
         GRANT SELECT ON idem_schema TO app",
    );
    expired(&postgres, 10);
    let (log, _guard) = listen();
    let url = postgres.url().replace("//postgres@", "//app@");
    let pool = PgPool::connect(&url).await.unwrap();
    let often = PgTransactions::new(pool.clone()).sweep_every(Some(Duration::from_millis(1)));
    let mut said = String::new();
    let warned = async {
        while !said.contains("expired records are not deleted") {
            book(&often).await;
            said += &log.take();
        }
    };
    tokio::time::timeout(LIMIT, warned).await.unwrap();
    assert!(said.contains("permission denied"), "{said}");
    assert!(said.contains("grant it DELETE"), "{said}");
    for _ in 0..20 {
        book(&often).await;
    }
    is_at_rest(&pool).await;
    said += &log.take();
    assert_eq!(said.matches("are not deleted").count(), 1, "{said}");
}
