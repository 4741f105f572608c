//! The HTTP contract through axum, over real sockets.

#[path = "../support/mod.rs"]
mod support;

mod concurrency;
mod fidelity;
mod identity;
mod refusals;
