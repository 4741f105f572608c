//! The handler form for axum 0.8.
//!
//! Order of a request: the extractors that read only its head, as always (so authentication
//! comes first, and a rejection claims nothing); the key and the scope; the body, up to the
//! limit, and the fingerprint; the claim; and only when the handler will run, the last
//! extractor, which reads the body. The handler runs on a task of its own: a client that hangs
//! up does not stop it.

#[allow(
    missing_debug_implementations,
    unreachable_pub,
    reason = "reached through the hidden `__private` only"
)]
mod capture;

pub use idem_macros::idempotent_axum as idempotent;

/// What the attribute writes calls to.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "reached through the hidden `__private` only"
)]
#[doc(hidden)]
pub mod private {
    pub use super::capture::{Admitted, AdmittedIn, Captured, debug_handler_goes_below_idempotent};
    pub use axum::response::Response;
}
