//! Processes of version 2 beside those of this one: their statements, word for word, and what they make
//! of records that they do not know.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use idem::store::{Change, Claim, Claimed, Forgotten, Lease, Listing, Page, Store, Token, Watch};
use idem::stores::sqlite::{SqliteStore, SqliteTransactions};
use idem::transactional::{BegunTransaction, TransactionEnd, Transactional, Writes};
use idem::{Inspection, OnCrash, Phase, RecordId, StoreError};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqlitePool, SqlitePoolOptions};
use sqlx::{Row, Sqlite};

use crate::file::File;
use crate::older_processes::{
    Both, Expire, STEPS, both_share_records_without_steps, claim_of,
    steps_of_an_expired_record_stay_gone, the_old_one_leaves_finished_steps_as_they_are,
};

macro_rules! on_the_clock {
    ($file:literal) => {
        concat!(
            include_str!("version_2/clock.sql"),
            include_str!(concat!("version_2/", $file, ".sql"))
        )
    };
}

/// A process of version 2.
#[derive(Clone)]
pub(crate) struct Old(SqlitePool);

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap()
}

type Asked = Query<'static, Sqlite, SqliteArguments>;

impl Old {
    /// Its statements are prepared once per connection, and there is one connection.
    pub(crate) async fn open(file: &File) -> Self {
        let options = file.options().busy_timeout(Duration::from_secs(30));
        let pool = SqlitePoolOptions::new().max_connections(1);
        Self(pool.connect_with(options).await.unwrap())
    }

    fn of_holder(sql: &'static str, id: &RecordId, token: &Token) -> Asked {
        let asked = sqlx::query(sql).bind(id.as_bytes().to_vec());
        asked.bind(token.as_bytes().to_vec())
    }

    async fn change(&self, asked: Asked) -> Result<Change, StoreError> {
        let done = asked.execute(&self.0).await.unwrap();
        Ok(match done.rows_affected() {
            0 => Change::LeaseLost,
            _ => Change::Applied,
        })
    }

    /// Its answer where it writes nothing.
    async fn answer(&self, claim: &Claim) -> Option<Claimed> {
        let row = sqlx::query(on_the_clock!("look"))
            .bind(claim.id.as_bytes().to_vec())
            .bind(claim.fingerprint.to_bytes().to_vec())
            .fetch_optional(&self.0)
            .await
            .unwrap()?;
        let attempt = row.get("attempt");
        let lease_left = u64::try_from(row.get::<i64, _>("lease_left")).unwrap_or_default();
        let lease_left = Duration::from_millis(lease_left);
        if row.get::<Vec<u8>, _>("fingerprint") != claim.fingerprint.to_bytes() {
            return Some(Claimed::Mismatch);
        }
        if row.get("is_finished") {
            let outcome: Vec<u8> = row.get("outcome");
            return Some(Claimed::finished(outcome.into()));
        }
        if row.get::<Option<Vec<u8>>, _>("token").as_deref() == Some(claim.token.as_bytes()) {
            return Some(Claimed::acquired(attempt));
        }
        match (lease_left, claim.on_crash) {
            (Duration::ZERO, OnCrash::Rerun) => None,
            (Duration::ZERO, _) => Some(Claimed::OutcomeUnknown { attempt }),
            _ => Some(Claimed::InFlight { lease_left }),
        }
    }
}

#[async_trait]
impl Store for Old {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        if let Some(answer) = self.answer(claim).await {
            return Ok(answer);
        }
        let claimed = sqlx::query(on_the_clock!("claim"))
            .bind(claim.id.as_bytes().to_vec())
            .bind(claim.fingerprint.to_bytes().to_vec())
            .bind(claim.token.as_bytes().to_vec())
            .bind(millis(claim.lease))
            .bind(millis(claim.retention))
            .bind(claim.on_crash == OnCrash::Rerun)
            .fetch_all(&self.0)
            .await
            .unwrap();
        match claimed.first() {
            Some(row) => Ok(Claimed::acquired(row.get("attempt"))),
            None => Ok(self.answer(claim).await.unwrap()),
        }
    }

    async fn renew(&self, lease: &Lease) -> Result<Change, StoreError> {
        let asked = Self::of_holder(on_the_clock!("renew"), &lease.id, &lease.token)
            .bind(millis(lease.duration))
            .bind(millis(lease.retention))
            .bind(lease.fingerprint.to_bytes().to_vec())
            .bind(lease.attempt)
            .bind(lease.unbroken);
        self.change(asked).await
    }

    async fn complete(&self, lease: &Lease, outcome: Bytes) -> Result<Change, StoreError> {
        let asked = Self::of_holder(on_the_clock!("complete"), &lease.id, &lease.token)
            .bind(outcome.to_vec())
            .bind(millis(lease.retention))
            .bind(lease.fingerprint.to_bytes().to_vec())
            .bind(lease.attempt)
            .bind(lease.unbroken);
        self.change(asked).await
    }

    async fn release(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.change(Self::of_holder(on_the_clock!("release"), id, token))
            .await
    }

    async fn abandon(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.change(Self::of_holder(on_the_clock!("abandon"), id, token))
            .await
    }

    async fn watch(&self, _: &RecordId) -> Result<Watch, StoreError> {
        Ok(Watch::never())
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

impl Expire for File {
    async fn expire(&self) {
        self.run("UPDATE idem_records SET lease_until = 1, gone_at = 2")
            .await;
    }
}

/// A file that was upgraded while an old process had it open.
async fn upgraded() -> (File, Arc<dyn Store>, Arc<dyn Store>) {
    let file = File::new();
    let options = file.options().create_if_missing(true);
    let pool = SqlitePoolOptions::new()
        .connect_with(options)
        .await
        .unwrap();
    for sql in std::iter::once(&"PRAGMA journal_mode = WAL").chain(&SqliteStore::MIGRATIONS[..2]) {
        sqlx::raw_sql(*sql).execute(&pool).await.unwrap();
    }
    pool.close().await;
    let old: Arc<dyn Store> = Arc::new(Old::open(&file).await);
    // Prepared before the migration.
    let before = claim_of("before");
    assert_eq!(old.claim(&before).await.unwrap(), Claimed::acquired(1));
    let new: Arc<dyn Store> = Arc::new(file.store().await);
    let done = old.complete(&Lease::of(&before, 1), "done".into()).await;
    assert_eq!(done.unwrap(), Change::Applied);
    (file, old, new)
}

#[tokio::test]
async fn processes_of_both_versions_share_records_without_steps() {
    let (_file, old, new) = upgraded().await;
    both_share_records_without_steps(Both {
        old: &old,
        new: &new,
    })
    .await;
}

#[tokio::test]
async fn an_old_process_says_that_it_cannot_read_finished_steps_and_leaves_them() {
    let (_file, old, new) = upgraded().await;
    the_old_one_leaves_finished_steps_as_they_are(Both {
        old: &old,
        new: &new,
    })
    .await;
}

#[tokio::test]
async fn an_old_process_writes_over_expired_steps_and_nobody_is_handed_them() {
    let (file, old, new) = upgraded().await;
    let both = Both {
        old: &old,
        new: &new,
    };
    steps_of_an_expired_record_stay_gone(both, &file).await;
}

/// What a transaction of version 2 asks first, and what it writes at its end.
#[tokio::test]
async fn transactions_of_an_old_process_leave_finished_steps_as_they_are() {
    let (file, old, new) = upgraded().await;
    let pool = SqlitePoolOptions::new().connect_lazy_with(file.options());
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
        match old.claim(&claim.by_another()).await.unwrap() {
            Claimed::Finished { outcome, .. } => assert!(idem::Outcome::decode(&outcome).is_err()),
            other => panic!("{other:?}"),
        }
        let written = sqlx::query(on_the_clock!("transaction_finish"))
            .bind(claim.id.as_bytes().to_vec())
            .bind(claim.fingerprint.to_bytes().to_vec())
            .bind(2)
            .bind(claim.token.as_bytes().to_vec())
            .bind(1000)
            .bind(b"done".to_vec())
            .fetch_all(&pool)
            .await
            .unwrap();
        assert!(written.is_empty());

        // One of this version goes on, under either policy where it is suspended.
        let mut next = claim.by_another();
        if is_suspended {
            next = next.on_crash(OnCrash::Refuse);
        }
        let database = SqliteTransactions::new(pool.clone());
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
