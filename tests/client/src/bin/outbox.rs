//! A client with a journal, to be killed: `outbox JOURNAL send URL KEY`, `outbox JOURNAL resume`. With
//! `--hold` it keeps every outcome, and takes none.

use std::time::Duration;

use bytes::Bytes;
use clap::{Parser, Subcommand};
use idem_client::journal::{Journal, Settled};
use idem_client::reqwest_middleware::IdempotentClient;
use idem_client::{IdempotencyKey, Outcome, Policy, RetryBudget};

#[derive(Parser)]
struct Options {
    journal: String,
    #[arg(long, global = true)]
    hold: bool,
    #[command(subcommand)]
    act: Act,
}

#[derive(Subcommand)]
enum Act {
    Send { url: String, key: String },
    Resume,
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let policy = Policy::new()
        .backoff(Duration::from_millis(1), Duration::from_millis(50))
        .budget(RetryBudget::new(1.0).reserve(1000));
    let client = IdempotentClient::new(reqwest::Client::new(), policy);
    let journal = Journal::open(&options.journal).await.unwrap();
    match options.act {
        Act::Send { url, key } => {
            let key = IdempotencyKey::new(key).unwrap();
            let request = http::Request::post(url)
                .body(Bytes::from_static(b"5"))
                .unwrap();
            end(
                journal.send(&client, key, request).await.unwrap(),
                options.hold,
            )
            .await;
        }
        Act::Resume => {
            let mut resumed = journal.resume(&client).await.unwrap();
            while let Some(settled) = resumed.next().await {
                end(settled.unwrap(), options.hold).await;
            }
        }
    }
    println!("left {}", journal.pending().await.unwrap().len());
}

async fn end(settled: Settled<reqwest::Response>, hold: bool) {
    match settled.outcome() {
        Outcome::Answered(answer) => {
            println!(
                "{} replayed={}",
                answer.response.status().as_u16(),
                answer.tries.replayed
            );
        }
        outcome => println!("{outcome:?}"),
    }
    if hold {
        std::future::pending::<()>().await;
    }
    settled.take().await.unwrap();
}
