//! The stores of `idem-rs`, one feature each, and the choice between them by URL.

#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(feature = "memory")]
pub mod memory;

#[cfg(feature = "postgres")]
pub mod postgres;

#[cfg(feature = "redis")]
pub mod redis;

#[cfg(feature = "sqlite")]
pub mod sqlite;

mod url;

/// Marks what is implemented for types of `sqlx` that are not this crate's own: its pools open
/// the transactions of [`Operation::transaction`](idem_core::Operation::transaction).
#[cfg(any(feature = "postgres", feature = "sqlite"))]
#[derive(Clone, Copy, Debug)]
pub struct Sqlx;

pub use url::{ConnectError, connect};
