//! salvo: `cargo run -p salvo-charges -- --port 3000`.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use clap::Parser;
use idem::salvo::idempotent;
use salvo::conn::Acceptor;
use salvo::extract::JsonBody;
use salvo::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Parser)]
struct Options {
    /// The loopback port to listen on; 0 for any free one.
    #[arg(long, default_value_t = 3000)]
    port: u16,
}

#[derive(Clone, Deserialize, Serialize)]
struct Charge {
    amount: u64,
    currency: String,
}

#[derive(Clone, Default)]
struct Bank(Arc<Mutex<Vec<Charge>>>);

#[handler]
impl Bank {
    /// Puts it where handlers find it.
    async fn handle(&self, depot: &mut Depot) {
        depot.insert_typed(self.clone());
    }
}

fn charges(depot: &Depot, act: impl FnOnce(&mut Vec<Charge>)) -> Vec<Charge> {
    let Ok(Bank(charges)) = depot.get_typed() else {
        return Vec::new();
    };
    let mut charges = charges.lock().unwrap_or_else(PoisonError::into_inner);
    act(&mut charges);
    charges.clone()
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn create_charge(charge: JsonBody<Charge>, depot: &mut Depot, res: &mut Response) {
    charges(depot, |charges| charges.push(charge.clone()));
    res.render_with_status(StatusCode::CREATED, Json(charge.into_inner()));
}

#[handler]
async fn list_charges(depot: &mut Depot) -> Json<Vec<Charge>> {
    Json(charges(depot, |_| {}))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    idem::connect("memory://").await?.install()?;
    let charges = Router::with_path("charges")
        .post(create_charge)
        .get(list_charges);
    let router = Router::new().hoop(Bank::default()).push(charges);
    let acceptor = TcpListener::new(("127.0.0.1", options.port)).bind().await;
    for holding in acceptor.holdings() {
        if let Some(address) = holding.local_addr.clone().into_std() {
            println!("listening on http://{address}");
        }
    }
    Server::new(acceptor).serve(router).await;
    Ok(())
}
