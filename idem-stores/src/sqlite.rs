//! The store of one machine: a SQLite file, durable, without a server.
//!
//! One row per record, one statement per transition, and the machine's clock as SQLite reads it.
//! A claim is looked up first, on a connection that only reads. A finished record, a running one and
//! another request's need no write, and do not wait. All writes go through one writer, which commits
//! waiting writes together. Every commit is on the disk before it is acknowledged.
//!
//! Lease holders go first: renewals and the ends of attempts are written before claims. Claims wait in a
//! bounded queue. A claim that finds the queue full fails at once.
//!
//! Processes of one machine share the file, under SQLite's lock. Network file systems are not supported.
//! If the file is replaced while it is open, the store goes on with the new file if that has the store's
//! tables. If it is moved or deleted, calls fail.
//!
//! | to find | look in |
//! |---|---|
//! | the tables | `migrations` |
//! | the statements, and the clock | `statements`, and the files beside it |
//! | the transitions | `store`, `changes` |
//! | what a row says | `record` |
//! | grouped commits | `writer`, `writes` |
//! | priorities and bounds | `lanes`, `queue`, `limits` |
//! | connections that only read | `readers` |
//! | waking waiters | `watches` |
//! | claims inside the application's transactions | `transaction`, `pools` |
//! | what a URL says, and how connections are opened | `target` |
//! | whether the file is still the one that was opened | `file` |
//! | the tables' version | `schema` |
//! | what an error means | `errors` |
//! | what is checked at start-up | `checks` |
//! | deleting what has expired | `sweeping` |
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use idem_stores::sqlite::SqliteStore;
//!
//! // A file of its own.
//! let store = SqliteStore::builder("sqlite:///var/lib/shop/idem.db")?
//!     .busy_timeout(Duration::from_millis(800))
//!     .connect()
//!     .await?;
//!
//! // Or two tables in the application's database.
//! # let pool = sqlx::SqlitePool::connect_lazy("sqlite://shop.db")?;
//! let store = SqliteStore::from_pool(&pool).await?;
//! store.migrate().await?;
//! # Ok(())
//! # }
//! ```

mod builder;
mod changes;
mod checks;
mod errors;
mod file;
mod lanes;
mod limits;
mod pools;
mod queue;
mod readers;
mod record;
mod schema;
mod statements;
mod store;
mod sweeping;
mod target;
mod transaction;
mod watches;
mod writer;
mod writes;

pub use builder::{SqlitePoolBuilder, SqliteStoreBuilder};
pub use store::SqliteStore;
pub use transaction::SqliteTransactions;

const NAME: &str = "sqlite";
