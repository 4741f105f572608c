//! The handler within the layers of peers, set up as their documentation has it.

use std::sync::Arc;

use axum::Router;
use axum_idempotent::{IdempotentLayer, IdempotentOptions};
use idempotent::memory::MemoryStore;
use idempotent::middleware::IdempotencyLayer;
use ruts::store::moka::MokaStore;
use ruts::{CookieOptions, SessionLayer};
use tokio::runtime::Runtime;
use tower_cookies::CookieManagerLayer;

use crate::http::plain_app;
use crate::store::RETENTION;

/// `idempotent` in memory. Its store is a task of the runtime.
///
/// # Panics
/// When its store does not start.
pub fn idempotent_app(runtime: &Runtime) -> Router {
    let store = MemoryStore::builder().runtime(runtime.handle().clone());
    plain_app().layer(IdempotencyLayer::new(store.try_build().expect("a store")))
}

/// `idempotent` over Redis.
///
/// # Panics
/// When Redis cannot be reached.
#[cfg(feature = "servers")]
pub fn idempotent_redis_app(runtime: &Runtime, url: &str) -> Router {
    let store = idempotent::valkey::ValkeyStore::with_url(url);
    let store = runtime.block_on(store.try_build()).expect("a store");
    plain_app().layer(IdempotencyLayer::new(store))
}

/// `axum-idempotent`, which keeps answers in the session of whoever asks.
///
/// # Panics
/// Never: the retention is a number of seconds.
pub fn axum_idempotent_app() -> Router {
    let seconds = i64::try_from(RETENTION.as_secs()).expect("a number of seconds");
    let options = IdempotentOptions::default()
        .use_idempotency_key_header(Some("Idempotency-Key"), true)
        .expire_after(seconds);
    let sessions = SessionLayer::new(Arc::new(MokaStore::builder().build()));
    plain_app()
        .layer(IdempotentLayer::<MokaStore>::new(options))
        .layer(sessions.with_cookie_options(CookieOptions::build().name("session")))
        .layer(CookieManagerLayer::new())
}
