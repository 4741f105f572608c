//! The store of many processes: Redis 7 and newer, and Valkey.
//!
//! One key per record, one atomic step per transition, the server's clock, and the server's own
//! expiry. `SET … NX GET PX`, a plain command, serves both hot paths: a first claim and a replay. A server
//! that has `SET … IFEQ` completes by it. Every other transition is a script.
//!
//! | to find | look in |
//! |---|---|
//! | the transitions | `store`; claims in `claims` |
//! | the bytes of a record | `record`, `appendix`, `digits`; of version 1 `v1` |
//! | what a process knows of the server's clock | `clock` |
//! | records page by page | `listing` |
//! | the scripts | `scripts`, and the files beside it |
//! | completing without one | `own_claims` |
//! | priorities and bounds | `lanes` |
//! | waiting for replicas | `durability` |
//! | commands, and a cluster's redirections | `command`, `connection`, `redirects` |
//! | what is written to a server and read from it | `wire`, `replies` |
//! | reconnecting | `link` |
//! | that all connections lead to one server | `primary` |
//! | what a URL says, and how a connection is opened | `url`, `target`, `opening` |
//! | what an error means | `errors` |
//! | waking waiters | `subscriptions` |
//! | what operators ask for | `maintenance` |
//! | what is checked at start-up | `checks` |
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use idem_stores::redis::RedisStore;
//!
//! let store = RedisStore::builder("redis://app:secret@127.0.0.1/0")?
//!     .prefix("shop:idem:")
//!     .command_timeout(Duration::from_millis(800))
//!     .connect()
//!     .await?;
//! # drop(store);
//! # Ok(())
//! # }
//! ```

mod appendix;
mod backend;
mod builder;
mod checks;
mod claims;
mod clock;
mod command;
mod connection;
mod digits;
mod durability;
mod errors;
mod lanes;
mod link;
mod listing;
mod maintenance;
mod opening;
mod own_claims;
mod primary;
mod record;
mod redirects;
mod replies;
mod scripts;
mod store;
mod subscriptions;
mod target;
mod url;
mod v1;
mod wire;

pub use builder::RedisStoreBuilder;
pub use store::RedisStore;

const NAME: &str = "redis";
