//! The handler form for axum 0.8.
//!
//! Order of a request: the extractors that read only its head, as always (so authentication
//! comes first, and a rejection claims nothing); the key and the scope; the body, up to the
//! limit, and the fingerprint; the claim; and only when the handler will run, the last
//! extractor, which reads the body. The handler runs on a task of its own: a client that hangs
//! up does not stop it.
//!
//! So a last extractor does not run for a replay. What authenticates by the body, such as a check of
//! its signature, belongs in a layer around the handler; or `scope` names what the extractor binds,
//! such as who has signed, and it runs before the claim.

#[allow(
    missing_debug_implementations,
    unreachable_pub,
    reason = "reached through the hidden `__private` only"
)]
mod capture;

pub use idem_macros::idempotent_axum as idempotent;

/// The method and the route that axum's router has matched, such as `POST /charges/{id}`: an
/// operation name for `idem::tower::IdempotencyLayer::operation`. For a layer that sees requests
/// before they are routed, the method alone.
pub fn matched_route(head: &axum::http::request::Parts) -> String {
    let route = head.extensions.get::<axum::extract::MatchedPath>();
    route.map_or_else(
        || head.method.to_string(),
        |route| format!("{} {}", head.method, route.as_str()),
    )
}

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
