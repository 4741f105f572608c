//! The stores of `idem-rs`, one feature each, and the choice between them by URL.

#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(feature = "memory")]
pub mod memory;

#[cfg(feature = "redis")]
pub mod redis;

mod url;

pub use url::{ConnectError, connect};
