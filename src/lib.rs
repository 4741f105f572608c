#![doc = include_str!("../README.md")]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(feature = "actix")]
pub mod actix;
#[cfg(feature = "axum")]
pub mod axum;
#[cfg(any(feature = "rocket", feature = "warp"))]
mod function;
#[cfg(feature = "http")]
mod handler;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "poem")]
pub mod poem;
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

pub use idem_core::*;
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
    Ok(EngineBuilder::over(stores::connect(url).await?))
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
