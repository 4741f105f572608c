//! A small shop whose charges take half a second and are safe to retry.
//!
//! `cargo run -p checkout`, then pay on the page that it serves and break it there: its client half is
//! `src/guide/outbox.js`, and a list shows what the server did. Or paste the printed lines into another
//! terminal. `/idem` is the dashboard, where an operator says what became of a payment that crashed.
//! `--port N` listens elsewhere (0 for any free port), `--store URL` keeps the records there.
//! Built with `--features redis`, several of them, on several ports, share their keys under
//! `--store redis://…`.

mod feed;

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::Html;
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::Parser;
use feed::Feed;
use idem::axum::idempotent;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

/// A small shop whose charges are safe to retry.
#[derive(Parser)]
struct Options {
    /// The loopback port to listen on; 0 for any free one.
    #[arg(long, default_value_t = 3000)]
    port: u16,
    /// Where the idempotency records are kept.
    #[arg(long, default_value = "memory://")]
    store: String,
}

#[derive(Deserialize)]
struct NewCharge {
    amount: u64,
    currency: String,
}

#[derive(Clone, Serialize)]
struct Charge {
    id: usize,
    amount: u64,
    currency: String,
}

/// What was really executed.
#[derive(Clone, Default)]
struct Bank(Arc<Mutex<Vec<Charge>>>);

impl Bank {
    fn with<T>(&self, act: impl FnOnce(&mut Vec<Charge>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Slow and without any protection of its own, as banks are.
    async fn charge(&self, order: NewCharge) -> Charge {
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.with(|charges| {
            let charge = Charge {
                id: charges.len() + 1,
                amount: order.amount,
                currency: order.currency,
            };
            charges.push(charge.clone());
            charge
        })
    }
}

/// With it the handler crashes when the money is taken. Headers are no part of what a retry must repeat.
const CRASH: HeaderName = HeaderName::from_static("x-demo-crash");

type Created = (StatusCode, [(HeaderName, String); 1], Json<Charge>);

// One shop, on whichever port its processes listen: without a scope, a retry goes to the same host.
// A shop that knows its customers names them here. This bank cannot say what it has charged: after a crash
// a person looks, and nothing is charged again meanwhile.
#[idempotent(
    key = header("Idempotency-Key"),
    scope = "shop",
    ttl = "24h",
    name = "charges.create",
    on_crash = "refuse"
)]
async fn create_charge(
    State(bank): State<Bank>,
    headers: HeaderMap,
    Json(order): Json<NewCharge>,
) -> Result<Created, (StatusCode, &'static str)> {
    if order.amount == 0 {
        return Err((StatusCode::BAD_REQUEST, "the amount is zero\n"));
    }
    let charge = bank.charge(order).await;
    if headers.contains_key(CRASH) {
        panic!("a crash after the charge and before its answer, as the page has asked for");
    }
    let location = format!("/charges/{}", charge.id);
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        Json(charge),
    ))
}

async fn list_charges(State(bank): State<Bank>) -> Json<Vec<Charge>> {
    Json(bank.with(|charges| charges.clone()))
}

async fn show_charge(
    State(bank): State<Bank>,
    Path(id): Path<usize>,
) -> Result<Json<Charge>, StatusCode> {
    bank.with(|charges| charges.iter().find(|charge| charge.id == id).cloned())
        .map(Json)
        .ok_or(StatusCode::NOT_FOUND)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let feed = Feed::new();
    let engine = idem::connect(&options.store).await?;
    let engine = engine.observer(feed.clone()).install()?;
    // On this machine alone, and for everybody on it. A real one stands behind a login.
    let dashboard = idem::axum::dashboard(engine)
        .allow_changes(true)
        .show_bodies(true);
    let text = |kind: &'static str, text: &'static str| get(([(header::CONTENT_TYPE, kind)], text));
    let script = "text/javascript";
    let router = Router::new()
        .route("/", get(Html(include_str!("page/page.html"))))
        .route(
            "/style.css",
            text("text/css", include_str!("page/style.css")),
        )
        .route("/shop.js", text(script, include_str!("page/shop.js")))
        .route("/feed.js", text(script, include_str!("page/feed.js")))
        .route(
            "/outbox.js",
            text(script, include_str!("../../../src/guide/outbox.js")),
        )
        .route("/feed/{after}", get(feed::since).with_state(feed))
        .route("/charges", post(create_charge).get(list_charges))
        .route("/charges/{id}", get(show_charge))
        .with_state(Bank::default())
        .nest("/idem", dashboard.into_router());
    let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
    let address = format!("http://{}", listener.local_addr()?);
    println!("listening on {address}");
    print_what_to_try(&address);
    if !options.store.starts_with("memory:") {
        println!(
            "Another process with this --store and another --port answers for the same keys:
what was charged here is a replay there, and a double click over both charges once.
"
        );
    }
    Ok(axum::serve(listener, router).await?)
}

fn print_what_to_try(address: &str) {
    let charge = |options: &str, key: &str, amount: u32| {
        format!(
            "curl -i{options} -H 'content-type: application/json' -H 'idempotency-key: \"{key}\"' \
             -d '{{\"amount\": {amount}, \"currency\": \"eur\"}}' {address}/charges"
        )
    };
    let (first, other) = (charge("", "order-1", 1999), charge("", "order-1", 99));
    let click = charge("", "order-2", 500);
    let (hang_up, retry) = (
        charge(" -m 0.25", "order-3", 700),
        charge("", "order-3", 700),
    );
    println!("a page to pay on, and to break: {address}/");
    println!("what an operator sees: {address}/idem");
    println!(
        "
The first call charges: 201, after half a second.
  {first}
The same again is a replay: 201 at once, `idempotent-replayed: true`, nothing charged.
  {first}
The same key with another body is refused: 422.
  {other}
A double click: one 201, one 409 with `retry-after`.
  {click} & {click}; wait
A client that hangs up after 10 ms. Its charge goes on, and the retry gets the answer:
201 with `idempotent-replayed: true` (409 with `retry-after` while it still runs).
  {hang_up}
  sleep 1
  {retry}
What was really executed: three charges.
  curl -i {address}/charges
"
    );
}
