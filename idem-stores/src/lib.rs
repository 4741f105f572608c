//! The stores of `idem-rs`, one feature each, and the choice between them by URL.

#[cfg(feature = "memory")]
pub mod memory;

mod url;

pub use url::{ConnectError, connect};
