//! A trip that is booked in three parts: a seat is held at an airline, a card is charged at a bank, and an
//! order is written to a database. Wherever the process crashes, a retry with the same key continues
//! where it stopped.
//!
//! `cargo run -p trip`, then paste the printed lines into another terminal. `--crash-after STEP` ends the
//! process once, after that step; `--crash-within STEP` ends it between the step's effect and the moment
//! in which its value is kept. `--store URL` keeps the records elsewhere: `postgres://…` keeps the orders
//! there too, `redis://…` (built with `--features redis`) keeps the orders in the SQLite file.

mod orders;
mod providers;
mod trips;

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::{Parser, ValueEnum};
use idem::axum::idempotent;
use serde::Serialize;
use tokio::net::TcpListener;

use orders::{Order, Orders};
use providers::Providers;
use trips::{Interrupted, NewTrip};

/// Trips that are safe to retry, whatever crashes.
#[derive(Parser)]
struct Options {
    /// The loopback port to listen on; 0 for any free one.
    #[arg(long, default_value_t = 3000)]
    port: u16,
    /// Where the idempotency records are kept.
    #[arg(long, default_value = "sqlite://trip.db")]
    store: String,
    /// Where the orders are kept, if not beside the records.
    #[arg(long)]
    orders: Option<String>,
    /// The file in which airline and bank note each call.
    #[arg(long, default_value = "trip.calls")]
    calls: PathBuf,
    /// Ends the process when this step is finished and kept.
    #[arg(long, value_enum, value_name = "STEP")]
    crash_after: Option<Step>,
    /// Ends the process when this step has had its effect, before it is kept.
    #[arg(long, value_enum, value_name = "STEP")]
    crash_within: Option<Step>,
}

/// The parts of a trip.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Step {
    HoldSeat,
    ChargeCard,
    WriteOrder,
}

struct Agency {
    providers: Providers,
    orders: Orders,
    crash_after: Option<Step>,
    crash_within: Option<Step>,
}

#[derive(Serialize)]
struct Trip {
    seat: String,
    charge: String,
    order: Order,
}

// The lease is short so that a retry after a crash waits for a second only.
#[idempotent(key = header("Idempotency-Key"), scope = "trips", ttl = "24h", lease = "1s")]
async fn book(
    State(agency): State<Arc<Agency>>,
    Json(trip): Json<NewTrip>,
) -> Result<(StatusCode, Json<Trip>), Interrupted> {
    let seat = idem::step("hold_seat", async {
        let seat = agency.providers.hold_seat(&trip.reference)?;
        agency.crashes_within(Step::HoldSeat);
        Ok::<_, Interrupted>(seat)
    })
    .await?;
    agency.crashes_after(Step::HoldSeat);

    let charge = idem::step("charge_card", async {
        // A bank that knows keys closes what is left of the gap: this one is the same after a crash.
        let key = idem::attempt().downstream_key("charge_card");
        let charge = agency
            .providers
            .charge_card(&trip.reference, trip.price, &key)?;
        agency.crashes_within(Step::ChargeCard);
        Ok::<_, Interrupted>(charge)
    })
    .await?;
    agency.crashes_after(Step::ChargeCard);

    // Row and value commit together: this part has no gap.
    let within = || agency.crashes_within(Step::WriteOrder);
    let order = agency.orders.write(&trip, within).await?;
    agency.crashes_after(Step::WriteOrder);

    let trip = Trip {
        seat,
        charge,
        order,
    };
    Ok((StatusCode::CREATED, Json(trip)))
}

impl Agency {
    fn crashes_after(&self, step: Step) {
        if self.crash_after == Some(step) {
            std::process::abort();
        }
    }

    fn crashes_within(&self, step: Step) {
        if self.crash_within == Some(step) {
            std::process::abort();
        }
    }
}

async fn calls(State(agency): State<Arc<Agency>>) -> Result<String, Interrupted> {
    Ok(agency.providers.calls()?)
}

async fn all_orders(State(agency): State<Arc<Agency>>) -> Result<Json<Vec<Order>>, Interrupted> {
    Ok(Json(agency.orders.all().await?))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    idem::connect(&options.store).await?.install()?;
    let beside_the_records = match options.store.starts_with("redis") {
        true => "sqlite://trip.db",
        false => &options.store,
    };
    let orders = options.orders.as_deref().unwrap_or(beside_the_records);
    let agency = Agency {
        providers: Providers::noting_in(options.calls),
        orders: Orders::open(orders).await?,
        crash_after: options.crash_after,
        crash_within: options.crash_within,
    };
    let router = Router::new()
        .route("/trips", post(book))
        .route("/calls", get(calls))
        .route("/orders", get(all_orders))
        .with_state(Arc::new(agency));
    let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
    let address = format!("http://{}", listener.local_addr()?);
    println!("listening on {address}");
    print_what_to_try(&address);
    Ok(axum::serve(listener, router).await?)
}

fn print_what_to_try(address: &str) {
    println!(
        "
Books a trip: 201. The same again is a replay.
  curl -i -H 'content-type: application/json' -H 'idempotency-key: \"trip-1\"' \
         -d '{{\"reference\": \"trip-1\", \"price\": 19900}}' {address}/trips
Each call that airline and bank were given.
  curl -s {address}/calls
What was ordered.
  curl -s {address}/orders
Start it again with `-- --crash-after charge_card`, book another trip, and the process ends half-way.
Start it without, and send the same trip again: it goes on with the order, and calls nobody twice.
"
    );
}
