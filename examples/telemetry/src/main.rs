//! A server whose idempotency is seen: traces through OpenTelemetry, and figures for Prometheus.
//!
//! `cargo run -p telemetry`, then send charges and look at `/metrics`. Spans are printed, every five
//! seconds; a program of yours sends them to a collector with `opentelemetry-otlp` in their place.
//! The dashboard and the alerts for these figures are in `docs/observability`.

mod figures;
mod traces;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware::from_fn;
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::Parser;
use idem::axum::idempotent;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

/// A server whose idempotency is seen.
#[derive(Parser)]
struct Options {
    /// The loopback port to listen on; 0 for any free one.
    #[arg(long, default_value_t = 3000)]
    port: u16,
}

#[derive(Clone, Default)]
struct Bank(Arc<AtomicU64>);

#[derive(Deserialize)]
struct NewCharge {
    amount: u64,
}

#[derive(Serialize)]
struct Charge {
    id: u64,
    amount: u64,
}

/// Slow, as banks are. Charges of 13 fail half-way, the first time.
#[idempotent(key = header("Idempotency-Key"), scope = "shop", ttl = "24h", name = "charges.create")]
async fn create_charge(
    State(Bank(charges)): State<Bank>,
    Json(NewCharge { amount }): Json<NewCharge>,
) -> (StatusCode, Json<Charge>) {
    tokio::time::sleep(Duration::from_millis(100)).await;
    let attempt = idem::attempt().number();
    assert!(amount != 13 || attempt > 1, "the bank does not answer");
    let id = charges.fetch_add(1, Ordering::Relaxed) + 1;
    (StatusCode::CREATED, Json(Charge { id, amount }))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let traces = traces::install()?;
    let figures = figures::install()?;
    let engine = idem::connect("memory://").await?.install()?;
    let router = Router::new()
        .route("/charges", post(create_charge))
        .layer(from_fn(traces::in_a_span))
        // Outside: who asks for the figures is none of them.
        .route("/metrics", get(move || async move { figures.render() }))
        .with_state(Bank::default());
    let told = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    axum::serve(listener, router)
        .with_graceful_shutdown(told)
        .await?;
    // Bodies whose clients have gone, and then the spans of all.
    engine.idle().await;
    traces.shutdown()?;
    Ok(())
}
