//! A worker that takes messages at least once, and pays each of them once:
//! `cargo run -p queue`.
//!
//! The queue is a channel that delivers again what was not acknowledged. A Redis stream differs in
//! who notices: an entry stays pending until `XACK`, and another worker takes it over with
//! `XAUTOCLAIM` when it has been idle for long enough. A crash between the payment and the
//! acknowledgement is the same in both, and so is the worker: with `idem::connect("redis://…")` the
//! records are shared by all workers.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use idem::idempotent;
use serde::Serialize;
use tokio::sync::mpsc;

#[derive(Clone, Serialize)]
struct Payout {
    /// The business's own id. A delivery's number would be another one each time.
    id: String,
    amount: u64,
}

#[derive(Clone, Default)]
struct Bank(Arc<Mutex<Vec<Payout>>>);

impl Bank {
    fn paid(&self) -> usize {
        let paid = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        paid.len()
    }
}

#[idempotent(key = payout.id, ttl = "7d", in_flight = "wait", skip(bank))]
async fn pay(bank: &Bank, payout: Payout) -> Result<usize, idem::Error> {
    let mut paid = bank.0.lock().unwrap_or_else(PoisonError::into_inner);
    paid.push(payout);
    Ok(paid.len())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    idem::connect("memory://").await?.install()?;
    let (queue, mut deliveries) = mpsc::channel(16);
    let payout = |id: &str, amount| Payout {
        id: id.to_owned(),
        amount,
    };
    for message in [payout("payout-1", 100), payout("payout-2", 250)] {
        queue.send((message, 1)).await?;
    }
    let bank = Bank::default();
    let mut acknowledged = 0;
    while acknowledged < 2
        && let Some((payout, delivery)) = deliveries.recv().await
    {
        let before = bank.paid();
        let number = pay(&bank, payout.clone()).await?;
        let how = if bank.paid() > before {
            "executed"
        } else {
            "not executed again"
        };
        println!(
            "{}, delivery {delivery}: {how}, payment {number}",
            payout.id
        );
        if delivery == 1 {
            // The worker dies before it acknowledges: the queue delivers again.
            queue.send((payout, 2)).await?;
        } else {
            acknowledged += 1;
        }
    }
    println!("4 deliveries, {} payments", bank.paid());
    Ok(())
}
