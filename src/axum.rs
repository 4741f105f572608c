//! The handler form for axum 0.8.
//!
//! Order of a request: the extractors that read only its head, as always (so authentication
//! comes first, and a rejection claims nothing); the key and the scope; the body, up to the
//! limit, and the fingerprint; the claim; and only when the handler will run, the last
//! extractor, which reads the body. A client that hangs up does not stop the handler: it goes on
//! on a task of its own. A request that still waits for another's attempt ends with its client.
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
#[cfg(feature = "dashboard")]
pub mod dashboard;

use std::time::Duration;

use axum::extract::{MatchedPath, OriginalUri};
use axum::http::Uri;
use axum::http::request::Parts;

pub use idem_macros::idempotent_axum as idempotent;

use crate::tower::IdempotencyLayer;

/// The contract as a layer for axum's router: every route with its method, such as
/// `POST /charges/{id}`, is an operation, and what counts is the path that the client sent, in nested
/// routers too. Finished records are kept for `ttl`.
///
/// ```
/// use std::time::Duration;
///
/// use axum::Router;
/// use axum::routing::post;
///
/// # fn example(engine: idem::Engine) -> Router {
/// let idempotent = idem::axum::layer(Duration::from_secs(24 * 60 * 60))
///     .engine(engine)
///     .scope(|request| request.extensions.get::<Tenant>().map(|tenant| tenant.0));
///
/// Router::new()
///     .route("/charges", post(|| async { "charged" }))
///     .layer(idempotent)
/// # }
/// # #[derive(Clone)] struct Tenant(u64);
/// ```
///
/// [`IdempotencyLayer`] has the settings; [`name`](IdempotencyLayer::name) makes all routes one
/// operation. Around a whole router, where requests are not routed yet, all of one method are one
/// operation.
///
/// What no route answers is not kept: the router's 404 for a path that it does not know, its fallback
/// included, and a 405, whoever answers it. Around a whole router a 404 is kept, because it may be a
/// handler's. Do not put the layer around a router that is another's fallback: what handlers there answer
/// with 404 is not kept either.
pub fn layer(ttl: Duration) -> IdempotencyLayer {
    IdempotencyLayer::named_by(matched_route, ttl)
        .original_uri(original_uri)
        .within_router(is_unrouted)
}

/// Whether a router has looked, and found nothing.
fn is_unrouted(head: &Parts) -> bool {
    let has_looked = head.extensions.get::<OriginalUri>().is_some();
    has_looked && head.extensions.get::<MatchedPath>().is_none()
}

fn original_uri(head: &Parts) -> &Uri {
    let original = head.extensions.get::<OriginalUri>();
    original.map_or(&head.uri, |OriginalUri(uri)| uri)
}

fn matched_route(head: &Parts) -> String {
    let route = head.extensions.get::<MatchedPath>();
    route.map_or_else(
        || head.method.to_string(),
        |route| format!("{} {}", head.method, route.as_str()),
    )
}

/// A page for operators over what `engine`'s store holds: its records, what is stuck, and what to do about
/// it. [`dashboard`](mod@dashboard) has the settings, and says what it protects from.
///
/// ```
/// # fn example(engine: idem::Engine) -> axum::Router {
/// axum::Router::new().nest("/admin/idem", idem::axum::dashboard(engine).into_router())
/// # }
/// ```
#[cfg(feature = "dashboard")]
pub fn dashboard(engine: crate::Engine) -> dashboard::Dashboard {
    dashboard::Dashboard::new(engine)
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
