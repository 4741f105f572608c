//! tonic 0.14: methods of gRPC services.
//!
//! ```
//! # mod tonic { pub use ::tonic::*; pub use async_trait::async_trait; }
//! use idem::tonic::idempotent;
//! use tonic::{Request, Response, Status};
//! # #[derive(Clone, PartialEq, prost::Message)]
//! # pub struct NewCharge { #[prost(uint64, tag = "1")] pub amount: u64 }
//! # #[derive(Clone, PartialEq, prost::Message)]
//! # pub struct Charge { #[prost(uint64, tag = "1")] pub id: u64 }
//! # #[tonic::async_trait]
//! # pub trait Charges {
//! #     async fn create(&self, request: Request<NewCharge>) -> Result<Response<Charge>, Status>;
//! # }
//! # #[derive(Clone)]
//! # struct Bank;
//! # impl Bank { async fn charge(&self, amount: u64) -> u64 { amount } }
//!
//! #[derive(Clone)]
//! struct Shop {
//!     bank: Bank,
//! }
//!
//! #[tonic::async_trait]
//! impl Charges for Shop {
//!     #[idempotent(key = metadata("idempotency-key"), ttl = "24h", name = "charges.create")]
//!     async fn create(&self, request: Request<NewCharge>) -> Result<Response<Charge>, Status> {
//!         let id = self.bank.charge(request.into_inner().amount).await;
//!         Ok(Response::new(Charge { id }))
//!     }
//! }
//! ```
//!
//! - **Name.** A method needs one, such as that of its call, `name = "charges.create"`: which service
//!   and package it belongs to is not to be seen where it stands. It is one operation whatever the
//!   path under which the service is reached.
//! - **Key.** `metadata("idempotency-key")` in the syntax of the HTTP header, or any expression over
//!   `request` and `self`, such as `key = request.get_ref().order_id`.
//! - **What counts.** The message in its protobuf encoding, or what `fingerprint(…)` names; which
//!   method it is, because an operation is one; and without a `scope`, the metadata `authorization`, and
//!   behind a [`HostLayer`] the host: another caller with the same key is refused, and never gets this
//!   one's answer. A `map` field that prost makes a `HashMap` is encoded in
//!   another order every time: let prost make it a `BTreeMap` (`btree_map(["."])`), or name what
//!   counts.
//! - **What is stored.** The response's message and metadata, or the [`Status`] with its code,
//!   message, details and metadata. Retries get it with the metadata `idempotent-replayed: true`.
//!   `UNAUTHENTICATED`, `RESOURCE_EXHAUSTED` and `UNAVAILABLE` free the key, or the codes of
//!   `release(ABORTED, …)` instead.
//! - **Hang-ups and deadlines.** The body goes on, on a task of its own, when the client has
//!   gone. For that, `self` in it is a clone of the service, which is `Clone + Send + Sync + 'static`.
//! - **Panics** are answered with `INTERNAL`; the next attempt follows `on_crash`.
//!
//! A stream, of requests or of responses, is not one message that could be compared or given again:
//! such methods do not compile. The engine is the one of `engine = …`, else an [`Engine`] among the
//! request's extensions, else the installed one.
//!
//! # Refusals
//!
//! | case | code | details |
//! |---|---|---|
//! | key or scope missing or malformed | `INVALID_ARGUMENT` | `KEY_MISSING`, `KEY_INVALID`, `SCOPE_INVALID` |
//! | same key, other request | `FAILED_PRECONDITION` | `MISMATCH` |
//! | in flight | `UNAVAILABLE` | `IN_FLIGHT`, `RetryInfo` |
//! | store unreachable; this call was not executed | `UNAVAILABLE` | `STORE_UNAVAILABLE`, `RetryInfo` |
//! | an attempt crashed under `on_crash = "refuse"` | `FAILED_PRECONDITION` | `OUTCOME_UNKNOWN` |
//! | executed, and too large to be kept | `DATA_LOSS` | `NOT_REPLAYABLE` |
//! | executed, and stored by another version | `DATA_LOSS` | `UNDECODABLE` |
//! | no engine, a name used twice | `INTERNAL` | `MISCONFIGURED` |
//! | stopped at its `deadline` | `DEADLINE_EXCEEDED` | `DEADLINE_EXCEEDED`, `RetryInfo` |
//! | panic | `INTERNAL` | `CRASHED` |
//!
//! The details are a `google.rpc.Status` with a `google.rpc.ErrorInfo` of the domain `idem`, whose
//! reason is the word, and, where a retry makes sense, a `google.rpc.RetryInfo`. Only `UNAVAILABLE`
//! and `DEADLINE_EXCEEDED` should be retried. [`status`] makes such a status of an [`Error`] elsewhere.
//!
//! [`Engine`]: crate::Engine
//! [`Error`]: crate::Error
//! [`Status`]: tonic::Status

#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "reached through the hidden `__private` only"
)]
mod call;
mod host;
mod refusal;
mod stored;

pub use host::{HostLayer, KnowsHost};
pub use idem_macros::idempotent_tonic as idempotent;
pub use refusal::status;
pub use stored::{outcome_of, outcome_of_encoded};

/// What the attribute writes calls to.
#[allow(
    unreachable_pub,
    reason = "reached through the hidden `__private` only"
)]
#[doc(hidden)]
pub mod private {
    pub use super::call::{
        Call, DEFAULT_RELEASE, RequestMessage, ResponseMessage, Service, service,
    };
}
