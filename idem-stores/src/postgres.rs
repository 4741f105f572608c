//! The store of many processes beside the business data: PostgreSQL 14 and newer.
//!
//! One row per record, one statement and one round trip per transition, and the server's clock. A claim
//! reads first and writes only if it must, so a replay leaves nothing behind: no dead row, no log, no
//! transaction number. Waiters are woken by `NOTIFY`, which is sent only for watched records.
//!
//! Every statement is correct in every race at `READ COMMITTED`, the server's default: the locked row
//! decides what it writes. A statement that a race leaves without an answer is sent again. Under
//! `REPEATABLE READ` and `SERIALIZABLE` the server refuses one of two concurrent statements, which is sent
//! again, too.
//!
//! | to find | look in |
//! |---|---|
//! | the tables | `migrations` |
//! | the statements | `statements`, and the files beside it |
//! | the transitions | `store` |
//! | how a statement is sent, and its answer recognised | `statement` |
//! | priorities and bounds | `sql::gate` |
//! | connections | `connections`, `sessions`, `sql::pool`, `sql::application_pool` |
//! | what happens when a call is dropped | `checkout` |
//! | sessions that hang | `hung_sessions` |
//! | what an error means | `errors` |
//! | poolers | `pooler` |
//! | waking waiters | `subscriptions` |
//! | deleting expired records | `sweeping`, `sql::sweeping` |
//! | claims inside the application's transactions | `transaction` |
//! | what a URL says | `target`, `builder` |
//! | the tables' version, and migrations | `schema` |
//! | what is checked at start-up | `checks` |
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use idem_stores::postgres::PostgresStore;
//!
//! // Connections of its own.
//! let store = PostgresStore::builder("postgres://app:secret@127.0.0.1/shop")?
//!     .max_connections(8)
//!     .timeout(Duration::from_millis(800))
//!     .connect()
//!     .await?;
//!
//! // Or those of the application.
//! # let pool = sqlx::PgPool::connect_lazy("postgres://app@127.0.0.1/shop")?;
//! let store = PostgresStore::from_pool(pool);
//! store.migrate().await?;
//! # Ok(())
//! # }
//! ```

mod builder;
mod checkout;
mod checks;
mod connections;
mod errors;
mod hung_sessions;
mod pool_state;
mod pooler;
mod schema;
mod sessions;
mod statement;
mod statements;
mod store;
mod subscriptions;
mod sweeping;
mod target;
mod transaction;

pub use builder::{PostgresPoolBuilder, PostgresStoreBuilder};
pub use store::PostgresStore;
pub use target::Pooler;
pub use transaction::PgTransactions;

const NAME: &str = "postgres";
