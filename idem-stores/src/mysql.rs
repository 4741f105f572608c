//! The store of many processes beside the business data: MySQL 8 and MariaDB 10.6, and newer.
//!
//! One row per record, one round trip per transition, and the server's clock. Neither server tells what a
//! statement has left in the row that it changed, so that a claim is three statements in one message of the
//! text protocol:
//!
//! 1. A read without a lock finds what stands against a new attempt.
//! 2. Where nothing stands, an upsert inserts the row, or takes it over. It judges the row as it is once it
//!    is locked, so that of all claims one wins, at every isolation level. Where something stands, the
//!    upsert has no row to insert, locks nothing and writes nothing: a replay leaves nothing behind.
//! 3. A read of the row is the answer. It has the claim's token if that claim has won.
//!
//! A first call is two round trips, a replay one. Waiters poll: the servers notify nobody.
//!
//! Only the second statement changes anything, and each statement commits by itself, so that nothing stays
//! open when a call is dropped. Sessions of the store's own are at `READ COMMITTED`, where fewer rows are
//! locked. A statement that a deadlock or a lock has ended is sent again within the call's time.
//!
//! | to find | look in |
//! |---|---|
//! | the tables | `migrations` |
//! | the statements | `statements`, and the files beside it |
//! | the transitions | `store` |
//! | how a message is sent, and its answer read | `message` |
//! | priorities and bounds | `sql::gate` |
//! | connections, and what happens when a call is dropped | `connections`, `sessions`, `sql::pool`, `sql::application_pool` |
//! | sessions that hang | `hung_sessions` |
//! | what an error means | `errors` |
//! | deleting expired records | `sweeping`, `pool_state`, `sql::sweeping` |
//! | claims inside the application's transactions | `transaction` |
//! | what a URL says | `target`, `builder` |
//! | the tables' version, and migrations | `schema` |
//! | what is checked at start-up | `checks` |
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use idem_stores::mysql::MySqlStore;
//!
//! // Connections of its own.
//! let store = MySqlStore::builder("mysql://app:secret@127.0.0.1/shop")?
//!     .max_connections(8)
//!     .timeout(Duration::from_millis(800))
//!     .connect()
//!     .await?;
//!
//! // Or those of the application.
//! # let pool = sqlx::MySqlPool::connect_lazy("mysql://app@127.0.0.1/shop")?;
//! let store = MySqlStore::from_pool(pool);
//! store.migrate().await?;
//! # Ok(())
//! # }
//! ```

mod builder;
mod checks;
mod connections;
mod errors;
mod hung_sessions;
mod message;
mod pool_state;
mod schema;
mod sessions;
mod statements;
mod store;
mod sweeping;
mod target;
mod transaction;

pub use builder::{MySqlPoolBuilder, MySqlStoreBuilder};
pub use store::MySqlStore;
pub use transaction::MySqlTransactions;

const NAME: &str = "mysql";
