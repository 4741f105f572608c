//! Records in a table of Amazon DynamoDB.
//!
//! One item is one record, and one conditional write one transition. A write whose condition fails
//! answers with the item that is there, so that a claim of a record that exists costs one call.
//! Expired items are deleted by the table's TTL, days later; whether a record has expired is judged
//! where it is read.
//!
//! DynamoDB's conditions have no clock. Leases and retentions are judged by the `Date` header of the
//! answer that carries the item, never by a clock of this process; `clock` says how.
//!
//! | to find | look in |
//! |---|---|
//! | what an item consists of | `record` |
//! | the transitions | `claims`, `changes` |
//! | the clock | `clock` |
//! | a call: what was sent, what was answered, and when | `calls`, `witness` |
//! | what an error means | `errors` |
//! | how many calls are under way | `lanes` |
//! | records page by page, and what operators ask for | `listing`, `maintenance` |
//! | what a URL says, and what is checked at start-up | `url`, `builder`, `checks` |
//! | creating the table | `table` |
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use idem_stores::dynamodb::DynamoDbStore;
//!
//! let store = DynamoDbStore::builder("dynamodb://idem?region=eu-west-1")?
//!     .timeout(Duration::from_millis(1500))
//!     .connect()
//!     .await?;
//! # drop(store);
//! # Ok(())
//! # }
//! ```

mod builder;
mod calls;
mod changes;
mod checks;
mod claims;
mod clock;
mod errors;
mod lanes;
mod listing;
mod maintenance;
mod record;
mod store;
mod table;
mod url;
mod witness;

pub use builder::DynamoDbStoreBuilder;
pub use record::MAX_OUTCOME_BYTES;
pub use store::DynamoDbStore;
pub use table::TableOptions;

const NAME: &str = "dynamodb";
