//! What is no response cannot be given back as one.

use bytes::Bytes;
use http::Request;
use idem::http::idempotent;

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn text(request: Request<Bytes>) -> String {
    format!("{} bytes", request.body().len())
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn unread(request: Request<hyper::body::Incoming>) -> http::Response<String> {
    drop(request);
    http::Response::default()
}

fn main() {}
