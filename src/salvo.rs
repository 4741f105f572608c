//! The handler form for salvo 1.
//!
//! ```
//! # extern crate salvo_core as salvo;
//! use idem::salvo::idempotent;
//! use salvo::extract::JsonBody;
//! use salvo::prelude::*;
//!
//! #[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
//! #[handler]
//! async fn create_charge(order: JsonBody<u64>, depot: &mut Depot, res: &mut Response) -> String {
//!     res.status_code(StatusCode::CREATED);
//!     let bank = depot.get_typed::<String>().map_or("no bank", String::as_str);
//!     format!("{} for {bank}", order.into_inner())
//! }
//! # let _ =
//! Router::with_path("charges").post(create_charge)
//! # ;
//! ```
//!
//! The attribute stands above `#[handler]`. The arguments are those that salvo's macro knows:
//! `&mut Request`, `&mut Depot`, `&mut Response`, and extractors. There is no `&mut FlowCtrl`: what
//! the handlers after this one would add cannot be given back from the store.
//!
//! Order of a request: the extractors before the last one (so authentication comes first, and a
//! rejection claims nothing); the key and the scope; the body, up to the limit, and the
//! fingerprint; the claim; and only when the handler will run, the last extractor, if it is one
//! that reads the body: `JsonBody`, `FormBody` and so on. One of an unknown type runs before the
//! claim, with the body that was read. A handler that takes `&mut Request` finds the body there,
//! read, and may read it again. Salvo's own limit
//! ([`secure_max_size`](salvo_core::http::Request::secure_max_size), 64 KB) applies to what reads
//! it.
//!
//! All of that happens on a task of its own, which owns request, depot and response until it ends:
//! a client that hangs up does not stop a handler that has begun, and ends a call that still waits for
//! another's attempt. The hoops around the handler see them afterwards, as
//! always. It must be called within a tokio runtime.
//!
//! What is stored is the response as it is after the handler, with the headers that hoops have set
//! before it and the cookies of its jar (if
//! [`keep_set_cookie`](crate::http::HttpSettings::keep_set_cookie) allows). A replay's headers
//! replace those of the same name. A `StatusError` is stored as such, and the service's catcher
//! renders it, first and again; its `origin` is not stored.
//!
//! The engine is the request's extension of type [`Engine`](crate::Engine), else the depot's
//! (`affix_state::inject`, or [`insert_typed`](salvo_core::Depot::insert_typed)), else the
//! installed one.

#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "reached through the hidden `__private` only"
)]
mod answer;
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "reached through the hidden `__private` only"
)]
mod capture;
mod status_error;

pub use idem_macros::idempotent_salvo as idempotent;

/// What the attribute writes calls to.
#[allow(
    unreachable_pub,
    reason = "reached through the hidden `__private` only"
)]
#[doc(hidden)]
pub mod private {
    pub use super::answer::{Reply, answer, answered, reject, rejected};
    pub use super::capture::{Admitted, AdmittedIn, Captured, Parts, detached};
    pub use salvo_core::{Depot, Extractible, Request, Response, Writer};
}
