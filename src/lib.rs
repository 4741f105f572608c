//! One attribute makes an async handler safe to retry.
//!
//! Networks lose answers, so clients retry. [`#[idempotent]`](macro@idempotent) gives every intended
//! operation a key, runs it once, and gives retries the first answer. Key extraction, request hashing,
//! locking, crash detection and result storage are one line:
//!
//! ```no_run
//! use axum::{Router, http::StatusCode, routing::post};
//! use idem::axum::idempotent;
//!
//! #[idempotent(key = header("Idempotency-Key"), ttl = "24h", name = "charges.create")]
//! async fn create_charge(order: String) -> (StatusCode, String) {
//!     (StatusCode::CREATED, format!("charged {order}")) // runs once per key
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     idem::connect("memory://").await?.install()?;
//!     let app = Router::new().route("/charges", post(create_charge));
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//!     Ok(axum::serve(listener, app).await?)
//! }
//! ```
//!
//! A retry has the same status, headers and body, and `Idempotent-Replayed: true`. **A stored 500 stays
//! for the whole `ttl`**, because it may have had an effect: see [outcomes](guide::outcomes). In
//! production use Redis, PostgreSQL, MySQL, DynamoDB or SQLite: what is in memory is forgotten with its process.
//!
//! # The attribute
//!
//! [`idempotent`](macro@idempotent) has the table of arguments. Each framework has its own, with the
//! same arguments.
//!
//! # Guides
//!
//! | to | read |
//! |---|---|
//! | know what clients get | [`guide::http_contract`], [`guide::outcomes`] |
//! | choose keys, scopes and names | [`guide::keys_and_scopes`] |
//! | choose a store, or one transaction | [`guide::stores`], [`guide::transactions`] |
//! | continue after a crash where a handler stopped | [`guide::steps`] |
//! | stack layers around a handler | [`guide::frameworks`] |
//! | serve webhooks and queues | [`guide::webhooks`], [`guide::queues`] |
//! | write the client: `idem-client` | [`guide::clients`] |
//! | run it: metrics, outages, stuck keys, shutdown, limits | [`guide::operating`] |
//! | see it: Prometheus, OpenTelemetry, a dashboard, alerts | [`guide::observability`] |
//! | see what is stuck, and resolve it, on a page | [`guide::dashboard`] |
//! | test a handler | [`guide::testing`] |
//! | write a store | [`guide::writing_a_store`] |
//!
//! # Frameworks
//!
//! | framework | page | feature |
//! |---|---|---|
//! | any async function | [`idempotent`](macro@idempotent) | |
//! | axum 0.8 | [`axum`] | `axum` |
//! | actix-web 4 | [`actix`] | `actix` |
//! | poem 3 | [`poem`] | `poem` |
//! | salvo 1 | [`salvo`] | `salvo` |
//! | hyper 1, `lambda_http`, functions of an `http::Request` | [`http`] | `http` |
//! | any tower service, as a layer | [`tower`] | `tower` |
//! | Rocket 0.5 | [`rocket`] | `rocket` |
//! | warp 0.4 | [`warp`] | `warp` |
//! | tonic 0.14 | [`tonic`] | `tonic` |
//!
//! # Stores
//!
//! [`connect`] opens one by URL; [`guide::stores`] says what each promises.
//!
//! | store | page | feature |
//! |---|---|---|
//! | this process | [`stores::memory`] | `memory`, on by default |
//! | Redis and Valkey | [`stores::redis`] | `redis`, `redis-tls` |
//! | PostgreSQL | [`stores::postgres`] | `postgres`, `postgres-tls` |
//! | MySQL and MariaDB | [`stores::mysql`] | `mysql`, `mysql-tls` |
//! | SQLite | [`stores::sqlite`] | `sqlite` |
//! | Amazon DynamoDB | [`stores::dynamodb`] | `dynamodb` |
//! | one of your own | [`store::Store`] | |
//!
//! The feature `cache` keeps finished outcomes in the process.
//!
//! # Testing and operating
//!
//! [`guide::testing`] shows a test with an engine of its own and a clock that moves.
//! `conformance` (a feature) has [the suite that proves a store](conformance) and
//! [a store that fails on demand](conformance::faults). The feature `metrics` brings counters and
//! histograms; [`guide::operating`] lists them. The feature `dashboard` has
//! [a page for operators](mod@axum::dashboard).
//!
//! # Without the attribute
//!
//! [`Engine::operation`] is the same engine:
//!
//! ```
//! use std::time::Duration;
//! use idem::{Engine, Error, Fingerprint, InFlight, Operation, Resolution, Verdict};
//!
//! fn charges(engine: &Engine) -> Operation {
//!     engine
//!         .operation("charges.create")
//!         .ttl(Duration::from_secs(24 * 60 * 60))
//!         .in_flight(InFlight::Wait(Duration::from_secs(5)))
//! }
//!
//! async fn charge(engine: &Engine, cents: u64) -> Result<String, Error> {
//!     let body = async { Ok("charged".to_owned()) };
//!     charges(engine).scope("tenant 7").run("the key", Fingerprint::of(&cents)?, body).await
//! }
//!
//! /// What an operator does about an attempt that crashed under `on_crash = "refuse"`. The operation
//! /// may be an attribute's, by its `name` and with its `scope`.
//! async fn nothing_was_charged(engine: &Engine) -> Result<Resolution, Error> {
//!     charges(engine).scope("tenant 7").resolve("the key", Verdict::Released).await
//! }
//! ```
//!
//! # Requirements
//!
//! Rust 1.95 and tokio. No unsafe block or function. An attribute's expansion has one
//! `#[unsafe(link_section = …)]`, with which each platform is told to add the function to the program's
//! list at start-up; a crate with `#![forbid(unsafe_code)]` accepts it.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(feature = "actix")]
pub mod actix;
#[cfg(feature = "http")]
mod admission;
#[cfg(feature = "axum")]
pub mod axum;
#[allow(
    unreachable_pub,
    missing_docs,
    reason = "reached through the hidden `__private` only"
)]
mod call;
#[cfg(feature = "http")]
mod captured_request;
#[cfg(all(doc, not(doctest)))]
pub mod guide;
#[cfg(feature = "http")]
mod handler;
#[cfg(feature = "http")]
pub mod http;
#[allow(
    unreachable_pub,
    missing_docs,
    reason = "reached through the hidden `__private` only"
)]
mod plan;
#[cfg(feature = "poem")]
pub mod poem;
#[cfg(feature = "http")]
mod refusals;
#[cfg(any(feature = "rocket", feature = "warp"))]
mod reply;
#[cfg(feature = "rocket")]
pub mod rocket;
#[cfg(feature = "salvo")]
pub mod salvo;
#[cfg(feature = "tonic")]
pub mod tonic;
#[cfg(feature = "warp")]
pub mod warp;

#[doc(hidden)]
#[allow(
    missing_docs,
    reason = "what the attributes write calls to is no interface for people"
)]
#[path = "private.rs"]
pub mod __private;
#[cfg(feature = "tower")]
pub mod tower;

/// What a store is made of: the trait, the transitions of a record, and what they answer.
///
/// [`guide::writing_a_store`] is how to begin.
pub mod store {
    pub use idem_core::{
        Change, Claim, Claimed, Cursor, Finding, Fingerprint, Forgotten, ImmediateStore,
        Inspection, Lease, Listed, Listing, Maintenance, OnCrash, OperationName, Page, Phase,
        RecordId, RecordState, Seen, Severity, Store, StoreError, Swept, Token, Watch,
    };
}

/// What a database must do for claims inside its own transactions.
pub mod transactional {
    pub use idem_core::TransactionOf;
    pub use idem_core::transactional::{
        BegunTransaction, CommitError, TransactionEnd, TransactionSource, Transactional, Writes,
    };
}

/// What a store answers when it cannot answer: in [`Error::Store`].
pub use idem_core::StoreError;
#[cfg(feature = "conformance")]
pub use idem_core::conformance;
pub use idem_core::{
    Attempt, Begun, CarriesRefusal, Decision, Engine, EngineBuilder, Error, Event, EventKind,
    Execution, ExecutionError, Fingerprint, FingerprintError, Fingerprinter, InFlight,
    InTransaction, InstallError, Key, KeyError, KeyPart, Keyed, NameTaken, NotReplayable, Observer,
    OnCrash, Operation, Outcome, Panic, Policy, PolicyError, ReleaseErrors, Replayable, Resolution,
    Revocation, StepError, StorableValue, StoreErrors, Undecodable, Unprotected, Verdict, attempt,
    detached, phase, step,
};
/// What an operator sees of a record: see [`Operation::inspect`].
pub use idem_core::{Inspection, NotARecordId, Phase, RecordId};
pub use idem_macros::idempotent;
#[doc(inline)]
pub use idem_stores as stores;
pub use idem_stores::ConnectError;

/// Opens the store that `url` names, and starts an engine over it.
///
/// | URL | store | feature |
/// |---|---|---|
/// | `memory://`, `memory://?max_bytes=N` | this process | `memory` |
/// | `redis://…`, `redis-cluster://…`, `redis-sentinel://…` | Redis or Valkey | `redis` |
/// | `rediss://…` and so on | the same over TLS | `redis-tls` |
/// | `postgres://…` | PostgreSQL | `postgres` |
/// | `mysql://…`, `mariadb://…` | MySQL or MariaDB | `mysql` |
/// | `dynamodb://table?region=…` | a table of Amazon DynamoDB | `dynamodb` |
/// | `sqlite://file.db` | a file of this machine | `sqlite` |
///
/// [`stores::connect`] says what a URL can hold.
///
/// ```
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// idem::connect("memory://").await?.namespace("shop").install()?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When no compiled store has the URL's scheme (the message names the cargo feature to enable),
/// when the URL is malformed, or when the store cannot be reached. No message repeats the URL.
pub async fn connect(url: &str) -> Result<EngineBuilder, ConnectError> {
    Ok(EngineBuilder::new(stores::connect(url).await?))
}

/// Logs what only the one who runs the server can mend.
fn report_misconfiguration(error: &Error) {
    if matches!(
        error,
        Error::NoEngine
            | Error::NoRuntime
            | Error::NoTimers
            | Error::ClaimedByLayer
            | Error::NameTaken(_)
            | Error::Policy(_)
            | Error::Fingerprint(_)
    ) {
        tracing::error!(target: "idem", %error, "an idempotent call was refused; its body did not run");
    }
}
