//! The handler form for poem 3.
//!
//! ```
//! use idem::poem::idempotent;
//! use poem::http::StatusCode;
//! use poem::web::{Data, Json};
//! use poem::{EndpointExt, Route, handler, post};
//!
//! #[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
//! #[handler]
//! async fn create_charge(bank: Data<&String>, order: Json<u64>) -> (StatusCode, String) {
//!     (StatusCode::CREATED, format!("{} for {}", order.0, bank.0))
//! }
//! # let bank = String::from("bank");
//! # let _ =
//! Route::new().at("/charges", post(create_charge)).data(bank)
//! # ;
//! ```
//!
//! The attribute stands above `#[handler]`, whose work it does itself: what it makes is an
//! endpoint as that of poem's macro, generics included.
//!
//! Order of a request: the extractors before the last one (so authentication comes first, and a
//! rejection claims nothing); the key and the scope; the body, up to the limit, and the
//! fingerprint; the claim; and only when the handler will run, the last extractor, if it is one
//! that reads the body: `Json`, `Form`, `Body`, `String` and so on. One of an unknown type runs
//! before the claim, with the body that was read. An argument that reads the body goes last.
//!
//! All of that happens on a task of its own, which owns the request: a client that hangs up does
//! not stop a handler that has begun, and ends a call that still waits for another's attempt. (poem's
//! server sees a connection that was reset; one that was closed in order counts as open until it has
//! answered.) Arguments may borrow, as `Data<&T>` and `&Request` do. It must be called
//! within a tokio runtime.
//!
//! An extractor's error reaches poem's middleware as it is. An `Err` of the handler becomes its
//! response at once, because it is stored like every other one: `catch_error` does not see it.
//!
//! The engine is the request's data of type [`Engine`](crate::Engine), else the installed one.

#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "reached through the hidden `__private` only"
)]
mod capture;

pub use idem_macros::idempotent_poem as idempotent;

/// What the attribute writes calls to.
#[allow(
    unreachable_pub,
    reason = "reached through the hidden `__private` only"
)]
#[doc(hidden)]
pub mod private {
    pub use super::capture::{
        Admitted, AdmittedIn, Captured, Reply, admit, admit_in, detached, split,
    };
    pub use poem::{Endpoint, Error, FromRequest, Request, Response, Result};
}
