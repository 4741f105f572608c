//! What a call may take, and what a server may refuse.

use std::io::Write;
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

use idem::StoreError;
use idem::store::{Claimed, Store};
use idem::stores::postgres::PostgresStore;
use idem_tests::{Postgres, wait_until};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::conformance::{claim, finish};

const LIMIT: Duration = Duration::from_secs(30);

/// A store whose calls may take no longer than this URL says. To open it takes calls, too: on a slow machine one
/// of them may be given up, and whoever opens it tries again.
pub(crate) async fn impatient(url: &str) -> PostgresStore {
    let began = Instant::now();
    loop {
        match PostgresStore::connect(url).await {
            Ok(store) => return store,
            Err(error) => assert!(began.elapsed() < LIMIT, "{error:?}"),
        }
    }
}

/// A store whose calls take as long as they need.
pub(crate) async fn patient_at(url: &str) -> PostgresStore {
    let builder = PostgresStore::builder(url).unwrap();
    builder.timeout(LIMIT).connect().await.unwrap()
}

/// See [`patient_at`].
pub(crate) async fn patient(postgres: &Postgres) -> PostgresStore {
    patient_at(&postgres.url()).await
}

/// The same over a pool of the application.
pub(crate) fn patient_in(pool: PgPool) -> PostgresStore {
    PostgresStore::pool_builder(pool).timeout(LIMIT).build()
}

/// A transaction of somebody else, until it is dropped.
pub(crate) struct Transaction {
    psql: Child,
    input: Option<ChildStdin>,
}

impl Transaction {
    pub(crate) fn begin(postgres: &Postgres, statement: &str) -> Self {
        let mut psql = postgres.psql_command();
        let psql = psql.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut psql = psql.spawn().unwrap();
        let mut input = psql.stdin.take().unwrap();
        writeln!(input, "BEGIN; {statement};").unwrap();
        let begun = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'";
        wait_until("a transaction", LIMIT, || match &*postgres.psql(begun) {
            "1" => Ok(()),
            other => Err(other.to_owned()),
        });
        Self {
            psql,
            input: Some(input),
        }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.psql.wait();
    }
}

#[tokio::test]
async fn what_a_caller_has_given_up_is_not_carried_out_later() {
    let postgres = Postgres::start();
    let url = format!("{}?timeout=700ms&max_connections=4", postgres.url());
    let (store, patient) = (impatient(&url).await, patient(&postgres).await);
    let lock = "LOCK TABLE idem_records IN ACCESS EXCLUSIVE MODE";
    let locked = Transaction::begin(&postgres, lock);
    let started = Instant::now();
    // By the server, or by the store: whoever is faster.
    let refused = store.claim(&claim(1)).await.unwrap_err();
    assert!(refused.is_outage(), "{refused:?}");
    println!("given up after {:?}", started.elapsed());
    assert!(started.elapsed() >= Duration::from_millis(600));
    // The server gives it up as well, though nobody has told it to.
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    wait_until("nothing waits", LIMIT, || match &*postgres.psql(waiting) {
        "0" => Ok(()),
        other => Err(other.to_owned()),
    });
    drop(locked);
    assert_eq!(patient.inspect(&claim(1).id).await.unwrap(), None);
    let acquired = patient.claim(&claim(1)).await.unwrap();
    assert_eq!(acquired, Claimed::acquired(1));
}

#[tokio::test]
async fn a_pool_that_is_exhausted_is_not_waited_for_longer_than_a_call_may_take() {
    let postgres = Postgres::start();
    let pool = PgPoolOptions::new().max_connections(1);
    let pool = pool.connect(&postgres.url()).await.unwrap();
    let store = PostgresStore::from_pool(pool.clone());
    store.migrate().await.unwrap();
    let taken = pool.acquire().await.unwrap();
    let started = Instant::now();
    let refused = store.claim(&claim(1)).await;
    assert!(
        matches!(refused, Err(StoreError::NotSent { .. })),
        "{refused:?}"
    );
    // The pool itself would wait for half a minute.
    assert!(started.elapsed() < Duration::from_secs(25));
    drop(taken);
    store.claim(&claim(1)).await.unwrap();
}

#[tokio::test]
async fn a_migration_that_is_dropped_is_rolled_back() {
    let postgres = Postgres::start();
    let pool = PgPoolOptions::new().connect(&postgres.url()).await.unwrap();
    let store = PostgresStore::from_pool(pool);
    // Whoever holds the lock that migrations take.
    let lock = "SELECT pg_advisory_xact_lock(x'6964656d5f303031'::bigint)";
    let locked = Transaction::begin(&postgres, lock);
    let waits = tokio::time::timeout(Duration::from_millis(500), store.migrate()).await;
    assert!(waits.is_err(), "it waits for the others");
    drop(locked);
    let exists = "SELECT to_regclass('idem_records') IS NOT NULL";
    assert_eq!(postgres.psql(exists), "f");
    store.migrate().await.unwrap();
    assert_eq!(postgres.psql(exists), "t");
}

#[tokio::test]
async fn a_server_without_room_refuses_new_claims_and_replays_the_old() {
    let postgres = Postgres::start();
    let store = patient_at(&postgres.url()).await;
    finish(&store, &claim(1), b"done").await;
    // As it says when a disk is full.
    postgres.psql(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
            RAISE EXCEPTION 'no space left on device' USING ERRCODE = 'disk_full'; END $$; \
         CREATE TRIGGER full_disk BEFORE INSERT ON idem_records \
            FOR EACH ROW EXECUTE FUNCTION full_disk()",
    );
    let refused = store.claim(&claim(2)).await;
    assert!(
        matches!(refused, Err(StoreError::Full { .. })),
        "{refused:?}"
    );
    let replay = store.claim(&claim(1)).await.unwrap();
    assert!(matches!(replay, Claimed::Finished { .. }), "{replay:?}");
    postgres.psql("DROP TRIGGER full_disk ON idem_records");
    let acquired = store.claim(&claim(2)).await.unwrap();
    assert_eq!(acquired, Claimed::acquired(1));
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_asked_again_on_another_connection() {
    let postgres = Postgres::start();
    let url = format!("{}?max_connections=2", postgres.url());
    let store = PostgresStore::connect(&url).await.unwrap();
    let pid = "SELECT pid FROM pg_stat_activity WHERE application_name = 'idem'";
    let before = postgres.psql(pid);
    // As a primary that was demoted. Its name may mean the new one by now.
    let read_only = |value: &str| {
        postgres.psql(&format!(
            "ALTER SYSTEM SET default_transaction_read_only = {value}"
        ));
        postgres.psql("SELECT pg_reload_conf()");
    };
    // It tells its connections when it comes to it.
    let mut number = 0;
    let mut until = async |takes_writes: bool| {
        let started = Instant::now();
        loop {
            number += 1;
            match store.claim(&claim(number)).await {
                Ok(_) if takes_writes => return,
                Err(StoreError::NotReady { .. }) if !takes_writes => return,
                answer => assert!(started.elapsed() < LIMIT, "{answer:?}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    read_only("on");
    until(false).await;
    read_only("off");
    until(true).await;
    assert_ne!(postgres.psql(pid), before);
}
