//! The handler form for actix-web 4.
//!
//! ```
//! use actix_web::{App, HttpResponse, Responder, web};
//! use idem::actix::idempotent;
//!
//! #[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
//! async fn create_charge(bank: web::Data<String>, order: web::Json<u64>) -> impl Responder {
//!     HttpResponse::Created().body(format!("{} for {}", order.0, bank.as_str()))
//! }
//! # let _ =
//! App::new().route("/charges", web::post().to(create_charge))
//! # ;
//! ```
//!
//! Over or under `#[post("/charges")]` it is the same.
//!
//! Order of a request: the extractors that read only its head (so authentication comes first,
//! and a rejection claims nothing); the key and the scope; the body, up to the limit, and the
//! fingerprint; the claim; and only when the handler will run, the last extractor, if it is one
//! that reads the body: `Json`, `Form`, `Bytes`, `String` and so on. One of an unknown type runs
//! before the claim, with the body that was read. An argument that reads the body goes last.
//!
//! The handler runs on a task of its own on the same worker, so it need not be `Send`; a client
//! that hangs up does not stop it. One that resets its connection while its request still waits for
//! another's attempt ends that; a connection closed in order is half open to actix, unless
//! `HttpServer::h1_allow_half_closed(false)` says otherwise. It must be called within actix's runtime, also in tests:
//! `#[actix_web::test]`.
//!
//! # Shutdown
//! A handler runs on its worker, and actix ends a worker that has no connection left, also when
//! handlers whose clients have gone still run there: they would count as crashed. [`stop`] waits for
//! them. It is for programs that handle their signals themselves:
//!
//! ```no_run
//! # use actix_web::{App, HttpServer};
//! # async fn example(engine: idem::Engine) -> std::io::Result<()> {
//! let server = HttpServer::new(App::new).disable_signals().bind("127.0.0.1:3000")?.run();
//! let handle = server.handle();
//! actix_web::rt::spawn(async move {
//!     if tokio::signal::ctrl_c().await.is_ok() {
//!         idem::actix::stop(&handle, &engine).await;
//!     }
//! });
//! server.await
//! # }
//! ```
//!
//! The engine is the request's extension or `app_data` of type [`Engine`] (plain or
//! in `web::Data`), else the installed one.

mod body;
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "reached through the hidden `__private` only"
)]
mod capture;

use actix_web::dev::ServerHandle;
use idem_core::Engine;

pub use idem_macros::idempotent_actix as idempotent;

/// Stops a server without cutting off a handler: no connection is accepted any more, the engine's
/// handlers finish and their ends are stored, and then the server stops, gracefully.
///
/// A connection that was there before may bring another request meanwhile. Its handler, too, is waited
/// for by the server, as long as its client is there. While a store is away this waits for it: bound
/// it with a timeout. Dropped before it has ended, it leaves a server that accepts nothing.
pub async fn stop(server: &ServerHandle, engine: &Engine) {
    server.pause().await;
    engine.idle().await;
    server.stop(true).await;
}

/// What the attribute writes calls to.
#[allow(
    unreachable_pub,
    reason = "reached through the hidden `__private` only"
)]
#[doc(hidden)]
pub mod private {
    pub use super::capture::{Admitted, AdmittedIn, Captured, NoArgument};
    pub use actix_web::HttpResponse as Response;
}
