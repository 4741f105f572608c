//! The futures of annotated handlers: their size, and that they are `Send`.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::FromRequest;
use axum::http::{Request, StatusCode};
use axum::response::IntoResponse;
use http_body_util::BodyExt as _;
use idem::__private::axum::Captured;
use idem::Engine;
use idem::axum::idempotent;
use idem::stores::memory::MemoryStore;

const BODY: usize = 4 * 1024;

/// With the request beside it, this is less than 1 KB: allocators serve that from a thread's own cache.
const HELD: usize = 768;

async fn touch(buffer: &mut [u8]) {
    tokio::task::yield_now().await;
    buffer[0] = buffer[0].wrapping_add(1);
}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
async fn large(bytes: Bytes) -> impl IntoResponse {
    let mut buffer = [bytes[0]; BODY];
    touch(&mut buffer).await;
    buffer[0].to_string()
}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
async fn small(bytes: Bytes) -> impl IntoResponse {
    touch(&mut [bytes[0]]).await;
    bytes
}

#[idempotent(key = ids.lock().unwrap().next(), scope = *ids.lock().unwrap().end(), ttl = "1h", fingerprint(ids.lock().unwrap().end()))]
async fn locking(Extension(ids): Extension<Ids>) -> String {
    tokio::task::yield_now().await;
    ids.lock().unwrap().start().to_string()
}

type Ids = Arc<Mutex<RangeInclusive<u32>>>;

#[tokio::test]
async fn what_the_key_locks_is_free_when_the_handler_runs() {
    let mut request = request();
    request.extensions_mut().insert(Ids::new(Mutex::new(1..=3)));
    let captured = Captured::<Extension<Ids>>::from_request(request, &()).await;
    let response = locking(captured.unwrap()).await;
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(&body[..], b"2");
}

fn request() -> Request<Body> {
    let engine = Engine::new(MemoryStore::builder().build());
    Request::post("/")
        .extension(engine)
        .header("idempotency-key", "k")
        .body(Body::from("body"))
        .unwrap()
}

/// The handler's body is boxed where it is made, so that its locals are no part of the future
/// that axum boxes: what is left is the work before the claim.
#[tokio::test]
async fn the_future_does_not_grow_with_its_body_and_is_send() {
    fn assert_send<T: Send>(value: T) -> T {
        value
    }
    let captured = Captured::<Bytes>::from_request(request(), &())
        .await
        .unwrap();
    let large = assert_send(large(captured));
    let captured = Captured::<Bytes>::from_request(request(), &())
        .await
        .unwrap();
    let small = assert_send(small(captured));
    assert_eq!(size_of_val(&large), size_of_val(&small));
    assert!(size_of_val(&large) <= HELD, "{} bytes", size_of_val(&large));
    assert_eq!(large.await.status(), StatusCode::OK);
    assert_eq!(small.await.status(), StatusCode::OK);
}
