//! The HTTP contract, for every framework, and the handler form for functions that take an
//! `http::Request<B>` and return an `http::Response`: for hyper 1, `lambda_http`,
//! `tower::service_fn`.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use idem::http::idempotent;
//!
//! #[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
//! async fn charge(request: Request<Bytes>) -> Result<Response<Full<Bytes>>, Infallible> {
//!     Ok(Response::new(Full::new(request.into_body())))
//! }
//! # fn serves(incoming: Request<Full<Bytes>>) { drop(charge(incoming)) }
//! ```
//!
//! The function's last argument is the request. It is read whole, up to the limit, so its body is
//! any type `From<Vec<u8>>`, such as `Bytes`, `Full<Bytes>` or `lambda_http::Body`; the function that the attribute makes takes a request with any body.
//! What it answers has a [`CapturedBody`] of the declared body.
//!
//! What counts is the request as the function gets it: a router that takes a prefix away from its
//! target puts it back before the call.
//!
//! A client that hangs up does not stop the body: it goes on on a task of its own. An `Err`, where the
//! function returns one, is no response: it goes to the caller as it is, and the attempt counts as
//! crashed, so the next one follows `on_crash`.

#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "reached through the hidden `__private` only"
)]
mod capture;

pub use idem_core::http::*;
pub use idem_macros::idempotent_http as idempotent;

/// What the attribute writes calls to.
#[allow(
    unreachable_pub,
    reason = "reached through the hidden `__private` only"
)]
#[doc(hidden)]
pub mod private {
    pub use super::capture::{Admitted, AdmittedIn, Captured, Incoming, Respond};
    pub use http::Request;
}
