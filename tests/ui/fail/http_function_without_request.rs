//! A function of a request takes one, and names its response.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use idem::http::idempotent;

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn nothing() -> Response<Full<Bytes>> {
    Response::default()
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn unnamed(request: Request<Bytes>) -> Response<impl http_body::Body<Data = Bytes>> {
    Response::new(Full::new(request.into_body()))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn silent(request: Request<Bytes>) {
    drop(request);
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn first(request: Request<Bytes>, bank: String) -> Response<Full<Bytes>> {
    drop(bank);
    Response::new(Full::new(request.into_body()))
}

fn main() {}
