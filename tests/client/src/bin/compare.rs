//! Our client and the official one of Stripe for Python, against the same server and the same faults:
//! prints a table, and fails where one of ours does not end well. `compare --python DIRECTORY` says where
//! Stripe's package is.

use std::process::Stdio;
use std::time::Duration;

use clap::Parser;
use idem_client::reqwest_middleware::{IdempotencyMiddleware, outcome};
use idem_client::{IdempotencyKey, Outcome, Policy};
use idem_client_tests::{Fault, Network, Shop, Step};
use tokio::process::Command;

#[derive(Parser)]
struct Options {
    #[arg(long)]
    python: String,
}

const SCRIPT: &str = r#"
import sys, stripe
client = stripe.StripeClient(
    "sk_test_loopback",
    base_addresses={"api": sys.argv[1]},
    max_network_retries=int(sys.argv[2]),
    http_client=stripe.RequestsClient(timeout=2),
)
try:
    charge = client.v1.charges.create({"amount": 5, "currency": "eur"})
    print("answered", charge.id)
except stripe.StripeError as error:
    print(type(error).__name__, error.http_status or "")
"#;

/// What its users ask of Stripe's client; it makes none unless asked.
const RETRIES_OF_STRIPES: &str = "3";

/// How long one try may take, for both.
const TRY: Duration = Duration::from_secs(2);

/// What the network and the server do to an operation.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    faults: &'static [Fault],
    handler: Handler,
}

#[derive(Clone, Copy, PartialEq)]
enum Handler {
    Charges,
    /// Says 503 first.
    BusyOnce,
    /// Runs until so many more requests have come, which find it in flight.
    RunsWhile(usize),
    /// Panics first.
    CrashesOnce,
}

const CASES: [Case; 12] = {
    use Fault::{CutAnswer, CutRequest, Delay, DropAnswer, DropRequest, Duplicate};
    const fn network(name: &'static str, faults: &'static [Fault]) -> Case {
        let handler = Handler::Charges;
        Case {
            name,
            faults,
            handler,
        }
    }
    const fn server(name: &'static str, faults: &'static [Fault], handler: Handler) -> Case {
        Case {
            name,
            faults,
            handler,
        }
    }
    [
        network("nothing", &[]),
        network("a lost request", &[DropRequest]),
        network("half a request", &[CutRequest]),
        network("a lost answer", &[DropAnswer]),
        network("half an answer", &[CutAnswer]),
        network("a doubled request", &[Duplicate]),
        network("a late answer", &[Delay(Duration::from_millis(500))]),
        network("five lost answers", &[DropAnswer; 5]),
        server("503, once", &[], Handler::BusyOnce),
        server("a crash, once", &[], Handler::CrashesOnce),
        server(
            "in flight for one retry",
            &[DropAnswer],
            Handler::RunsWhile(1),
        ),
        server(
            "in flight for four retries",
            &[DropAnswer],
            Handler::RunsWhile(4),
        ),
    ]
};

#[tokio::main]
async fn main() {
    let options = Options::parse();
    println!("| fault | idem-client | Stripe's |\n|---|---|---|");
    let mut failed = false;
    for case in CASES {
        let ours = run(case, ours).await;
        let stripes = run(case, |base| stripes(base, options.python.clone())).await;
        println!("| {} | {} | {} |", case.name, ours.text(), stripes.text());
        failed |= ours.end != "answered" || ours.charges != 1 || stripes.charges > 1;
    }
    assert!(
        !failed,
        "an operation of ours did not end with one charge, or one was doubled"
    );
}

struct Run {
    end: String,
    requests: usize,
    charges: usize,
}

impl Run {
    fn text(&self) -> String {
        let charges = match self.charges {
            0 => "not charged, or not yet".to_owned(),
            1 => "charged once".to_owned(),
            count => format!("charged {count} times"),
        };
        format!("{}; requests: {}; {charges}", self.end, self.requests)
    }
}

async fn run<F: Future<Output = String>>(case: Case, send: impl FnOnce(String) -> F) -> Run {
    let shop = Shop::open().await;
    let network = Network::with(shop.address, case.faults.iter().copied()).await;
    let mut stops = match case.handler {
        Handler::Charges => None,
        _ => Some(shop.stop_charges().await),
    };
    let deciding = async {
        let Some(stops) = &mut stops else { return };
        let mut seen = 0;
        while let Some(stop) = stops.recv().await {
            let step = match case.handler {
                Handler::BusyOnce if seen == 0 => Step::Later,
                Handler::CrashesOnce if seen == 0 => Step::Panic,
                Handler::RunsWhile(retries) => {
                    let asked = || network.requests().len();
                    // A client that has given up asks no more.
                    while asked() <= retries && !stop.is_closed() {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    Step::Charge
                }
                _ => Step::Charge,
            };
            seen += 1;
            let _ = stop.send(step);
        }
    };
    let end = tokio::select! {
        end = send(network.url("")) => end,
        () = async { deciding.await; std::future::pending().await } => unreachable!(),
    };
    shop.let_charges_pass().await;
    Run {
        end,
        requests: network.requests().len(),
        charges: shop.charged(),
    }
}

async fn ours(base: String) -> String {
    let client = reqwest_middleware::ClientBuilder::new(reqwest::Client::new())
        .with(IdempotencyMiddleware::new(Policy::new().try_timeout(TRY)))
        .build();
    let request = client
        .post(format!("{base}/v1/charges"))
        .with_extension(IdempotencyKey::random())
        .header("content-type", "application/x-www-form-urlencoded")
        .body("amount=5&currency=eur");
    match outcome(request.send().await) {
        Ok(Outcome::Answered(answer)) if answer.response.status().is_success() => {
            "answered".to_owned()
        }
        other => format!("{other:?}"),
    }
}

async fn stripes(base: String, packages: String) -> String {
    let output = Command::new("python3")
        .args(["-c", SCRIPT, &base, RETRIES_OF_STRIPES])
        .env("PYTHONPATH", packages)
        .stderr(Stdio::inherit())
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match text.starts_with("answered") {
        true => "answered".to_owned(),
        false => text,
    }
}
