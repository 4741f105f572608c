//! Processes of version 2 beside those of this one: their statements, word for word, and what they make
//! of records that they do not know.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use idem::store::{Change, Claim, Claimed, Forgotten, Lease, Listing, Page, Store, Token, Watch};
use idem::stores::postgres::{PgTransactions, PostgresStore};
use idem::transactional::{BegunTransaction, TransactionEnd, Transactional, Writes};
use idem::{Inspection, OnCrash, Phase, RecordId, StoreError};
use idem_tests::Postgres;
use sqlx::postgres::{PgArguments, PgPool, PgPoolOptions, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres as Database, Row};

use crate::limits::patient_at;
use crate::older_processes::{
    Both, Expire, STEPS, both_share_records_without_steps, claim_of,
    steps_of_an_expired_record_stay_gone, the_old_one_leaves_finished_steps_as_they_are,
};

/// A process of version 2.
#[derive(Clone)]
pub(crate) struct Old(PgPool);

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap()
}

type Asked = Query<'static, Database, PgArguments>;

impl Old {
    /// Its statements are prepared once per connection, and there is one connection.
    pub(crate) async fn connect(url: &str) -> Self {
        let pool = PgPoolOptions::new().max_connections(1);
        Self(pool.connect(url).await.unwrap())
    }

    fn of_holder(sql: &'static str, name: &'static str, id: &RecordId, token: &Token) -> Asked {
        sqlx::query(sql)
            .bind(name)
            .bind(id.as_bytes().to_vec())
            .bind(token.as_bytes().to_vec())
    }

    async fn change(&self, asked: Asked) -> Result<Change, StoreError> {
        let row = asked.fetch_one(&self.0).await.unwrap();
        Ok(match row.get("applied") {
            true => Change::Applied,
            false => Change::LeaseLost,
        })
    }

    fn claimed(row: &PgRow) -> Claimed {
        let attempt = row.get::<i32, _>("attempt").unsigned_abs();
        let left: Option<i64> = row.get("lease_left");
        let left = left.and_then(|left| u64::try_from(left).ok());
        match row.get::<Option<Vec<u8>>, _>("outcome") {
            _ if !row.get::<bool, _>("same") => Claimed::Mismatch,
            Some(outcome) => Claimed::finished(outcome.into()),
            None if row.get::<Option<bool>, _>("own") == Some(true) => Claimed::acquired(attempt),
            None => match left.map(Duration::from_micros) {
                Some(lease_left) => Claimed::InFlight { lease_left },
                None => Claimed::OutcomeUnknown { attempt },
            },
        }
    }
}

#[async_trait]
impl Store for Old {
    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let sql = include_str!("version_2/claim.sql");
        let row = sqlx::query(sql)
            .bind("claim 1")
            .bind(claim.id.as_bytes().to_vec())
            .bind(claim.fingerprint.to_bytes().to_vec())
            .bind(claim.token.as_bytes().to_vec())
            .bind(micros(claim.lease))
            .bind(micros(claim.retention))
            .bind(claim.on_crash == OnCrash::Rerun)
            .fetch_one(&self.0)
            .await
            .unwrap();
        Ok(Self::claimed(&row))
    }

    async fn renew(&self, lease: &Lease) -> Result<Change, StoreError> {
        let sql = include_str!("version_2/renew.sql");
        let asked = Self::of_holder(sql, "renew 1", &lease.id, &lease.token);
        let asked = asked.bind(micros(lease.duration));
        self.change(asked.bind(micros(lease.retention))).await
    }

    async fn complete(&self, lease: &Lease, outcome: Bytes) -> Result<Change, StoreError> {
        let sql = include_str!("version_2/complete.sql");
        let asked = Self::of_holder(sql, "complete 1", &lease.id, &lease.token);
        let asked = asked.bind(outcome.to_vec());
        self.change(asked.bind(micros(lease.retention))).await
    }

    async fn release(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        let sql = include_str!("version_2/release.sql");
        self.change(Self::of_holder(sql, "release 1", id, token))
            .await
    }

    async fn abandon(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        let sql = include_str!("version_2/abandon.sql");
        self.change(Self::of_holder(sql, "abandon 1", id, token))
            .await
    }

    async fn watch(&self, id: &RecordId) -> Result<Watch, StoreError> {
        let sql = include_str!("version_2/watch.sql");
        let asked = sqlx::query(sql).bind("watch 1");
        let asked = asked.bind(id.as_bytes().to_vec());
        let row = asked.fetch_one(&self.0).await.unwrap();
        Ok(match row.get("runs") {
            true => Watch::never(),
            false => Watch::new(std::future::ready(())),
        })
    }

    async fn checkpoint(&self, _: &Lease, _: usize, _: Bytes) -> Result<Change, StoreError> {
        panic!("version 2 has no steps")
    }

    async fn suspend(&self, _: &RecordId, _: &Token) -> Result<Change, StoreError> {
        panic!("version 2 has no steps")
    }

    async fn inspect(&self, _: &RecordId) -> Result<Option<Inspection>, StoreError> {
        panic!("not asked")
    }

    async fn list(&self, _: &Listing) -> Result<Page, StoreError> {
        panic!("version 2 has no listing")
    }

    async fn forget(&self, _: &RecordId) -> Result<Forgotten, StoreError> {
        panic!("version 2 forgets nothing")
    }
}

impl Expire for Postgres {
    async fn expire(&self) {
        self.psql(
            "UPDATE idem_records SET lease_until = now() - interval '3 s', \
                expires_at = now() - interval '2 s', sweep_at = now() + interval '1 hour'",
        );
    }
}

/// A database that was upgraded while an old process was connected.
async fn upgraded() -> (Postgres, Arc<dyn Store>, Arc<dyn Store>) {
    let postgres = Postgres::start();
    for migration in &PostgresStore::MIGRATIONS[..2] {
        postgres.psql(migration);
    }
    let old: Arc<dyn Store> = Arc::new(Old::connect(&postgres.url()).await);
    // Prepared before the migration.
    let before = claim_of("before");
    assert_eq!(old.claim(&before).await.unwrap(), Claimed::acquired(1));
    let store = patient_at(&postgres.url()).await;
    let new: Arc<dyn Store> = Arc::new(store);
    let done = old.complete(&Lease::of(&before, 1), "done".into()).await;
    assert_eq!(done.unwrap(), Change::Applied);
    (postgres, old, new)
}

#[tokio::test]
async fn processes_of_both_versions_share_records_without_steps() {
    let (_postgres, old, new) = upgraded().await;
    both_share_records_without_steps(Both {
        old: &old,
        new: &new,
    })
    .await;
}

#[tokio::test]
async fn an_old_process_says_that_it_cannot_read_finished_steps_and_leaves_them() {
    let (_postgres, old, new) = upgraded().await;
    the_old_one_leaves_finished_steps_as_they_are(Both {
        old: &old,
        new: &new,
    })
    .await;
}

#[tokio::test]
async fn an_old_process_writes_over_expired_steps_and_nobody_is_handed_them() {
    let (postgres, old, new) = upgraded().await;
    let both = Both {
        old: &old,
        new: &new,
    };
    steps_of_an_expired_record_stay_gone(both, &postgres).await;
}

/// What a transaction of version 2 asks first, and what it writes at its end.
#[tokio::test]
async fn transactions_of_an_old_process_leave_finished_steps_as_they_are() {
    let (postgres, _old, new) = upgraded().await;
    let pool = PgPool::connect(&postgres.url()).await.unwrap();
    for is_suspended in [false, true] {
        let claim = claim_of(&is_suspended.to_string());
        assert_eq!(new.claim(&claim).await.unwrap(), Claimed::acquired(1));
        let step = new.checkpoint(&Lease::of(&claim, 1), 0, STEPS.into()).await;
        assert_eq!(step.unwrap(), Change::Applied);
        let ended = match is_suspended {
            true => new.suspend(&claim.id, &claim.token).await,
            false => new.abandon(&claim.id, &claim.token).await,
        };
        assert_eq!(ended.unwrap(), Change::Applied);
        let look = include_str!("version_2/transaction_look.sql");
        let mut transaction = pool.begin().await.unwrap();
        sqlx::query("SELECT set_config('idem.locked', 'idem_records'::regclass::oid::text, true)")
            .execute(&mut *transaction)
            .await
            .unwrap();
        let row = sqlx::query(look)
            .bind("look 1")
            .bind(claim.id.as_bytes().to_vec())
            .bind(claim.fingerprint.to_bytes().to_vec())
            .fetch_one(&mut *transaction)
            .await
            .unwrap();
        let outcome: Vec<u8> = row.get("outcome");
        assert!(idem::Outcome::decode(&outcome.into()).is_err());
        let finish = include_str!("version_2/transaction_finish.sql");
        let row = sqlx::query(finish)
            .bind("finish 1")
            .bind(claim.id.as_bytes().to_vec())
            .bind(claim.fingerprint.to_bytes().to_vec())
            .bind(2)
            .bind(claim.token.as_bytes().to_vec())
            .bind(1_000_000_i64)
            .bind(b"done".to_vec())
            .fetch_one(&mut *transaction)
            .await
            .unwrap();
        assert!(!row.get::<bool, _>("applied"));
        transaction.commit().await.unwrap();

        // One of this version goes on, under either policy where it is suspended.
        let mut next = claim.by_another();
        if is_suspended {
            next = next.on_crash(OnCrash::Refuse);
        }
        let database = PgTransactions::new(pool.clone());
        match database.begin(&next).await.unwrap() {
            BegunTransaction::Acquired {
                attempt,
                transaction,
                ..
            } => {
                assert_eq!(attempt, 2);
                let end = TransactionEnd {
                    claim: &next,
                    attempt,
                    outcome: "done".into(),
                    writes: Writes::Keep,
                };
                database.commit(transaction, &end).await.unwrap();
            }
            other => panic!("{other:?}"),
        }
        let found = new.inspect(&next.id).await.unwrap().unwrap();
        assert!(matches!(found.phase, Phase::Finished { .. }), "{found:?}");
        assert!(found.steps.is_empty() && found.claimed_at.is_some());
        assert_eq!(found.operation, next.operation);
    }
}
