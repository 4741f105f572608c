//! The stores of `idem-rs`, one feature each, and the choice between them by URL.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(feature = "dynamodb")]
pub mod dynamodb;

#[cfg(feature = "memory")]
pub mod memory;

#[cfg(feature = "mysql")]
pub mod mysql;

#[cfg(feature = "postgres")]
pub mod postgres;

#[cfg(feature = "redis")]
pub mod redis;

#[cfg(feature = "sqlite")]
pub mod sqlite;

#[cfg(any(feature = "mysql", feature = "postgres", feature = "redis"))]
mod backoff;
mod connect;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod database;
mod error;
#[cfg(any(
    feature = "dynamodb",
    feature = "mysql",
    feature = "postgres",
    feature = "redis",
    feature = "sqlite"
))]
mod findings;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod sql;
#[cfg(any(feature = "postgres", feature = "redis", feature = "sqlite"))]
mod watchers;

pub use connect::{attach, connect};
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub use database::Sqlx;
pub use error::ConnectError;
