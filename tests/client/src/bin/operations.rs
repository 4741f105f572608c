//! A client to be killed: `operations --journal FILE --url URL --seed N` reads numbers from its input,
//! sends an operation for each, and prints how it ended: `17 answered 201 replayed done 17`.

use std::io::BufRead;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use idem_client::journal::{Journal, Settled};
use idem_client::reqwest_middleware::IdempotentClient;
use idem_client::{IdempotencyKey, Outcome, Policy, RetryBudget};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

#[derive(Parser)]
struct Options {
    #[arg(long)]
    journal: String,
    #[arg(long)]
    url: String,
    #[arg(long)]
    seed: u64,
    #[arg(long, default_value_t = 64)]
    at_once: usize,
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let policy = Policy::new()
        .deadline(Duration::from_secs(60))
        .try_timeout(Duration::from_secs(5))
        .max_tries(1000)
        .backoff(Duration::from_millis(2), Duration::from_millis(200))
        .budget(RetryBudget::new(10.0).per_second(1000.0).reserve(10_000));
    let client = IdempotentClient::new(reqwest::Client::new(), policy);
    let journal = Journal::open(&options.journal).await.unwrap();
    let room = Arc::new(Semaphore::new(options.at_once));
    let mut sending = JoinSet::new();
    for line in std::io::stdin().lock().lines() {
        let number = line.unwrap();
        let room = Arc::clone(&room).acquire_owned().await.unwrap();
        let (journal, client) = (journal.clone(), client.clone());
        let request = http::Request::post(&options.url)
            .body(Bytes::from(number.clone()))
            .unwrap();
        let seed = options.seed.to_string();
        sending.spawn(async move {
            // The number is the operation's identity: whoever comes after a crash finds the key again.
            let key = IdempotencyKey::derived("chaos", [seed.as_str(), number.as_str()]);
            end(&number, journal.send(&client, key, request).await.unwrap()).await;
            drop(room);
        });
    }
    while let Some(ended) = sending.join_next().await {
        ended.unwrap();
    }
}

async fn end(number: &str, settled: Settled<reqwest::Response>) {
    // Said before it leaves the journal: a crash in between says it twice.
    let outcome = match settled.outcome() {
        Outcome::Answered(answer) => {
            let first = if answer.tries.replayed {
                "replayed"
            } else {
                "first"
            };
            format!("answered {} {first}", answer.response.status().as_u16())
        }
        Outcome::Refused(answer) => format!("refused {:?}", answer.tries.refused),
        Outcome::Unknown(unknown) => format!("unknown {:?}", unknown.reason),
        _ => unreachable!(),
    };
    println!("{number} {outcome}");
    settled.take().await.unwrap();
}
