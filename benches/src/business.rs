//! What an application writes: alone in a transaction, and with the record of its operation.

use std::sync::atomic::{AtomicI64, Ordering};

/// Accounts that are there.
pub const ACCOUNTS: i64 = 10_000;

/// What a transaction does.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// `INSERT`: the least there is.
    Insert,
    /// `UPDATE`, and `INSERT`.
    UpdateAndInsert,
}

impl Work {
    /// Its statements, in words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Insert => "one `INSERT`",
            Self::UpdateAndInsert => "an `UPDATE` and an `INSERT`",
        }
    }
}

/// A number that was not there before.
pub fn next() -> i64 {
    static NEXT: AtomicI64 = AtomicI64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

macro_rules! business {
    (
        $(#[$about:meta])* $module:ident, $Pool:ty, $Connection:ty, $begin:literal, $BYTES:literal
    ) => {
        $(#[$about])*
        pub mod $module {
            use idem::{Error, Fingerprint, Operation};

            use super::{ACCOUNTS, Work, next};
            use crate::store::OUTCOME_BYTES;

            const TABLES: &str = concat!(
                "CREATE TABLE accounts (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL);
                 INSERT INTO accounts
                    WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 9999)
                    SELECT i, 0 FROM n;
                 CREATE TABLE entries (reference BIGINT NOT NULL, amount BIGINT NOT NULL);
                 CREATE TABLE outcomes (gone_at BIGINT NOT NULL, id ",
                $BYTES,
                " PRIMARY KEY, outcome ",
                $BYTES,
                "); CREATE INDEX outcomes_gone_at ON outcomes (gone_at)"
            );

            /// Makes the application's tables.
            ///
            /// # Panics
            /// When the database does not do it.
            pub async fn prepare(pool: &$Pool) {
                sqlx::raw_sql(TABLES).execute(pool).await.expect("tables");
            }

            async fn write(connection: &mut $Connection, work: Work, number: i64) {
                if let Work::UpdateAndInsert = work {
                    // In no order: few wait for each other.
                    sqlx::query("UPDATE accounts SET balance = balance + 1 WHERE id = $1")
                        .bind((number * 7919) % ACCOUNTS)
                        .execute(&mut *connection)
                        .await
                        .expect("an update");
                }
                sqlx::query("INSERT INTO entries (reference, amount) VALUES ($1, 1)")
                    .bind(number)
                    .execute(connection)
                    .await
                    .expect("an insertion");
            }

            /// The work in a transaction, and nothing else.
            ///
            /// # Panics
            /// When the database does not do it.
            pub async fn alone(pool: $Pool, work: Work) {
                let mut transaction = pool.begin_with($begin).await.expect("a transaction");
                write(&mut transaction, work, next()).await;
                transaction.commit().await.expect("a commit");
            }

            /// The same with one more insertion, of an outcome: what is to be paid at least, and
            /// protects from nothing.
            ///
            /// # Panics
            /// When the database does not do it.
            pub async fn by_hand(pool: $Pool, work: Work) {
                let mut transaction = pool.begin_with($begin).await.expect("a transaction");
                let number = next();
                write(&mut transaction, work, number).await;
                let id: [u8; 32] = rand::random();
                sqlx::query("INSERT INTO outcomes (gone_at, id, outcome) VALUES ($1, $2, $3)")
                    .bind(number)
                    .bind(&id[..])
                    .bind(&[7_u8; OUTCOME_BYTES][..])
                    .execute(&mut *transaction)
                    .await
                    .expect("an insertion");
                transaction.commit().await.expect("a commit");
            }

            /// The work, once per key.
            ///
            /// # Panics
            /// When the database does not do it.
            pub async fn once(operation: Operation, pool: $Pool, work: Work) {
                let number = next();
                let fingerprint = Fingerprint::of(&number).expect("an integer");
                let booked: Result<Vec<u8>, Error> = operation
                    .transaction(&pool)
                    .run(&number, fingerprint, |mut transaction| async move {
                        write(&mut transaction, work, number).await;
                        (transaction, Ok(vec![7; OUTCOME_BYTES]))
                    })
                    .await;
                assert_eq!(booked.expect("a commit").len(), OUTCOME_BYTES);
            }
        }
    };
}

business!(
    /// In PostgreSQL.
    postgres, sqlx::PgPool, sqlx::PgConnection, "BEGIN", "BYTEA"
);
business!(
    /// In SQLite.
    sqlite, sqlx::SqlitePool, sqlx::SqliteConnection, "BEGIN IMMEDIATE", "BLOB"
);
