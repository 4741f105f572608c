//! hyper alone, or anything else that speaks of `http::Request`:
//! `cargo run -p hyper-charges -- --port 3000`.

use std::convert::Infallible;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use clap::Parser;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use idem::http::{CapturedBody, idempotent};
use serde_json::Value;
use tokio::net::TcpListener;

#[derive(Parser)]
struct Options {
    /// The loopback port to listen on; 0 for any free one.
    #[arg(long, default_value_t = 3000)]
    port: u16,
}

type Bank = Arc<Mutex<Vec<Value>>>;

fn answer(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn create_charge(bank: Bank, request: Request<Bytes>) -> Response<Full<Bytes>> {
    let Ok(charge) = serde_json::from_slice::<Value>(request.body()) else {
        return answer(StatusCode::BAD_REQUEST, "no JSON".into());
    };
    let mut charges = bank.lock().unwrap_or_else(PoisonError::into_inner);
    charges.push(charge.clone());
    answer(StatusCode::CREATED, charge.to_string())
}

type Answer = Response<CapturedBody<Full<Bytes>>>;

async fn route(bank: Bank, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let plain = |response: Response<_>| response.map(CapturedBody::streamed);
    Ok(match (request.method(), request.uri().path()) {
        (&Method::POST, "/charges") => create_charge(bank, request).await,
        (&Method::GET, "/charges") => {
            let charges = bank.lock().unwrap_or_else(PoisonError::into_inner);
            plain(answer(
                StatusCode::OK,
                Value::from(charges.clone()).to_string(),
            ))
        }
        _ => plain(answer(StatusCode::NOT_FOUND, String::new())),
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    idem::connect("memory://").await?.install()?;
    let bank = Bank::default();
    let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        let bank = Arc::clone(&bank);
        let service = service_fn(move |request| route(Arc::clone(&bank), request));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}
