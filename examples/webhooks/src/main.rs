//! Inbound webhooks of two providers, carried out once for each event: `cargo run -p webhooks`.
//!
//! The signature is verified in a layer, before a stored answer could go out. It covers the body, so the
//! layer reads the body, and hands it on. Then the event's id is the key.

mod signature;

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::Parser;
use idem::axum::idempotent;
use serde::Deserialize;
use tokio::net::TcpListener;

use signature::Secret;

/// What a provider sends at most.
const MAX_EVENT_BYTES: usize = 256 * 1024;

#[derive(Parser)]
struct Options {
    /// The loopback port to listen on; 0 for any free one.
    #[arg(long, default_value_t = 3000)]
    port: u16,
    /// As Standard Webhooks writes it.
    #[arg(long, default_value = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    standard_secret: String,
    #[arg(long, default_value = "whsec_test")]
    stripe_secret: String,
}

/// How many events were carried out.
static DONE: LazyLock<AtomicUsize> = LazyLock::new(AtomicUsize::default);

#[derive(Deserialize)]
struct Event {
    id: String,
}

// The provider's own header is the key. The scope keeps providers apart.
#[idempotent(key = header("webhook-id"), scope = "standard", ttl = "7d", name = "webhooks.standard")]
async fn standard_event(_body: String) -> StatusCode {
    DONE.fetch_add(1, Ordering::SeqCst);
    StatusCode::NO_CONTENT
}

// Stripe's id is in the body, whose other fields may differ from one delivery to the next.
#[idempotent(
    key = event.id,
    scope = "stripe",
    fingerprint(event.id),
    ttl = "7d",
    name = "webhooks.stripe",
)]
async fn stripe_event(Json(event): Json<Event>) -> StatusCode {
    DONE.fetch_add(1, Ordering::SeqCst);
    StatusCode::NO_CONTENT
}

/// Lets in what is signed, and not too old.
async fn signed(
    State(secret): State<Arc<Secret>>,
    request: Request,
    next: Next,
) -> Result<Response, StatusCode> {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, MAX_EVENT_BYTES)
        .await
        .map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?;
    match secret.has_signed(&head.headers, &body, SystemTime::now()) {
        true => Ok(next.run(Request::from_parts(head, Body::from(body))).await),
        false => Err(StatusCode::UNAUTHORIZED),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    idem::connect("memory://").await?.install()?;
    let standard = Secret::standard(&options.standard_secret).ok_or("no such secret")?;
    let stripe = Secret::stripe(&options.stripe_secret);
    let by = |secret| from_fn_with_state(Arc::new(secret), signed);
    let router = Router::new()
        .route("/standard", post(standard_event).layer(by(standard)))
        .route("/stripe", post(stripe_event).layer(by(stripe)))
        .route(
            "/done",
            get(async || DONE.load(Ordering::SeqCst).to_string()),
        );
    let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, router).await?)
}
